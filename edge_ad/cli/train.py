"""`edge-ad train`: a folder of good parts -> a bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from edge_ad.cli.options import options_of
from edge_ad.config import Config

DATA = (
    "Folder of good images, a set in MVTec AD or MVTec LOCO layout, or a manifest of JSON lines. PNG, JPEG, BMP, TIFF, WebP, "
    "PPM of 8 or 16 bits; at least 10 of 32 x 32 pixels or more, better 100. Without it `path` under [data] in edge-ad.toml."
)


@options_of("train", "thresholds")
def command(
    settings: Config,
    *,
    data: Annotated[
        Path | None,
        typer.Argument(help=DATA, show_default=False),
    ] = None,
    data_option: Annotated[
        Path | None, typer.Option("--data", metavar="DATA", help="The same as the argument DATA.", show_default=False)
    ] = None,
    each: Annotated[bool, typer.Option("--each", help="DATA is a root: train every category under it.")] = False,
    part: Annotated[
        str | None,
        typer.Option(
            metavar="I/N", help="With --each: only every N-th category from the I-th on, for N jobs of a cluster."
        ),
    ] = None,
    review: Annotated[
        bool,
        typer.Option(
            "--review", help="Show normal images that look unlike the others, write a page and a list for --exclude, and stop."
        ),
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report as JSON.")] = None,
) -> None:
    """Train all three methods on images of good parts; Ctrl-C is safe, the same command goes on."""
    from edge_ad.errors import BadInput, require
    from edge_ad.utils.files import require_writable

    if data is not None and data_option is not None and data != data_option:
        raise BadInput(f"DATA is {data} and --data is {data_option}: name one of them")
    folder = data or data_option or settings.data.path
    if folder is None:
        raise BadInput("no data: name a folder of good parts, or set path under [data] in edge-ad.toml (edge-ad init)")
    require_writable(json_file)
    for module in ("torch", "onnx", "onnxruntime", "onnxscript", "onnxsim", "cv2", "sklearn"):
        require(module, extra="train", needed_by="edge-ad train")
    if each and settings.train.exclude is not None:
        raise BadInput("--exclude names images of one data folder: leave --each out and train that category by itself")
    jobs = _jobs(folder, settings.train.out, each, part)
    one = _review_one if review else _train_one
    reports = {name: one(path, target, settings, each) for name, path, target in jobs}
    from edge_ad.training.distributed import is_main_process

    if json_file is not None and is_main_process():
        from edge_ad.utils.files import atomic_write

        result: Any = {"categories": reports} if each else next(iter(reports.values()))
        atomic_write(json_file, json.dumps(result, indent=2) + "\n")


def _jobs(folder: Path, out: Path | None, each: bool, part: str | None) -> list[tuple[str, Path, Path | None]]:
    from edge_ad.errors import BadInput

    if not each:
        if part is not None:
            raise BadInput("--part chooses among the categories of a root: add --each, or leave it out")
        return [(folder.name, folder, out)]
    from edge_ad.data.datasets import find_categories

    categories = find_categories(folder)
    if not categories:
        raise BadInput(f"{folder} holds no category with train/good: name the folder above the categories")
    root = out or Path("runs")
    return [(path.name, path, root / path.name) for path in _part_of(categories, part)]


def _part_of(categories: list[Path], part: str | None) -> list[Path]:
    from edge_ad.errors import BadInput

    first, _, step = (part or "1/1").partition("/")
    if not (first.isdecimal() and step.isdecimal() and 1 <= int(first) <= int(step)):
        raise BadInput(f"--part is {part!r}, but must be I/N with 1 <= I <= N, for example 2/5")
    return categories[int(first) - 1 :: int(step)]


def _train_one(folder: Path, out: Path | None, settings: Config, each: bool) -> dict[str, Any]:
    from edge_ad.bundle import open_bundle
    from edge_ad.training.distributed import is_main_process
    from edge_ad.training.train import train

    path = train(folder, out, settings, keep_finished=each)
    if not is_main_process():
        return {}
    bundle = open_bundle(path)
    typer.echo(path)
    return {"bundle": str(path), "sha256": bundle.sha256, "preset": bundle.preset, "report": bundle.report}


def _review_one(folder: Path, out: Path | None, settings: Config, each: bool) -> dict[str, Any]:
    from edge_ad.training.distributed import is_main_process
    from edge_ad.training.review import review
    from edge_ad.training.train import chosen_preset, teacher_file

    options = settings.train
    result = review(folder, out, options, chosen_preset(options), weights=teacher_file(options.teacher))
    if not is_main_process():
        return {}
    typer.echo(result["page"])
    typer.echo(result["list"])
    return result
