"""`edge-ad product`: what a station can judge, and which of it is judged."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from edge_ad.cli.options import options_of
from edge_ad.cli.pause import By, StoreFile, request_of
from edge_ad.config import DEFAULT_STORE, Config

ACTION = (
    "list: what there is and what is judged now; select NAME: judge NAME from now on; replace [NAME]: judge it by another --bundle "
    "from now on; rollback [NAME]: by the bundle before. NAME is left out where the station has no products. "
    "Where several cameras see a part, --view says whose bundle it is."
)
WAIT_S = 120.0  # for engines that are parked
POLL_S = 0.05


@options_of()
def command(
    settings: Config,
    *,
    action: Annotated[str, typer.Argument(help=ACTION)] = "list",
    name: Annotated[str | None, typer.Argument(help="A product of edge-ad.toml.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="The bundle (*.edgead) that takes the place of the one in use.")] = None,
    view: Annotated[str, typer.Option(metavar="NAME", help="The view of [part] views that the bundle is for.")] = "",
    reason: Annotated[str, typer.Option(help="Why the bundle is replaced or rolled back.")] = "",
    by: By = None,
    store: StoreFile = None,
) -> None:
    """List the products of this station, choose the one that its run judges, or replace the bundle of one."""
    from edge_ad.errors import BadInput

    path = store or settings.run.store or DEFAULT_STORE
    if action == "list" and name is None:
        _list(settings, path)
    elif action == "select" and name is not None:
        _select(name, by, path)
    elif action in ("replace", "rollback"):
        _replace(settings, action, name, bundle, view=view, by=by, reason=reason, store=path)
    elif action == "select":
        raise BadInput(f"select needs a product: choose one of {', '.join(settings.product) or 'none, edge-ad.toml names none'}")
    else:
        raise BadInput(f"unknown action {action!r}: choose one of list, select, replace, rollback")


def _state(path: Path) -> dict[str, Any] | None:
    """Return how the products of the run stand that keeps this store; None where none runs."""
    from edge_ad.inspection.requests import ask_run

    answer = ask_run(path, request_of("products", "")) if path.parent.exists() else None
    return None if answer is None else dict(json.loads(answer))


def _list(settings: Config, path: Path) -> None:
    state = _state(path)
    if state is None:
        _list_settings(settings, path)
        return
    rows: list[tuple[str, ...]] = [("product", "state", "code", "memory MB", "bundle", "")]
    for row in state["products"]:
        code, file = str(row["code"] or ""), f"{row['file']} {row['bundle'][:12]}" if row["bundle"] else ""
        rows.append((row["name"], row["state"], code, f"{row['memory_mb']:.0f}", file, row["reason"] or ""))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    budget = "no budget" if state["budget_mb"] is None else f"of a budget of {state['budget_mb']} MB"
    typer.echo(f"{state['memory_mb']:.0f} MB are loaded, {budget}")
    if state["reason"] is not None:
        typer.echo(state["reason"])


def _list_settings(settings: Config, path: Path) -> None:
    """Print what edge-ad.toml names, where no run can be asked."""
    from edge_ad.store.next_run import Choice, choice_path

    if not settings.product:
        typer.echo("edge-ad.toml names no products: add tables [product.NAME]")
        return
    for name, product in settings.product.items():
        code = "" if product.code is None else f", code {product.code}"
        bundles = [bundle for bundle in (product.bundle, *(view.bundle for view in product.view.values())) if bundle is not None]
        named = ", ".join(f"{bundle}{'' if bundle.is_file() else ', which is missing'}" for bundle in bundles)
        typer.echo(f"{name}: {named}{code}")
    typer.echo(f"no run keeps {path}; the next begins with {Choice(choice_path(path)).begins_with(settings.run.product) or 'none'}")


def _select(name: str, by: str | None, path: Path) -> None:
    """Ask for a product and wait until the change is in force; DeviceFault where it cannot be judged."""
    from edge_ad.errors import BadInput, DeviceFault
    from edge_ad.inspection.requests import ask_run

    if not path.parent.exists() or ask_run(path, request_of("product", by, name=name)) is None:
        raise BadInput(f"no run keeps the store {path}: start `edge-ad run`, name its store by --store, or set `product` of [run]")
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        state = _state(path)
        if state is None:
            raise DeviceFault(f"the run that keeps {path} ended meanwhile")
        if state["state"] == "active" and state["product"] == name:
            typer.echo(f"{name} is judged now; the change took {1000 * (state['last_change_s'] or 0.0):.0f} ms")
            return
        if state["state"] != "changing":
            raise DeviceFault(f"{name} is not judged: {state['reason'] or 'another product was chosen meanwhile'}")
        time.sleep(POLL_S)
    raise DeviceFault(f"the change to {name} takes longer than {WAIT_S:g} s: look at the log of the run")


def _replace(
    settings: Config, action: str, name: str | None, bundle: Path | None, *, view: str, by: str | None, reason: str, store: Path
) -> None:
    """Replace the bundle of a product or a view, or roll it back, in the run that keeps the store or for the next one."""
    from edge_ad.errors import BadInput
    from edge_ad.inspection.bundle_swap import replace_bundle

    if (bundle is None) != (action == "rollback"):
        raise BadInput("`edge-ad product replace` needs --bundle FILE, and rollback takes none: it goes back by one")
    values = {"product": name or "", "view": view, "bundle": "" if bundle is None else str(bundle.resolve()), "reason": reason}
    typer.echo(replace_bundle(settings, store, request_of(action, by, **values)))
