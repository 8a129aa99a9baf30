"""Parts through the loop: the belt, triggers, faults in between, and every frame accounted for."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_ad.bundle import open_bundle, write_bundle
from edge_ad.camera.frames import BadFrame, End, Frame, Image, Read, SourceKind
from edge_ad.camera.measure import measure_reference
from edge_ad.camera.settings import CameraRecord, CameraSettings
from edge_ad.camera.synthetic import SyntheticBelt
from edge_ad.config import Config, RunTable
from edge_ad.events import Event
from edge_ad.inspection.judge import InspectionResult, Judge, median_result
from edge_ad.inspection.loop import Loop
from edge_ad.inspection.observers import EventCallback, Observer
from edge_ad.inspection.part_tracking import (
    MAX_CALLS,
    CalledParts,
    Calls,
    CycleState,
    Judgeable,
    PartDetector,
    PartReady,
    SeenParts,
    frames_of,
)
from edge_ad.inspection.pause import Pause
from edge_ad.inspection.presence import LikeNormal, PresenceDetector
from edge_ad.inspection.requests import Request
from edge_ad.inspection.settings import CaptureConditions, conditions_of
from edge_ad.synthetic.line import Belt
from edge_ad.synthetic.tray import render_tray
from tests.camera.pictures import noise
from tests.fixtures.plain_bundle import plain_contents
from tests.inspection.line import (
    THRESHOLDS,
    WEIGHT,
    Arithmetic,
    Script,
    check_account,
    make_loop,
    run_loop,
    settings_of,
)

SIZE = 96
GOODS = [render_tray(5 * 2**32 + seed, None, SIZE).image for seed in range(8)]
RULE = RunTable(trigger_deadline_ms=200.0)


class Notes(Observer):
    """An observer that counts cycles by state."""

    def __init__(self) -> None:
        self.states: Counter[CycleState] = Counter()

    def on_cycle(self, camera: str, state: CycleState) -> None:
        self.states[state] += 1


def run(
    source: object,
    parting: PartDetector,
    pipeline: Arithmetic,
    settings: Config | None = None,
    **more: Any,
) -> tuple[Loop, list[Event], Notes]:
    chosen = settings or Config()
    events: list[Event] = []
    notes = Notes()
    judge = Judge(pipeline, THRESHOLDS, WEIGHT, chosen.run.max_age_ms)
    observers = [EventCallback(events.append), notes]
    loop = Loop(judge, [source], observers, chosen, detectors=[parting], **more)  # type: ignore[list-item]
    loop.run()
    counters = loop.workers[0].counters
    assert counters.captured == counters.judged + counters.dropped + counters.faulted + counters.idle
    return loop, events, notes


def seen(rule: RunTable = RULE, first: int = 1) -> SeenParts:
    return SeenParts(PresenceDetector(LikeNormal(GOODS)), rule, first)


def test_as_many_events_as_trays_and_none_on_the_empty_belt() -> None:
    belt = SyntheticBelt("belt", 15, 7, 30.0, size=SIZE)
    loop, events, notes = run(belt, seen(), Arithmetic())
    truth = [belt.belt.truth(event.frame or 0) for event in events]
    assert [one["part"] for one in truth] == list(range(15))
    assert {one["state"] for one in truth} == {"settled"}
    assert [event.part for event in events] == [str(number) for number in range(1, 16)]
    assert loop.workers[0].counters.judged == 3 * 15
    assert loop.workers[0].counters.parts == 15
    empty = sum(belt.belt.truth(index)["state"] == "empty" for index in range(len(belt.belt)))
    assert notes.states["idle"] >= empty


def test_numbers_of_parts_go_on() -> None:
    _, events, _ = run(SyntheticBelt("belt", 2, 7, 30.0, size=SIZE), seen(first=41), Arithmetic())
    assert [event.part for event in events] == ["41", "42"]


def test_the_median_of_the_frames_is_the_verdict() -> None:
    scores = iter([0.0, 9.0, 3.0, 5.0, 0.0, 0.0])
    _, events, _ = run(SyntheticBelt("belt", 2, 7, 30.0, size=SIZE), seen(), Arithmetic(lambda call: next(scores)))
    assert [(event.score, event.verdict) for event in events] == [(3.0, "WARN"), (0.0, "OK")]


def test_frames_without_a_score_do_not_count_and_without_any_the_part_is_none() -> None:
    scores = iter([float("nan"), 5.0, float("nan")] + [float("nan")] * 3)
    loop, events, _ = run(SyntheticBelt("belt", 2, 7, 30.0, size=SIZE), seen(), Arithmetic(lambda call: next(scores)))
    assert [event.verdict for event in events] == ["NG", "NONE"]
    assert loop.workers[0].counters.faulted == 5


def test_a_part_of_which_one_frame_fell_into_a_pause_is_not_judged_by_the_others() -> None:
    class Short(Pause):
        def withhold(self, results: list[InspectionResult]) -> list[InspectionResult]:
            withheld = super().withhold(results)
            if self.action is not None:
                self.resume(Request("resume", "anna", "command"))
            return withheld

    pause = Short(None)

    def score(call: int) -> float:
        if call == 0:
            pause.pause(Request("pause", "anna", "command", {"reason": "lens"}))
        return 0.0

    _, events, _ = run(SyntheticBelt("belt", 2, 7, 30.0, size=SIZE), seen(), Arithmetic(score), pause=pause)
    assert [event.verdict for event in events] == ["NONE", "OK"]
    assert events[0].reason == "paused: by anna (command): lens"


def test_better_frames_push_others_out() -> None:
    belt = SyntheticBelt("belt", 3, 7, 30.0, size=SIZE)
    loop, events, _ = run(belt, seen(RunTable(part_frames=1, part_candidates=4)), Arithmetic())
    assert len(events) == 3
    assert loop.workers[0].counters.judged == 3
    assert loop.workers[0].counters.dropped == 3 * 3


def test_a_fault_between_parts_is_reported_and_costs_no_part() -> None:
    belt = Belt(4, 7, SIZE)
    faulty = {
        next(i for i in range(len(belt)) if belt.truth(i) == {**belt.truth(i), "part": 2, "state": "settled"}) + 1
    }
    steps: list[Read] = []
    for index in range(len(belt)):
        common = (index, time.monotonic(), time.time(), "cam", str(index))
        image = belt.frame(index)[0]
        steps.append(BadFrame("corrupt: test", *common) if index in faulty else Frame(image, *common))
    _, events, _ = run(Script(steps), seen(), Arithmetic())
    assert [event.part for event in events if event.verdict != "NONE"] == ["1", "2", "3", "4"]
    assert [event.reason for event in events if event.verdict == "NONE"] == ["corrupt: test"]


def test_a_part_under_way_at_the_end_is_judged() -> None:
    belt = Belt(1, 7, SIZE)
    last = next(i for i in range(len(belt)) if belt.truth(i)["state"] == "settled") + 3
    frames = [
        Frame(belt.frame(index)[0], index, time.monotonic(), time.time(), "cam", str(index)) for index in range(last)
    ]
    loop, events, _ = run(Script(frames), seen(), Arithmetic())
    assert len(events) == 1
    assert loop.workers[0].counters.judged == 1


def moving(index: int, at: float) -> Frame:
    picture = np.random.default_rng(index).integers(60, 180, (48, 64, 3)).astype(np.uint8)
    return Frame(picture, index, at, time.time(), "cam", str(index))


def test_a_trigger_gets_its_part_with_its_id() -> None:
    calls = Calls()
    parting = CalledParts(calls, RunTable(part_frames=2, trigger_deadline_ms=60_000.0))
    now = time.monotonic()
    calls.put("A", now + 1.5)
    calls.put("", now + 3.5)
    frames = [moving(index, now + index) for index in range(8)]
    _, events, notes = run(Script(frames), parting, Arithmetic())
    assert [(event.part, event.frame) for event in events] == [("A", 3), ("2", 5)]
    assert notes.states["idle"] == 2  # after the second part nobody calls


def test_a_trigger_without_a_frame_is_none_with_its_id() -> None:
    changed = threading.Condition()
    calls = Calls(changed)
    parting = CalledParts(calls, RULE)
    source = Script([None], kind="live", fps=1.0)
    calls.put("B7", time.monotonic())
    timer = threading.Timer(1.0, source.release.set)
    timer.start()
    _, events, _ = run(source, parting, Arithmetic(), changed=changed)
    assert [(event.part, event.verdict) for event in events] == [("B7", "NONE")]
    assert (events[0].reason or "").startswith("late: no frame within 200 ms")


def test_calls_are_kept_for_nobody_who_has_let_go_of_them(caplog: pytest.LogCaptureFixture) -> None:
    """Each change of product or bundle makes detectors anew, of which cameras keep those that they have."""
    calls = Calls()
    for _ in range(3):
        CalledParts(calls, RULE)
    kept = CalledParts(calls, RULE)
    for number in range(MAX_CALLS + 1):
        kept.time(0.0)
        calls.put(str(number), 1.0)
    assert not caplog.records
    assert len(calls._queues) == 1


def test_a_call_before_the_first_camera_is_ready_gets_a_verdict() -> None:
    """The trigger is open while models load and cameras are prepared; every camera answers a call of that time."""
    changed = threading.Condition()
    calls = Calls(changed)
    calls.put("early", time.monotonic())
    first = CalledParts(calls, RULE)
    calls.put("between", time.monotonic())
    for parting in (first, CalledParts(calls, RULE)):
        source = Script([None], kind="live", fps=1.0)
        timer = threading.Timer(1.0, source.release.set)
        timer.start()
        _, events, _ = run(source, parting, Arithmetic(), changed=changed)
        assert [(event.part, event.verdict) for event in events] == [("early", "NONE"), ("between", "NONE")]


@pytest.mark.parametrize("ready", [False, True], ids=["no camera yet", "a camera that does not read"])
def test_a_call_that_pushes_out_another_is_logged(ready: bool, caplog: pytest.LogCaptureFixture) -> None:
    calls = Calls()
    queue = calls.subscribe() if ready else None
    for number in range(MAX_CALLS):
        calls.put(f"part-{number}", float(number))
    assert not caplog.records
    calls.put("one more", 1e6)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "part part-0," in caplog.text
    queue = queue or calls.subscribe()
    assert [queue[0].part, queue[-1].part, len(queue)] == ["part-1", "one more", MAX_CALLS]


def test_the_age_of_a_part_counts_from_its_newest_frame() -> None:
    now = time.monotonic()
    ready = PartReady("1", tuple(Judgeable(moving(n, now - 9 + n), now - 9 + n) for n in range(3)), 0)
    frames = frames_of(ready)
    assert [result.since for result in frames] == [now - 7] * 3
    assert [result.last for result in frames] == [False, False, True]


@pytest.mark.parametrize(
    ("scores", "chosen"), [([1.0], 1.0), ([5.0, 1.0], 5.0), ([9.0, 1.0, 3.0], 3.0), ([None, 2.0], 2.0), ([None], None)]
)
def test_middle(scores: list[float | None], chosen: float | None) -> None:
    event = Event("cam", 0, "1", 0.0, "NONE", None, {}, None, "late")
    judgements = [InspectionResult(replace(event, score=score)) for score in scores]
    assert median_result(judgements).event.score == chosen


def test_a_triggered_camera_loses_no_part_and_may_be_silent() -> None:
    settings = settings_of(trigger="camera", trigger_deadline_ms=60_000, max_age_ms=60_000, give_up_s=0.3)
    source = Script([*range(6), None], kind="live", fps=100.0)
    events: list[Event] = []
    judge = Judge(Arithmetic(lambda call: (time.sleep(0.02), 0.0)[1]), THRESHOLDS, WEIGHT, 60_000)
    loop = Loop(judge, [source], [EventCallback(events.append)], settings)
    timer = threading.Timer(1.5, source.release.set)
    timer.start()
    loop.run()
    assert [(event.frame, event.verdict) for event in events] == [(number, "OK") for number in range(6)]


@pytest.mark.parametrize(("kind", "late"), [("live", True), ("images", False)])
def test_a_called_frame_has_a_deadline_but_a_folder_waits_for_us(kind: SourceKind, late: bool) -> None:
    settings = settings_of(trigger="camera", trigger_deadline_ms=300.0, max_age_ms=60_000)
    old = [
        Frame(noise(number), number, time.monotonic() - 9.0, time.time(), "cam", str(number)) for number in range(12)
    ]
    loop, events = run_loop(Arithmetic(), [Script(old, kind=kind)], settings)
    assert [event.frame for event in events] == list(range(12))
    assert {event.verdict for event in events} == {"NONE" if late else "OK"}
    assert all((event.reason or "").startswith("late: ") for event in events) == late
    check_account(loop)


def test_a_called_frame_whose_verdict_comes_too_late_is_none() -> None:
    settings = settings_of(trigger="camera", trigger_deadline_ms=60_000.0, max_age_ms=30.0)
    slow = Arithmetic(lambda call: (time.sleep(0.05), 0.0)[1])
    _, events = run_loop(slow, [Script([0], kind="live")], settings)
    assert [event.verdict for event in events] == ["NONE"]


class Misset(Script):
    """A live camera whose exposure changes when it comes back, once the two frames before that were told."""

    settings = CameraSettings(exposure_us=8000.0)

    def __init__(self, told: list[Event]) -> None:
        super().__init__(range(4), kind="live")
        self._told, self._reads = told, 0

    def read(self, timeout_s: float) -> Read:
        while len(self._told) < self._reads:
            time.sleep(0.001)
        result = super().read(timeout_s)
        self._reads += isinstance(result, Frame)
        if isinstance(result, Frame) and result.index == 2:
            self.settings = CameraSettings(exposure_us=16_000.0)
        return result


def test_a_camera_that_is_set_differently_is_a_fault() -> None:
    settings, conditions = settings_of(max_age_ms=60_000), CaptureConditions(camera=CameraSettings(exposure_us=8000.0))
    events: list[Event] = []
    judge = Judge(Arithmetic(), THRESHOLDS, WEIGHT, 60_000)
    Loop(judge, [Misset(events)], [EventCallback(events.append)], settings, conditions=conditions).run()
    assert [event.verdict for event in events] == ["OK", "OK", "NONE", "NONE"]
    assert (events[2].reason or "").startswith("settings: ")


def test_what_a_bundle_reports_of_its_goods_is_used(tmp_path: Path) -> None:
    goods = [render_tray(5 * 2**32 + seed, None, 128).image for seed in range(10)]
    record = CameraRecord("cam", CameraSettings(exposure_us=8000.0), (128, 128), "none", "2026-01-01T00:00:00Z")
    report = {"health_reference": measure_reference(goods).to_json(), "camera": record.to_json()}
    write_bundle(tmp_path / "x.edgead", replace(plain_contents(), report=report))
    result = conditions_of(open_bundle(tmp_path / "x.edgead"))
    assert result.camera == record.settings
    assert result.reference is not None
    assert result.reference.count == 10
    write_bundle(tmp_path / "y.edgead", plain_contents())
    assert conditions_of(open_bundle(tmp_path / "y.edgead")) == CaptureConditions()


def test_pictures_unlike_the_goods_are_a_fault_only_where_a_part_should_be() -> None:
    goods = [render_tray(5 * 2**32 + seed, None, SIZE).image for seed in range(10)]
    conditions = CaptureConditions(reference=measure_reference(goods))
    belt = SyntheticBelt("belt", 4, 7, 30.0, size=SIZE)
    _, events, _ = run(belt, seen(), Arithmetic(), conditions=conditions)
    assert len(events) == 4  # no fault on the empty belt
    _, events, _ = run_frames([goods[0], np.roll(goods[0], 40, axis=1)], conditions)
    assert [event.verdict for event in events] == ["OK", "NONE"]
    assert (events[1].reason or "").startswith("moved")
    # Where parts are located it is the locator that says whether a part is in view, wherever it lies.
    _, events, _ = run_frames([goods[0], np.roll(goods[0], 40, axis=1)], replace(conditions, size=(SIZE, SIZE)))
    assert [event.verdict for event in events] == ["OK", "OK"]


def run_frames(pictures: list[Image], conditions: CaptureConditions) -> tuple[Loop, list[Event], None]:
    frames = [Frame(image, n, time.monotonic(), time.time(), "cam", str(n)) for n, image in enumerate(pictures)]
    loop, events = make_loop(Arithmetic(), [Script(frames)], conditions=conditions)
    loop.run()
    return loop, events, None


def test_a_file_of_no_frames_is_no_part() -> None:
    _, events, _ = run(Script([End()]), seen(), Arithmetic())
    assert events == []
