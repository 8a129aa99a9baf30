"""`edge-ad events`: what the line has recorded, while it runs or afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_ad.cli.options import options_of
from edge_ad.config import DEFAULT_STORE, Config, RecordTable

if TYPE_CHECKING:
    from edge_ad.store.reader import EventFilter, Reader

ACTIONS = ("list", "mark", "actions", "verify", "rebuild")
MARKED = ("good", "bad", "any")
SHOWN = 50
ACTION = (
    "list; mark: then an ID and good, bad or none; actions: what people and PLCs did; verify: that nobody has changed that; "
    "rebuild: make the index anew from journal and images."
)
HEAD = "verify: a head that was printed before and must still be there."
SAMPLE = "So many at random, verdicts in proportion, of those with a lossless image: what to mark after a change of lot."
SINCE = "From this time on: 2026-03-01, 2026-03-01T06:00 (local time), or how long ago: 2h, 30m, 7d."


@options_of()
def command(
    settings: Config,
    *,
    action: Annotated[str, typer.Argument(help=ACTION)] = "list",
    event: Annotated[str | None, typer.Argument(metavar="[ID]", help="mark: the event, or how its id begins.")] = None,
    mark: Annotated[str | None, typer.Argument(metavar="[MARK]", help="mark: good, bad or none.")] = None,
    store: Annotated[Path | None, typer.Option(help="The SQLite file; default: `store` of [run].")] = None,
    evidence: Annotated[Path | None, typer.Option(help="rebuild: the folder of images and journal.")] = None,
    name: Annotated[str | None, typer.Option(help="mark bad: the name of the defect, such as scratch.")] = None,
    camera: Annotated[str | None, typer.Option(help="Of this camera alone.")] = None,
    verdict: Annotated[list[str] | None, typer.Option(help="OK, WARN, NG or NONE; repeats.")] = None,
    since: Annotated[str | None, typer.Option(metavar="TIME", help=SINCE)] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Before this time.")] = None,
    part: Annotated[str | None, typer.Option(help="Of this part alone.")] = None,
    marked: Annotated[str | None, typer.Option(help="Marked good, bad or any.")] = None,
    sample: Annotated[int | None, typer.Option(min=1, metavar="N", help=SAMPLE)] = None,
    head: Annotated[str | None, typer.Option(metavar="NUMBER:HASH", help=HEAD)] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many, the newest [50; all into files].")] = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write them as CSV to this file.")] = None,
    out: Annotated[Path | None, typer.Option("--json", help="Write them as JSON to this file.")] = None,
) -> None:
    """List what was recorded, the newest first; mark an event; or make a lost index anew."""
    from edge_ad.errors import BadInput
    from edge_ad.store.reader import Reader

    path = store or settings.run.store or DEFAULT_STORE
    if action not in ACTIONS:
        raise BadInput(f"unknown action {action!r}: choose one of {', '.join(ACTIONS)}")
    if action != "mark" and event is not None:
        raise BadInput(f"`edge-ad events {action}` takes no further word, but got {event!r}")
    if head is not None and action != "verify":
        raise BadInput("--head is what `edge-ad events verify` is to find: leave it out here")
    if action == "verify":
        _verify(path, head, settings)
        return
    if action == "rebuild":
        _rebuild(path, settings.record if evidence is None else RecordTable(evidence=evidence))
        return
    wanted = _filter(camera=camera, verdict=verdict, since=since, until=until, part=part, marked=marked)
    if action == "actions":
        for line in _actions(path, wanted, None)[-(limit or SHOWN) :][::-1] or ["nothing was done"]:
            typer.echo(line)
        return
    with Reader(path) as reader:
        if action == "mark":
            _mark(reader, event, mark, name)
        elif sample is not None:
            _list_sample(reader, wanted, sample)
        else:
            _list(reader, wanted, limit, csv=csv, out=out)


def _actions(path: Path, wanted: EventFilter, oldest: float | None) -> list[str]:
    """Return what people and PLCs did in the time that is wanted, and from ``oldest`` on, as rows, the oldest first."""
    from edge_ad.store.actions import ActionLog, action_row, actions_path

    first, last = max(wanted.since or 0.0, oldest or 0.0), wanted.until
    actions = ActionLog(actions_path(path)).actions()
    return [action_row(one) for one in actions if first <= one.time and (last is None or one.time < last)]


def _verify(path: Path, head: str | None, settings: Config) -> None:
    """Verify the audit trail against all heads that are noted elsewhere; GateRefused names the first broken record."""
    from edge_ad.errors import BadInput, GateRefused
    from edge_ad.store.actions import actions_path, evidence_of
    from edge_ad.store.audit import HEADS, kept_heads, parse_head, verify
    from edge_ad.store.challenges import audit_heads, challenges_folder, key_path

    actions, evidence = actions_path(path), evidence_of(path)
    if not path.exists() and not actions.exists():
        raise BadInput(f"there is no store at {path}: name the file of `edge-ad run --store`")
    heads = audit_heads(challenges_folder(path), settings.challenge.key or key_path(path))
    heads.update({f"{HEADS} in {evidence}": one for one in kept_heads(evidence)})
    if head is not None:
        heads["--head"] = parse_head(head)
    result = verify(actions, heads)
    if result.fault is not None:
        raise GateRefused(f"the audit trail {actions} does not hold: {result.fault}")
    if result.head is None:
        typer.echo(f"nothing was done yet{f'; {result.earlier} lines are of an earlier version' if result.earlier else ''}")
        return
    earlier = f"; {result.earlier} lines of an earlier version before them are unchanged since" if result.earlier else ""
    typer.echo(f"all {result.records} records hold, {result.first} to {result.head.number}{earlier}; head {result.head}")


def _list(reader: Reader, wanted: EventFilter, limit: int | None, *, csv: Path | None, out: Path | None) -> None:
    from edge_ad.scoring import BRANCHES
    from edge_ad.store.export import table, write_csv, write_json
    from edge_ad.store.reader import EventFilter

    if csv is not None:
        typer.echo(f"{write_csv(csv, reader.every(wanted, limit), BRANCHES)} events written to {csv}")
    if out is not None:
        typer.echo(f"{write_json(out, reader.every(wanted, limit))} events written to {out}")
    if csv is not None or out is not None:
        return
    shown = limit or SHOWN
    stats = list(reader.every(wanted, shown + 1))
    lines = list(table(stats[:shown])) if stats else ["no event fits"]
    if wanted == EventFilter(since=wanted.since, until=wanted.until):  # what was done belongs to no camera and no verdict
        oldest = stats[:shown][-1].time if len(stats) > shown else None
        done = _actions(reader.path, wanted, oldest)[-shown:]
        lines = [*lines[:1], *sorted([*lines[1:], *done], key=_moment_of, reverse=True)] if done else lines
    for line in lines:
        typer.echo(line)
    if len(stats) > shown:
        typer.echo(f"the newest {shown} are shown; --limit shows more, --csv and --json take all")


def _list_sample(reader: Reader, wanted: EventFilter, count: int) -> None:
    """List a fair sample of the parts that are wanted, and say what it was drawn from."""
    from edge_ad.deployment.marked_images import proportional_sample
    from edge_ad.store.export import table

    drawn, shares = proportional_sample(reader, wanted, count)
    for line in table(drawn) if drawn else ["no judged event with a lossless image fits"]:
        typer.echo(line)
    what = ", ".join(f"{taken} of {of} {name}" for name, (taken, of) in shares.items())
    typer.echo(f"drawn at random: {what}; mark each good or bad")
    if len(drawn) < min(count, sum(of for _, of in shares.values())):
        typer.echo(f"fewer than {count}: too few lossless images of OK; lower lossless_ok_every of [record], or name a longer time")


def _moment_of(row: str) -> str:
    """Return the column of times, which sort as texts."""
    return row[10:33]


def _filter(
    *,
    camera: str | None,
    verdict: list[str] | None,
    since: str | None,
    until: str | None,
    part: str | None,
    marked: str | None,
) -> EventFilter:
    import time

    from edge_ad.errors import BadInput
    from edge_ad.events import VERDICTS
    from edge_ad.store.export import moment
    from edge_ad.store.reader import EventFilter

    verdicts = tuple(name.upper() for name in verdict or ())
    unknown = next((name for name in verdicts if name not in VERDICTS), None)
    if unknown is not None:
        raise BadInput(f"--verdict {unknown} is no verdict: choose from {', '.join(VERDICTS)}")
    if marked not in (None, *MARKED):
        raise BadInput(f"--marked is {marked!r}: choose one of {', '.join(MARKED)}")
    now = time.time()
    first, last = (None if text is None else moment(text, now) for text in (since, until))
    return EventFilter(camera, verdicts, first, last, part, marked)  # type: ignore[arg-type]  # checked above


def _mark(reader: Reader, event: str | None, mark: str | None, name: str | None) -> None:
    from edge_ad.errors import BadInput
    from edge_ad.store.reader import set_mark
    from edge_ad.utils.text import user_name

    if event is None or mark not in ("good", "bad", "none"):
        raise BadInput("`edge-ad events mark` needs an ID and good, bad or none: `edge-ad events` lists the ids")
    if name and mark != "bad":
        raise BadInput(f"--name is that of a defect: leave it out, or mark the event bad, not {mark}")
    ids = reader.ids(event, 2)
    if len(ids) != 1:
        result = "no event has" if not ids else "more than one event has"
        raise BadInput(f"{result} an id that begins with {event!r}: `edge-ad events` lists the ids")
    set_mark(reader.path, ids[0], None if mark == "none" else mark, user_name(), name=name)  # type: ignore[arg-type]
    typer.echo(f"{ids[0]} is marked {mark}" if mark != "none" else f"{ids[0]} has no mark any more")


def _rebuild(path: Path, record: RecordTable) -> None:
    import sqlite3

    from edge_ad.errors import DeviceFault
    from edge_ad.store.recovery import remake
    from edge_ad.store.retention import evidence_folder

    try:
        message, done = remake(path, evidence_folder(record, path))
    except (sqlite3.Error, OSError) as error:
        raise DeviceFault(f"the index {path} cannot be made anew: {error}; free some space and try again") from error
    if message is not None:
        typer.echo(message, err=True)
    typer.echo(str(done))
