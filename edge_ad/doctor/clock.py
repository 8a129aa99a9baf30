"""The check of the clock: whether the times in the records can be trusted."""

from __future__ import annotations

from edge_ad.doctor.finding import Finding
from edge_ad.doctor.machine import Machine

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
    kept = machine.clock if machine.clock is not None else machine.exists("run/systemd/timesync/synchronized")
    if kept:
        return Finding("clock", "ok", f"synchronised{f' by {running[0]}' if running else ''}")
    return Finding(
        "clock",
        "warn",
        f"not synchronised{f', though {running[0]} runs' if running else ''}: the times of events may be wrong",
        "sudo timedatectl set-ntp true, or give chrony the time server of the plant: sudo apt-get install chrony",
    )
