"""`edge-ad web`: the dashboard over a record, without a line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_ad.cli.options import options_of
from edge_ad.config import DEFAULT_STORE, Config


@options_of()
def command(
    settings: Config,
    address: Annotated[str, typer.Argument(metavar="[HOST:PORT]", help="Where to serve.")] = "127.0.0.1:8080",
    store: Annotated[Path | None, typer.Option(help="The SQLite file; default: `store` of [run].")] = None,
) -> None:
    """Serve events, images and marks of a record; a running line serves its own dashboard with `run --web`."""
    from edge_ad.web.link import check_packages

    check_packages()
    from edge_ad.web.serve import serve_record

    run = settings.run
    serve_record(address, store or run.store or DEFAULT_STORE, run.web_names)
