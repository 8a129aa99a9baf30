"""Everything slow that leaves the inspector: after the commit, from the outbox, a thread for each output.

One slow output with its thread: takes letters out of a backlog, delivers them, comes back after faults.

Letters in memory, for an output that shows the state of things and keeps nothing for later.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edge_ad.errors import BadInput
from edge_ad.events import Event
from edge_ad.outputs.delivery import ChannelState, NotNow, Output, Pipelined, ProductChooser, Refused, wait_until_up
from edge_ad.store.outbox import Backlog, DeliveryStats, Outbox, QueuedMessage, standings
from edge_ad.utils.supervision import Backoff, SupervisedThread, ThreadFaults
from edge_ad.utils.text import redact

_log = logging.getLogger(__name__)

BATCH = 50
FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 30.0
MAX_ASKED_S = 300.0
SETTLE_S = 0.25
MAX_REASONS = 20


class QueuedMessages(Protocol):
    """A backlog, in the store or in memory."""

    def next(self, count: int) -> list[QueuedMessage]:
        """Return at most ``count`` letters, oldest first."""

    def delivered(self, queued_messages: Sequence[QueuedMessage]) -> None:
        """Take out what was confirmed."""

    def refuse(self, queued: QueuedMessage, reason: str) -> None:
        """Set a letter aside."""

    def stats(self) -> DeliveryStats:
        """Return how the output stands."""

    def close(self) -> None:
        """Let go."""


class DeliveryWorker:
    """Delivers until it is closed. ``state`` tells whether it works; any thread may read it."""

    def __init__(self, output: Output, queued_messages: QueuedMessages, faults: ThreadFaults | None = None) -> None:
        self._output = output
        self._letters = queued_messages
        self._changed = threading.Condition()
        self._news = True
        self._ends: float | None = None
        self._opened = False
        self._refusals: set[str] = set()  # reasons that were told
        self._confirmed: list[QueuedMessage] = []
        self._settled = 0.0
        self._backoff = Backoff(FIRST_PAUSE_S, MAX_PAUSE_S, seed=None)  # stations differ
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
                self._pause(min(max(error.seconds, FIRST_PAUSE_S), MAX_ASKED_S))
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
        queued_messages = self._letters.next(BATCH)
        if queued_messages:
            self._deliver(queued_messages)
        self._well()
        if queued_messages:
            return True
        with self._changed:
            if self._ends is not None:
                return False
            self._changed.wait_for(lambda: self._news or self._ends is not None)
            self._news = False
        return True

    def _deliver(self, queued_messages: Sequence[QueuedMessage]) -> None:
        if isinstance(self._output, Pipelined):
            self._output.deliver_all([queued.line for queued in queued_messages])
            self._confirmed += queued_messages
            self._settle()
            return
        try:
            for queued in queued_messages:
                if self._over():
                    break
                self._deliver_one(queued)
                if time.monotonic() - self._settled > SETTLE_S:
                    self._settle()
        finally:
            self._settle()

    def _deliver_one(self, queued: QueuedMessage) -> None:
        try:
            self._output.deliver(queued.line)
        except Refused as error:
            reason = redact(str(error))
            self._letters.refuse(queued, reason)
            if reason not in self._refusals and len(self._refusals) < MAX_REASONS:
                self._refusals.add(reason)
                _log.warning(
                    "output %s refuses event %s: %s; such events are set aside and counted", self.name, queued.id, reason
                )
            return
        self._confirmed.append(queued)

    def _settle(self) -> None:
        """Take confirmed letters out of the backlog; while that fails they are kept in mind and not delivered again."""
        self._settled = time.monotonic()
        if self._confirmed:
            self._letters.delivered(self._confirmed)
            self._confirmed = []

    def _failed(self, error: Exception) -> None:
        message = redact(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
        if self.fault is None:
            _log.warning("output %s: %s; events wait and are tried again", self.name, message)
        self.state = self.state.after(message, time.time())

    def _well(self) -> None:
        self._backoff.reset()
        again = self.fault is not None
        self.state = self.state.after(None, time.time())
        if again:
            _log.info("output %s delivers again", self.name)

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


class Transient:
    """A backlog in memory for an output that shows a state: the latest ``size`` letters, gone with the process."""

    def __init__(self, output: str, size: int = 100) -> None:
        self._output = output
        self._size = size
        self._letters: list[QueuedMessage] = []
        self._lock = threading.Lock()
        self._counts = {"delivered": 0, "refused": 0, "dropped": 0}
        self._sequence = 0

    def put(self, rows: Sequence[tuple[str, str, str]]) -> None:
        """Put in events as (id, verdict, line); the oldest go when there are too many."""
        with self._lock:
            for values in rows:
                self._sequence += 1
                self._letters.append(QueuedMessage(self._sequence, *values))
            excess = max(0, len(self._letters) - self._size)
            del self._letters[:excess]
            self._counts["dropped"] += excess

    def next(self, count: int) -> list[QueuedMessage]:
        """Return at most ``count`` letters, oldest first."""
        with self._lock:
            return self._letters[:count]

    def delivered(self, queued_messages: Sequence[QueuedMessage]) -> None:
        """Forget what was shown."""
        self._forget("delivered", queued_messages)

    def refuse(self, queued: QueuedMessage, reason: str) -> None:
        """Forget what cannot be shown."""
        self._forget("refused", [queued])

    def stats(self) -> DeliveryStats:
        """Return how the output stands since the start of this process."""
        with self._lock:
            return DeliveryStats(self._output, waiting=len(self._letters), **self._counts)

    def close(self) -> None:
        """Nothing is held."""

    def _forget(self, counter: str, queued_messages: Sequence[QueuedMessage]) -> None:
        with self._lock:
            self._counts[counter] += len(queued_messages)
            last = queued_messages[-1].sequence if queued_messages else 0
            self._letters = [queued for queued in self._letters if queued.sequence > last]


LIMIT = 100_000
DRAIN_S = 1.0


@dataclass(frozen=True)
class OutputState:
    """How an output of this run stands, and what keeps it from delivering (None: nothing)."""

    stats: DeliveryStats
    fault: str | None


class Dispatcher:
    """Delivers what the store has committed; no method waits for an output, except ``close`` for a second.

    Give ``outbox.add`` to the store as ``with_commit`` and ``committed`` as ``on_commit``, then call ``start``. Each
    output has room for ``limit`` events on the disk.
    """

    def __init__(
        self,
        outputs: Sequence[Output],
        limit: int = LIMIT,
        faults: ThreadFaults | None = None,
    ) -> None:
        names = [output.name for output in outputs]
        repeated = next((name for name in names if names.count(name) > 1), None)
        if repeated is not None:
            raise BadInput(f"the output {repeated} is named twice: name every output once")
        self._outputs = list(outputs)
        self._choosers = [output for output in outputs if isinstance(output, ProductChooser)]
        self._transient = {output.name: Transient(output.name) for output in outputs if not output.spooled}
        self._workers: list[DeliveryWorker] = []
        self._faults = faults
        self._limit = limit
        self._path: Path | None = None
        self._reported: set[str] = set()
        self.outbox = Outbox([name for name in names if name not in self._transient], limit, Event.message)

    def let_choose(self, on_choice: Callable[[str], None]) -> None:
        """Let the receivers of outputs that can choose the product."""
        for chooser in self._choosers:
            chooser.on_choice = on_choice

    def show_product(self, message: str) -> None:
        """Show receivers that may choose how products stand; returns at once."""
        for chooser in self._choosers:
            chooser.show_product(message)

    def start(self, path: Path) -> None:
        """Begin to deliver from the store at ``path``, first what earlier runs left."""
        self._path = path
        for output in self._outputs:
            queued_messages = self._transient.get(output.name) or Backlog(path, output.name)
            self._workers.append(DeliveryWorker(output, queued_messages, self._faults))
        mine = {output.name for output in self._outputs}
        for stats in self._on_disk():
            if stats.waiting and stats.output not in mine:
                _log.warning(
                    "%d events wait for %s, which is no output of this run: `edge-ad outputs drop '%s'` gives them up",
                    stats.waiting,
                    stats.output,
                    stats.output,
                )
        for worker in self._workers:
            worker.start()

    def committed(self, rows: Sequence[Event]) -> None:
        """The store has committed these events."""
        for queued_messages in self._transient.values():
            queued_messages.put([(row.id, row.verdict, row.message()) for row in rows])
        for worker in self._workers:
            worker.wake()
        for name in self.outbox.full - self._reported:
            self._reported.add(name)
            _log.warning(
                "output %s: %d events wait for it, so the oldest are dropped, OK before WARN, NONE and NG", name, self._limit
            )

    def states(self) -> list[OutputState]:
        """Return how every output of this run stands; reads the store, so not for the loop."""
        on_disk = {results.output: results for results in self._on_disk()}
        results: list[OutputState] = []
        for worker in self._workers:
            shown = self._transient.get(worker.name)
            stats = shown.stats() if shown else on_disk.get(worker.name, DeliveryStats(worker.name))
            results.append(OutputState(stats, worker.fault))
        return results

    def channels(self) -> list[ChannelState]:
        """Return whether every output of this run works; reads nothing from the disk."""
        return [worker.state for worker in self._workers]

    def prove(self, seconds: float) -> None:
        """Wait until every output is open and without a fault; DeviceFault names those that are not in time."""
        wait_until_up(self.channels, seconds, "not open yet")

    def _on_disk(self) -> list[DeliveryStats]:
        """A store that cannot be read now is the store's affair, and told there."""
        with contextlib.suppress(BadInput):
            return standings(self._path) if self._path else []
        return []

    def close(self, drain_s: float = DRAIN_S) -> None:
        """Deliver what waits for ``drain_s`` seconds at most; the rest stays for the next run."""
        ends = time.monotonic() + drain_s
        for worker in self._workers:
            worker.finish(ends)
        for worker in self._workers:
            worker.join(ends - time.monotonic())
        for state in self.states():
            waiting = 0 if state.stats.output in self._transient else state.stats.waiting
            if waiting and state.fault is None:  # a fault was logged, a receiver that is only slow was not
                _log.warning("%d events wait for %s: the next run delivers them", waiting, state.stats.output)
