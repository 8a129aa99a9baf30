"""Shifts by the local clock, in two zones and on the days on which it is set; the expected times are those of the law."""

from __future__ import annotations

from datetime import datetime, timezone
from zoneinfo import ZoneInfo

import pytest

from edge_ad.errors import BadInput
from edge_ad.store.shift_report import last_shift, shift_of, zone_of

SHIFTS = ("06:00", "14:00", "22:00")
BERLIN, LOS_ANGELES = ZoneInfo("Europe/Berlin"), ZoneInfo("America/Los_Angeles")


def utc(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc).timestamp()


@pytest.mark.parametrize(
    ("zone", "when", "start", "end"),
    [
        (BERLIN, "2026-01-15T12:00", "2026-01-15T05:00", "2026-01-15T13:00"),  # 13:00 there, UTC+1
        (BERLIN, "2026-07-15T12:00", "2026-07-15T12:00", "2026-07-15T20:00"),  # 14:00 there, UTC+2: a shift has just begun
        (BERLIN, "2026-01-15T03:00", "2026-01-14T21:00", "2026-01-15T05:00"),  # over midnight
        (BERLIN, "2026-03-29T02:00", "2026-03-28T21:00", "2026-03-29T04:00"),  # 7 h: 02:00 becomes 03:00
        (BERLIN, "2026-10-25T02:00", "2026-10-24T20:00", "2026-10-25T05:00"),  # 9 h: 03:00 becomes 02:00
        (LOS_ANGELES, "2026-03-08T12:00", "2026-03-08T06:00", "2026-03-08T13:00"),  # 7 h, on another day than in Europe
    ],
)
def test_shift_begins_and_ends_by_the_local_clock(zone: ZoneInfo, when: str, start: str, end: str) -> None:
    result = shift_of(SHIFTS, utc(when), zone)
    assert (result.start, result.end) == (utc(start), utc(end))


def test_time_that_is_skipped_and_one_that_comes_twice() -> None:
    skipped = shift_of(("02:30", "12:00"), utc("2026-03-29T05:00"), BERLIN)
    assert skipped.start == utc("2026-03-29T01:30")  # 03:30 there
    twice = shift_of(("02:30", "12:00"), utc("2026-10-25T05:00"), BERLIN)
    assert twice.start == utc("2026-10-25T00:30")  # the first of the two


def test_last_shift_is_the_one_before_and_states_both_names_of_the_zone() -> None:
    result = last_shift(SHIFTS, utc("2026-03-29T05:00"), BERLIN)
    assert (result.start, result.end) == (utc("2026-03-28T21:00"), utc("2026-03-29T04:00"))
    assert str(result) == "2026-03-28 22:00 to 2026-03-29 06:00 (CET, CEST)"


@pytest.mark.parametrize("name", ["Europe/Nowhere", "../etc/passwd", ""])
def test_unknown_zone_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="write a name such as Europe/Berlin"):
        zone_of(name)
