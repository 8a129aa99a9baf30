"""JetPack releases: what each Jetson Linux (L4T) is called and brings along, and which one a machine has.

From the release notes of Jetson Linux 35 to 39; docs/jetson.md has the whole table.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_ad.doctor.machine import Machine
from edge_ad.engines.board import l4t
from edge_ad.engines.tensorrt_versions import LOWEST

UPGRADE = "upgrade to JetPack 6.1 or newer: TensorRT 10.3 or newer is needed"


@dataclass(frozen=True)
class JetPack:
    """A release: its name, its L4T as text, the Python of its bindings, and its CUDA and TensorRT (major, minor)."""

    name: str
    l4t: str
    python: tuple[int, int]
    cuda: tuple[int, int]
    tensorrt: tuple[int, int]
    known: bool = True

    @property
    def supported(self) -> bool:
        """Whether its TensorRT is new enough."""
        return self.tensorrt >= LOWEST


# From this L4T on: name, Python, CUDA, TensorRT.
_TABLE: tuple[tuple[tuple[int, int, int], str, tuple[int, int], tuple[int, int], tuple[int, int]], ...] = (
    ((35, 0, 0), "5", (3, 8), (11, 4), (8, 5)),
    ((36, 0, 0), "6.0", (3, 10), (12, 2), (8, 6)),
    ((36, 4, 0), "6.1", (3, 10), (12, 6), (10, 3)),
    ((36, 4, 3), "6.2", (3, 10), (12, 6), (10, 3)),
    ((36, 4, 4), "6.2.1", (3, 10), (12, 6), (10, 3)),
    ((36, 5, 0), "6.2.2", (3, 10), (12, 6), (10, 3)),
    ((38, 0, 0), "7.0", (3, 12), (13, 0), (10, 13)),
    ((38, 4, 0), "7.1", (3, 12), (13, 0), (10, 13)),
    ((39, 2, 0), "7.2", (3, 12), (13, 2), (10, 16)),
)


def jetpack(machine: Machine) -> JetPack | None:
    """Return the JetPack of a machine; None without one, or for one before 5.

    A release newer than the table is taken for the last one in it, with ``known`` False.
    """
    told = l4t(machine.root)
    version = tuple(int(part) for part in told.split(".") if part)
    rows = [row for row in _TABLE if row[0] <= version]
    if not rows:
        return None
    _, name, python, cuda, tensorrt = rows[-1]
    return JetPack(name, told, python, cuda, tensorrt, known=version <= _TABLE[-1][0])
