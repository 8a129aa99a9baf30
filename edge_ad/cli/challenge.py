"""`edge-ad challenge`: show the station its known parts, and the signed records of that."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_ad.cli.options import options_of
from edge_ad.cli.pause import By, StoreFile, request_of
from edge_ad.config import DEFAULT_STORE, Config

ACTIONS = ("start", "override", "list", "verify", "report", "key")
ACTION = (
    "start: the run asks for the known parts; override: the line may pass again, with --reason; list: the records; verify: "
    "that none was changed; report: a page with images; key: make the key that signs."
)


@options_of()
def command(
    settings: Config,
    *,
    action: Annotated[str, typer.Argument(help=ACTION)] = "start",
    reason: Annotated[str, typer.Option(help="override: why the line may go on.")] = "",
    by: By = None,
    store: StoreFile = None,
    out: Annotated[Path, typer.Option(help="report: the file to write.")] = Path("challenges.html"),
) -> None:
    """Show the station known good and known bad parts, and prove later that it was done."""
    from edge_ad.errors import BadInput
    from edge_ad.store.challenges import key_path, make_key

    path = store or settings.run.store or DEFAULT_STORE
    key = settings.challenge.key or key_path(path)
    if action not in ACTIONS:
        raise BadInput(f"unknown action {action!r}: choose one of {', '.join(ACTIONS)}")
    if action == "key":
        make_key(key)
        typer.echo(f"{key} signs the challenges from now on; keep a copy where the station cannot lose it")
    elif action in ("start", "override"):
        _submit("challenge" if action == "start" else action, reason, by, path)
    else:
        _records(action, path, key, out)


def _submit(kind: str, reason: str, by: str | None, store: Path) -> None:
    """Have the run do it; BadInput as it refuses, or where none runs."""
    from edge_ad.errors import BadInput
    from edge_ad.inspection.requests import ask_run

    answer = ask_run(store, request_of(kind, by, reason=reason))
    if answer is None:
        raise BadInput(f"no run keeps {store}: start it by `edge-ad run`, then ask for the {kind} again")
    typer.echo(answer)


def _records(action: str, store: Path, key: Path, out: Path) -> None:
    """List, verify or report the records; GateRefused where one does not hold."""
    from edge_ad.errors import GateRefused
    from edge_ad.store.actions import ActionLog, actions_path
    from edge_ad.store.challenges import (
        ENDED,
        FAILED,
        ChallengeRecords,
        challenges_folder,
        describe,
        newest_logged,
        read_key,
        report,
        unrecorded,
    )
    from edge_ad.utils.files import atomic_write
    from edge_ad.utils.text import printable

    records = ChallengeRecords(challenges_folder(store))
    if action == "list":
        for line in [describe(record) for record in records.read()] or ["no challenge was recorded"]:
            typer.echo(line)
        ended = ActionLog(actions_path(store)).last(ENDED)
        if ended is not None and ended.kind == FAILED:
            typer.echo(printable(f"nothing passes since the last one failed, {ended.describe()}: repeat it, or override"))
        return
    actions = list(ActionLog(actions_path(store)).actions())
    refused = unrecorded(actions)
    verified = records.verify(read_key(key), refused)
    if action == "report":
        atomic_write(out, report(records, verified))
        typer.echo(f"{len(verified)} challenges written to {out}")
    faults = [f"{one.path.name}: {one.fault}" for one in verified if one.fault is not None]
    if faults:
        raise GateRefused(f"{len(faults)} of {len(verified)} records do not hold: {'; '.join(faults)}")
    newest, last = newest_logged(actions), records.next_number() - 1
    if newest > last and newest not in refused:
        raise GateRefused(
            f"{len(verified)} records hold, but the log of actions names number {newest}: the newest were taken away, or the "
            f"disk could not take them; see `edge-ad events actions`"
        )
    if action == "verify":
        typer.echo(f"all {len(verified)} records hold")
