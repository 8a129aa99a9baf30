"""`edge-ad service`: the systemd unit that keeps a station running."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ACTIONS = ("install", "status", "uninstall", "print")


def command(
    *,
    action: Annotated[str, typer.Argument(help="install, status, uninstall or print.")],
    bundle: Annotated[Path | None, typer.Option(help="The bundle to run; default: the newest one under runs/.")] = None,
    name: Annotated[str, typer.Option(help="Name of the unit.")] = "edge-ad",
    user: Annotated[str | None, typer.Option(help="User that runs it; default: the owner of the folder.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Folder with edge-ad.toml; default: this one.")] = None,
    root: Annotated[Path, typer.Option(help="Where units are installed.")] = Path("/etc/systemd/system"),
) -> None:
    """Install, show or remove a hardened systemd unit that runs `edge-ad run` in this folder."""
    from edge_ad.errors import BadInput
    from edge_ad.system.devices import device_access
    from edge_ad.system.service import describe, install, make_unit, status, uninstall
    from edge_ad.utils.files import newest_bundle

    if action not in ACTIONS:
        raise BadInput(f"unknown action {action!r}: choose one of {', '.join(ACTIONS)}")
    if action in ("install", "print"):
        location = (folder or Path()).resolve()
        access = device_access(cameras=_cameras(location))
        unit = make_unit(location, (bundle or newest_bundle(location / "runs")).resolve(), user, access)
        if action == "print":
            typer.echo(unit)
            return
        message = install(unit, name, root)
        for line in (*describe(access), message):
            typer.echo(line)
        return
    typer.echo(status(name, root) if action == "status" else uninstall(name, root))


def _cameras(folder: Path) -> list[str]:
    """Return the cameras that edge-ad.toml in ``folder`` names."""
    from edge_ad.config import CONFIG_NAME, load_config

    config = load_config(folder / CONFIG_NAME)
    return [*config.run.camera, *filter(None, [config.capture.camera])]
