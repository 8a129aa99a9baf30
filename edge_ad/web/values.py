"""Numbers on their way into JSON."""

from __future__ import annotations

import math


def finite(value: float | None) -> float | None:
    """Return the number with six decimals, None for one that is not finite."""
    return None if value is None or not math.isfinite(value) else round(float(value), 6)
