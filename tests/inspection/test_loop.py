"""The loop on scripted sources: every frame accounted for, every trouble told."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import cast

import numpy as np
import pytest
from pydantic import ValidationError

from edge_ad.camera.frames import End, Frame, SourceError
from edge_ad.camera.mailbox import Delivery
from edge_ad.config import RunTable
from edge_ad.errors import DeviceFault
from edge_ad.inspection.judge import Judge
from edge_ad.inspection.part_tracking import Judgeable, SeenParts
from edge_ad.inspection.presence import Observation, PresenceDetector
from edge_ad.inspection.settings import CaptureConditions, stall_s
from tests.camera.pictures import noise
from tests.inspection.line import (
    THRESHOLDS,
    WEIGHT,
    Arithmetic,
    Script,
    bad,
    check_account,
    make_loop,
    run_lockstep,
    run_loop,
    settings_of,
)


def test_one_event_a_frame_in_order_with_its_verdict() -> None:
    loop, events = run_loop(Arithmetic(lambda call: [0.0, 3.0, 5.0][call % 3]), [Script(range(9))])
    assert [event.frame for event in events] == list(range(9))
    assert [event.verdict for event in events] == ["OK", "WARN", "NG"] * 3
    assert events[2].z == {"logic": 5.0, "local": 5.0}
    assert loop.workers[0].counters.verdicts == {"OK": 3, "WARN": 3, "NG": 3, "NONE": 0}
    assert loop.latencies.count == 9
    check_account(loop)


def test_a_bad_frame_is_none_without_inference() -> None:
    pipeline = Arithmetic()
    loop, events = run_loop(pipeline, [Script([0, bad(1), 2])])
    assert [(event.frame, event.verdict, event.reason) for event in events] == [
        (0, "OK", None),
        (1, "NONE", "corrupt: test"),
        (2, "OK", None),
    ]
    assert events[1].score is None
    assert pipeline.calls == 2
    check_account(loop)


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_none(score: float) -> None:
    loop, events = run_loop(Arithmetic(lambda call: score), [Script([0])])
    assert (events[0].verdict, events[0].score, events[0].z) == ("NONE", None, {})
    assert events[0].reason is not None
    assert events[0].reason.startswith("engine")
    check_account(loop)


def test_a_broken_engine_reports_none_and_ends_the_run() -> None:
    def score(call: int) -> float:
        if call == 2:
            raise RuntimeError("out of memory")
        return 0.0

    source = Script(range(9))
    loop, events = make_loop(Arithmetic(score), [source])
    with pytest.raises(DeviceFault, match="frame 2 of cam: out of memory"):
        loop.run()
    assert [event.verdict for event in events] == ["OK", "OK", "NONE"]
    assert events[-1].reason == "engine: RuntimeError: out of memory"
    assert source.closed
    check_account(loop)


def test_a_gap_in_the_frames_is_reported_with_its_first_frame() -> None:
    loop, events = run_loop(Arithmetic(), [Script([0, 1, 5, 6, 8])])
    messages = [(event.frame, event.verdict, event.reason) for event in events]
    assert messages[2] == (2, "NONE", "lost: 3 frames before 5 never arrived")
    assert messages[5] == (7, "NONE", "lost: frame 7 never arrived")
    assert (loop.workers[0].counters.lost, loop.workers[0].counters.outages) == (4, 2)
    check_account(loop)


def test_an_error_is_reported_once_and_explains_the_gap_after_it() -> None:
    steps = [0, SourceError("camera lost: gone"), SourceError("camera lost: gone"), 3]
    loop, events = run_loop(Arithmetic(), [Script(steps)])
    assert [event.reason for event in events] == [None, "camera lost: gone", None]
    assert loop.workers[0].mailbox.errors == 2
    check_account(loop)


def test_a_file_that_broke_off_is_reported() -> None:
    _, events = run_loop(Arithmetic(), [Script([0, End("broken off: 1 of 9")])])
    assert [(event.frame, event.reason) for event in events] == [(0, None), (None, "broken off: 1 of 9")]


def test_a_silent_camera_is_reported_and_given_up() -> None:
    source = Script([0, None], kind="live", fps=100.0)
    loop, events = make_loop(Arithmetic(), [source], settings_of(give_up_s=1.5))
    with pytest.raises(DeviceFault, match=r"no frame from cam for 1.5 s"):
        loop.run()
    source.release.set()
    assert [event.verdict for event in events] == ["OK", "NONE"]
    assert events[1].reason is not None
    assert events[1].reason.startswith("stalled: no frame for ")


def test_a_source_that_crashes_is_a_device_fault() -> None:
    class Crash(Script):
        def read(self, timeout_s: float) -> Frame:
            raise OSError("bus error")

    loop, events = make_loop(Arithmetic(), [Crash([])])
    with pytest.raises(DeviceFault, match="bus error"):
        loop.run()
    assert [event.verdict for event in events] == ["NONE"]


def test_late_frames_of_a_camera_are_none_and_not_inferred() -> None:
    old = Frame(noise(0), 0, time.monotonic() - 9.0, time.time(), "cam", "0")
    pipeline = Arithmetic()
    loop, events = run_loop(pipeline, [Script([old], kind="live")], settings_of(max_age_ms=5000))
    assert pipeline.calls == 0
    assert events[0].verdict == "NONE"
    assert events[0].reason is not None
    assert events[0].reason.startswith("late: 9")
    check_account(loop)


def test_a_slow_inference_makes_a_live_verdict_late_but_not_a_file() -> None:
    def score(call: int) -> float:
        time.sleep(0.05)
        return 0.0

    for kind, verdict in (("live", "NONE"), ("video", "OK")):
        _, events = run_loop(Arithmetic(score), [Script([0], kind=kind)], settings_of(max_age_ms=30))  # type: ignore[arg-type]
        assert [event.verdict for event in events] == [verdict]


def test_repetitions_of_a_live_camera_are_dropped_until_it_counts_as_frozen() -> None:
    class Lockstep(Script):
        """Waits until the frame before has been looked at, so that none is overwritten."""

        def read(self, timeout_s: float) -> Frame | End:  # type: ignore[override]
            deadline = time.monotonic() + 5.0
            while loop.workers[0].mailbox.ready and time.monotonic() < deadline:
                time.sleep(0.001)
            index = next(self.indices, None)
            if index is None:
                return End()
            return Frame(noise(0), index, time.monotonic(), time.time(), "cam", str(index))

        indices = iter(range(6))

    loop, events = make_loop(
        Arithmetic(), [Lockstep([], kind="live")], settings_of(max_age_ms=60_000)
    )
    loop.run()
    assert [(event.frame, event.verdict) for event in events] == [(0, "OK"), (3, "NONE"), (4, "NONE"), (5, "NONE")]
    assert loop.workers[0].counters.dropped == 2
    check_account(loop)


def frozen_with_a_clock(tick: int) -> Frame:
    image = noise(1, 128, 192)
    image[:8, :16] = tick
    return Frame(image, tick, time.monotonic(), time.time(), "cam", str(tick))


def alternating(tick: int) -> Frame:
    return Frame(noise(tick % 2), tick, time.monotonic(), time.time(), "cam", str(tick))


@pytest.mark.parametrize(("made", "new"), [(frozen_with_a_clock, 1), (alternating, 2)])
def test_a_frozen_camera_is_not_judged_however_it_hides(made: Callable[[int], Frame], new: int) -> None:
    """60 frames: a clock beside the judged region goes on, or two stale buffers come in turn."""
    roi = "64,32,100,80" if made is frozen_with_a_clock else None
    loop, events = run_lockstep((made(tick) for tick in range(60)), settings_of(max_age_ms=60_000, roi=roi))
    assert [event.verdict for event in events] == ["OK"] * new + ["NONE"] * (58 - new)
    assert {event.reason.split(":")[0] for event in events if event.reason} == {"frozen"}
    assert loop.workers[0].counters.dropped == 2
    check_account(loop)


def test_a_frozen_camera_is_seen_though_products_with_other_regions_take_turns() -> None:
    loop, _ = make_loop(Arithmetic(), [Script([], kind="live")], settings_of(max_age_ms=60_000))
    worker, regions = loop.workers[0], ("64,32,100,80", "0,0,64,64")
    judged = 0
    for tick in range(12):
        worker.adopt(settings_of(max_age_ms=60_000, roi=regions[tick % 2]), CaptureConditions(), None)
        frame = Frame(noise(1, 128, 192), tick, time.monotonic(), time.time(), "cam", str(tick))
        judged += isinstance(worker._examine(Delivery(frame, frame.captured_at, None, 0)), Judgeable)
    assert judged == 2  # the first of each product


class Eye:
    """Sees a part at rest, or the empty station."""

    present = True

    def look(self, image: np.ndarray) -> Observation:
        return Observation(self.present, True, np.full((4, 4), 50.0, np.float32), 1.0)


def test_a_part_that_rests_there_since_before_a_change_of_product_is_not_judged_as_the_new_one() -> None:
    loop, _ = make_loop(Arithmetic(), [Script([], kind="live")], settings_of(max_age_ms=60_000, part_frames=1))
    worker, eye, run = loop.workers[0], Eye(), settings_of(part_frames=1, part_candidates=1)
    worker.adopt(run, CaptureConditions(), SeenParts(cast(PresenceDetector, eye), run.run), "product: it may be an old one")
    faults = []
    for tick, present in enumerate((True, True, False, True)):
        eye.present = present
        frame = Frame(noise(tick), tick, time.monotonic(), time.time(), "cam", str(tick))
        worker._examine(Delivery(frame, frame.captured_at, 0))
        faults += [one.fault for one in worker.poll() if isinstance(one, Judgeable)]
    assert faults == ["product: it may be an old one", None]


@pytest.mark.parametrize(("second", "verdict"), [("a", "OK"), ("b", "NONE")])
def test_a_part_whose_frames_two_bundles_judged_has_no_verdict(second: str, verdict: str) -> None:
    loop, events = make_loop(Arithmetic(), [Script([])], settings_of(max_age_ms=60_000))
    worker = loop.workers[0]
    for number, sha256 in enumerate(("a", second, second)):
        judge = Judge(Arithmetic(), THRESHOLDS, WEIGHT, 60_000.0, tag=(None, sha256))
        loop.adopt(judge, settings_of(), CaptureConditions(), lambda first: None)
        frame = Frame(noise(number), number, time.monotonic(), time.time(), "cam", str(number))
        loop._handle(worker, Judgeable(frame, frame.captured_at, part="7", last=number == 2))
    assert [(event.part, event.verdict) for event in events] == [("7", verdict)]


def test_max_frames_stops_every_camera_at_its_own_count() -> None:
    sources = [Script(range(50), name="a"), Script(range(3), name="b"), Script(range(50), name="c")]
    loop, events = run_loop(Arithmetic(), sources, settings_of(max_frames=5))
    counts = {name: sum(event.camera == name for event in events) for name in "abc"}
    assert counts == {"a": 5, "b": 3, "c": 5}
    assert all(source.closed for source in sources)
    check_account(loop)


def test_cameras_share_fairly() -> None:
    """Three sources that always have a frame ready get the same number of turns."""

    class Ready(Arithmetic):
        def infer(self, image: np.ndarray) -> object:  # type: ignore[override]
            deadline = time.monotonic() + 5.0
            while not all(s.mailbox.ready for s in loop.workers if not s.ended) and time.monotonic() < deadline:
                time.sleep(0.0005)
            return super().infer(image)

    loop, events = make_loop(Ready(), [Script(range(40), name=name) for name in "abc"])
    loop.run()
    first = [event.camera for event in events[:60]]
    assert max(first.count(name) for name in "abc") - min(first.count(name) for name in "abc") <= 2
    assert len(events) == 120
    check_account(loop)


def test_stop_judges_what_has_arrived_and_ends() -> None:
    loop, events = make_loop(Arithmetic(lambda call: (time.sleep(0.005), 0.0)[1]), [Script(range(10**6))])
    timer = threading.Timer(0.2, loop.stop)
    timer.start()
    loop.run()
    assert 0 < len(events) < 10**6
    assert [event.frame for event in events] == list(range(len(events)))
    check_account(loop)


def test_drops_of_a_live_camera_are_counted() -> None:
    loop, events = run_loop(
        Arithmetic(lambda call: (time.sleep(0.01), 0.0)[1]),
        [Script(range(500), kind="live")],
        settings_of(max_age_ms=60_000),
    )
    counters = loop.workers[0].counters
    assert counters.captured == 500
    assert counters.dropped > 0
    assert counters.judged == len(events)
    assert counters.lost == 0
    check_account(loop)


@pytest.mark.parametrize(
    "change",
    [
        {"max_frames": 0},
        *({"max_age_ms": value} for value in (0.0, 60_001.0, 1e300, float("inf"), float("nan"))),
        *({"give_up_s": value} for value in (-1.0, 1e300, float("inf"), float("nan"))),
    ],
)
def test_settings_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        RunTable(**change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "fps", "first", "seconds"),
    [
        ("live", 30.0, False, 0.9),
        ("live", 0.5, False, 3.6),
        ("live", None, False, 2.0),
        ("live", 30.0, True, 10.0),
        ("synthetic", 10.0, False, 0.9),
        ("video", 30.0, False, 30.0),
        ("images", None, True, 30.0),
    ],
)
def test_when_a_source_counts_as_stalled(kind: str, fps: float | None, first: bool, seconds: float) -> None:
    assert stall_s(kind, fps, first) == seconds  # type: ignore[arg-type]
