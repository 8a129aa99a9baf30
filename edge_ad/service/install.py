"""Installs, checks, shows and removes the unit of a station."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from edge_ad.errors import BadInput, DeviceFault
from edge_ad.files import atomic_write
from edge_ad.service.devices import DeviceAccess

VERIFY_S = 60.0


def install(unit: str, name: str, root: Path) -> str:
    """Check the unit with ``systemd-analyze verify``, write it, and return what to do next.

    It is checked under a temporary name: one that systemd does not accept (DeviceFault) leaves the installed one as it is.
    """
    path = _path(name, root)
    faults = _verify_text(unit, path.name)
    if faults:
        kept = f"; {path} stays as it was" if path.exists() else ""
        raise DeviceFault(f"systemd does not accept the unit: {faults}{kept}")
    replaced = path.exists()
    atomic_write(path, unit)
    reloaded = _systemctl("daemon-reload")
    start = f"systemctl restart {name}" if replaced else f"systemctl enable --now {name}"
    return (
        f"{path} is installed{'' if reloaded else ' (systemd does not run here: daemon-reload was not done)'}.\n"
        f"{'Use it from now on' if replaced else 'Start it now and at every boot'}: {start}\nFollow it: journalctl -fu {name}"
    )


def describe(access: DeviceAccess) -> list[str]:
    """Return what the service may open, one line a reason, and what the owner should know."""
    reasons: dict[str, list[str]] = {}
    for one in access.allowed:
        reasons.setdefault(one.reason, []).append(one.target)
    told = [f"opens {' '.join(targets)}: {reason}" for reason, targets in reasons.items()]
    if access.policy == "auto":
        told.append("opens every device that the user may open")
    if access.argus:
        told.append("sees /tmp, read-only: Argus, which serves CSI cameras, listens in /tmp/argus_socket")
    if access.groups:
        told.append(f"joins the groups {' '.join(access.groups)}: they own these devices")
    return [*told, *(f"note: {note}" for note in access.notes)]


def uninstall(name: str, root: Path) -> str:
    """Stop and remove the unit; BadInput when there is none."""
    path = _path(name, root)
    if not path.exists():
        raise BadInput(f"{path} does not exist: nothing to remove")
    _systemctl("disable", "--now", f"{name}.service")
    path.unlink()
    _systemctl("daemon-reload")
    return f"{path} is removed; data and bundles stay"


def status(name: str, root: Path) -> str:
    """Return where the unit is and what systemd says of it."""
    path = _path(name, root)
    told = f"{path}: {'installed' if path.exists() else 'not installed'}"
    if shutil.which("systemctl") is None:
        return f"{told}; there is no systemctl here"
    fields = "ActiveState,SubState,StatusText,NRestarts,MainPID,Result"
    done = subprocess.run(
        ["systemctl", "show", f"{name}.service", "-p", fields], capture_output=True, text=True, check=False
    )
    return "\n".join([told, *(done.stdout or done.stderr).strip().splitlines()])


def verify(path: Path) -> str:
    """Return what ``systemd-analyze verify`` finds wrong with this unit, empty when nothing or where there is none."""
    if shutil.which("systemd-analyze") is None:
        return ""
    try:
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(path)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=VERIFY_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"systemd-analyze verify {path.name} gave no answer within {VERIFY_S:g} s"
    # Other units of the machine may be faulty: only lines about ours count.
    return "; ".join(line for line in done.stderr.splitlines() if path.name in line)


def _verify_text(unit: str, name: str) -> str:
    with tempfile.TemporaryDirectory(prefix="edge-ad-unit-") as folder:
        candidate = Path(folder) / name
        candidate.write_text(unit, encoding="utf-8")
        return verify(candidate)


def _path(name: str, root: Path) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9_.@-]{1,100}", name):
        raise BadInput(f"{name!r} is no name for a unit: use letters, digits, '-', '_', '.' and '@'")
    return root / f"{name}.service"


def _systemctl(*arguments: str) -> bool:
    if shutil.which("systemctl") is None:
        return False
    return subprocess.run(["systemctl", *arguments], capture_output=True, check=False).returncode == 0
