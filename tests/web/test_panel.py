"""What the loop leaves for the page: committed events only, few images, and a lamp that never outlives its verdict."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_ad.events import Event
from edge_ad.inspection.judge import InspectionResult
from edge_ad.web.dashboard_feed import BOUNDS_S, DashboardFeed, Histogram, Seen
from edge_ad.web.dashboard_state import DashboardState
from edge_ad.web.metrics import metrics_text
from edge_ad.web.schemas import read_message, write_message
from edge_ad.web.status import FRESH_S, showing
from tests.inspection.line import Script, bad

CAMERA = Script([], name="cam")
EVENT = Event("cam", 1, "1", 0.0, "OK", 0.5, {"local": 0.5}, 12.0, None)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def judgement(number: int = 1, verdict: str = "OK") -> InspectionResult:
    return InspectionResult(replace(EVENT, frame=number, verdict=verdict), frame=bad(number))


def test_events_are_shown_when_they_are_on_the_disk() -> None:
    clock, settled = Clock(), [0]
    panel = DashboardFeed(["cam"], lambda: settled[0], clock)
    for number in (1, 2, 3):
        panel.on_result(judgement(number), CAMERA)
    assert panel.release().events == []
    settled[0] = 2
    assert [event.frame for _, event in panel.release().events] == [1, 2]
    assert panel.release().events == []
    clock.now = 1.1  # the disk does not answer: the page must not stand still
    assert [event.frame for _, event in panel.release().events] == [3]


def test_without_a_store_events_are_shown_at_once() -> None:
    panel = DashboardFeed(["cam"], None, Clock())
    panel.on_result(judgement(), CAMERA)
    assert len(panel.release().events) == 1


def test_pictures_are_held_only_while_a_page_watches_and_at_most_five_a_second() -> None:
    clock = Clock()
    panel = DashboardFeed(["cam"], None, clock)
    panel.on_result(judgement(), CAMERA)
    assert panel.release().shots == []
    panel.watching = True
    shots = 0
    for step in range(1000):  # ten seconds of a line with 100 parts a second
        clock.now = step / 100
        panel.on_result(judgement(step), CAMERA)
        shots += len(panel.release().shots)
    assert 48 <= shots <= 51


def test_a_picture_is_not_shown_before_its_event() -> None:
    settled = [0]
    panel = DashboardFeed(["cam"], lambda: settled[0], Clock())
    panel.watching = True
    panel.on_result(judgement(), CAMERA)
    assert panel.release().shots == []
    settled[0] = 1
    assert len(panel.release().shots) == 1


@pytest.mark.parametrize(
    ("seen", "now", "show"),
    [
        (Seen(), 0.0, "IDLE"),
        (Seen(EVENT, reported_at=0.0), 1.0, "OK"),
        (Seen(EVENT, reported_at=0.0), FRESH_S + 0.1, "IDLE"),
        (Seen(EVENT, reported_at=0.0, state="idle"), 1.0, "IDLE"),
        (Seen(EVENT, reported_at=0.0, state="busy"), 1.0, "IDLE"),
        (Seen(EVENT, reported_at=0.0, state="held"), FRESH_S * 9, "OK"),  # the part is still there
        (
            Seen(replace(EVENT, verdict="NONE"), reported_at=0.0),
            FRESH_S * 9,
            "NONE",
        ),  # a fault stands until a verdict comes
        (Seen(replace(EVENT, verdict="NG"), reported_at=0.0), 1.0, "NG"),
    ],
)
def test_what_the_lamp_shows(seen: Seen, now: float, show: str) -> None:
    assert showing(seen, now)["show"] == show


def test_histogram_counts_each_duration_once() -> None:
    result = Histogram()
    for seconds in (0.0005, 0.001, 0.0011, 5.0):
        result.add(seconds)
    assert result.counts == [2, 1, *[0] * (len(BOUNDS_S) - 2), 1]
    assert result.total == pytest.approx(5.0026)


@given(
    st.dictionaries(st.text(max_size=5), st.integers()),
    st.lists(st.binary(max_size=100), max_size=4),
    st.integers(0, 60),
)
def test_messages_come_out_as_they_went_in_and_a_torn_one_not_at_all(
    record: dict[str, int], blobs: list[bytes], cut: int
) -> None:
    record.pop("sizes", None)
    stream = io.BytesIO()
    write_message(stream, record, blobs)
    whole = stream.getvalue()
    assert read_message(io.BytesIO(whole)) == (record, blobs)
    torn = whole[: max(len(whole) - 1 - cut, 0)]
    assert read_message(io.BytesIO(torn)) is None


def test_before_the_first_state_nothing_is_ready_and_metrics_report_it() -> None:
    mirror = DashboardState()
    assert not mirror.life().ready
    assert b"edge_ad_up 0.0" in metrics_text(mirror)


def test_life_follows_the_rule_of_the_watchdog() -> None:
    mirror = DashboardState()
    state = {"cycle_age_s": 1.0, "cycle_limit_s": 10.0, "cameras": []}
    mirror.take({"kind": "state", "state": state, "events": []}, [])
    assert mirror.life().healthy
    mirror.take({"kind": "state", "state": {**state, "cycle_age_s": 10.5}, "events": []}, [])
    assert not mirror.life().healthy
    assert "no cycle was completed for 10.5 s" in mirror.life().told
