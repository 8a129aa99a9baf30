"""Events, their counters and their pictures on their way into the record."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict

from edge_ad.camera.frames import Source
from edge_ad.inspection.counters import Counters
from edge_ad.inspection.evidence import Evidence
from edge_ad.inspection.judge import Judgement
from edge_ad.store import EventRow, Store

Account = Callable[[str], Counters]


class StoreSink:
    """Hands every event to the store, with the counters of its camera over all runs, and its pictures to ``evidence``.

    ``account`` gives the counters of a camera in this run; to them come the events and pictures that were not kept, and
    what earlier runs left in the store. A store that cannot write is told once on stderr each time it begins.
    """

    def __init__(self, store: Store, account: Account, evidence: Evidence | None = None) -> None:
        self._store = store
        self._account = account
        self._evidence = evidence
        self._before: Mapping[str, Mapping[str, int]] = {name: dict(found) for name, found in store.counters.items()}
        self._cameras: set[str] = set()
        self._told: str | None = None

    def take(self, judgement: Judgement, source: Source) -> None:
        """Hand over one event."""
        self._cameras.add(source.name)
        row = EventRow(**asdict(judgement.event))
        if self._evidence is not None:
            self._evidence.offer(row, judgement)
        self._store.record(row, self._totals(source.name))
        fault = self._store.fault
        if fault != self._told:
            print(fault or "events are stored again", file=sys.stderr)
            self._told = fault

    def close(self) -> None:
        """Write the pictures that wait, hand over the last counters and wait for the disk, a few seconds at most."""
        if self._evidence is not None:
            self._evidence.close()
        for camera in self._cameras:
            self._store.count(camera, self._totals(camera))
        if not self._store.close() or self._store.dropped:
            lost = f"{self._store.dropped} events" if self._store.dropped else "the last events"
            print(f"{self._store.path} is slow or full: {lost} were not stored", file=sys.stderr)

    def _totals(self, camera: str) -> dict[str, int]:
        counted = self._account(camera).numbers()
        counted["events_dropped"] = self._store.dropped_of[camera]
        counted["pictures_dropped"] = self._evidence.dropped[camera] if self._evidence is not None else 0
        before = self._before.get(camera, {})
        return {name: value + before.get(name, 0) for name, value in counted.items()}
