"""A histogram of magnitudes that grows with its values: constant memory, however many values it is given."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 4096
_SMALLEST = 2.0**-60


class Histogram:
    """Counts of |x| in ``BINS`` bins of equal ``width``, and the least and greatest x.

    The width is a power of two and doubles, neighbours being merged, whenever a value lies beyond the last bin. So the
    counts do not depend on the order in which values came, at least half of the bins are in use, and nothing is kept
    of the values themselves. onnxruntime's histogram calibrators keep every activation of every picture instead.
    """

    def __init__(self, bins: int = BINS) -> None:
        self.counts = np.zeros(bins, np.int64)
        self.width = _SMALLEST
        self.minimum, self.maximum = np.inf, -np.inf

    def update(self, values: NDArray[Any]) -> None:
        """Count values of any shape; those that are not finite raise ValueError."""
        flat = np.abs(np.asarray(values, np.float32).ravel())
        if not flat.size:
            return
        self.widen(float(np.min(values)), float(np.max(values)))
        places = (flat * np.float32(1.0 / self.width)).astype(np.int32)
        self.counts += np.bincount(np.minimum(places, len(self.counts) - 1), minlength=len(self.counts))

    def widen(self, low: float, high: float) -> None:
        """Make room for values from ``low`` to ``high``, and remember that they occur."""
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError(f"a tensor holds {low} to {high}: calibration needs finite numbers")
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        while self.width * len(self.counts) <= self.top:
            merged = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.concatenate([merged, np.zeros_like(merged)])
            self.width *= 2.0

    @property
    def top(self) -> float:
        """The greatest magnitude."""
        return max(abs(self.minimum), abs(self.maximum))
