"""`edge-ad calibrate`: INT8 ranges and a plan of what stays in floating point, measured on goods."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def command(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="[BUNDLE] GOODS",
            help="The bundle (*.edgead) to start from, which is not changed (without it the newest one under runs/), and a "
            "folder of good images, such as the one the model was trained on.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="The file to write; without it, <name>-calibrated-<n>.edgead beside the bundle."),
    ] = None,
    method: Annotated[str, typer.Option(help="How ranges are chosen: mse, percentile, entropy or minmax.")] = "mse",
    percentile: Annotated[
        float, typer.Option(min=50.0, max=100.0, help="Share of values that method percentile keeps, in percent.")
    ] = 99.99,
    images: Annotated[int, typer.Option(min=1, help="How many goods the ranges are measured on, at most.")] = 128,
    max_flip: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="The fraction of verdicts that INT8 may change.")
    ] = 0.005,
    seed: Annotated[int, typer.Option(min=0, help="The seed of jittered views and synthetic anomalies.")] = 0,
    plan: Annotated[
        Path | None, typer.Option(help="A plan file, perhaps edited, to store instead of searching one.")
    ] = None,
    table: Annotated[
        Path | None, typer.Option(help="Write the plan, the table and the plot of loss against cost to this folder.")
    ] = None,
) -> None:
    """Write a new bundle with INT8 ranges, a plan and proof images from GOODS; networks and thresholds stay."""
    from edge_ad.cli.arguments import bundle_and_folder
    from edge_ad.deployment.calibrate import CalibrateOptions, calibrate
    from edge_ad.deployment.int8 import read_plan
    from edge_ad.deployment.precision_search import require_plots, told, write_report

    bundle, goods = bundle_and_folder(paths, "calibrate")
    if table is not None:
        require_plots()
    edited = None if plan is None else read_plan(plan)
    options = CalibrateOptions(method, percentile, images, max_flip, seed, edited)
    path, searches = calibrate(bundle, goods, out, options, _show if sys.stderr.isatty() else _quiet)
    for dialect, found in searches.items():
        kept = ", ".join(unit.name for unit in found.kept) or "nothing"
        typer.echo(f"{dialect}: {told(found.loss)}; in floating point: {kept}")
        if not found.passed:
            typer.echo(f"{dialect}: no plan keeps verdicts within {max_flip:.2%}; use --fp16 there")
    if table is not None:
        typer.echo(f"plan, table and plot: {write_report(table, path)}")
    typer.echo(str(path))


def _show(text: str) -> None:
    typer.echo(text, err=True)


def _quiet(text: str) -> None:
    """Say nothing where nobody looks."""
