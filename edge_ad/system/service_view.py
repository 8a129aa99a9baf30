"""What the station's service would see: its unit against the devices there are, and the trials under its properties."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from edge_ad.system.devices import missing_devices
from edge_ad.system.findings import MISSING, UNWELL, Finding
from edge_ad.system.machine import Machine
from edge_ad.system.tries import Tried, try_backends

UNIT = "etc/systemd/system/edge-ad.service"
MAX_S = 400  # systemd ends a trial that hangs, after those that wait for it have given up
# What makes the unit a service rather than a place to work in; a trial has these of its own.
_OF_THE_SERVICE = re.compile(r"Type|NotifyAccess|Exec\w+|Timeout\w+|Watchdog\w+|Restart\w*|KillMode|OOMPolicy")


def service_view(machine: Machine, user_id: int | None = None) -> list[Tried]:
    """Return what the service's unit lacks, and the trials under ``systemd-run`` where root and systemd allow them."""
    unit = machine.text(UNIT)
    if not unit:
        return [_plain("no service is installed (edge-ad service install)")]
    lacking = missing_devices(unit, machine.root)
    if lacking:
        shown = ", ".join(lacking[:6]) + (f" and {len(lacking) - 6} more" if len(lacking) > 6 else "")
        finding = Finding(
            "service",
            "warn",
            f"its unit does not open {shown}",
            "sudo edge-ad service install, then sudo systemctl restart edge-ad",
            MISSING,
        )
        return [Tried(finding)]
    why_not = _why_not(machine, os.geteuid() if user_id is None else user_id)
    if why_not:
        return [_plain(f"its unit opens every device there is; not tried from inside: {why_not}")]
    return _inside(machine, transient(unit, "edge-ad"))


def _inside(machine: Machine, prefix: Sequence[str]) -> list[Tried]:
    tried = try_backends(machine, prefix)
    failed = [one.finding for one in tried if one.finding.status == "fail"]
    if not failed:
        names = ", ".join(one.finding.name for one in tried if not one.finding.found.startswith("not tried"))
        seconds = sum(one.seconds for one in tried)
        return [Tried(Finding("service", "ok", f"tried under its unit: {names}"), "edge-ad.service", seconds)]
    advice = "sudo edge-ad service install; if it stays so, journalctl -u edge-ad"
    return [
        Tried(Finding("service", "fail", f"under its unit, {one.name}: {one.found}", advice, UNWELL), "edge-ad.service")
        for one in failed
    ]


def transient(unit: str, name: str) -> list[str]:
    """Return ``systemd-run`` with the properties of a unit's text, up to the command to run."""
    properties = []
    section = ""
    for line in unit.splitlines():
        section = line if line.startswith("[") else section
        key, equals, value = line.partition("=")
        if section != "[Service]" or line.startswith("#") or not equals or _OF_THE_SERVICE.fullmatch(key):
            continue
        # A transient unit has another name, so what %N and %t stand for is written out.
        value = value.replace("%N", f"{name}-doctor").replace("%t", "/run")
        properties += ["-p", f"{key}={value}"]
    limits = ["-p", f"RuntimeMaxSec={MAX_S}"]
    return ["systemd-run", "--quiet", "--wait", "--pipe", "--collect", *limits, *properties, "--"]


def _why_not(machine: Machine, user_id: int) -> str:
    """Return why the trials cannot be made as the service, empty where they can."""
    if not machine.exists("run/systemd/system"):
        return "systemd does not run here"
    if shutil.which("systemd-run") is None:
        return "there is no systemd-run"
    if user_id != 0:
        return f"only root may (sudo {Path('.venv/bin/edge-ad') if Path('.venv/bin/edge-ad').exists() else 'edge-ad'} doctor)"
    return ""


def _plain(result: str) -> Tried:
    return Tried(Finding("service", "ok", result))
