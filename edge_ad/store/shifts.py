"""Shifts of a station: where one begins and ends by the local clock, also on the days on which the clock is set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo

from edge_ad.errors import BadInput


@dataclass(frozen=True)
class Period:
    """From ``start`` to before ``end``, both in seconds since 1970 UTC, told by the clock of ``zone`` (None: this machine's)."""

    start: float
    end: float
    zone: tzinfo | None = None

    def local(self, moment: float) -> datetime:
        """Return a moment by the clock of the zone, with its offset."""
        if self.zone is None:
            return datetime.fromtimestamp(moment).astimezone()
        return datetime.fromtimestamp(moment, self.zone)

    def __str__(self) -> str:
        first, last = self.local(self.start), self.local(self.end)
        whole = f"{last:%H:%M}" if first.date() == last.date() else f"{last:%Y-%m-%d %H:%M}"
        names = dict.fromkeys((first.tzname(), last.tzname()))
        return f"{first:%Y-%m-%d %H:%M} to {whole} ({', '.join(str(name) for name in names)})"


def zone_of(name: str | None) -> tzinfo | None:
    """Return the time zone of an IANA name such as Europe/Berlin, None for this machine's own; BadInput for an unknown name."""
    try:
        return None if name is None else ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        allowed = "write a name such as Europe/Berlin, or leave it out for the zone of this machine"
        raise BadInput(f"[report] zone is {name!r:.80}: {allowed}") from error


def shift_of(shifts: Sequence[str], moment: float, zone: tzinfo | None = None) -> Period:
    """Return the shift that runs at ``moment``; ``shifts`` are the local times at which one begins.

    A time that the clock skips begins as much later, one that comes twice begins the first time. So the shift of a night in
    which the clock is set has an hour less or more.
    """
    today = (datetime.fromtimestamp(moment) if zone is None else datetime.fromtimestamp(moment, zone)).date()
    times = [time.fromisoformat(text) for text in shifts]
    days = [today + timedelta(days=number) for number in (-1, 0, 1)]
    moments = [datetime.combine(day, one) for day in days for one in times]
    limits = sorted({(one if zone is None else one.replace(tzinfo=zone)).timestamp() for one in moments})
    return Period(max(one for one in limits if one <= moment), min(one for one in limits if one > moment), zone)


def last_shift(shifts: Sequence[str], now: float, zone: tzinfo | None = None) -> Period:
    """Return the last shift that has ended."""
    return shift_of(shifts, shift_of(shifts, now, zone).start - 1.0, zone)
