"""Proofs that an image is new: a light that blinks in it, and the camera's own numbers."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pytest

from edge_ad.camera.driver import Grab, RawFrame
from edge_ad.camera.frames import BadFrame, Frame
from edge_ad.camera.live import Live, Patience
from edge_ad.camera.liveness import Blinking, Light, Liveness, LivenessCheck, parse_liveness
from edge_ad.config import CameraTable, Config, RunTable
from edge_ad.errors import BadInput
from tests.camera.pictures import noise
from tests.camera.test_lag import Delayed
from tests.inspection.line import run_lockstep

HZ = 2.0
WHERE = Blinking(4, 4, 16, 16, HZ)


def blink(at: float, phase: float = 0.0) -> float:
    """The brightness of a light that is on in the first half of each period."""
    return 200.0 if ((at + phase) * HZ) % 1.0 < 0.5 else 20.0


def faults(light: Light, moments: np.ndarray, values: list[float]) -> list[str | None]:
    return [light.see(float(at), value) for at, value in zip(moments, values, strict=True)]


@pytest.mark.parametrize("fps", [12.0, 25.0, 100.0])
@pytest.mark.parametrize("off_by", [-0.1, 0.0, 0.1])
def test_a_light_that_blinks_is_proof_after_a_period_and_a_half(fps: float, off_by: float) -> None:
    """Five minutes of a steady camera with jitter, and a light a tenth too fast or too slow: not one false fault."""
    rng = np.random.default_rng(3)
    moments = np.arange(0.0, 300.0, 1.0 / fps) + rng.uniform(0.0, 0.2 / fps, int(np.ceil(300.0 * fps)))
    result = faults(Light(WHERE), moments, [blink(at * (1 + off_by)) for at in moments])
    unproved = [at for at, fault in zip(moments, result, strict=True) if fault is not None]
    assert max(unproved) < 1.5 / HZ + 2.0 / fps
    assert all("long enough" in fault for fault in result if fault is not None)


FPS = 25.0
MOMENTS = np.arange(0.0, 20.0, 1.0 / FPS)
STILL_FROM = 10.0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("a freeze with fresh noise", lambda at: blink(STILL_FROM)),
        ("two stale buffers in turn", lambda at: 200.0 if round(at * FPS) % 2 else 20.0),
        ("a freeze while the light is dark", lambda at: 20.0),
        ("a loop of 0.7 s played again", lambda at: blink(STILL_FROM - 0.7 + (at - STILL_FROM) % 0.7)),
        ("a loop of 4.2 s played again", lambda at: blink(STILL_FROM - 4.2 + (at - STILL_FROM) % 4.2)),
    ],
)
def test_what_equality_cannot_see_is_seen(name: str, value: object) -> None:
    assert callable(value)
    values = [blink(at) if at < STILL_FROM else value(at) for at in MOMENTS]
    result = faults(Light(WHERE), MOMENTS, values)
    before = [fault for at, fault in zip(MOMENTS, result, strict=True) if 1.0 < at < STILL_FROM]
    assert before == [None] * len(before)
    # Within a period where the light stands still; a recording at the seam where it begins anew.
    first = next(at for at, fault in zip(MOMENTS, result, strict=True) if at >= STILL_FROM and fault)
    assert first - STILL_FROM <= (1.0 / HZ if "loop" not in name else 5.0)


def test_frames_that_come_too_seldom_prove_nothing() -> None:
    moments = np.arange(0.0, 20.0, 0.3)  # a half period is 0.25 s
    assert all(faults(Light(WHERE), moments, [blink(at) for at in moments]))


def test_after_a_gap_the_light_must_be_seen_anew() -> None:
    moments = np.concatenate([np.arange(0.0, 5.0, 0.04), np.arange(9.0, 14.0, 0.04)])
    result = faults(Light(WHERE), moments, [blink(at) for at in moments])
    again = [at for at, fault in zip(moments, result, strict=True) if fault and at >= 9.0]
    assert again
    assert max(again) < 9.0 + 1.5 / HZ + 0.1


def frame(index: int, brightness: float, number: int | None = None) -> Frame:
    picture = noise(index)
    picture[4:20, 4:20] = np.clip(picture[4:20, 4:20] * 0.1 + brightness, 0, 255).astype(np.uint8)
    return Frame(picture, index, index / FPS, 0.0, "cam", str(index), number=number)


def test_a_light_outside_the_picture_is_reported() -> None:
    check = LivenessCheck(Liveness(lights=(Blinking(60, 0, 16, 16, 2.0),)))
    assert "outside the image" in (check.fault(frame(0, 20.0)) or "")


def test_a_camera_without_numbers_is_reported() -> None:
    check = LivenessCheck(Liveness(counter=True))
    assert check.fault(frame(0, 20.0, number=7)) is None
    assert "does not number its frames" in (check.fault(frame(1, 20.0)) or "")


def test_a_frozen_camera_with_fresh_noise_is_none_in_the_loop() -> None:
    """100 frames with fresh noise; from the fortieth on the light stands still."""
    start = time.monotonic() - 60.0 / FPS
    frames = []
    for index in range(100):
        made = frame(index, blink(min(index, 40) / FPS))
        frames.append(Frame(made.image, index, start + index / FPS, 0.0, "cam", str(index)))
    settings = Config(run=RunTable(max_age_ms=60_000), camera=CameraTable(liveness=[f"blink:4,4,16,16@{HZ:g}"]))
    _, events = run_lockstep(frames, settings)
    verdicts = {event.frame: event.verdict for event in events}
    assert [verdicts[index] for index in range(22, 40)] == ["OK"] * 18
    assert {verdicts[index] for index in range(40 + round(FPS / HZ), 100)} == {"NONE"}
    assert {event.reason.split(":")[0] for event in events if event.reason} == {"frozen"}


def judged_after_an_opening(buffers: int, liveness: list[str], count: int = 60) -> list[int]:
    """Return which frames were OK: ten new ones, then after a second opening so many that nobody saw yet, in turn."""
    start = time.monotonic() - count / FPS
    frames = []
    for index in range(count):
        seed, opening = (index, 1) if index < 10 else (100 + index % buffers, 2)
        made = noise(seed)
        frames.append(Frame(made, index, start + index / FPS, 0.0, "cam", str(index), opening=opening))
    _, events = run_lockstep(frames, Config(run=RunTable(max_age_ms=60_000), camera=CameraTable(liveness=liveness)))
    assert {event.verdict for event in events} <= {"OK", "NONE"}
    assert {(event.reason or "frozen").split(":")[0] for event in events} == {"frozen"}
    return [event.frame for event in events if event.verdict == "OK" and event.frame is not None]


@pytest.mark.parametrize(
    ("buffers", "liveness", "first", "again"),
    [
        (1000, [], 1, range(11, 60)),  # a camera that lives
        (1, [], 1, ()),
        (3, [], 1, (11, 12)),  # the second and the third: seen through by more images alone
        (3, ["different:4"], 3, ()),
        (16, ["different:17"], 10, ()),
        (1000, ["different:17"], 10, range(26, 60)),
    ],
)
def test_an_old_picture_that_is_the_first_since_the_camera_was_opened_is_not_judged(
    buffers: int, liveness: list[str], first: int, again: Sequence[int]
) -> None:
    assert judged_after_an_opening(buffers, liveness) == [*range(first, 10), *again]


def test_a_light_sees_through_old_buffers_in_turn() -> None:
    start = time.monotonic() - 30.0 / FPS
    old = [frame(index, blink(index / FPS)).image for index in range(3)]
    frames = [Frame(old[index % 3], index, start + index / FPS, 0.0, "cam", str(index)) for index in range(30)]
    settings = Config(run=RunTable(max_age_ms=60_000), camera=CameraTable(liveness=[f"blink:4,4,16,16@{HZ:g}"]))
    _, events = run_lockstep(frames, settings)
    assert {event.verdict for event in events} == {"NONE"}


def test_each_opening_of_a_camera_is_counted() -> None:
    opened: list[Delayed] = []

    def opener() -> Delayed:
        opened.append(Delayed([0.0] * 2))
        return opened[-1]

    source = Live(opener, "cam", Patience(retry_first_s=0.001, retry_cap_s=0.002))
    source.open()
    openings: list[int] = []
    while len(openings) < 6:
        if isinstance(result := source.read(0.2), Frame):
            openings.append(result.opening)
    source.close()
    assert openings == [1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(
    "text",
    [
        "blink",
        "blink:1,2,3,4",
        "blink:1,2,0,4@2",
        "blink:1,2,3,4@0",
        "blink:1,2,3,4@21",
        "led",
        "",
        "blink:-1,2,3,4@2",
        "different:1",
        "different:18",
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(BadInput, match="blink:X,Y,WIDTH,HEIGHT@HZ"):
        parse_liveness([text])


def test_read() -> None:
    result = parse_liveness(["counter", "blink: 1, 2, 30, 40@0.5"])
    assert result == Liveness(True, (Blinking(1, 2, 30, 40, 0.5),), 2)
    assert parse_liveness([" different: 17"]) == Liveness(different=17)


class Numbered(Delayed):
    """A driver whose frames bear these numbers."""

    def __init__(self, numbers: list[int]) -> None:
        super().__init__([0.0] * len(numbers))
        self._numbers = iter(numbers)

    def grab(self) -> Grab:
        shot = super().grab()
        return (
            RawFrame(shot.image, shot.captured_at, 0.0, shot.stamp, number=next(self._numbers))
            if isinstance(shot, RawFrame)
            else shot
        )


@pytest.mark.parametrize(
    ("numbers", "stale"),
    [
        ([5, 6, 7, 9, 10], []),
        ([65534, 65535, 1, 2], []),  # 16 bits begin again
        ([0, 0, 0], []),  # a producer that does not count
        ([5, 6, 6, 7], [2]),
        ([5, 6, 5, 6, 5, 6], [2, 4]),
        ([8, 9, 3, 4], [2]),
    ],
)
def test_a_number_that_does_not_go_on_is_an_old_picture(numbers: list[int], stale: list[int]) -> None:
    source = Live(lambda: Numbered(numbers), "cam")
    source.open()
    results: list[Frame | BadFrame] = []
    while len(results) < len(numbers):
        if isinstance(result := source.read(0.2), (Frame, BadFrame)):
            results.append(result)
    source.close()
    assert [place for place, result in enumerate(results) if isinstance(result, BadFrame)] == stale
    assert all(result.reason.startswith("frozen") for result in results if isinstance(result, BadFrame))
