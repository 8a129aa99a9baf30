"""`edge-ad service`: the systemd unit that keeps a station running."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ACTIONS = ("install", "status", "uninstall", "print")


def command(
    action: Annotated[str, typer.Argument(help="install, status, uninstall or print.")],
    bundle: Annotated[Path | None, typer.Option(help="The bundle to run; default: the newest one under runs/.")] = None,
    name: Annotated[str, typer.Option(help="Name of the unit.")] = "edge-ad",
    user: Annotated[str | None, typer.Option(help="User that runs it; default: the owner of the folder.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Folder with edge-ad.toml; default: this one.")] = None,
    root: Annotated[Path, typer.Option(help="Where units are installed.")] = Path("/etc/systemd/system"),
) -> None:
    """Install, show or remove a hardened systemd unit that runs `edge-ad run` in this folder."""
    from edge_ad.errors import BadInput
    from edge_ad.files import newest_bundle
    from edge_ad.service import install, make_unit, status, uninstall

    if action not in ACTIONS:
        raise BadInput(f"unknown action {action!r}: choose one of {', '.join(ACTIONS)}")
    if action in ("install", "print"):
        place = (folder or Path()).resolve()
        unit = make_unit(place, (bundle or newest_bundle(place / "runs")).resolve(), user)
        typer.echo(unit if action == "print" else install(unit, name, root))
        return
    typer.echo(status(name, root) if action == "status" else uninstall(name, root))
