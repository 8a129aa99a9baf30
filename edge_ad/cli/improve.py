"""`edge-ad improve`: learn from marks, compare the result with the bundle in use, and replace that in one step."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_ad.cli.events import SINCE
from edge_ad.cli.options import options_of
from edge_ad.cli.pause import By, StoreFile, request_of
from edge_ad.config import DEFAULT_STORE, Config

if TYPE_CHECKING:
    from edge_ad.inspection.improvement import JudgedPart, RecordedPart

ACCEPT = "A part that is marked good and NG beyond the margin is good all the same: the beginning of its id, or its image; repeats."
GOODS = "More normal images to learn from, as the camera sees them."
RETRAIN = "Train anew with these normal images and the marked ones, by [train] of edge-ad.toml, instead of recalibrating."


@options_of("recalibrate", "thresholds", "engine.jobs")
def command(
    settings: Config,
    bundle: Annotated[Path | None, typer.Argument(help="The bundle that the run is given [newest under runs/].")] = None,
    *,
    product: Annotated[str | None, typer.Option(help="The product of edge-ad.toml to improve.")] = None,
    since: Annotated[str | None, typer.Option(metavar="TIME", help=SINCE)] = None,
    last: Annotated[int, typer.Option(min=0, help="How many recorded parts are replayed beside the marked ones.")] = 300,
    margin: Annotated[float, typer.Option(help="How far beyond the NG threshold a part marked good is asked for: so many times "
                                          "as far as it lies above normal images.")] = 1.0,
    accept: Annotated[list[str] | None, typer.Option(metavar="ID", help=ACCEPT)] = None,
    goods: Annotated[Path | None, typer.Option(metavar="FOLDER", help=GOODS)] = None,
    retrain: Annotated[Path | None, typer.Option(metavar="FOLDER", help=RETRAIN)] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Replace the bundle in use without a question.")] = False,
    rollback: Annotated[bool, typer.Option("--rollback", help="Go back to the bundle before, and do nothing else.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Answer every other question; never accepts a part.")] = False,
    by: By = None,
    store: StoreFile = None,
) -> None:  # fmt: skip
    """Learn the parts that were marked good, replay the record through the bundle in use and the new one, and replace it."""
    from edge_ad.inspection.bundle_swap import replace_bundle

    path = store or settings.run.store or DEFAULT_STORE
    name = _name(settings, product)
    named = None if settings.product else bundle
    if rollback:
        request = request_of("rollback", by, product=name, reason="improve --rollback")
        typer.echo(replace_bundle(settings, path, request, named))
        return
    challenger, compared = _improve(
        settings, name, path, named, since=since, last=last, margin=margin, accept=accept or [], goods=goods, retrain=retrain
    )
    if not (apply or (sys.stdin.isatty() and (yes or typer.confirm("replace the bundle in use by the new one?")))):
        words = ("edge-ad product replace", *([name] if name else []), "--bundle", str(challenger))
        typer.echo(f"nothing was replaced; `{' '.join(words)}` does it")
        return
    values = {"product": name, "bundle": str(challenger.resolve()), "compared": compared, "reason": "improve"}
    request = request_of("replace", by, **values)
    typer.echo(replace_bundle(settings, path, request, named))
    typer.echo("`edge-ad improve --rollback` goes back")


def _name(settings: Config, product: str | None) -> str:
    from edge_ad.errors import BadInput

    if not settings.product and product is None:
        return ""
    if product is None and len(settings.product) == 1:
        return next(iter(settings.product))
    if product is None or product not in settings.product:
        known = ", ".join(settings.product) or "none: edge-ad.toml has no products"
        raise BadInput(f"--product {product or ''}: name one of {known}")
    return product


def _improve(
    settings: Config, name: str, store: Path, named: Path | None,
    *, since: str | None, last: int, margin: float, accept: list[str], goods: Path | None, retrain: Path | None,
) -> tuple[Path, str]:  # fmt: skip
    """Make a challenger, compare it, write the report and return its path and the sha256 of what it was compared with; GateRefused
    where it misses what was found before.
    """
    import time
    from contextlib import ExitStack

    from edge_ad.bundle import open_bundle
    from edge_ad.errors import BadInput
    from edge_ad.inspection import improvement
    from edge_ad.inspection.improvement_report import summary, write_report
    from edge_ad.inspection.requests import ask_run
    from edge_ad.store.export import moment
    from edge_ad.store.next_run import BundlePointer, pointer_path
    from edge_ad.store.reader import Reader
    from edge_ad.store.retention import yield_to_others
    from edge_ad.utils.files import newest_bundle
    from edge_ad.utils.progress import count_on_terminal

    state = ask_run(store, request_of("bundles", "")) if store.parent.exists() else None
    if state is not None:
        yield_to_others()  # the line goes first
    first = None if since is None else moment(since, time.time())
    used = settings.product[name].bundle if name else named or newest_bundle()
    if used is None or settings.part.views:
        raise BadInput("parts that several cameras see are not learned from marks: recalibrate the bundle of a view by hand")
    used = BundlePointer(pointer_path(store)).resolve(name, used)
    with ExitStack() as stack:
        reader = stack.enter_context(Reader(store))
        parts = improvement.recorded_parts(reader, name or None, last=last, since=first)
        in_force = improvement.thresholds_in_force(state, name, open_bundle(used))
        champion = stack.enter_context(improvement.judged_by(settings, name, used, in_force))
        judged = improvement.judge_parts(champion, parts, count_on_terminal("champion"))
        limit = improvement.limit_of(champion.bundle, champion.thresholds, margin)
        seen = improvement.judge_in_light(champion, parts, judged, count_on_terminal("marked good"))
        unaccepted = _not_accepted(parts, seen, limit, accept)
        known = improvement.learned_before(store, used)
        left_out = unaccepted if retrain is not None else unaccepted | known
        learned = [part for part in parts if part.event.mark == "good" and part.event.id not in left_out]
        folder = improvement.work_folder(store)
        doubtful = [(part, one) for part, one in zip(parts, seen, strict=True) if part.event.id in unaccepted]
        comparison = improvement.Comparison(parts, judged, judged)
        report = folder / "report.html"
        write_report(report, comparison, doubtful, limit=limit, champion=champion, challenger=None)
        _report_held_back(doubtful, limit, report)
        path = _challenger(settings, used, learned, folder, goods=goods, retrain=retrain)
        ids = known.union(part.event.id for part in learned)
        challenger = stack.enter_context(improvement.judged_by(settings, name, path))
        after = improvement.judge_parts(challenger, parts, count_on_terminal("challenger"))
        promises = {"champion": champion.thresholds.describe(), "challenger": challenger.bundle.thresholds.describe()}
        warn_rejects = champion.settings.alarm.warn_rejects
        comparison = improvement.Comparison(parts, judged, after, ids, promises, warn_rejects)
        write_report(report, comparison, doubtful, limit=limit, champion=champion, challenger=challenger)
        _report_outcome(summary(comparison), report, path)
        comparison.check()
    _take_engine(used, path)
    return path, champion.bundle.sha256


def _not_accepted(parts: list[RecordedPart], judged: list[JudgedPart], limit: float, accept: list[str]) -> set[str]:
    """Return the ids of parts that were marked good and that nobody accepted; asks where somebody sits at the terminal."""
    from edge_ad.inspection.improvement import accepted_ids, held_back

    doubtful = held_back(parts, judged, limit)
    accepted = accepted_ids([part for part in parts if part.event.mark == "good"], accept)
    unaccepted = set()
    for index in doubtful:
        event = parts[index].event
        if event.id in accepted:
            continue
        score = judged[index].score
        if sys.stdin.isatty():
            typer.echo(f"{parts[index].path}\n{'no score' if score is None else f'score {score:.2f}'}; {judged[index].reason}")
            if typer.confirm(f"{event.id[:8]} is marked good and NG beyond {limit:.2f}: is it a good part?", default=False):
                continue
        unaccepted.add(event.id)
    return unaccepted


def _report_held_back(doubtful: list[tuple[RecordedPart, JudgedPart]], limit: float, report: Path) -> None:
    for part, judged in doubtful:
        score = "has no score" if judged.score is None else f"scores {judged.score:.2f}"
        typer.echo(f"held back: {part.event.id[:8]} is marked good and {score}, NG beyond {limit:.2f}: {part.path}")
    if doubtful:
        typer.echo(f"look at them in {report}, and accept those that are good by --accept ID")


def _report_outcome(lines: Iterable[str], report: Path, path: Path) -> None:
    for line in (*lines, f"report {report}", str(path)):
        typer.echo(line)


def _challenger(
    settings: Config, used: Path, learned: list[RecordedPart], folder: Path, *, goods: Path | None, retrain: Path | None
) -> Path:
    """Make the challenger from the champion and the parts to learn."""
    from edge_ad.bundle import open_bundle
    from edge_ad.cli.recalibrate import colour_message
    from edge_ad.data.datasets import MIN_NORMAL_IMAGES
    from edge_ad.deployment.recalibration import recalibrate
    from edge_ad.errors import BadInput
    from edge_ad.inspection.improvement import collect_normal_images

    count = collect_normal_images(learned, folder / "good", goods)
    if count < MIN_NORMAL_IMAGES and retrain is None:
        raise BadInput(
            f"{count} parts can be learned, and at least {MIN_NORMAL_IMAGES} are needed: mark more of them good (those that the "
            "bundle in use has learned do not count again), accept those that were held back, or add a folder by --goods"
        )
    if retrain is not None:
        return _retrained(settings, folder, retrain)
    target = folder / f"{used.stem}.edgead"
    table = settings.thresholds
    path = recalibrate(
        used, folder / "good", target, table.target_ng, target_warn=table.target_warn, operating_point=table.operating_point,
        seed=settings.recalibrate.seed, keep_colour=settings.recalibrate.keep_colour, yes=True,
        jobs=settings.engine.jobs,
    )  # fmt: skip
    if gains := open_bundle(path).report["recalibration"].get("gains"):
        typer.echo(colour_message(gains))
    return path


def _retrained(settings: Config, folder: Path, data: Path) -> Path:
    """Train with the normal images of ``data`` and those that were collected; needs the training's packages."""
    from edge_ad.data.datasets import load_dataset
    from edge_ad.errors import require

    require("torch", extra="train", needed_by="edge-ad improve --retrain")
    import shutil

    from edge_ad.training.train import train

    known = load_dataset(data, settings.train.seed).normal
    everything = folder / "good"
    for number, path in enumerate(sorted((*known.fit, *known.normalise, *known.threshold))):
        shutil.copy(path, everything / f"known-{number:05}{path.suffix}")
    return train(everything, folder / "trained", settings)


def _take_engine(used: Path, path: Path) -> None:
    """Let the new bundle have the engine of the old one where it fits."""
    from edge_ad.bundle import open_bundle
    from edge_ad.deployment.build import reuse_engine

    message = reuse_engine(used, open_bundle(path))
    if message:
        typer.echo(message)
