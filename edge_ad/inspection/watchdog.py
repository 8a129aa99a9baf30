"""Proof of life: the service manager is told only of completed cycles.

Words to the service manager: the sd_notify protocol over its datagram socket.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from edge_ad.camera.frames import Source
from edge_ad.errors import DeviceFault
from edge_ad.inspection.camera_worker import Latencies
from edge_ad.inspection.judge import InspectionResult
from edge_ad.inspection.observers import Observer
from edge_ad.inspection.part_tracking import CycleState
from edge_ad.utils.supervision import ThreadFaults

if TYPE_CHECKING:
    from edge_ad.inspection.products import Product


class Notifier:
    """Sends to ``$NOTIFY_SOCKET`` (a path, or ``@name`` in the abstract namespace); without one it does nothing.

    ``watchdog_s`` is the time within which WATCHDOG=1 must come (``$WATCHDOG_USEC``), None when none is asked for.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        result = os.environ if environment is None else environment
        address = result.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) if address else None
        if self._socket is not None:
            self._socket.setblocking(False)
        microseconds = result.get("WATCHDOG_USEC", "")
        for_us = result.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_s = int(microseconds) / 1e6 if microseconds.isdigit() and for_us and address else None

    @property
    def managed(self) -> bool:
        """Whether a service manager listens: this process is a service."""
        return self._socket is not None

    def send(self, *lines: str) -> None:
        """Send assignments such as ``READY=1``; a manager that is away or busy is no fault of ours."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.sendto("\n".join(lines).encode(), self._address)

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()


STATUS_EVERY_S = 1.0
RATE_OVER_S = 10.0

SelfTest = Callable[[], None]


class Watchdog(Observer):
    """Feeds the manager's watchdog from verdicts, NONE included, and when there are none from a self-test.

    ``self_test`` judges a golden image on the engines and raises DeviceFault when its score is not what it was. It runs
    when no verdict came for a quarter of the watchdog's time. Nothing else feeds: a loop that hangs, in the engines or
    anywhere else, starves it. STATUS tells frames a second and the p99 of the latency. ``limit_s`` is the time where no
    manager asks for one; None then needs no proof.
    """

    def __init__(
        self,
        notifier: Notifier,
        self_test: SelfTest,
        clock: Callable[[], float] = time.monotonic,
        limit_s: float | None = None,
    ) -> None:
        self._notifier = notifier
        self._self_test = self_test
        self._clock = clock
        self.limit_s = notifier.watchdog_s or limit_s
        self._period = self.limit_s / 4.0 if self.limit_s else None
        self._done_at = clock()
        self._fed_at = -float("inf")
        self._reported_at = clock()
        self._moments: deque[float] = deque(maxlen=10_000)
        self._latencies = Latencies(size=1024)
        self.self_tests = 0

    @property
    def age_s(self) -> float:
        """Seconds since the last completed cycle."""
        return self._clock() - self._done_at

    def ready(self) -> None:
        """Tell that the engines gave a right verdict."""
        self._notifier.send("READY=1", "STATUS=ready; no verdict yet")
        self._completed()

    def on_result(self, result: InspectionResult, source: Source) -> None:
        """A verdict is out."""
        self._moments.append(self._clock())
        if result.event.latency_ms is not None and result.event.verdict != "NONE":
            self._latencies.add(result.event.latency_ms)
        self._completed()
        self._status(result.event.verdict)

    def on_cycle(self, camera: str, state: CycleState) -> None:
        """A frame without a verdict proves nothing about the engines."""

    def on_tick(self) -> None:
        """Prove the engines when there is nothing else to do."""
        if self._period is not None and self._clock() - self._done_at >= self._period:
            self._self_test()
            self.self_tests += 1
            self._completed()
            self._status("idle")

    def on_product(self, product: Product) -> None:
        """Prove the engines of another product."""
        self._self_test = product.self_test

    def close(self) -> None:
        """Tell that the run ends."""
        self._notifier.send("STOPPING=1")
        self._notifier.close()

    def _completed(self) -> None:
        now = self._done_at = self._clock()
        if self._period is not None and now - self._fed_at >= self._period / 2:
            self._fed_at = now
            self._notifier.send("WATCHDOG=1")

    def _status(self, what: str) -> None:
        now = self._clock()
        if now - self._reported_at < STATUS_EVERY_S:
            return
        self._reported_at = now
        while self._moments and now - self._moments[0] > RATE_OVER_S:
            self._moments.popleft()
        span = max(now - self._moments[0], 1e-3) if self._moments else 1.0
        p99 = self._latencies.percentile(99)
        latency = "none" if p99 is None else f"{p99:.1f} ms"
        self._notifier.send(f"STATUS={what}; {len(self._moments) / span:.1f} fps, p99 {latency}")


class ThreadWatch(Observer):
    """Ends the run when a thread that it cannot do without has ended for good: the outputs reject, the exit code is 3.
    """

    def __init__(self, faults: ThreadFaults) -> None:
        self._faults = faults

    def on_tick(self) -> None:
        """Raise DeviceFault where such a thread has ended."""
        if self._faults.fatal is not None:
            raise DeviceFault(f"{self._faults.fatal}; without it nothing may pass, so start the run again")


def golden_test(infer: Callable[[], float], expected: float, tolerance: float) -> SelfTest:
    """Return a self-test: ``infer`` must give ``expected`` within ``tolerance``."""

    def test() -> None:
        score = infer()
        if not abs(score - expected) <= tolerance:  # a NaN fails too
            raise DeviceFault(
                f"the self-test failed: a golden image scores {score:.4f} instead of {expected:.4f}; the engine or the "
                "memory is damaged, so restart or rebuild it with `edge-ad build-engine`"
            )

    return test
