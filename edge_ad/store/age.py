"""How old the record is, by a wall clock that may be wrong: time counts only where it is seen to pass."""

from __future__ import annotations

import contextlib
import math
import sqlite3
import time

from edge_ad.store.recovery import fact, set_fact

DAY_S = 86_400.0
CLOCK_SET = 1_577_836_800.0  # 2020: an earlier time is that of a clock which was never set, and tells no age
MAX_STANDSTILL_S = 30 * DAY_S
STEP_S = 3600.0  # by which a clock may be set while a process watches it

_FACT = "age_clock"


def steady_s() -> float:
    """Return seconds of a clock that nobody sets; on Linux it goes on while the machine sleeps."""
    with contextlib.suppress(AttributeError, OSError):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


def record_time(
    connection: sqlite3.Connection, now: float, keep_s: float, elapsed_s: float | None
) -> tuple[float | None, str | None]:
    """Return the time that ages count from, and what a person should know about the clock (None: all is well).

    The record keeps a time of its own (its fact ``age_clock``). It follows the wall clock as far as the time in between
    is accounted for: ``elapsed_s`` by the steady clock since the last call of this process, with an hour for a clock that
    is set; or with None, between two processes, a standstill of a quarter of ``keep_s`` and at most 30 days. Beyond that
    the clock has jumped: then only the time counts that passes while a process runs. None: no age can be told.
    """
    if now < CLOCK_SET:
        return None, None
    allowed = min(MAX_STANDSTILL_S, keep_s / 4.0) if elapsed_s is None else elapsed_s + STEP_S
    known = _known(connection)
    if known is None:
        known = _newest(connection, now + DAY_S)
        allowed = min(MAX_STANDSTILL_S, keep_s / 4.0)
    told = None
    if known is None:  # an empty record: nothing can be lost
        known = now
    elif now > known + allowed:
        told = (
            f"the clock is {(now - known) / DAY_S:.0f} days beyond the time of the record: check it; until the record's own "
            "time has passed, nothing is deleted for its age"
        )
        known += elapsed_s or 0.0
    elif now > known or (elapsed_s is not None and known - now > MAX_STANDSTILL_S):  # it had been ahead, and was set right
        known = now
    set_fact(connection, _FACT, repr(known))
    return min(now, known), told


def newest_before(connection: sqlite3.Connection, limit: float) -> float | None:
    """Return the time of the newest event that is not later than ``limit``."""
    return _newest(connection, limit)


def _known(connection: sqlite3.Connection) -> float | None:
    with contextlib.suppress(ValueError):
        found = float(fact(connection, _FACT) or "nan")
        return found if math.isfinite(found) else None
    return None


def _newest(connection: sqlite3.Connection, limit: float) -> float | None:
    query = "SELECT max(time) FROM event WHERE time >= ? AND time <= ?"
    found = connection.execute(query, (CLOCK_SET, limit)).fetchone()[0]
    return None if found is None else float(found)
