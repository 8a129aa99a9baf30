"""`edge-ad evaluate`: figures of a bundle on a labelled test set, or of every category under a root."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from edge_ad.cli.options import options_of
from edge_ad.config import Config


@options_of("evaluate", "engine.precision", "engine.backend", "engine.jobs")
def command(
    settings: Config,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[BUNDLE] [DATA]",
            help="A bundle (newest under runs/ if absent) and a test set (from edge-ad.toml if absent); "
            "or a folder of bundles and a root of categories.",
        ),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Measure a bundle: AUROC per kind of anomaly and branch, AU-sPRO, rejected normal images, drift, images."""
    from edge_ad.cli.arguments import bundle_and_folder
    from edge_ad.evaluation.evaluate import evaluate, evaluate_each
    from edge_ad.evaluation.report import categories_table, figures_table
    from edge_ad.utils.files import atomic_write, require_writable
    from edge_ad.utils.progress import count_on_terminal

    report, seed = settings.evaluate.report, settings.evaluate.seed
    engine = settings.engine
    require_writable(json_file)
    require_writable(None if report is None else report / "report.html")
    bundle, data = bundle_and_folder(paths or [], "evaluate", "test set", settings.data.path)
    if bundle.is_dir():
        figures = evaluate_each(
            bundle, data, engine.backend, engine.precision,
            report_dir=report, progress=lambda name: count_on_terminal(f"{name}, images"), seed=seed, jobs=engine.jobs,
        )  # fmt: skip
        typer.echo(categories_table(figures))
    else:
        figures = evaluate(
            bundle, data, engine.backend, engine.precision,
            report_dir=report, progress=count_on_terminal(f"{bundle.stem}, images"), seed=seed, jobs=engine.jobs,
        )  # fmt: skip
        typer.echo(figures_table(figures))
    if json_file is not None:
        atomic_write(json_file, json.dumps(figures, indent=2, allow_nan=False) + "\n")
    _report_evaluation(report, figures)


def _report_evaluation(report: Path | None, figures: dict[str, Any]) -> None:
    if report is not None:
        names = list(figures.get("categories", {})) or ["."]
        for name in names:
            typer.echo(f"report: {report / name / 'report.html'}")
