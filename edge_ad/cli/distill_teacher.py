"""`edge-ad distill-teacher`: photographs of anything -> the weights of a PDN."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def command(
    images: Annotated[list[Path], typer.Argument(help="Folders of photographs, a few thousand of many things.")],
    size: Annotated[str, typer.Option(help="small or medium.")] = "small",
    source: Annotated[
        str, typer.Option(help="The network to learn from: lite0, lite1, lite2, or package.module:callable.")
    ] = "lite0",
    out: Annotated[
        Path | None, typer.Option(help="Write OUT/teacher_<size>.safetensors (default: runs/<time>/).")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Batches (default: GPU 60000, CPU 4800).")] = None,
    batch: Annotated[int | None, typer.Option(min=2, help="Crops in a batch (default: GPU 16, CPU 8).")] = None,
    side: Annotated[
        int | None, typer.Option(min=64, help="Side of a crop in pixels, a multiple of 32 (default: GPU 256, CPU 128).")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Learning rate (default: GPU 0.001, CPU 0.002).")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the split, the crops and the network.")] = 0,
    terms: Annotated[str, typer.Option(help="The terms of the photographs, for the model card.")] = "",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the model card as JSON.")] = None,
) -> None:
    """Teach a PDN the features of an ImageNet network; Ctrl-C is safe, the same command goes on."""
    from edge_ad.errors import BadInput, require
    from edge_ad.utils.files import require_writable

    require_writable(json_file)
    for module in ("torch", "cv2", "safetensors", "matplotlib"):
        require(module, extra="train", needed_by="edge-ad distill-teacher")
    if size not in ("small", "medium"):
        raise BadInput(f"--size {size} is unknown: choose small or medium")
    if side is not None and side % 32:
        raise BadInput(f"--side {side} is no multiple of 32: choose for example 128 or 256")
    from edge_ad.training.distillation import DistillOptions, distill
    from edge_ad.utils.progress import Progress

    options = DistillOptions(size, source, steps, batch, side, rate, seed, terms)  # type: ignore[arg-type]
    target = distill(images, out, options, Progress())
    typer.echo(target)
    if json_file is not None:
        from edge_ad.utils.files import atomic_write

        card = json.loads(target.with_suffix(".json").read_text(encoding="utf-8"))
        atomic_write(json_file, json.dumps(card, indent=2) + "\n")
