"""Several views of one part: what belongs together, what is missing, and the one verdict."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_ad.camera.frames import Frame, Read
from edge_ad.config import RunTable
from edge_ad.events import Event
from edge_ad.inspection.judge import InspectionResult, Judge
from edge_ad.inspection.loop import JudgedView, Loop
from edge_ad.inspection.observers import EventCallback
from edge_ad.inspection.part_tracking import CalledParts, Calls
from edge_ad.inspection.part_views import MAX_OPEN, JoinedPart, Joining, ViewJoiner
from edge_ad.inspection.settings import CaptureConditions
from edge_ad.scoring.fused_views import FusedViews, ViewScores
from edge_ad.scoring.thresholds import Thresholds
from tests.camera.pictures import noise
from tests.inspection.line import THRESHOLDS, WEIGHT, Arithmetic, Script, settings_of

VIEWS = ("top", "side")
SCORES = {"OK": 0.0, "NG": 9.0, "NONE": math.nan}
SEEN = (*SCORES, "missing")
WORST = {  # NONE and a view that is missing before NG, before OK
    **{(one, other): "NONE" for one in SEEN for other in SEEN if {one, other} & {"NONE", "missing"}},
    ("OK", "OK"): "OK",
    ("OK", "NG"): "NG",
    ("NG", "OK"): "NG",
    ("NG", "NG"): "NG",
}


def frame(number: int, at: float, part: str = "", source: str = "cam") -> Frame:
    return Frame(noise(number), number, at, time.time(), source, part or str(number))


def run_views(
    frames: Sequence[Iterable[Read]],
    scores: Sequence[Sequence[float]],
    joiner: ViewJoiner,
    *,
    calls: Calls | None = None,
    fused: FusedViews | None = None,
    **more: Any,
) -> tuple[Loop, list[Event]]:
    """Run a loop over what each view sees, judged by the scores of each in turn."""
    settings = settings_of(trigger_deadline_ms=60_000.0, max_age_ms=60_000, part_frames=1)
    sources = [Script(reads, name=f"cam-{name}") for name, reads in zip(VIEWS, frames, strict=True)]
    events: list[Event] = []
    judges = [
        Judge(Arithmetic(lambda call, own=list(own): own[call]), THRESHOLDS, WEIGHT, 60_000, tag=(None, name))  # type: ignore[misc]
        for name, own in zip(VIEWS, scores, strict=True)
    ]
    views = [JudgedView(name, judge, settings, CaptureConditions()) for name, judge in zip(VIEWS, judges, strict=True)]
    detectors = None if calls is None else [CalledParts(calls, settings.run) for _ in VIEWS]
    observers = [EventCallback(events.append)]
    loop = Loop(
        judges[0], sources, observers, settings, views=views, joiner=joiner, detectors=detectors, fused=fused, **more
    )
    loop.run()
    return loop, events


def test_all_sixteen_pairs_of_views_give_the_stated_verdict() -> None:
    pairs = list(itertools.product(SEEN, SEEN))
    calls, now = Calls(), time.monotonic()
    for number in range(len(pairs) + 1):
        calls.put(f"part-{number}", now + number)
    seen = [[pair[view] for pair in pairs] + ["OK"] for view in range(2)]
    shown = [[number for number, what in enumerate(row) if what != "missing"] for row in seen]
    frames = [[frame(index, now + number + 0.5) for index, number in enumerate(row)] for row in shown]
    scores = [[SCORES[what] for what in row if what != "missing"] for row in seen]
    _, events = run_views(frames, scores, ViewJoiner(VIEWS, 60.0, "call"), calls=calls)
    events.sort(key=lambda event: int((event.part or "").removeprefix("part-")))
    assert [event.part for event in events] == [f"part-{number}" for number in range(len(pairs) + 1)]
    assert {pair: event.verdict for pair, event in zip(pairs, events, strict=False)} == WORST
    for pair, event in zip(pairs, events, strict=False):
        assert event.views is not None
        assert [row["view"] for row in event.views] == list(VIEWS)
        assert [row["verdict"] for row in event.views] == ["NONE" if what == "missing" else what for what in pair]
        for view, what in zip(VIEWS, pair, strict=True):
            assert what != "missing" or f"view {view}" in (event.reason or "") or "view top, side" in (event.reason or "")


@pytest.mark.parametrize(("timed", "word"), [(False, "missing: view side gave no image of this part"), (True, "within 10 ms")])
def test_a_missing_view_is_none_with_its_name(timed: bool, word: str) -> None:
    now = time.monotonic()
    frames = [[frame(0, now, "A"), frame(1, now, "B")], [frame(0, now, "B")]]
    _, events = run_views(frames, [[0.0, 0.0], [0.0]], ViewJoiner(VIEWS, 0.01 if timed else 1.0, "id", timed=timed))
    missing = next(event for event in events if event.part == "A")
    assert (missing.verdict, missing.camera, missing.frame) == ("NONE", "cam-side", None)
    assert word in (missing.reason or "")


def test_the_event_is_that_of_the_view_that_decides_and_has_all() -> None:
    now = time.monotonic()
    frames = [[frame(0, now, "A")], [frame(0, now, "A")]]
    loop, events = run_views(frames, [[3.0], [9.0]], ViewJoiner(VIEWS, 1.0, "id", timed=False))
    (event,) = events
    assert (event.part, event.verdict, event.camera, event.score, event.bundle) == ("A", "NG", "cam-side", 9.0, "side")
    assert event.reason == "logic: z 9.0; score 9.00 above 4.00 (view side)"
    assert [(row["view"], row["camera"], row["verdict"], row["score"]) for row in event.views or ()] == [
        ("top", "cam-top", "WARN", 3.0),
        ("side", "cam-side", "NG", 9.0),
    ]
    assert [worker.counters.parts for worker in loop.workers] == [0, 1]
    assert sum(sum(worker.counters.verdicts.values()) for worker in loop.workers) == 1


def test_a_fused_score_decides_where_all_views_have_one() -> None:
    thresholds = Thresholds(warn=2.0, ng=4.0)
    fused = FusedViews({"top": ViewScores("top", 0.0, 1.0), "side": ViewScores("side", 1.0, 0.5)}, thresholds)
    now = time.monotonic()
    frames = [[frame(n, now, name) for n, name in enumerate("ABC")] for _ in VIEWS]
    scores = [[3.0, 0.0, 0.0], [3.0, 1.0, math.nan]]
    _, events = run_views(frames, scores, ViewJoiner(VIEWS, 1.0, "id", timed=False), fused=fused)
    assert [event.verdict for event in events] == ["NG", "OK", "NONE"]
    assert events[0].score == pytest.approx(5.0)  # 3 and 4 deviations
    assert events[0].reason == "fused: score 5.00 of all views above 4.00 (view side adds most)"
    assert [row["verdict"] for row in events[0].views or ()] == ["WARN", "WARN"]
    assert events[1].score == pytest.approx(0.0)


def result_of(part: str | None, at: float, called_at: float | None = None, view: str = "top") -> InspectionResult:
    event = Event(view, 0, part, at, "OK", 0.0, {}, 1.0, None)
    return InspectionResult(event, frame(0, at, part or "", view), called_at=called_at)


def test_views_that_disagree_about_the_part_id_are_none_and_report_it() -> None:
    joiner = ViewJoiner(VIEWS, 0.5, "id")
    assert joiner.take("top", result_of("A17", 1.0), 1.0) == []
    assert joiner.take("side", result_of("A18", 1.1), 1.1) == []
    first, second = joiner.expire(1.7)
    assert first.missing == {"side": "views: view top says part A17 and view side part A18: they disagree about the part id"}
    assert second.missing == {"top": "views: view side says part A18 and view top part A17: they disagree about the part id"}


def test_what_comes_after_the_deadline_is_dropped_and_counts_for_no_later_part() -> None:
    joiner = ViewJoiner(VIEWS, 0.5, "id")
    joiner.take("top", result_of("A", 1.0), 1.0)
    assert [part.part for part in joiner.expire(1.6)] == ["A"]
    assert joiner.take("side", result_of("A", 1.7), 1.7) == []
    assert (joiner.late, joiner.waiting) == (1, 0)


def test_a_late_view_of_a_part_that_is_shown_again_is_not_taken_for_the_new_one() -> None:
    joiner = ViewJoiner(VIEWS, 0.5, "id")
    joiner.take("top", result_of("A", 1.0), 1.0)
    joiner.expire(1.6)
    joiner.take("top", result_of("A", 1.7), 1.7)
    (part,) = joiner.take("side", result_of("A", 1.75), 1.75)
    assert "came late" in (part.doubt or "")


def test_views_that_arrive_together_are_a_part_and_parts_too_close_are_none() -> None:
    joiner = ViewJoiner(VIEWS, 0.2, "arrival", first=41)
    joiner.take("top", result_of("9", 1.0), 1.1)
    (part,) = joiner.take("side", result_of("7", 1.15), 1.2)
    assert (part.part, part.doubt, part.missing) == ("41", None, {})
    joiner.take("side", result_of("8", 1.45), 1.5)
    (part,) = joiner.take("top", result_of("10", 1.45), 1.5)
    assert part.part == "42"
    assert "300 ms apart" in (part.doubt or "")


def test_a_change_spoils_what_waits() -> None:
    joiner = ViewJoiner(VIEWS, 0.5, "id")
    joiner.take("top", result_of("A", 1.0), 1.0)
    joiner.spoil("product: changed")
    (part,) = joiner.take("side", result_of("A", 1.1), 1.1)
    assert part.doubt == "product: changed"


DELIVERIES = st.lists(
    st.tuples(
        st.integers(0, 11),  # the part
        st.sampled_from(VIEWS),
        st.sampled_from((0.0, 0.05, 0.3, 1.0, 3.0)),  # how late it comes
        st.integers(1, 2),  # how often
    ),
    max_size=40,
)


def delivered(joining: Joining, deliveries: Any, gap: float, deadline: float) -> tuple[ViewJoiner, list[JoinedPart], int]:
    """Deliver views of parts that pass every ``gap`` seconds, and return what was joined of how many."""
    joiner = ViewJoiner(VIEWS, deadline, joining)
    moments = sorted((part * gap + late, part, view) for part, view, late, times in deliveries for _ in range(times))
    joined: list[JoinedPart] = []
    for at, part, view in moments:
        called = part * gap if joining == "call" else None
        jitter = 0.3 * deadline if view == "side" else 0.0
        joined += joiner.take(view, result_of(f"part-{part}", part * gap + jitter, called, view), at)
        assert joiner.waiting <= MAX_OPEN
    joined += joiner.finish(1e9)
    return joiner, joined, len(moments)


@given(DELIVERIES, st.sampled_from(("call", "id", "arrival")))
def test_parts_never_mix_whatever_is_missing_late_doubled_or_out_of_order(deliveries: Any, joining: Joining) -> None:
    joiner, joined, count = delivered(joining, deliveries, gap=1.0, deadline=0.25)
    taken = [id(result) for part in joined for result in part.results.values()]
    assert len(taken) == len(set(taken))  # nothing counts twice
    for part in joined:
        shown = {result.event.part for result in part.results.values()}
        assert part.doubt is not None or len(shown) == 1, part
        assert joining == "arrival" or shown == {part.part}
        assert set(part.results) | set(part.missing) == set(VIEWS)
        assert not set(part.results) & set(part.missing)
    doubled = sum(part.doubt is not None for part in joined)
    assert len(taken) + joiner.late <= count <= len(taken) + joiner.late + doubled * len(VIEWS) * 4


def test_memory_is_bounded_where_a_view_never_comes() -> None:
    joiner = ViewJoiner(VIEWS, 1.0, "id", timed=False)
    given_up = [part for n in range(1000) for part in joiner.take("top", result_of(f"{n}", float(n)), float(n))]
    assert joiner.waiting == MAX_OPEN
    assert [part.part for part in given_up] == [str(n) for n in range(1000 - MAX_OPEN)]
    assert len(joiner._closed) <= 256


def test_a_frame_after_the_next_call_is_not_taken_for_the_call_before() -> None:
    calls, now = Calls(), time.monotonic()
    parting = CalledParts(calls, RunTable(part_frames=1, trigger_deadline_ms=60_000.0))
    for number, name in enumerate("AB"):
        calls.put(name, now + number)
    from tests.inspection.test_line_parts import run

    _, events, _ = run(Script([frame(0, now + 1.5)]), parting, Arithmetic())
    assert [(event.part, event.verdict) for event in events] == [("B", "OK"), ("A", "NONE")]
