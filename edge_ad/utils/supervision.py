"""Threads whose death is a fault of the run: logged, counted, and started again, after a time, where that is safe.

Needs the standard library only, so that every package may use it.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import random
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import NoReturn

from edge_ad.utils.text import storable

MAX_RESTARTS = 5
RESTART_WINDOW_S = 60.0
RESTART_PAUSE_S = 0.5

_log = logging.getLogger(__name__)


class ThreadFaults:
    """The unforeseen exceptions in the threads of one run; safe from any thread.

    ``counts`` are the exceptions by thread. ``fault`` says which thread is down now, None while all work; ``fatal``
    which one has ended for good that the run cannot do without.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._down: dict[str, str] = {}
        self.counts: Counter[str] = Counter()
        self.fatal: str | None = None

    @property
    def fault(self) -> str | None:
        """Why the run is not whole now, None while all threads work."""
        with self._lock:
            return next(iter(self._down.values()), None)

    def note(self, name: str, error: BaseException) -> None:
        """Count and log an unforeseen exception after which the thread goes on."""
        with self._lock:
            self.counts[name] += 1
            count = self.counts[name]
        if count & (count - 1) == 0:  # the 1st, 2nd, 4th, 8th: a fault in every event must not flood the log
            _log.error("fault of the thread %s (number %d): %s", name, count, describe(error), exc_info=error)

    def down(self, name: str, error: BaseException, *, for_good: bool, essential: bool) -> None:
        """Count and log that a thread has ended: it is started again, unless ``for_good``."""
        what = "it stays away" if for_good else "it is started again"
        message = f"the thread {name} ended ({describe(error)}); {what}"
        with self._lock:
            self.counts[name] += 1
            self._down[name] = message
            if for_good and essential and self.fatal is None:
                self.fatal = message
        _log.error("%s", message, exc_info=error)

    def lose(self, name: str, message: str) -> None:
        """Count and keep that something beside the threads has ended for good; it was told already."""
        with self._lock:
            self.counts[name] += 1
            self._down[name] = message

    def up(self, name: str) -> None:
        """A thread works again."""
        with self._lock:
            self._down.pop(name, None)

    def summary(self) -> tuple[str, ...]:
        """Return one sentence for each thread that had a fault."""
        with self._lock:
            return tuple(
                self._down.get(name) or f"the thread {name} had {count} unforeseen fault{'s' * (count > 1)} and went on"
                for name, count in self.counts.items()
            )

    @contextlib.contextmanager
    def caught(self, name: str) -> Iterator[None]:
        """Note an unforeseen exception of the block and go on."""
        try:
            yield
        except Exception as error:
            self.note(name, error)


class SupervisedThread:
    """A daemon thread that does ``work``; an exception in it is a fault of the run.

    With ``restart`` the work begins again after half a second, at most 5 times a minute; a thread that ends for good is
    down for the rest of the run, and ends the run where it is ``essential``. ``on_fault`` is called with each
    exception, in the thread, before that.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], object],
        faults: ThreadFaults | None = None,
        *,
        restart: bool = True,
        essential: bool = False,
        on_fault: Callable[[BaseException], None] | None = None,
    ) -> None:
        self.name = name
        self._work = work
        self._faults = faults or ThreadFaults()
        self._restart = restart
        self._essential = essential
        self._on_fault = on_fault
        self._ends: deque[float] = deque(maxlen=MAX_RESTARTS + 1)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the work."""
        _log.debug("the thread %s starts", self.name)
        self._thread.start()

    def join(self, timeout_s: float | None = None) -> None:
        """Wait for the end of a thread that was started."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def is_alive(self) -> bool:
        """Whether the thread still runs, or waits for its next start."""
        return self._thread.is_alive()

    @property
    def started(self) -> bool:
        """Whether the thread was ever started."""
        return self._thread.ident is not None

    def _run(self) -> None:
        while True:
            try:
                self._work()
                return
            except BaseException as error:  # SystemExit and the like would end a thread without a word
                again = self._may_restart()
                self._faults.down(self.name, error, for_good=not again, essential=self._essential)
                if self._on_fault is not None:
                    with self._faults.caught(self.name):
                        self._on_fault(error)
            if not again:
                return
            time.sleep(RESTART_PAUSE_S)
            self._faults.up(self.name)

    def _may_restart(self) -> bool:
        now = time.monotonic()
        self._ends.append(now)
        recent = sum(now - ended <= RESTART_WINDOW_S for ended in self._ends)
        return self._restart and recent <= MAX_RESTARTS


def leave(code: int) -> NoReturn:
    """End this process, at once where a thread was left behind.

    A thread that is inside a library of C++ when Python takes itself down would end the process with SIGABRT, after all
    is done, and one that waits for standard input with a fatal error. The threads of torch's process group, which
    Python does not know, live on when it is destroyed.
    """
    left_behind = any(thread is not threading.current_thread() and thread.daemon for thread in threading.enumerate())
    if not left_behind and not _is_in_process_group():
        sys.exit(code)
    with contextlib.suppress(Exception):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _is_in_process_group() -> bool:
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_available() and bool(distributed.is_initialized())


def describe(error: BaseException) -> str:
    """Return an exception in one line: its type, what it says and where it happened."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = "" if trace is None else f" in {trace.tb_frame.f_code.co_name}, line {trace.tb_lineno}"
    text = " ".join(str(error).split())
    return storable(f"{type(error).__name__}{': ' * bool(text)}{text}{where}", 300)


class Backoff:
    """Waiting times between attempts: doubling from ``first_s``, never above ``cap_s``, each shortened at random by up
    to a half so that many cameras, or many stations that lost one receiver, do not come back in step.

    ``seed`` None draws anew in every process.
    """

    def __init__(self, first_s: float = 0.2, cap_s: float = 1.5, seed: int | None = 0) -> None:
        self._first_s = first_s
        self._cap_s = cap_s
        self._rng = random.Random(seed)
        self._tries = 0

    def next_s(self) -> float:
        """Return how long to wait before the next attempt, in seconds."""
        whole = min(self._first_s * 2.0 ** min(self._tries, 32), self._cap_s)
        self._tries += 1
        return whole * self._rng.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Start from the bottom again: an attempt has succeeded."""
        self._tries = 0


class Ends:
    """Counts the ends of a process within the last RESTART_WINDOW_S seconds."""

    def __init__(self) -> None:
        self._at: deque[float] = deque()

    def count(self) -> int:
        """Count one more, now, and return how many there were."""
        now = time.monotonic()
        while self._at and now - self._at[0] > RESTART_WINDOW_S:
            self._at.popleft()
        self._at.append(now)
        return len(self._at)
