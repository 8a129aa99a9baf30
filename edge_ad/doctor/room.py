"""Checks of free memory and free disk."""

from __future__ import annotations

import re

from edge_ad.doctor.finding import UNWELL, Finding
from edge_ad.doctor.machine import Machine
from edge_ad.engines.tensorrt_build import LEAST_FREE

_GIB = 1 << 30
LOW_MEMORY = _GIB
LOW_DISK, NO_DISK = 4 * _GIB, _GIB // 2


def memory(machine: Machine) -> Finding:
    """Tell memory that can be had without swapping; TensorRT builds need the most of it."""
    fields = {
        name: int(kib) * 1024 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB", machine.text("proc/meminfo"), re.M)
    }
    if "MemAvailable" not in fields or "MemTotal" not in fields:
        return Finding("memory", "warn", "unknown: /proc/meminfo does not tell", "look at it with: free -h")
    free = fields["MemAvailable"]
    told = f"{free / _GIB:.1f} of {fields['MemTotal'] / _GIB:.1f} GiB free"
    advice = "end other programs, or leave the desktop: sudo systemctl isolate multi-user.target"
    if free < LEAST_FREE:
        return Finding("memory", "fail", told, advice, code=UNWELL)
    if free < LOW_MEMORY:
        return Finding("memory", "warn", f"{told}; the build of an engine may use half of it", advice)
    return Finding("memory", "ok", told)


def disk(machine: Machine) -> Finding:
    """Tell free disk in the working folder: engines, events and pictures are written there."""
    told = f"{machine.free_disk / _GIB:.1f} GiB free in this folder"
    advice = "remove old pictures and engines, or keep fewer of them"
    if machine.free_disk < NO_DISK:
        return Finding("disk", "fail", told, advice, code=UNWELL)
    if machine.free_disk < LOW_DISK:
        return Finding("disk", "warn", told, advice)
    return Finding("disk", "ok", told)
