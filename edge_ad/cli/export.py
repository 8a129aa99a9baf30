"""`edge-ad export`: a bundle as one ONNX file, for a host program that has ONNX Runtime and nothing of edge-ad."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    bundle: Annotated[
        Path | None, typer.Argument(help="The bundle; without it, the newest one under runs/.", show_default=False)
    ] = None,
    *,
    onnx: Annotated[Path, typer.Option("--onnx", help="The file to write, *.onnx.", metavar="FILE", show_default=False)],
    precision: Annotated[
        str, typer.Option("--precision", help="fp32, fp16 or int8; the last two from the engine that was built here [fp32].")
    ] = "fp32",
) -> None:
    """Write BUNDLE as one ONNX file: an image in; score, verdict, map and z out; nothing of edge-ad is needed to run it."""
    from edge_ad.bundle import open_bundle
    from edge_ad.deployment.one_file import write_one_file
    from edge_ad.utils.files import newest_bundle

    result = write_one_file(open_bundle(bundle or newest_bundle()), onnx, precision)
    height, width = result.size
    typer.echo(f"{result.path}: {result.precision}, {result.bytes / 1e6:.2f} MB, sha256 {result.sha256}")
    typer.echo(f"graphs: {', '.join(result.graphs)}; image: uint8 [1, {height}, {width}, 3] RGB")
    errors = ", ".join(f"{name} {error:.1e}" for name, error in result.errors.items())
    typer.echo(f"errors against the pipeline on {result.images} golden images: {errors}")
    if result.locates:
        typer.echo("this bundle locates the part: the program must cut it out upright before, as `edge_ad.geometry` does")
