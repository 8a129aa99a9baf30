"""Presence and parts: by hand, on drawn images, and the whole belt: as many events as trays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edge_ad.config import RunTable
from edge_ad.errors import BadInput
from edge_ad.inspection.part_tracking import Call, PartTracker, TriggerTracker
from edge_ad.inspection.presence import (
    LikeNormal,
    Matcher,
    Observation,
    PresenceDetector,
    UnlikeEmpty,
    difference,
    thumbnail,
)
from edge_ad.synthetic.line import Belt
from edge_ad.synthetic.tray import render_tray
from tests.camera.pictures import noise

SIZE = 96
GOODS = [render_tray(5 * 2**32 + seed, None, SIZE).image for seed in range(8)]


def sight(present: bool, still: bool, level: float = 0.0, sharpness: float = 1.0) -> Observation:
    thumb = np.zeros((32, 32), np.float32)
    thumb[:16] = level
    return Observation(present, still, thumb, sharpness)


def matcher(mode: str) -> Matcher:
    if mode == "settled":
        return LikeNormal(GOODS)
    belt = Belt(3, 99, SIZE)
    empty = [belt.frame(index)[0] for index in range(len(belt)) if belt.truth(index)["state"] == "empty"]
    return UnlikeEmpty(empty[:6], GOODS)


@pytest.mark.parametrize("mode", ["settled", "learned"])
@pytest.mark.parametrize("seed", [99, 3])
def test_as_many_parts_as_trays_and_each_from_frames_of_one_tray_at_rest(mode: str, seed: int) -> None:
    belt = Belt(12, seed if mode == "settled" else 99, SIZE)
    eye, tracker = PresenceDetector(matcher(mode)), PartTracker[int](RunTable())
    parts: list[set[int | None]] = []
    for index in range(len(belt)):
        image, truth = belt.frame(index)
        state, ready = tracker.see(index, eye.look(image))
        if truth["state"] == "empty":
            assert state != "held"
        if ready:
            assert len(ready.frames) == 3
            assert ready.part == str(len(parts) + 1)
            assert {belt.truth(frame)["state"] for frame in ready.frames} == {"settled"}
            parts.append({belt.truth(frame)["part"] for frame in ready.frames})
    assert parts == [{number} for number in range(12)]
    assert tracker.finish() is None


def test_goods_that_do_not_resemble_each_other_are_refused() -> None:
    with pytest.raises(BadInput, match="learned"):
        LikeNormal([noise(seed) for seed in range(6)])
    with pytest.raises(BadInput, match="at least 2"):
        LikeNormal(GOODS[:1])


def test_goods_that_look_like_the_empty_station_are_refused() -> None:
    with pytest.raises(BadInput, match="roi"):
        UnlikeEmpty([GOODS[0]], [GOODS[0]])
    with pytest.raises(BadInput, match="empty station"):
        UnlikeEmpty([], GOODS)


def test_light_alone_is_neither_motion_nor_a_part() -> None:
    belt = Belt(1, 99, SIZE)
    picture = belt.frame(0)[0]
    brighter = np.clip(picture.astype(np.float32) * 1.25, 0, 255).astype(np.uint8)
    assert difference(thumbnail(picture), thumbnail(np.clip(picture.astype(int) + 20, 0, 255).astype(np.uint8))) < 0.2
    assert not UnlikeEmpty([picture], GOODS).present(thumbnail(brighter), brighter)


def test_a_frame_is_still_after_the_third_like_it() -> None:
    eye = PresenceDetector(LikeNormal(GOODS))
    still = GOODS[0].astype(np.int16)
    pictures = [np.clip(still + np.random.default_rng(n).integers(-3, 4, still.shape), 0, 255) for n in range(5)]
    assert [eye.look(p.astype(np.uint8)).still for p in pictures] == [False, False, True, True, True]
    eye.forget()
    assert not eye.look(GOODS[0]).still


STEPS = {
    "empty": sight(False, True),
    "coming": sight(True, False),
    "rest": sight(True, True, 50.0),
    "other": sight(True, True, 90.0),
    "nothing": sight(False, False),
}


@pytest.mark.parametrize(
    ("steps", "parts"),
    [
        ("empty empty", []),
        ("coming rest rest rest rest empty", [[1, 2, 3]]),
        ("coming rest rest nothing", [[1, 2]]),  # left before its candidates were complete
        ("rest rest rest coming rest rest rest", [[0, 1, 2]]),  # shaken, not another part
        ("rest rest rest coming other other other", [[0, 1, 2], [4, 5, 6]]),  # swapped without a gap
        ("rest rest rest empty rest rest rest", [[0, 1, 2], [4, 5, 6]]),  # like the one before, after a gap
        ("rest coming rest rest empty", [[0]]),  # one look is enough; it is the same part afterwards
        ("coming coming nothing empty", []),  # passed without resting
    ],
)
def test_what_is_one_part(steps: str, parts: list[list[int]]) -> None:
    tracker = PartTracker[int](RunTable())
    results = [tracker.see(place, STEPS[name])[1] for place, name in enumerate(steps.split())]
    assert [list(ready.frames) for ready in results if ready] == parts


def test_the_sharpest_frames_are_judged_in_their_order() -> None:
    tracker = PartTracker[int](RunTable(part_frames=2, part_candidates=4))
    results = [tracker.see(n, sight(True, True, 50.0, sharp))[1] for n, sharp in enumerate([5.0, 1.0, 2.0, 9.0])]
    assert results[:3] == [None] * 3
    assert results[3] is not None
    assert (results[3].frames, results[3].passed_over) == ((0, 3), 2)


@given(st.lists(st.sampled_from(sorted(STEPS)), max_size=60))
def test_no_frame_is_lost_or_used_twice(steps: list[str]) -> None:
    tracker = PartTracker[int](RunTable(part_frames=2, part_candidates=3))
    busy, given_out, numbers = [], [], []
    for place, name in enumerate([*steps, "empty"]):
        before = tracker.keeps()
        _, ready = tracker.see(place, STEPS[name])
        grew = tracker.keeps() + (len(ready.frames) + ready.passed_over if ready else 0) - before
        assert grew in (0, 1)
        busy += [place] * grew
        if ready:
            given_out += ready.frames
            numbers.append(int(ready.part))
            assert len(ready.frames) <= 2
    assert tracker.keeps() == 0
    assert set(given_out) <= set(busy)
    assert len(set(given_out)) == len(given_out)
    assert numbers == list(range(1, len(numbers) + 1))


def test_calls_get_the_frames_after_them() -> None:
    tracker = TriggerTracker[str](RunTable(part_frames=2))
    assert tracker.see("early", 0.5, 1.0) == (False, [])
    tracker.call(Call("A", 1.0))
    tracker.call(Call("B", 2.0))
    assert tracker.see("before", 0.9, 1.0)[0] is False
    assert tracker.see("a1", 1.1, 1.0) == (True, [])
    kept, ready = tracker.see("b1", 2.1, 1.0)  # the next call closes the one before
    assert kept
    assert [(part.part, part.frames) for part in ready] == [("A", ("a1",))]
    _, ready = tracker.see("b2", 2.2, 1.0)
    assert [(part.part, part.frames) for part in ready] == [("B", ("b1", "b2"))]
    assert tracker.see("idle", 2.3, 1.0) == (False, [])
    assert tracker.state == "idle"


def test_a_call_without_frames_is_missed_and_one_with_too_few_makes_do() -> None:
    tracker = TriggerTracker[str](RunTable())
    tracker.call(Call("A", 0.0))
    tracker.see("a1", 0.5, 1.0)
    tracker.call(Call("B", 0.9))
    assert tracker.late(1.0) == ([], [])
    ready, missed = tracker.late(1.01)
    assert [(part.part, part.frames) for part in ready] == [("A", ("a1",))]
    assert missed == []
    assert tracker.late(2.0)[1] == [Call("B", 0.9)]
    assert tracker.state == "idle"


@pytest.mark.parametrize("change", [{"part_frames": 0}, {"part_frames": 101}, {"part_candidates": 101}])
def test_rules_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        RunTable(**change)
