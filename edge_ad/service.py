"""The systemd unit of a station: made, checked, installed and removed."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import sys
from pathlib import Path

from edge_ad.errors import BadInput, DeviceFault
from edge_ad.files import atomic_write

WATCHDOG_S = 10

_UNIT = """\
[Unit]
Description=edge-ad: visual inspection in {folder}
After=network-online.target nvargus-daemon.service
Wants=network-online.target
# A station must come back however often it failed.
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
User={user}
WorkingDirectory={folder}
ExecStart={program} run {bundle}
ExecReload=/bin/kill -HUP $MAINPID
ExecStopPost={program} outputs reject
# Engines may be built or loaded for minutes before the first golden verdict.
TimeoutStartSec=infinity
TimeoutStopSec=10
WatchdogSec={watchdog}
Restart=always
RestartSec=2
# The guard ends by itself once its pipe is closed, and rejects until then.
KillMode=mixed
OOMPolicy=stop
LimitCORE=0
UMask=0027

# What an inspector does not need.
NoNewPrivileges=yes
CapabilityBoundingSet={capabilities}
AmbientCapabilities={capabilities}
ProtectSystem=strict
ReadWritePaths={folder}
ProtectHome=read-only
PrivateTmp=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
ProtectProc=invisible
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
RemoveIPC=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
SupplementaryGroups={groups}
DevicePolicy=closed
{devices}

[Install]
WantedBy=multi-user.target
"""

# Cameras, GPIO and the GPUs of workstations and Jetsons. A pattern without a device allows nothing.
_DEVICES = (
    "char-video4linux", "char-media", "char-gpiochip", "char-nvidia", "char-nvidia-uvm", "char-nvidia-frontend",
    "char-nvhost-gpu", "char-nvmap", "char-drm", "char-usb_device",
)  # fmt: skip
_GROUPS = ("video", "render", "gpio", "dialout", "plugdev")


def make_unit(folder: Path, bundle: Path, user: str | None = None) -> str:
    """Return the text of the unit that runs ``edge-ad run BUNDLE`` in ``folder`` as ``user`` (default: its owner).

    The port 502 of Modbus needs the one capability that is left. BadInput for a folder or user that is not there, and
    for root: an inspector has no need of it.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder} is no folder: name the one with edge-ad.toml")
    for path in (folder, bundle):
        if re.search(r"[\s%\"'\\$]", str(path)):
            raise BadInput(f"the path {str(path)!r} has a character that systemd reads in its own way: rename it")
    name = user or _owner(folder)
    try:
        account = pwd.getpwnam(name)
    except KeyError as error:
        raise BadInput(f"there is no user {name!r}: make one (useradd --system edge-ad) or name another") from error
    if account.pw_uid == 0:
        raise BadInput("the unit must not run as root: make a user (useradd --system edge-ad) and give --user")
    devices = "\n".join(f"DeviceAllow={device} rw" for device in _DEVICES)
    return _UNIT.format(
        folder=folder,
        bundle=bundle,
        user=name,
        program=_program(),
        watchdog=WATCHDOG_S,
        capabilities="CAP_NET_BIND_SERVICE",
        groups=" ".join(_existing_groups()),
        devices=devices,
    )


def install(unit: str, name: str, root: Path) -> str:
    """Write the unit, check it with ``systemd-analyze verify``, and return what to do next.

    A unit that systemd does not accept is not left behind (DeviceFault).
    """
    path = _path(name, root)
    atomic_write(path, unit)
    faults = verify(path)
    if faults:
        path.unlink()
        raise DeviceFault(f"systemd does not accept the unit: {faults}")
    reloaded = _systemctl("daemon-reload")
    return (
        f"{path} is installed{'' if reloaded else ' (systemd does not run here: daemon-reload was not done)'}.\n"
        f"Start it now and at every boot: systemctl enable --now {name}\nFollow it: journalctl -fu {name}"
    )


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
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True, check=False
    )
    # Other units of the machine may be faulty: only lines about ours count.
    return "; ".join(line for line in done.stderr.splitlines() if path.name in line)


def _path(name: str, root: Path) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9_.@-]{1,100}", name):
        raise BadInput(f"{name!r} is no name for a unit: use letters, digits, '-', '_', '.' and '@'")
    return root / f"{name}.service"


def _systemctl(*arguments: str) -> bool:
    if shutil.which("systemctl") is None:
        return False
    return subprocess.run(["systemctl", *arguments], capture_output=True, check=False).returncode == 0


def _owner(folder: Path) -> str:
    try:
        return pwd.getpwuid(os.stat(folder).st_uid).pw_name
    except KeyError as error:
        raise BadInput(f"the owner of {folder} has no name: give --user") from error


def _existing_groups() -> list[str]:
    import grp

    known = {group.gr_name for group in grp.getgrall()}
    return [name for name in _GROUPS if name in known]


def _program() -> str:
    """Return the command of this installation, with its whole path."""
    beside = Path(sys.executable).with_name("edge-ad")
    return str(beside) if beside.exists() else f"{sys.executable} -m edge_ad"
