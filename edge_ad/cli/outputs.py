"""`edge-ad outputs`: what is set, what waits for it, and a reject when no inspector runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_ad.cli.options import options_of
from edge_ad.config import DEFAULT_STORE, Config

if TYPE_CHECKING:
    from edge_ad.store.outbox import DeliveryStats

ACTION = (
    "list: what is set and how many events wait; reject: show a reject on PLCs and GPIO, once; drop NAME: give up what "
    "waits; retry NAME: deliver again what was set aside; schema: the JSON Schema of an event."
)


@options_of()
def command(
    settings: Config,
    *,
    action: Annotated[str, typer.Argument(help=ACTION)],
    name: Annotated[str | None, typer.Argument(help="An output as `list` writes it, for drop and retry.")] = None,
    alarm: Annotated[list[str] | None, typer.Option(metavar="URI", help="Outputs; default: `alarm` of [run].")] = None,
    store: Annotated[
        Path | None, typer.Option(help="The store; default: `store` of [run], else runs/line.sqlite.")
    ] = None,
) -> None:
    """List the outputs of this station, reject on them, or manage what waits for them."""
    from edge_ad.errors import BadInput

    run = settings.run
    uris, path = alarm or run.alarm, store or run.store or DEFAULT_STORE
    if action == "list":
        _list(uris, path)
    elif action == "reject":
        _reject(uris, named=bool(alarm))
    elif action in ("drop", "retry"):
        _change(action, name, path)
    elif action == "schema":
        _schema()
    else:
        raise BadInput(f"unknown action {action!r}: choose one of list, reject, drop, retry, schema")


def _list(uris: list[str], path: Path) -> None:
    """Print a row for each output that is set or for which events were kept."""
    from edge_ad.outputs.channels import ALLOWED, parse_output
    from edge_ad.outputs.delivery import is_fast, make_output
    from edge_ad.outputs.targets import probe, targets_of
    from edge_ad.store.outbox import DeliveryStats, standings

    fast = [uri for uri in uris if is_fast(uri)]
    addresses = [parse_output(uri) for uri in fast]
    expensive = {uri: make_output(uri) for uri in uris if not is_fast(uri)}
    retained = {stats.output: stats for stats in standings(path)} if path.exists() else {}
    rows: list[tuple[str, ...]] = [("output", "waiting", "delivered", "set aside", "dropped", "")]
    for uri, address in zip(fast, addresses, strict=True):
        rows.append((uri, "", "", "", "", probe(address, targets_of([uri]))))
    for uri, output in expensive.items():
        stats = retained.pop(output.name, DeliveryStats(output.name))
        rows.append(_row(stats, "") if output.spooled else (output.name, "", "", "", "", _shown(uri)))
    rows += [_row(stats, "not set now") for stats in retained.values()]
    if len(rows) == 1:
        typer.echo(f"none; allowed are {ALLOWED}")
        return
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    for row in rows:
        numbers = [text.rjust(width) for text, width in zip(row[1:5], widths[1:5], strict=True)]
        typer.echo("  ".join([row[0].ljust(widths[0]), *numbers, row[5]]).rstrip())


def _shown(uri: str) -> str:
    """Return the remark for an output that shows the latest state."""
    from edge_ad.outputs.delivery import scheme_of
    from edge_ad.outputs.opcua import parse_endpoint
    from edge_ad.outputs.targets import probe_port, targets_of

    retained = "the latest, not kept"
    if scheme_of(uri) != "opcua":
        return retained
    endpoint = parse_endpoint(uri.strip())
    return f"{retained}; {probe_port(endpoint.host, endpoint.port, targets_of([uri]))}"


def _row(stats: DeliveryStats, remark: str) -> tuple[str, ...]:
    counts = (stats.waiting, stats.delivered, stats.refused, stats.dropped)
    return (stats.output, *map(str, counts), remark)


def _reject(uris: list[str], named: bool) -> None:
    """Show a reject; DeviceFault when an output did not take it, BadInput while a run drives one.

    Those that only tell events have nothing to show it on: one that was ``named`` by the call is a mistake.
    """
    import asyncio
    import contextlib

    from edge_ad.errors import BadInput
    from edge_ad.outputs.channels import parse_output
    from edge_ad.outputs.delivery import is_fast, make_output
    from edge_ad.outputs.guard import reject
    from edge_ad.outputs.targets import targets_of
    from edge_ad.utils.locks import Targets

    slow = [make_output(uri).name for uri in uris if not is_fast(uri)]  # a wrong address is told
    fast = [uri for uri in uris if is_fast(uri)]
    with contextlib.closing(Targets()) as targets:
        targets.lock(targets_of(fast), "end that run, on which its outputs reject")
        asyncio.run(reject([parse_output(uri) for uri in fast]))
    if slow and named:
        raise BadInput(f"{', '.join(slow)} only tells events, so no reject can be shown there: name outputs of a PLC or GPIO")
    if not fast:
        typer.echo("no output of a PLC or GPIO is set: nothing shows a reject", err=True)


def _change(action: str, name: str | None, path: Path) -> None:
    from edge_ad.errors import BadInput
    from edge_ad.store.outbox import drop, retry, standings

    known = {stats.output for stats in standings(path)} if path.exists() else set()
    if name not in known:
        message = f"known are {', '.join(sorted(known))}" if known else f"no output is known in {path}"
        raise BadInput(f"outputs {action} {name or 'NAME'}: there is no such output; {message}")
    assert name is not None
    if action == "drop":
        typer.echo(f"{drop(path, name)} events are given up; they stay in the record")
    else:
        typer.echo(f"{retry(path, name)} events wait again")


def _schema() -> None:
    import json

    from edge_ad.events import schema

    typer.echo(json.dumps(schema(), indent=2))
