"""`edge-ad doctor`: whether this machine can build engines and run a line, and what to do where it cannot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def command(
    out: Annotated[Path | None, typer.Option("--json", help="Write the same as JSON to this file.")] = None,
) -> None:
    """Examine this machine: board, JetPack, packages, cameras, power, heat, memory, disk, clock."""
    from edge_ad.doctor.examine import examine
    from edge_ad.doctor.finding import exit_code, lines, to_json
    from edge_ad.doctor.machine import Machine
    from edge_ad.files import atomic_write

    findings = examine(Machine.here())
    for line in lines(findings):
        typer.echo(line)
    if out is not None:
        atomic_write(out, json.dumps(to_json(findings), indent=2) + "\n")
    code = exit_code(findings)
    if code:
        raise typer.Exit(code)
