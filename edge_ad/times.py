"""Wall-clock times as text."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def told_time(seconds: float) -> str:
    """Return seconds since 1970 as text in UTC with milliseconds (RFC 3339)."""
    moment = EPOCH + timedelta(seconds=seconds)  # fromtimestamp refuses times before 1970 on some systems
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
