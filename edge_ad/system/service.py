"""The systemd unit of a station: its text, how it is installed, checked, shown and removed, and what is tried under it."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edge_ad.errors import BadInput, DeviceFault
from edge_ad.system.devices import DeviceAccess, device_access, missing_devices
from edge_ad.system.machine import MISSING, UNWELL, Finding, Machine
from edge_ad.system.tries import Tried, try_backends
from edge_ad.utils.files import atomic_write

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
ExecStart={program} --log-format json run {bundle}
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


VERIFY_S = 60.0


def install(unit: str, name: str, root: Path) -> str:
    """Check the unit with ``systemd-analyze verify``, write it, and return what to do next.

    It is checked under a temporary name: one that systemd does not accept (DeviceFault) leaves the installed one as it
    is.
    """
    path = _path(name, root)
    faults = _verify_text(unit, path.name)
    if faults:
        retained = f"; {path} stays as it was" if path.exists() else ""
        raise DeviceFault(f"systemd does not accept the unit: {faults}{retained}")
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
    messages = [f"opens {' '.join(targets)}: {reason}" for reason, targets in reasons.items()]
    if access.policy == "auto":
        messages.append("opens every device that the user may open")
    if access.argus:
        messages.append("sees /tmp, read-only: Argus, which serves CSI cameras, listens in /tmp/argus_socket")
    if access.groups:
        messages.append(f"joins the groups {' '.join(access.groups)}: they own these devices")
    return [*messages, *(f"note: {note}" for note in access.notes)]


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
    message = f"{path}: {'installed' if path.exists() else 'not installed'}"
    if shutil.which("systemctl") is None:
        return f"{message}; there is no systemctl here"
    fields = "ActiveState,SubState,StatusText,NRestarts,MainPID,Result"
    done = subprocess.run(
        ["systemctl", "show", f"{name}.service", "-p", fields], capture_output=True, text=True, check=False
    )
    return "\n".join([message, *(done.stdout or done.stderr).strip().splitlines()])


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
