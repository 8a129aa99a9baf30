"""Everything slow that leaves the inspector: after the commit, from the outbox, a thread for each output."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_ad.errors import BadInput, DeviceFault
from edge_ad.outputs.delivery import Output
from edge_ad.outputs.outlet import Outlet, Tell
from edge_ad.outputs.payload import payload
from edge_ad.outputs.states import ChannelState
from edge_ad.outputs.transient import Transient
from edge_ad.store.outbox import Backlog, Outbox, Standing, standings
from edge_ad.store.rows import EventRow
from edge_ad.supervision import ThreadFaults, tell

LIMIT = 100_000
DRAIN_S = 1.0


@dataclass(frozen=True)
class OutputState:
    """How an output of this run stands, and what keeps it from delivering (None: nothing)."""

    standing: Standing
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
        tell: Tell = tell,
        faults: ThreadFaults | None = None,
    ) -> None:
        names = [output.name for output in outputs]
        repeated = next((name for name in names if names.count(name) > 1), None)
        if repeated is not None:
            raise BadInput(f"the output {repeated} is named twice: name every output once")
        self._outputs = list(outputs)
        self._transient = {output.name: Transient(output.name) for output in outputs if not output.spooled}
        self._outlets: list[Outlet] = []
        self._tell = tell
        self._faults = faults
        self._limit = limit
        self._path: Path | None = None
        self._told: set[str] = set()
        self.outbox = Outbox([name for name in names if name not in self._transient], limit, payload)

    def start(self, path: Path) -> None:
        """Begin to deliver from the store at ``path``, first what earlier runs left."""
        self._path = path
        for output in self._outputs:
            letters = self._transient.get(output.name) or Backlog(path, output.name)
            self._outlets.append(Outlet(output, letters, self._tell, self._faults))
        mine = {output.name for output in self._outputs}
        for found in self._on_disk():
            if found.waiting and found.output not in mine:
                self._tell(
                    f"{found.waiting} events wait for {found.output}, which is no output of this run: "
                    f"`edge-ad outputs drop '{found.output}'` gives them up"
                )
        for outlet in self._outlets:
            outlet.start()

    def committed(self, rows: Sequence[EventRow]) -> None:
        """The store has committed these events."""
        for letters in self._transient.values():
            letters.put([(row.id, row.verdict, payload(row)) for row in rows])
        for outlet in self._outlets:
            outlet.wake()
        for name in self.outbox.full - self._told:
            self._told.add(name)
            self._tell(
                f"output {name}: {self._limit} events wait for it, so the oldest are dropped, OK before WARN, NONE and NG"
            )

    def states(self) -> list[OutputState]:
        """Return how every output of this run stands; reads the store, so not for the loop."""
        on_disk = {found.output: found for found in self._on_disk()}
        found: list[OutputState] = []
        for outlet in self._outlets:
            shown = self._transient.get(outlet.name)
            standing = shown.standing() if shown else on_disk.get(outlet.name, Standing(outlet.name))
            found.append(OutputState(standing, outlet.fault))
        return found

    def channels(self) -> list[ChannelState]:
        """Return whether every output of this run works; reads nothing from the disk."""
        return [outlet.state for outlet in self._outlets]

    def prove(self, seconds: float) -> None:
        """Wait until every output is open and without a fault; DeviceFault names those that are not in time."""
        deadline = time.monotonic() + seconds
        while waiting := [outlet for outlet in self._outlets if not outlet.state.up]:
            if time.monotonic() > deadline:
                told = "; ".join(f"{outlet.name}: {outlet.fault or 'not open yet'}" for outlet in waiting)
                raise DeviceFault(
                    f"an output does not work within {seconds:g} s: {told}; mend it, or drop --require-alarms"
                )
            time.sleep(0.02)

    def _on_disk(self) -> list[Standing]:
        """A store that cannot be read now is the store's affair, and told there."""
        with contextlib.suppress(BadInput):
            return standings(self._path) if self._path else []
        return []

    def close(self, drain_s: float = DRAIN_S) -> None:
        """Deliver what waits for ``drain_s`` seconds at most; the rest stays for the next run."""
        ends = time.monotonic() + drain_s
        for outlet in self._outlets:
            outlet.finish(ends)
        for outlet in self._outlets:
            outlet.join(ends - time.monotonic())
