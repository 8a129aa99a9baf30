"""`edge-ad recalibrate`: learn a new lot from fresh normal images, in a minute."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from edge_ad.cli.options import options_of
from edge_ad.config import Config


@options_of("recalibrate", "thresholds", "engine.jobs")
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
    *,
    replace: Annotated[
        bool, typer.Option("--replace", help="Forget the old lot; without it both lots are known afterwards.")
    ] = False,
    keep_old: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Normal images of the old lot that must still pass: refused where more than twice the promise is NG.",
        ),
    ] = None,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes",
            help="Go on although images are mostly NG by the old thresholds, or of another size.",
        ),
    ] = False,
) -> None:
    """Write a new bundle that has learned the lot in GOODS: what describes a lot, statistics and thresholds; networks stay."""
    from edge_ad.bundle import open_bundle
    from edge_ad.cli.arguments import bundle_and_folder
    from edge_ad.deployment.build import reuse_engine
    from edge_ad.deployment.recalibration import recalibrate
    from edge_ad.utils.progress import count_on_terminal

    table, targets = settings.recalibrate, settings.thresholds
    bundle, normal = bundle_and_folder(paths, "recalibrate")
    path = recalibrate(
        bundle, normal, out, targets.target_ng,
        target_warn=targets.target_warn, operating_point=targets.operating_point, seed=table.seed,
        forget=replace, keep_old=keep_old, keep_colour=table.keep_colour, yes=yes,
        jobs=settings.engine.jobs, progress=count_on_terminal("normal images"),
    )  # fmt: skip
    written = open_bundle(path)
    for line in _lines(written.report["recalibration"]):
        typer.echo(line)
    typer.echo(written.thresholds.describe())
    typer.echo(f"parent {written.parent}")
    if engine := reuse_engine(bundle, written):
        typer.echo(engine)
    typer.echo(str(path))


def _lines(report: dict[str, Any]) -> Iterator[str]:
    """Yield what is worth knowing of a recalibration."""
    from edge_ad.geometry.fit import too_many_unlocated

    count, learned = report["goods"]["threshold"], report["learned"]
    located = count - report["known"]
    if gains := report.get("gains"):
        yield f"{colour_message(gains)}; parts in the old light get these gains too (--keep-colour leaves the light as it is)"
    if not report["moved"]:
        of = f"{located} new and {report['known']} known normal images set statistics and thresholds"
        rest = "statistics and thresholds hold within a tolerance, and stay too" if report["kept"] else of
        still = "apart from its light the lot" if gains else "the lot"
        yield f"{still} has not moved: its images score as the known ones, so what describes a lot stays; {rest}"
    else:
        yield f"{count} normal images: {learned} learned, all set statistics and thresholds, by refits that had not seen them"
    if report["shares"]:
        shares = ", ".join(f"{branch} {share:.0%}" for branch, share in report["shares"].items())
        yield f"refitted; the new images count: {shares}{', the old lot is forgotten' if report['forget'] else ''}"
    if old := report.get("old_lot"):
        where = "that the bundle keeps" if old["from"] == "bundle" else f"in {old['from']}"
        yield f"old lot: {old['ng']} of {old['images']} normal images {where} would be NG"
    if report["skipped"]:
        yield f"{len(report['skipped'])} images that cannot be read were skipped"
    if lost := len(report.get("unlocated", ())):
        yield f"{lost} images without a part that could be located were left out"
        if too_many_unlocated(lost, lost + located):
            yield (
                f"warning: {lost} of {lost + located} parts of this lot are not located, and on the line they have no "
                "verdict: train again with these images, or with `--geometry none`"
            )


def colour_message(gains: Sequence[float]) -> str:
    """Return by how much a lot's light is brought back to that of the training."""
    from edge_ad.geometry.colour import describe_gains

    return f"the light of the lot is brought back to that of the training: {describe_gains(gains)}"
