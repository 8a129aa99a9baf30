"""`edge-ad doctor`: whether this machine can build engines and run a line, and what to do where it cannot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def command(
    cameras: Annotated[
        bool,
        typer.Option("--cameras", help="Take a frame from each camera: those of edge-ad.toml and those found here."),
    ] = False,
    camera: Annotated[
        list[str] | None, typer.Option(metavar="URI", help="Take a frame from this camera; repeat it for several.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--json", help="Write the same as JSON to this file.")] = None,
) -> None:
    """Examine this machine, and try what a run will do: OpenCV, GPU memory, a graph on each backend, cameras, the
    service.
    """
    from edge_ad.system.examine import examine, report
    from edge_ad.system.machine import Machine, exit_code, lines
    from edge_ad.system.service import service_view
    from edge_ad.system.tries import camera_targets, configured_cameras, no_cameras, try_backends, try_cameras
    from edge_ad.utils.files import atomic_write

    named = list(dict.fromkeys([*(camera or []), *(configured_cameras(Path()) if cameras else [])]))
    machine = Machine.here()
    findings = examine(machine)
    targets = camera_targets(machine, named, search=cameras)
    tried = [*try_backends(machine), *try_cameras(targets), *service_view(machine)]
    if not cameras and not camera:
        tried.append(no_cameras())
    findings += [one.finding for one in tried]
    for line in lines(findings):
        typer.echo(line)
    if out is not None:
        atomic_write(out, json.dumps(report(machine, findings, tried), indent=2) + "\n")
    code = exit_code(findings)
    if code:
        raise typer.Exit(code)
