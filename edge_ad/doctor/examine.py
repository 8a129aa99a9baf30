"""All checks, in the order in which they are told."""

from __future__ import annotations

from collections.abc import Callable

from edge_ad.doctor.board import board, release
from edge_ad.doctor.cameras import cameras
from edge_ad.doctor.clock import clock
from edge_ad.doctor.finding import Finding
from edge_ad.doctor.heat import temperatures, throttling
from edge_ad.doctor.machine import Machine
from edge_ad.doctor.power import clocks, power_mode
from edge_ad.doctor.room import disk, memory
from edge_ad.doctor.software import cuda, onnxruntime, opencv, pycuda, python, tensorrt

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
