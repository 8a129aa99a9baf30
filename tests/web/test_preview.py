"""The preview: counts by hand, and what no threshold may ever do."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_ad.errors import BadInput
from edge_ad.store.store import Store
from edge_ad.web import thresholds
from edge_ad.web.dashboard_state import DashboardState
from edge_ad.web.record import Record
from edge_ad.web.thresholds import Recent, Scored, ThresholdService, preview, recent_of

EVENTS = (
    Scored(100.0, 0.5, "OK", None),
    Scored(200.0, 1.5, "WARN", "good"),
    Scored(300.0, 2.5, "NG", "good"),
    Scored(400.0, 3.5, "NG", "bad"),
    Scored(500.0, None, "NONE", None),
)


@pytest.mark.parametrize(
    ("warn", "ng", "warn_rejects", "hours", "message"),
    [
        (1.0, 2.0, False, 2.0, "At this threshold: 1 reject an hour, 1 was marked good."),
        (1.0, 2.0, False, 0.5, "At this threshold: 2 rejects in 30 minutes, 1 was marked good."),
        (1.0, 2.0, True, 1.0, "At this threshold: 3 rejects an hour, 2 were marked good."),
        (1.0, 9.0, False, 1.0, "At this threshold: 0 rejects an hour; 1 marked bad would pass."),
        (0.0, 0.1, False, 1.0 / 60, "At this threshold: 4 rejects in a minute, 2 were marked good."),
        (0.0, 0.1, False, 3.0, "At this threshold: 1.3 rejects an hour, 2 were marked good."),
    ],
)
def test_what_is_reported(warn: float, ng: float, warn_rejects: bool, hours: float, message: str) -> None:
    assert preview(Recent(EVENTS, hours, False), warn, ng, warn_rejects)["told"] == message


def test_counts() -> None:
    result = preview(Recent(EVENTS, 1.0, True), 1.0, 3.0, False)
    assert result["counts"] == {"OK": 1, "WARN": 2, "NG": 1}
    assert result["before"] == {"OK": 1, "WARN": 1, "NG": 2}
    assert (result["judged"], result["faults"], result["limited"]) == (4, 1, True)
    assert sum(result["histogram"]) == 4


def test_nothing_to_look_at() -> None:
    assert preview(Recent((), 0.0, False), 1.0, 2.0, False)["told"] == "No part with a score in this time."


def test_warn_above_ng_is_refused() -> None:
    with pytest.raises(BadInput):
        preview(Recent(EVENTS, 1.0, False), 2.0, 1.0, False)


scored = st.builds(
    Scored,
    st.floats(0, 1e6),
    st.one_of(st.none(), st.floats(-1e6, 1e6)),
    st.sampled_from(["OK", "WARN", "NG", "NONE"]),
    st.sampled_from([None, "good", "bad"]),
)


@given(st.lists(scored, max_size=40), st.floats(-1e6, 1e6), st.floats(0, 1e6), st.booleans())
def test_a_fault_stays_a_fault_at_any_threshold(events: list[Scored], warn: float, step: float, rejects: bool) -> None:
    faults = sum(event.verdict == "NONE" or event.score is None for event in events)
    result = preview(Recent(tuple(events), 1.0, False), warn, warn + step, rejects)
    assert result["faults"] == faults
    assert sum(result["counts"].values()) == result["judged"] == len(events) - faults
    assert result["rejected_marked_good"] <= result["rejects"] <= result["judged"]
    assert sum(result["histogram"]) == result["judged"]


def test_the_time_covered_is_that_of_the_events() -> None:
    events = [Scored(7200.0 - 60.0 * number, 1.0, "OK", None) for number in range(60)]
    result = recent_of(iter(events), 30, 7200.0, 8.0)
    assert (len(result.events), result.limited) == (30, True)
    assert result.hours == pytest.approx(29 / 60)
    assert recent_of(iter(events), 100, 7200.0, 8.0).limited is False


def test_a_mark_that_is_set_while_events_are_read_shows_in_the_next_preview() -> None:
    reading, marked = threading.Event(), threading.Event()

    class Events:
        """A record whose first reading lasts until its one event was marked, and does not see the mark."""

        def reader(self) -> Events:
            return self

        def every(self, wanted: object, limit: int) -> list[Scored]:
            before = Scored(time.time(), 1.0, "OK", "bad" if marked.is_set() else None)
            reading.set()
            forgetting.join(0.5)  # one that waits for this reading ends later
            return [before]

    service = ThresholdService(DashboardState(), Events(), lambda record: None)  # type: ignore[arg-type]

    def mark() -> None:
        assert reading.wait(30)
        marked.set()
        service.forget()

    forgetting = threading.Thread(target=mark)
    forgetting.start()
    service.recent(1.0)
    forgetting.join(30)
    assert [event.mark for event in service.recent(1.0).events] == ["bad"]


def test_a_preview_does_not_wait_for_a_line_that_takes_thresholds_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(thresholds, "TAKEN_OVER_S", 30.0)
    monkeypatch.setattr(thresholds, "rethreshold", lambda path, *rest, **more: path)
    store = Store(tmp_path / "record.db")
    store.close()
    mirror = DashboardState()
    mirror.hello = {"about": {"bundle": "a.edgead", "locked": None}, "bundle_path": str(tmp_path / "a.edgead")}
    mirror.state = {"thresholds": {"warn": 1.0, "ng": 2.0, "told": ""}}
    asked = threading.Event()
    service = ThresholdService(mirror, Record(store.path), lambda record: asked.set())
    answers: list[dict[str, object]] = []
    applying = threading.Thread(target=lambda: answers.append(service.apply(3.0, 4.0, "a test", "nobody")))
    applying.start()
    assert asked.wait(30)
    service.recent(1.0)  # before the line has taken them over
    assert answers == []
    mirror.state = {"thresholds": {"warn": 3.0, "ng": 4.0, "told": ""}}
    applying.join(30)
    assert answers[0]["running"] is True
