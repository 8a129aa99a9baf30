"""Drift of normal images, with a judge whose scores are known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from edge_ad.data.datasets import TestItem
from edge_ad.data.images import Image
from edge_ad.engines.offline import Workers
from edge_ad.evaluation.evaluate import DISTURBANCES, MAX_NORMAL_IMAGES, blur, brighten, drift, shift
from edge_ad.evaluation.figures import TestScores, judge_all
from edge_ad.scoring import Thresholds
from tests.data.folders import save
from tests.evaluation.test_figures import _statistics

STATISTICS = _statistics((0.5, 0.0, 0.5, 0.0, 0.0))


@dataclass
class Inferred:
    raw: np.ndarray
    score: float
    map: np.ndarray


class Judge:
    """structure is the mean brightness, local the brightest column's place; the score is structure."""

    image_size = (20, 50)
    branches = ("structure", "local")

    def infer(self, image: Image) -> Inferred:
        raw = np.zeros(5, np.float32)
        raw[0], raw[2] = image.mean(), image.mean(axis=(0, 2)).argmax()
        return Inferred(raw, float(raw[0]), np.zeros((4, 4), np.float32))

    def tensor(self, name: str) -> np.ndarray:
        raise AssertionError(name)  # the branch logic is not computed


def _goods(folder: Path, count: int) -> TestScores:
    items = []
    for index in range(count):
        image = np.full((20, 50, 3), 100, np.uint8)
        image[:, 10] = 140
        items.append(TestItem(save(folder / f"{index}.png", image), "good", "good"))
    return judge_all(Workers([Judge()]), items)


def test_changes_by_hand(tmp_path: Path) -> None:
    """Mean 100.8: ten per cent of it are 10.08; the deviation is 2. A shift of 2 % is one column."""
    scores = _goods(tmp_path, 3)
    assert scores.logic == ()
    found = drift(Workers([Judge()]), scores, STATISTICS, Thresholds(warn=95.0, ng=105.0))
    assert found is not None
    assert list(found) == list(DISTURBANCES)
    brighter, darker = found["brighter 10 %"], found["darker 10 %"]
    assert brighter["score"] == pytest.approx(10.08, abs=1e-4)
    assert brighter["z"]["structure"] == pytest.approx(5.04, abs=1e-4)
    assert brighter["z"]["logic"] is None
    assert (brighter["count"], brighter["warn_count"], brighter["of"]) == (3, 3, 3)
    assert (darker["count"], darker["warn_count"]) == (0, 0)
    assert darker["before"] == {"count": 0, "warn_count": 3}
    assert found["shift right 2 %"]["z"]["local"] == pytest.approx(0.5)
    assert found["shift down 2 %"]["z"]["local"] == 0.0


def test_at_most_so_many_goods_are_disturbed(tmp_path: Path) -> None:
    found = drift(Workers([Judge()]), _goods(tmp_path, MAX_NORMAL_IMAGES + 9), STATISTICS, Thresholds(warn=1.0, ng=2.0))
    assert found is not None
    assert {values["of"] for values in found.values()} == {MAX_NORMAL_IMAGES}


def test_without_goods_there_is_no_drift() -> None:
    nothing = TestScores((), np.zeros((0, 5), np.float32), np.zeros(0, np.float32), (), ())
    assert drift(Workers([Judge()]), nothing, STATISTICS, Thresholds(warn=1.0, ng=2.0)) is None


def test_disturbances() -> None:
    image = np.full((10, 10, 3), 200, np.uint8)
    assert int(brighten(image, 1.5).max()) == 255
    image[:, 5:] = 0
    assert shift(image, 0.2, 0.0)[0, :, 0].tolist() == [200] * 7 + [0] * 3
    soft = blur(image, 0.1)
    assert 0 < int(soft[5, 5, 0]) < 200
    assert soft.mean() == pytest.approx(image.mean(), rel=0.05)
