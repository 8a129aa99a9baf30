"""`edge-ad recalibrate`: new statistics and thresholds from fresh normal images, in seconds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from edge_ad.cli.options import options_of
from edge_ad.config import Config


@options_of("recalibrate", "thresholds")
def command(
    settings: Config,
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="[BUNDLE] GOODS",
            help="The bundle (*.edgead) to start from, which is not changed (without it the newest one under runs/), and a "
            "folder of at least 10 good images that the model was not trained on.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="The file to write; without it, <name>-recalibrated-<n>.edgead beside the bundle."),
    ] = None,
) -> None:
    """Write a new bundle whose score statistics and thresholds come from GOODS; networks and weights stay."""
    from edge_ad.bundle import open_bundle
    from edge_ad.cli.arguments import bundle_and_folder
    from edge_ad.deployment.recalibration import recalibrate, reuse_engine

    table, targets = settings.recalibrate, settings.thresholds
    bundle, normal = bundle_and_folder(paths, "recalibrate")
    progress = _show if sys.stderr.isatty() else None
    path = recalibrate(bundle, normal, out, targets.target_ng, target_warn=targets.target_warn, seed=table.seed, progress=progress)
    written = open_bundle(path)
    report = written.report["recalibration"]
    counts = report["goods"]
    normalise, threshold = counts["normalise"], counts["threshold"]
    typer.echo(f"{normalise + threshold} normal images: {normalise} normalise the scores, {threshold} set the thresholds")
    if report["skipped"]:
        typer.echo(f"{len(report['skipped'])} images that cannot be read were skipped")
    if report.get("unlocated"):
        typer.echo(f"{len(report['unlocated'])} images without a part that could be located were left out")
    typer.echo(written.thresholds.describe())
    typer.echo(f"parent {written.parent}")
    if engine := reuse_engine(bundle, written):
        typer.echo(engine)
    typer.echo(str(path))


def _show(done: int, total: int) -> None:
    typer.echo(f"\r{done} of {total} normal images", err=True, nl=done == total)
