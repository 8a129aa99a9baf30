"""The check of the cameras: which there are, under a name that survives a restart."""

from __future__ import annotations

import os
import re

from edge_ad.doctor.finding import Finding
from edge_ad.doctor.machine import Machine

_BY_ID = "dev/v4l/by-id"


def cameras(machine: Machine) -> Finding:
    """Tell USB cameras by their stable name and others by their device; none at all is a warning.

    A USB camera shows several devices: ``index0`` gives the pictures, the others its metadata.
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
