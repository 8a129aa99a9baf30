"""Checks of the power mode of a Jetson and of its clocks."""

from __future__ import annotations

import re

from edge_ad.doctor.finding import Finding
from edge_ad.doctor.machine import Machine
from edge_ad.engines.board import is_jetson

_MODE = re.compile(r"^<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>", re.MULTILINE)
_DEFAULT = re.compile(r"^<\s*PM_CONFIG\s+DEFAULT=(\d+)", re.MULTILINE)
_STATUS = re.compile(r"pmode:(\d+)")
# The GPU's clock domain: Orin (two names over the releases), Thor.
_GPU_CLOCKS = ("sys/class/devfreq/17000000.gpu", "sys/class/devfreq/17000000.ga10b", "sys/class/devfreq/gpu-gpc-0")


def power_mode(machine: Machine) -> Finding:
    """Tell the power mode that nvpmodel keeps, and the fastest that the board offers.

    The number of a mode says nothing of its speed: on an Orin Nano Super 2 is the fastest and 3 the slowest.
    """
    if not is_jetson(machine.root):
        return Finding("power mode", "ok", "none: not a Jetson")
    table = machine.text("etc/nvpmodel.conf")
    modes = {int(number): name for number, name in _MODE.findall(table)}
    kept = _STATUS.search(machine.text("var/lib/nvpmodel/status")) or _DEFAULT.search(table)
    current = int(kept[1]) if kept else None
    if current not in modes:
        return Finding("power mode", "warn", "unknown: nvpmodel has kept none", "ask it: sudo nvpmodel -q")
    best = max(modes, key=lambda number: _speed(modes[number]))
    if _speed(modes[current]) < _speed(modes[best]):
        return Finding(
            "power mode",
            "warn",
            f"{modes[current]} ({current}); the board offers {modes[best]} ({best})",
            f"sudo nvpmodel -m {best} for the least time a part, if power supply and cooling allow; "
            "then build the engines again",
        )
    return Finding("power mode", "ok", f"{modes[current]} ({current})")


def clocks(machine: Machine) -> Finding:
    """Tell the GPU's clock range; unless it is held at its top, the first frames after a pause come late."""
    if not is_jetson(machine.root):
        return Finding("clocks", "ok", "left alone: not a Jetson")
    for folder in _GPU_CLOCKS:
        low, high, now = (machine.number(f"{folder}/{name}_freq") for name in ("min", "max", "cur"))
        if low is None or high is None:
            continue
        told = f"GPU {low / 1e6:.0f} to {high / 1e6:.0f} MHz" + (f", now {now / 1e6:.0f}" if now else "")
        if low < high:
            return Finding(
                "clocks", "warn", told, "sudo jetson_clocks, for even times; the set-up makes a service of it"
            )
        return Finding("clocks", "ok", f"GPU held at {high / 1e6:.0f} MHz")
    return Finding("clocks", "warn", "the GPU shows no clock", "show it with: sudo jetson_clocks --show")


def _speed(name: str) -> float:
    """Order modes by name: MAXN_SUPER, MAXN, then watts."""
    if "MAXN" in name:
        return 2e6 if "SUPER" in name else 1e6
    watts = re.search(r"(\d+)W", name)
    return float(watts[1]) if watts else 0.0
