"""The text of the systemd unit of a station."""

from __future__ import annotations

import os
import pwd
import re
import sys
from pathlib import Path

from edge_ad.errors import BadInput
from edge_ad.service.devices import DeviceAccess, device_access

WATCHDOG_S = 10

_UNIT = """\
[Unit]
Description=edge-ad: visual inspection in {folder}
After=network-online.target{companions}
Wants=network-online.target{companions}
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
# CUDA on a Jetson takes a descriptor for every buffer: over five hundred before the first frame.
LimitNOFILE=65536
# Home folders are read-only below. Without these caches every start scans all plugins and compiles kernels again.
Environment=XDG_CACHE_HOME={cache}
Environment=GST_REGISTRY={cache}/gstreamer-1.0/registry.bin
Environment=CUDA_CACHE_PATH={cache}/cuda
UMask=0027

# What an inspector does not need.
NoNewPrivileges=yes
CapabilityBoundingSet={capabilities}
AmbientCapabilities={capabilities}
ProtectSystem=strict
ReadWritePaths={folder}
ProtectHome=read-only
{temporary}
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
{devices}

[Install]
WantedBy=multi-user.target
"""

# Argus listens in /tmp. A bind mount of its socket would be missed when Argus starts later than we do, and go stale when it
# starts again; the folder itself is read-only by ProtectSystem, so temporary files get one of their own.
_SHARED_TMP = """\
PrivateTmp=no
RuntimeDirectory=%N
RuntimeDirectoryMode=0700
Environment=TMPDIR=%t/%N"""


def make_unit(folder: Path, bundle: Path, user: str | None = None, access: DeviceAccess | None = None) -> str:
    """Return the text of the unit that runs ``edge-ad run BUNDLE`` in ``folder`` as ``user`` (default: its owner).

    ``access`` is what it may open; without it, what this machine has.

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
    access = access or device_access()
    return _UNIT.format(
        folder=folder,
        bundle=bundle,
        user=name,
        program=_program(),
        watchdog=WATCHDOG_S,
        capabilities="CAP_NET_BIND_SERVICE",
        cache=folder / ".cache",
        companions=_companions(access),
        temporary=_SHARED_TMP if access.argus else "PrivateTmp=yes",
        groups=" ".join(access.groups),
        devices=_device_lines(access),
    )


def _companions(access: DeviceAccess) -> str:
    """Return the services that ours uses, each after a blank."""
    argus = " nvargus-daemon.service" if access.argus else ""
    return argus + (" nvidia-persistenced.service" if access.nvidia_card else "")


def _device_lines(access: DeviceAccess) -> str:
    """Return the lines on devices, each group of targets under its reason."""
    lines = [f"DevicePolicy={access.policy}"]
    reason = ""
    for one in access.allowed:
        if one.reason != reason:
            lines.append(f"# {one.reason}")
            reason = one.reason
        lines.append(f"DeviceAllow={one.target} rw")
    return "\n".join([*(f"# {note}" for note in access.notes), *lines])


def _owner(folder: Path) -> str:
    try:
        return pwd.getpwuid(os.stat(folder).st_uid).pw_name
    except KeyError as error:
        raise BadInput(f"the owner of {folder} has no name: give --user") from error


def _program() -> str:
    """Return the command of this installation, with its whole path."""
    beside = Path(sys.executable).with_name("edge-ad")
    return str(beside) if beside.exists() else f"{sys.executable} -m edge_ad"
