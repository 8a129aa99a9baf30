"""`edge-ad calibrate`: INT8 ranges and a plan of what stays in floating point, measured on normal images."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from edge_ad.cli.options import options_of
from edge_ad.config import Config


@options_of("calibrate")
def command(
    settings: Config,
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="[BUNDLE] GOODS",
            help="The bundle (*.edgead) to start from, which is not changed (without it the newest one under runs/), and a "
            "folder of good images, such as the one the model was trained on.",
        ),
    ],
) -> None:
    """Write a new bundle with INT8 ranges, a plan and proof images from GOODS; networks and thresholds stay."""
    from edge_ad.cli.arguments import bundle_and_folder
    from edge_ad.deployment.calibrate import CalibrateOptions, calibrate
    from edge_ad.deployment.precision_search import describe_loss, require_plots, write_report

    bundle, normal = bundle_and_folder(paths, "calibrate")
    table = settings.calibrate
    if table.table is not None:
        require_plots()
    report = _show if sys.stderr.isatty() else _quiet
    path, searches = calibrate(bundle, normal, table.out, CalibrateOptions(table), report=report)
    for target, result in searches.items():
        retained = ", ".join(unit.name for unit in result.in_float) or "nothing"
        typer.echo(f"{target}: {describe_loss(result.loss)}; in floating point: {retained}")
        if not result.passed:
            typer.echo(f"{target}: no plan keeps verdicts within {table.max_flip:.2%}; use --fp16 there")
    if table.table is not None:
        typer.echo(f"plan, table and plot: {write_report(table.table, path)}")
    typer.echo(str(path))


def _show(text: str) -> None:
    typer.echo(text, err=True)


def _quiet(text: str) -> None:
    """Say nothing where nobody looks."""
