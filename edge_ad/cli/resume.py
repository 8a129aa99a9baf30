"""`edge-ad resume`: the line goes on after a pause."""

from __future__ import annotations

from typing import Annotated

import typer

from edge_ad.cli.options import options_of
from edge_ad.cli.pause import By, StoreFile, submit
from edge_ad.config import DEFAULT_STORE, Config


@options_of()
def command(
    settings: Config,
    *,
    reason: Annotated[str, typer.Option(help="What was done, if that is worth a word.")] = "",
    by: By = None,
    store: StoreFile = None,
) -> None:
    """End the pause of a line."""
    submit("resume", reason, by, store or settings.run.store or DEFAULT_STORE)
