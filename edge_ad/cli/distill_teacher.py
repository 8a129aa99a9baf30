"""`edge-ad distill-teacher`: photographs of anything -> the weights of a PDN."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from edge_ad.cli.options import options_of
from edge_ad.config import Config


@options_of("distill_teacher")
def command(
    settings: Config,
    images: Annotated[list[Path], typer.Argument(help="Folders of photographs, a few thousand of many things.")],
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the model card as JSON.")] = None,
) -> None:
    """Teach a PDN the features of an ImageNet network; Ctrl-C is safe, the same command goes on."""
    from edge_ad.errors import require
    from edge_ad.utils.files import require_writable

    require_writable(json_file)
    for module in ("torch", "cv2", "safetensors", "matplotlib"):
        require(module, extra="train", needed_by="edge-ad distill-teacher")
    from edge_ad.training.distillation import distill
    from edge_ad.utils.progress import Progress

    target = distill(images, settings.distill_teacher, Progress())
    typer.echo(target)
    if json_file is not None:
        from edge_ad.utils.files import atomic_write

        card = json.loads(target.with_suffix(".json").read_text(encoding="utf-8"))
        atomic_write(json_file, json.dumps(card, indent=2) + "\n")
