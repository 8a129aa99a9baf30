"""The order of trays: seeds that never meet, exact shares of anomalies, frames in any order."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_ad.errors import BadInput
from edge_ad.synthetic import line
from edge_ad.synthetic.line import DEFECTS, SPLIT_CAPACITY, SPLITS, VIDEO_START


@given(seed=st.integers(0, 1000), index=st.integers(0, SPLIT_CAPACITY - 1))
def test_seeds_of_splits_and_video_never_meet(seed: int, index: int) -> None:
    seeds = [line.split_seed(seed, split, index) for split in SPLITS]
    starts = [line.split_seed(seed, split, 0) for split in SPLITS]
    ends = [line.split_seed(seed, split, SPLIT_CAPACITY - 1) for split in SPLITS]
    assert all(start <= s <= end for start, s, end in zip(starts, seeds, ends, strict=True))
    # Ranges follow one another without overlap, the video after the last, the next line after the video.
    assert all(end < start for end, start in zip(ends, starts[1:], strict=False))
    assert ends[-1] < seed * 2**32 + VIDEO_START < line.split_seed(seed + 1, "train", 0)


def test_a_split_refuses_what_would_run_into_the_next() -> None:
    with pytest.raises(BadInput, match="out of range"):
        line.split_seed(0, "train", SPLIT_CAPACITY)
    with pytest.raises(BadInput, match="unknown split"):
        line.split_seed(0, "holdout", 0)
    with pytest.raises(BadInput, match="negative"):
        line.split_seed(-1, "train", 0)


@pytest.mark.parametrize("seed", [0, 7])
def test_half_of_four_hundred_parts_are_bad_each_defect_twenty_times(seed: int) -> None:
    result = Counter(line.part_defect(part, seed, 0.5) for part in range(400))
    assert result == {"good": 200, **dict.fromkeys(DEFECTS, 20)}


@given(rate=st.floats(0, 1), seed=st.integers(0, 50))
@settings(max_examples=40, deadline=None)
def test_the_share_of_anomalies_is_exact(rate: float, seed: int) -> None:
    bad = sum(line.part_defect(part, seed, rate) != "good" for part in range(200))
    assert abs(bad - 200 * rate) <= 1


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_bad_rates_are_reported(rate: float) -> None:
    with pytest.raises(BadInput, match="anomaly rate"):
        line.part_defect(0, 0, rate)


def test_frames_can_be_had_in_any_order() -> None:
    frames = list(line.line_frames(9, seed=4, size=64, hold=3))
    assert [truth["part"] for _, truth in frames] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [truth["frame"] for _, truth in frames] == list(range(9))
    for index in (8, 0, 5):
        image, truth = line.line_frame(index, seed=4, size=64, hold=3)
        assert truth == frames[index][1]
        assert np.array_equal(image, frames[index][0])
    assert not np.array_equal(frames[0][0], frames[1][0])


def test_a_frame_is_the_tray_its_truth_names() -> None:
    image, truth = line.line_frame(3, seed=2, size=96)
    defect = None if truth["defect"] == "good" else truth["defect"]
    assert np.array_equal(image, line.render_tray(truth["seed"], defect, 96).image)
    assert truth["kind"] == line.kind_of(truth["defect"])


def test_frames_without_end_and_bad_frames() -> None:
    endless = line.line_frames(None, seed=0, size=64)
    assert [next(endless)[1]["frame"] for _ in range(3)] == [0, 1, 2]
    assert list(line.line_frames(0, seed=0)) == []
    with pytest.raises(BadInput, match="choose 0 or more"):
        list(line.line_frames(-1, seed=0))
    with pytest.raises(BadInput, match="hold 0"):
        line.line_frame(0, seed=0, hold=0)
