"""Bias corrections: the mean of every channel comes back, for the plan they were measured with."""

from __future__ import annotations

import numpy as np
import pytest

from calibration.collect import collect
from calibration.correction import corrections
from calibration.quantise import quantise
from tests.calibration.nets import Array, cnn, feeds, run


def shift(data: bytes, pictures: list[dict[str, Array]]) -> float:
    """Return the mean absolute shift of the channels of "mixed"."""
    pairs = [(run(cnn(), feed, ["mixed"])[0], run(data, feed, ["mixed"])[0]) for feed in pictures]
    return float(np.abs(np.mean([b - a for a, b in pairs], axis=(0, 1, 3, 4))).mean())


@pytest.mark.parametrize("dialect", ["tensorrt", "cpu"])
@pytest.mark.parametrize("keep", [(), ("n_stem", "n_branch1")])
def test_means_come_back(dialect: str, keep: tuple[str, ...]) -> None:
    """With 5-bit weights everything shifts; on unseen pictures two thirds of it or more are taken back."""
    ranges = collect(cnn(), feeds(8, 16), threads=1)
    held = corrections(cnn(), ranges, feeds(8, 16), dialect, keep, weight_limit=15, threads=1)
    unseen = feeds(8, 16, seed=7)
    plain = quantise(cnn(), ranges, dialect, keep, weight_limit=15, correct_bias=False)
    corrected = quantise(cnn(), ranges, dialect, keep, weight_limit=15, corrections=held)
    assert set(keep).isdisjoint(held)
    assert len(held) == 8 - len(keep)
    assert shift(corrected, unseen) < 0.34 * shift(plain, unseen)
