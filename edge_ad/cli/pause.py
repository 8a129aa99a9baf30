"""`edge-ad pause`: outputs show not ready until somebody resumes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_ad.cli.options import options_of
from edge_ad.config import DEFAULT_STORE, Config

if TYPE_CHECKING:
    from edge_ad.inspection.requests import Request

By = Annotated[str | None, typer.Option(metavar="NAME", help="Who asks [the user of this terminal].")]
StoreFile = Annotated[Path | None, typer.Option(help="The store of the run [`store` of [run], else runs/line.sqlite].")]


@options_of()
def command(
    settings: Config,
    *,
    reason: Annotated[str, typer.Option(help="What is done meanwhile, such as 'cleaning the lens'.")],
    by: By = None,
    store: StoreFile = None,
) -> None:
    """Pause the line: outputs show not ready, parts are NONE; cameras and engines stay. Only `edge-ad resume` ends it."""
    submit("pause", reason, by, store or settings.run.store or DEFAULT_STORE)


def request_of(kind: str, by: str | None, **values: str) -> Request:
    """Return a request of this command; without a name it is the user of the terminal who asks."""
    from edge_ad.inspection.requests import Request
    from edge_ad.utils.text import user_name

    return Request(kind, user_name() if by is None else by, "command", values)


def submit(kind: str, reason: str, by: str | None, store: Path) -> None:
    """Have the run that keeps ``store`` do it; where none runs, keep it for the next one. BadInput as they refuse."""
    from edge_ad.errors import BadInput
    from edge_ad.inspection.pause import Pause
    from edge_ad.inspection.requests import ask_run
    from edge_ad.store.actions import action_log
    from edge_ad.utils.locks import lock_file

    request = request_of(kind, by, reason=reason)
    if not store.exists():
        raise BadInput(
            f"there is no store {store}: name that of the run by --store, or change into the folder of the station"
        )
    answer = ask_run(store, request)
    if answer is None:
        release = lock_file(
            store.with_name(f"{store.name}.lock"), f"the store {store}", "its run takes no requests; end it"
        )
        try:
            pause = Pause(action_log(store))
            answer = f"{pause.pause(request) if kind == 'pause' else pause.resume(request)}; no run keeps {store} now"
        finally:
            release()
    typer.echo(answer)
