"""What TensorRT says of a build: how far it is, how long it still takes, Ctrl-C between two steps, and its errors in our
sentences.
"""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from time import monotonic
from typing import Any, TypeVar

Report = Callable[[str], None]
T = TypeVar("T")

_TICK_S = 0.2
_EVERY_S = 5.0


class Phases:
    """The phases that a builder is in, some inside others; any thread may tell of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, tuple[str | None, int]] = {}
        self._done: dict[str, int] = {}
        self._highest = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase of so many steps begins."""
        with self._lock:
            self._open[name], self._done[name] = (parent, max(1, steps)), 0

    def step(self, name: str, step: int) -> None:
        """A step, counted from 0, is done."""
        with self._lock:
            self._done[name] = step + 1

    def finish(self, name: str) -> None:
        """A phase is over."""
        with self._lock:
            self._open.pop(name, None)

    @property
    def share(self) -> float:
        """How much of the outermost phase is done, 0 to 1, never less than before; 0 where nothing was told."""
        with self._lock:
            self._highest = max(self._highest, min(1.0, self._share(None)))
            return self._highest

    def _share(self, parent: str | None) -> float:
        inner = [(name, steps) for name, (above, steps) in self._open.items() if above == parent]
        return max(((self._done[name] + min(0.99, self._share(name))) / steps for name, steps in inner), default=0.0)


@dataclass
class Progress:
    """Progress over the graphs of a bundle; ``total`` is the work in all, in any unit that ``begin`` uses too.

    ``report`` gets a sentence every few seconds. The time left is told as soon as anything is done: within a graph
    where the builder tells its phases, else after the first graph.
    """

    total: float
    report: Report
    cancelled: threading.Event = field(default_factory=threading.Event)
    phases: Phases = field(default_factory=Phases)
    _name: str = ""
    _work: float = 0.0
    _before: float = 0.0
    _since: float = field(default_factory=monotonic)
    _printed: float = field(default_factory=monotonic)

    def begin(self, name: str, work: float) -> None:
        """The graph ``name`` comes next."""
        self._before += self._work
        self._name, self._work, self.phases = name, work, Phases()

    @property
    def share(self) -> float:
        """How much of everything is done, 0 to 1."""
        return (self._before + self._work * self.phases.share) / max(self.total, 1e-9)

    def tick(self, now: float | None = None) -> None:
        """Say how far it is, if that was not said for a while."""
        moment = monotonic() if now is None else now
        if moment - self._printed < _EVERY_S:
            return
        self._printed = moment
        passed, share = moment - self._since, self.share
        left = (
            f"about {duration_text(passed / share - passed)} left" if share > 0.01 else f"{duration_text(passed)} so far"
        )
        self.report(f"building {self._name}: {share:.0%} of all graphs, {left}")


def duration_text(seconds: float) -> str:
    """Return a duration in words of a few letters, such as ``45 s`` or ``12 min``."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def make_monitor(trt: Any, progress: Progress) -> Any:
    """Return an IProgressMonitor that feeds ``progress`` and ends the build once it is cancelled."""
    phases = progress.phases

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the base class comes with the module
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            phases.step(phase_name, step)
            return not progress.cancelled.is_set()

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)

    return Monitor()


def run_interruptibly(work: Callable[[], T], progress: Progress) -> T:
    """Return what ``work`` returns, run in a thread of its own so that Ctrl-C is heard while it is inside TensorRT.

    The first Ctrl-C cancels and waits for the end of the current step, then KeyboardInterrupt goes on; a second one
    ends the process at once. Both are safe: files are only written when everything is built.
    """
    results: list[T] = []
    failed: list[BaseException] = []
    begun, done = threading.Event(), threading.Event()

    def body() -> None:
        begun.set()
        try:
            if not progress.cancelled.is_set():
                results.append(work())
        except BaseException as error:
            failed.append(error)
        finally:
            done.set()

    try:
        threading.Thread(target=body, name="edge-ad-build", daemon=True).start()
        while not done.wait(_TICK_S):
            progress.tick()
    except KeyboardInterrupt:
        progress.cancelled.set()
        before = signal.signal(signal.SIGINT, signal.SIG_DFL)
        progress.report("stopping after this step; press Ctrl-C again to stop at once")
        if begun.is_set():
            done.wait()
        signal.signal(signal.SIGINT, before)
        raise
    if failed:
        raise failed[0]
    return results[0]


_MAX_ERRORS = 20
_MEMORY = re.compile(
    r"out ?of ?memory|insufficient memory|memoryallocation|could not allocate|cudaError(_t)? ?2\b", re.I
)
_BROKEN = re.compile(
    r"illegal (memory access|address|instruction)|misaligned address|launch (failure|failed|timed out)|device-side assert"
    r"|uncorrectable ECC|hardware stack error|cudaErrorUnknown|unknown error",
    re.I,
)
MEMORY_ADVICE = (
    "there is too little free memory: close other programs (on a Jetson also the desktop, "
    "`sudo systemctl isolate multi-user.target`) and try again"
)


def logger_for(trt: Any) -> Any:
    """Return the logger of this process, emptied of earlier messages.

    Its list ``errors`` holds the last error messages, one line each; nothing is printed. TensorRT keeps the first
    logger that it is given, for good and for everything that is opened later: a second one would hear nothing, and the
    first one must never be freed.
    """
    logger = _process_logger(trt)
    logger.errors.clear()
    return logger


@cache
def _process_logger(trt: Any) -> Any:

    class Logger(trt.ILogger):  # type: ignore[misc]  # the base class comes with the module that is passed in
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))
                del self.errors[:-_MAX_ERRORS]

    return Logger()


def reason(logger: Any, otherwise: str) -> str:
    """Return the last error that was logged, or what lies behind it where that is known; else ``otherwise``."""
    if any(_MEMORY.search(message) for message in logger.errors):
        return MEMORY_ADVICE
    return str(logger.errors[-1]) if logger.errors else otherwise


def device_broke(logger: Any) -> bool:
    """Return whether what was logged speaks of a GPU that failed, whatever it was given."""
    return any(_BROKEN.search(message) for message in logger.errors)


def parser_errors(parser: Any) -> list[str]:
    """Return the errors of an OnnxParser, each with the name and the operator of its node."""
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    return [_describe(error) for error in errors] or ["the parser gave no reason"]


def _describe(error: Any) -> str:
    name = error.node_name() if hasattr(error, "node_name") else ""
    operator = error.node_operator() if hasattr(error, "node_operator") else ""
    where = f"node {name or error.node()} ({operator or 'unknown operator'})"
    return f"{where}: {' '.join(str(error.desc()).split())}"
