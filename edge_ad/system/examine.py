"""All checks, in the order in which they are told.

The check of the cameras: which there are, under a name that survives a restart.

The check of the clock: whether the times in the records can be trusted.

Checks of free memory and free disk.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from edge_ad.engines.tensorrt.build import MIN_FREE
from edge_ad.system.board import board, release
from edge_ad.system.findings import UNWELL, Finding
from edge_ad.system.machine import Machine
from edge_ad.system.power import clocks, power_mode, temperatures, throttling
from edge_ad.system.software import cuda, onnxruntime, opencv, pycuda, python, tensorrt

_BY_ID = "dev/v4l/by-id"


def cameras(machine: Machine) -> Finding:
    """Tell USB cameras by their stable name and others by their device; none at all is a warning.

    A USB camera shows several devices: ``index0`` gives the images, the others its metadata.
    """
    devices = [path for path in machine.find("dev/video*") if re.fullmatch(r"dev/video\d+", path)]
    stable = {
        os.path.basename(os.readlink(machine.root / path)): path
        for path in machine.find(f"{_BY_ID}/*")
        if (machine.root / path).is_symlink()
    }
    if not devices and not stable:
        return Finding(
            "cameras",
            "warn",
            "none at this machine",
            "plug one in, or name a network camera, a video or a folder: edge-ad run --camera URI",
        )
    closed = [device for device in devices if not os.access(machine.root / device, os.R_OK | os.W_OK)]
    if closed:
        return Finding(
            "cameras",
            "warn",
            f"/{', /'.join(closed)} may not be opened by this user",
            "sudo usermod -aG video $USER, and log in again",
        )
    usb = [f"/{path}" for _, path in sorted(stable.items()) if path.endswith("index0")]
    others = [_named(machine, device) for device in devices if os.path.basename(device) not in stable]
    return Finding("cameras", "ok", ", ".join([*usb, *others]))


def _named(machine: Machine, device: str) -> str:
    name = machine.text(f"sys/class/video4linux/{os.path.basename(device)}/name")
    return f"/{device} ({name or 'without a name'})"


_SERVICES = {
    "chrony": ("run/chrony/chronyd.pid", "run/chronyd.pid"),
    "systemd-timesyncd": ("run/systemd/timesync/synchronized",),
    "ntpd": ("run/ntpd.pid",),
}


def clock(machine: Machine) -> Finding:
    """Tell whether a service keeps the clock; verdicts run on a monotonic clock and do not depend on it, records do.

    The kernel's own word counts; where it cannot be asked, what systemd-timesyncd left behind.
    """
    running = [name for name, files in _SERVICES.items() if any(map(machine.exists, files))]
    synchronised = machine.clock if machine.clock is not None else machine.exists("run/systemd/timesync/synchronized")
    if synchronised:
        return Finding("clock", "ok", f"synchronised{f' by {running[0]}' if running else ''}")
    return Finding(
        "clock",
        "warn",
        f"not synchronised{f', though {running[0]} runs' if running else ''}: the times of events may be wrong",
        "sudo timedatectl set-ntp true, or give chrony the time server of the plant: sudo apt-get install chrony",
    )


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
    message = f"{free / _GIB:.1f} of {fields['MemTotal'] / _GIB:.1f} GiB free"
    advice = "end other programs, or leave the desktop: sudo systemctl isolate multi-user.target"
    if free < MIN_FREE:
        return Finding("memory", "fail", message, advice, code=UNWELL)
    if free < LOW_MEMORY:
        return Finding("memory", "warn", f"{message}; the build of an engine may use half of it", advice)
    return Finding("memory", "ok", message)


def disk(machine: Machine) -> Finding:
    """Tell free disk in the working folder: engines, events and images are written there."""
    message = f"{machine.free_disk / _GIB:.1f} GiB free in this folder"
    advice = "remove old images and engines, or keep fewer of them"
    if machine.free_disk < NO_DISK:
        return Finding("disk", "fail", message, advice, code=UNWELL)
    if machine.free_disk < LOW_DISK:
        return Finding("disk", "warn", message, advice)
    return Finding("disk", "ok", message)


CHECKS: tuple[Callable[[Machine], Finding], ...] = (
    board,
    release,
    python,
    cuda,
    tensorrt,
    pycuda,
    onnxruntime,
    opencv,
    cameras,
    power_mode,
    clocks,
    temperatures,
    throttling,
    memory,
    disk,
    clock,
)


def examine(machine: Machine) -> list[Finding]:
    """Return what every check finds on a machine."""
    return [check(machine) for check in CHECKS]
