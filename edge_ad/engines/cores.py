"""How many threads to use: the physical cores that this process may run on."""

from __future__ import annotations

import os
from pathlib import Path

_TOPOLOGY = Path("/sys/devices/system/cpu")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def physical_cores(topology: Path = _TOPOLOGY, quota: Path = _QUOTA) -> int:
    """Return the number of physical cores allowed by affinity and by the container's CPU quota, at least 1.

    Logical CPUs that share a core count once; where the topology cannot be read, each logical CPU counts.
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = {_siblings(topology, cpu) for cpu in allowed}
    return max(1, min(len(cores), _quota(quota)))


def _siblings(topology: Path, cpu: int) -> str:
    try:
        return (topology / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def _quota(path: Path) -> int:
    """Return the whole number of CPUs that the cgroup grants (rounded up), or a large number without a limit."""
    try:
        limit, period = path.read_text().split()
        return -(-int(limit) // int(period)) if limit != "max" else 1 << 16
    except (OSError, ValueError, ZeroDivisionError):
        return 1 << 16
