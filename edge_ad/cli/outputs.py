"""`edge-ad outputs`: let the outputs reject when no inspector runs."""

from __future__ import annotations

from typing import Annotated

import typer

ACTIONS = ("reject", "list")


def command(
    action: Annotated[str, typer.Argument(help="reject: show a reject on every output, once; list: what is set.")],
    alarm: Annotated[list[str] | None, typer.Option(metavar="URI", help="Outputs; default: `alarm` of [run].")] = None,
) -> None:
    """Show a reject on the outputs of this station (`reject`), or list them (`list`)."""
    import asyncio

    from edge_ad.config import load_config
    from edge_ad.errors import BadInput, DeviceFault
    from edge_ad.outputs.channels import ALLOWED, parse_output
    from edge_ad.outputs.guard import reject

    if action not in ACTIONS:
        raise BadInput(f"unknown action {action!r}: choose one of {', '.join(ACTIONS)}")
    uris = alarm or load_config().run.alarm
    addresses = [parse_output(uri) for uri in uris]
    if action == "list":
        for uri in uris or [f"none; allowed are {ALLOWED}"]:
            typer.echo(uri)
        return
    try:
        asyncio.run(reject(addresses))
    except OSError as error:
        raise DeviceFault(
            f"an output cannot be reached: {error}; it rejects by itself when it hears nothing"
        ) from error
