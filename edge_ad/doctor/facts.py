"""What a report on a board must say besides its checks: which machine, which versions. Without names of hosts or users."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from edge_ad.doctor.container import in_container
from edge_ad.doctor.jetpack import jetpack
from edge_ad.doctor.machine import Machine
from edge_ad.doctor.packages import Package
from edge_ad.engines.board import board, is_jetson, l4t

_OTHERS = ("numpy", "onnx", "paho-mqtt", "pymodbus", "asyncua", "gpiod", "Jetson.GPIO", "harvesters")


def machine_facts(machine: Machine) -> dict[str, Any]:
    """Return what machine this is: board, JetPack, processor, memory, kernel, Python and the version of edge-ad."""
    from edge_ad import __version__

    found = jetpack(machine)
    total = re.search(r"^MemTotal:\s+(\d+) kB", machine.text("proc/meminfo"), re.MULTILINE)
    system = re.search(r'^PRETTY_NAME="?([^"\n]*)', machine.text("etc/os-release"), re.MULTILINE)
    processor = re.search(r"^model name\s*:\s*(.+)$", machine.text("proc/cpuinfo"), re.MULTILINE)
    return {
        "edge_ad": __version__,
        "jetson": is_jetson(machine.root),
        "board": board(machine.root),
        "l4t": l4t(machine.root),
        "jetpack": found.name if found else "",
        "container": in_container(machine),
        "architecture": platform.machine(),
        "processor": processor[1] if processor else "",
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": int(total[1]) * 1024 if total else None,
        "system": system[1] if system else "",
        "kernel": platform.release(),
        "python": ".".join(map(str, machine.python)),
    }


def package_facts(packages: Mapping[str, Package]) -> dict[str, Any]:
    """Return version, error and facts of what was imported, and the versions of other packages that are installed."""
    imported = {name: {"version": one.version, "error": one.error, **one.facts} for name, one in packages.items()}
    others = {name: {"version": _installed(name)} for name in _OTHERS}
    return {**imported, **{name: facts for name, facts in others.items() if facts["version"]}}


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
