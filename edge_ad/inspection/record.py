"""Events and counters on their way into the store."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict

from edge_ad.camera.frames import Source
from edge_ad.inspection.counters import Counters
from edge_ad.inspection.judge import Judgement
from edge_ad.store import EventRow, Store

Account = Callable[[str], Counters]


class StoreSink:
    """Hands every event to the store, with the counters of its camera over all runs.

    ``account`` gives the counters of a camera in this run; what earlier runs left in the store is added. A store that
    cannot write is told once on stderr each time it begins.
    """

    def __init__(self, store: Store, account: Account) -> None:
        self._store = store
        self._account = account
        self._before: Mapping[str, Mapping[str, int]] = {name: dict(found) for name, found in store.counters.items()}
        self._cameras: set[str] = set()
        self._told: str | None = None

    def take(self, judgement: Judgement, source: Source) -> None:
        """Hand over one event."""
        self._cameras.add(source.name)
        self._store.record(EventRow(**asdict(judgement.event)), self._totals(source.name))
        if self._store.fault != self._told:
            self._told = self._store.fault
            if self._told:
                print(self._told, file=sys.stderr)

    def close(self) -> None:
        """Hand over the last counters and wait for the disk, at most a second."""
        for camera in self._cameras:
            self._store.count(camera, self._totals(camera))
        if not self._store.close():
            print(f"{self._store.path} is slow or full: the last events were not stored", file=sys.stderr)

    def _totals(self, camera: str) -> dict[str, int]:
        before = self._before.get(camera, {})
        return {name: value + before.get(name, 0) for name, value in self._account(camera).numbers().items()}
