"""How the device is doing now, in words: what a measurement of time must be read with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from edge_ad.doctor.board import board
from edge_ad.doctor.facts import machine_facts
from edge_ad.doctor.heat import temperatures, throttling
from edge_ad.doctor.machine import Machine
from edge_ad.doctor.power import clocks, power_mode


def device_state(root: Path = Path("/")) -> dict[str, str]:
    """Return board, power mode, clocks, temperatures and throttling as the doctor finds them; only files are read."""
    machine = _machine(root)
    checks = (board(machine), power_mode(machine), clocks(machine), temperatures(machine), throttling(machine))
    return {finding.name: finding.found for finding in checks}


def device_facts(root: Path = Path("/")) -> dict[str, Any]:
    """Return which machine this is, as `edge-ad doctor --json` has it under ``machine``."""
    return machine_facts(_machine(root))


def _machine(root: Path) -> Machine:
    return Machine(root, (sys.version_info.major, sys.version_info.minor), {}, 0, None)
