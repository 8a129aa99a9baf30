"""Counters of a run in constant memory."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np

from edge_ad.events import VERDICTS, Verdict


class Latencies:
    """Percentiles of a stream of numbers from a uniform sample of bounded size (reservoir), and the exact maximum."""

    def __init__(self, size: int = 4096, seed: int = 0) -> None:
        self._sample = np.zeros(size, dtype=np.float64)
        self._rng = np.random.default_rng(seed)
        self.count = 0
        self.max = 0.0

    def add(self, value: float) -> None:
        """Take in one value."""
        index = self.count if self.count < len(self._sample) else int(self._rng.integers(0, self.count + 1))
        if index < len(self._sample):
            self._sample[index] = value
        self.count += 1
        self.max = max(self.max, value)

    def percentile(self, percent: float) -> float | None:
        """Return a percentile of what came so far, None when nothing came."""
        filled = self._sample[: min(self.count, len(self._sample))]
        return float(np.percentile(filled, percent)) if filled.size else None


@dataclass
class Counters:
    """What became of the frames of one camera; captured = judged + dropped + faulted + idle once the run has ended.

    ``captured``: frames that reached this machine. ``judged``: with a score. ``dropped``: replaced by a newer one, a
    repetition, or a frame of a part that had better ones. ``faulted``: verdict NONE. ``idle``: looked at while there
    was nothing to judge (0 where every frame is a part). ``lost``: never arrived (seen as a gap). ``outages``: NONE
    events without a frame. ``verdicts`` counts events; where every frame is a part, NONE = faulted + outages.
    ``parts``: parts with a verdict. ``reconnects`` and ``stalls`` of the camera as its source counts them.
    """

    captured: int = 0
    judged: int = 0
    dropped: int = 0
    faulted: int = 0
    lost: int = 0
    outages: int = 0
    verdicts: dict[Verdict, int] = field(default_factory=lambda: dict.fromkeys(VERDICTS, 0))
    idle: int = 0
    parts: int = 0
    reconnects: int = 0
    stalls: int = 0

    def __add__(self, other: Counters) -> Counters:
        both = {name: self.verdicts[name] + other.verdicts[name] for name in VERDICTS}
        return Counters(**{name: getattr(self, name) + getattr(other, name) for name in COUNTED}, verdicts=both)

    def numbers(self) -> dict[str, int]:
        """Return all counts by name, verdicts as ``verdict_OK`` and so on."""
        counts = {name: getattr(self, name) for name in COUNTED}
        return {**counts, **{f"verdict_{name}": count for name, count in self.verdicts.items()}}


COUNTED = tuple(entry.name for entry in fields(Counters) if entry.name != "verdicts")
