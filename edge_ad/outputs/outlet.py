"""One slow output with its thread: takes letters out of a backlog, delivers them, comes back after faults."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from edge_ad.backoff import Backoff
from edge_ad.outputs.delivery import NotNow, Output, Pipelined, Refused
from edge_ad.outputs.states import ChannelState
from edge_ad.redaction import redact
from edge_ad.store.outbox import Letter, Standing
from edge_ad.supervision import SupervisedThread, ThreadFaults

BATCH = 50
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
LONGEST_ASKED_S = 300.0
SETTLE_S = 0.25
MOST_REASONS = 20

Tell = Callable[[str], None]


class Letters(Protocol):
    """A backlog, in the store or in memory."""

    def next(self, count: int) -> list[Letter]:
        """Return at most ``count`` letters, oldest first."""

    def delivered(self, letters: Sequence[Letter]) -> None:
        """Take out what was confirmed."""

    def refuse(self, letter: Letter, reason: str) -> None:
        """Set a letter aside."""

    def standing(self) -> Standing:
        """Return how the output stands."""

    def close(self) -> None:
        """Let go."""


class Outlet:
    """Delivers until it is closed. ``state`` tells whether it works; any thread may read it."""

    def __init__(self, output: Output, letters: Letters, tell: Tell, faults: ThreadFaults | None = None) -> None:
        self._output = output
        self._letters = letters
        self._tell = tell
        self._changed = threading.Condition()
        self._news = True
        self._ends: float | None = None
        self._opened = False
        self._refusals: set[str] = set()  # reasons that were told
        self._confirmed: list[Letter] = []
        self._settled = 0.0
        self._backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S, seed=None)  # stations differ
        self.name = output.name
        self.state = ChannelState(self.name)
        self._thread = SupervisedThread(f"output {self.name}", self._run, faults)

    @property
    def fault(self) -> str | None:
        """Why nothing is delivered now, None when all is well."""
        return self.state.fault

    def start(self) -> None:
        """Begin to deliver."""
        self._thread.start()

    def wake(self) -> None:
        """There are new letters."""
        with self._changed:
            self._news = True
            self._changed.notify()

    def finish(self, ends: float) -> None:
        """Deliver what waits, until the monotonic second ``ends`` at most; at a fault stop at once."""
        with self._changed:
            self._ends = ends
            self._changed.notify()

    def join(self, wait_s: float) -> bool:
        """Wait for the end; False when that was not enough."""
        self._thread.join(max(wait_s, 0.0))
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._over():
            try:
                if not self._turn():
                    break
            except NotNow as error:
                self._failed(error)
                self._pause(min(max(error.seconds, FIRST_PAUSE_S), LONGEST_ASKED_S))
            except Exception as error:  # an output is foreign code: whatever it does, the next letter is tried again
                self._failed(error)
                self._close_output()
                self._pause(self._backoff.next_s())
        self._close_output()
        with contextlib.suppress(Exception):
            self._settle()
        with contextlib.suppress(Exception):
            self._letters.close()

    def _turn(self) -> bool:
        """Deliver one batch, or wait for one; False when the end has come and nothing waits."""
        self._settle()
        if not self._opened:
            self._output.open()
            self._opened = True
        letters = self._letters.next(BATCH)
        if letters:
            self._deliver(letters)
        self._well()
        if letters:
            return True
        with self._changed:
            if self._ends is not None:
                return False
            self._changed.wait_for(lambda: self._news or self._ends is not None)
            self._news = False
        return True

    def _deliver(self, letters: Sequence[Letter]) -> None:
        if isinstance(self._output, Pipelined):
            self._output.deliver_all([letter.line for letter in letters])
            self._confirmed += letters
            self._settle()
            return
        try:
            for letter in letters:
                if self._over():
                    break
                self._deliver_one(letter)
                if time.monotonic() - self._settled > SETTLE_S:
                    self._settle()
        finally:
            self._settle()

    def _deliver_one(self, letter: Letter) -> None:
        try:
            self._output.deliver(letter.line)
        except Refused as error:
            reason = redact(str(error))
            self._letters.refuse(letter, reason)
            if reason not in self._refusals and len(self._refusals) < MOST_REASONS:
                self._refusals.add(reason)
                self._tell(
                    f"output {self.name} refuses event {letter.id}: {reason}; such events are set aside and counted"
                )
            return
        self._confirmed.append(letter)

    def _settle(self) -> None:
        """Take confirmed letters out of the backlog; while that fails they are kept in mind and not delivered again."""
        self._settled = time.monotonic()
        if self._confirmed:
            self._letters.delivered(self._confirmed)
            self._confirmed = []

    def _failed(self, error: Exception) -> None:
        told = redact(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
        if self.fault is None:
            self._tell(f"output {self.name}: {told}; events wait and are tried again")
        self.state = self.state.after(told, time.time())

    def _well(self) -> None:
        self._backoff.reset()
        again = self.fault is not None
        self.state = self.state.after(None, time.time())
        if again:
            self._tell(f"output {self.name} delivers again")

    def _pause(self, seconds: float) -> None:
        with self._changed:
            if self._changed.wait_for(lambda: self._ends is not None, seconds):
                self._ends = 0.0  # nothing can be delivered at the end

    def _over(self) -> bool:
        return self._ends is not None and time.monotonic() >= self._ends

    def _close_output(self) -> None:
        if self._opened:
            self._opened = False
            with contextlib.suppress(Exception):
                self._output.close()
