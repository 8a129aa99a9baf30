"""Letters in memory, for an output that shows the state of things and keeps nothing for later."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from edge_ad.store.outbox import Letter, Standing


class Transient:
    """A backlog in memory for an output that shows a state: the latest ``size`` letters, gone with the process."""

    def __init__(self, output: str, size: int = 100) -> None:
        self._output = output
        self._size = size
        self._letters: list[Letter] = []
        self._lock = threading.Lock()
        self._counts = {"delivered": 0, "refused": 0, "dropped": 0}
        self._sequence = 0

    def put(self, rows: Sequence[tuple[str, str, str]]) -> None:
        """Put in events as (id, verdict, line); the oldest go when there are too many."""
        with self._lock:
            for values in rows:
                self._sequence += 1
                self._letters.append(Letter(self._sequence, *values))
            excess = max(0, len(self._letters) - self._size)
            del self._letters[:excess]
            self._counts["dropped"] += excess

    def next(self, count: int) -> list[Letter]:
        """Return at most ``count`` letters, oldest first."""
        with self._lock:
            return self._letters[:count]

    def delivered(self, letters: Sequence[Letter]) -> None:
        """Forget what was shown."""
        self._forget("delivered", letters)

    def refuse(self, letter: Letter, reason: str) -> None:
        """Forget what cannot be shown."""
        self._forget("refused", [letter])

    def standing(self) -> Standing:
        """Return how the output stands since the start of this process."""
        with self._lock:
            return Standing(self._output, waiting=len(self._letters), **self._counts)

    def close(self) -> None:
        """Nothing is held."""

    def _forget(self, counter: str, letters: Sequence[Letter]) -> None:
        with self._lock:
            self._counts[counter] += len(letters)
            last = letters[-1].sequence if letters else 0
            self._letters = [letter for letter in self._letters if letter.sequence > last]
