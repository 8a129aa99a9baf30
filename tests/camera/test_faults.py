"""Every fault that the injector makes, one by one, on a source with known frames."""

from __future__ import annotations

import numpy as np
import pytest

from edge_ad.camera.frames import BadFrame, End, Frame, Read, SourceError, SourceKind
from edge_ad.camera.synthetic import FaultInjector, Faults
from tests.camera.pictures import noise


class Counting:
    """Frame i is noise of seed i."""

    name = "counting"
    kind: SourceKind = "synthetic"
    fps: float | None = 1000.0

    def __init__(self, frames: int) -> None:
        self._left = iter(range(frames))

    def read(self, timeout_s: float) -> Read:
        index = next(self._left, None)
        return End() if index is None else Frame(noise(index), index, 1.0, 2.0, self.name, str(index))

    def close(self) -> None:
        self._left = iter(())


def outcome(frames: int, slow_s: float = 0.0, **ranges: range) -> list[Read]:
    faults = Faults({name: (span,) for name, span in ranges.items()}, slow_s)
    injector = FaultInjector(Counting(frames), faults, 1000.0)
    results: list[Read] = []
    while not results or not isinstance(results[-1], End):
        results.append(injector.read(1.0))
    return results[:-1]


def index_of(result: Read) -> int:
    assert isinstance(result, (Frame, BadFrame))
    return result.index


def image_of(result: Read) -> np.ndarray:
    assert isinstance(result, Frame)
    return result.image


def test_without_faults_nothing_changes() -> None:
    results = outcome(4)
    assert [index_of(result) for result in results] == [0, 1, 2, 3]
    for seed, result in enumerate(results):
        np.testing.assert_array_equal(image_of(result), noise(seed))


@pytest.mark.parametrize("fault", ["drop", "hang"])
def test_lost_frames_leave_a_gap(fault: str) -> None:
    assert [index_of(result) for result in outcome(6, **{fault: range(2, 4)})] == [0, 1, 4, 5]


def test_gone_is_an_error_for_each_frame() -> None:
    kinds = [type(result) for result in outcome(6, gone=range(2, 5))]
    assert kinds == [Frame, Frame, SourceError, SourceError, SourceError, Frame]


def test_freeze_repeats_the_last_good_picture() -> None:
    results = outcome(6, freeze=range(3, 5))
    assert [index_of(result) for result in results] == list(range(6))
    for result, seed in zip(results, [0, 1, 2, 2, 2, 5], strict=True):
        np.testing.assert_array_equal(image_of(result), noise(seed))


def test_black_corrupt_resize_and_slow() -> None:
    results = outcome(6, slow_s=0.001, black=range(1, 2), corrupt=range(2, 3), resize=range(3, 4), slow=range(4, 5))
    assert image_of(results[1]).max() == 0
    assert isinstance(results[2], BadFrame)
    assert results[2].index == 2
    assert image_of(results[3]).shape == (24, 32, 3)
    slow = results[4]
    assert isinstance(slow, Frame)
    assert slow.captured_at == 1.0
