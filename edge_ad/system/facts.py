"""What a report on a board must say besides its checks: which machine, which versions. Without names of hosts or users.

How the device is doing now, in words: what a measurement of time must be read with.

The report of the doctor as JSON: the first half of what an owner sends; `edge-ad benchmark --json` is the second.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from edge_ad.system.board import board as board_finding
from edge_ad.system.board import clocks, power_mode, temperatures, throttling
from edge_ad.system.machine import Finding, Machine, Package, in_container, jetpack, to_json
from edge_ad.system.tries import Tried
from edge_ad.utils.board import board, is_jetson, l4t

_OTHERS = ("numpy", "onnx", "paho-mqtt", "asyncua", "gpiod", "Jetson.GPIO", "harvesters")


def machine_details(machine: Machine) -> dict[str, Any]:
    """Return what machine this is: board, JetPack, processor, memory, kernel, Python and the version of edge-ad."""
    from edge_ad import __version__

    result = jetpack(machine)
    total = re.search(r"^MemTotal:\s+(\d+) kB", machine.text("proc/meminfo"), re.MULTILINE)
    system = re.search(r'^PRETTY_NAME="?([^"\n]*)', machine.text("etc/os-release"), re.MULTILINE)
    processor = re.search(r"^model name\s*:\s*(.+)$", machine.text("proc/cpuinfo"), re.MULTILINE)
    return {
        "edge_ad": __version__,
        "jetson": is_jetson(machine.root),
        "board": board(machine.root),
        "l4t": l4t(machine.root),
        "jetpack": result.name if result else "",
        "container": in_container(machine),
        "architecture": platform.machine(),
        "processor": processor[1] if processor else "",
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": int(total[1]) * 1024 if total else None,
        "system": system[1] if system else "",
        "kernel": platform.release(),
        "python": ".".join(map(str, machine.python)),
    }


def package_details(packages: Mapping[str, Package]) -> dict[str, Any]:
    """Return version, error and facts of what was imported, and the versions of other packages that are installed."""
    imported = {name: {"version": one.version, "error": one.error, **one.facts} for name, one in packages.items()}
    others = {name: {"version": _installed(name)} for name in _OTHERS}
    return {**imported, **{name: details for name, details in others.items() if details["version"]}}


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def device_state(root: Path = Path("/")) -> dict[str, str]:
    """Return board, power mode, clocks, temperatures and throttling as the doctor finds them; only files are read."""
    machine = _machine(root)
    checks = (board_finding(machine), power_mode(machine), clocks(machine), temperatures(machine), throttling(machine))
    return {finding.name: finding.found for finding in checks}


def device_details(root: Path = Path("/")) -> dict[str, Any]:
    """Return which machine this is, as `edge-ad doctor --json` has it under ``machine``."""
    return machine_details(_machine(root))


def _machine(root: Path) -> Machine:
    return Machine(root, (sys.version_info.major, sys.version_info.minor), {}, 0, None)


def report(machine: Machine, findings: Sequence[Finding], tried: Sequence[Tried]) -> dict[str, Any]:
    """Return ``ready``, ``exit_code``, ``checks``, ``tried``, ``machine``, ``packages`` and ``made`` (UTC).

    It holds no host name, no user and no password; cameras appear as in events.
    """
    return {
        **to_json(findings),
        "tried": [one.to_json() for one in tried],
        "machine": machine_details(machine),
        "packages": package_details(machine.packages),
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
