"""The belt: its truth, its images, and that frames can be had in any order."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from edge_ad.errors import BadInput
from edge_ad.synthetic.line import Belt, line_frame, part_defect


def test_every_tray_comes_rests_and_leaves_once_with_an_empty_belt_round_it() -> None:
    belt = Belt(9, 4, 64)
    runs = [key for key, _ in itertools.groupby((t["part"], t["state"]) for t in map(belt.truth, range(len(belt))))]
    wanted = [
        (part, state)
        for number in range(9)
        for part, state in ((None, "empty"), (number, "entering"), (number, "settled"), (number, "leaving"))
    ]
    assert runs == [*wanted, (None, "empty")]


def test_truth_reports_the_defect() -> None:
    belt = Belt(40, 4, 64, anomaly_rate=0.5)
    message = {truth["part"]: truth["defect"] for truth in map(belt.truth, range(len(belt)))}
    assert [message[part] for part in range(40)] == [part_defect(part, 4, 0.5) for part in range(40)]


def test_a_resting_tray_is_the_tray_of_the_line_but_for_noise() -> None:
    belt = Belt(3, 4, 128)
    index = next(i for i in range(len(belt)) if belt.truth(i)["state"] == "settled")
    first, second = belt.frame(index)[0].astype(int), belt.frame(index + 1)[0].astype(int)
    tray = line_frame(0, 4, 128)[0].astype(int)
    assert 0.5 < np.abs(first - second).mean() < 4.0
    assert np.abs(first - tray).mean() < 4.0


def test_frames_can_be_had_in_any_order() -> None:
    one, other = Belt(5, 2, 64), Belt(5, 2, 64)
    backwards = {index: other.frame(index) for index in reversed(range(len(other)))}
    for index in range(len(one)):
        image, truth = one.frame(index)
        assert truth == backwards[index][1]
        np.testing.assert_array_equal(image, backwards[index][0])


@pytest.mark.parametrize("bad", [{"parts": 0}, {"seed": -1}, {"still": 2}])
def test_values_refused(bad: dict[str, int]) -> None:
    with pytest.raises(BadInput):
        Belt(**{"parts": 1, "seed": 0, **bad})
    with pytest.raises(BadInput, match="frame"):
        Belt(1, 0, 64).frame(100_000)
