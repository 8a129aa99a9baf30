"""Known images between the parts: when they are judged, and what a wrong score does."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_ad.bundle import open_bundle
from edge_ad.engines.pipeline import Pipeline
from edge_ad.errors import DeviceFault
from edge_ad.events import Event
from edge_ad.inspection.canary import Canary, Known, known_images
from edge_ad.inspection.judge import InspectionResult
from edge_ad.inspection.products import Product
from tests.fixtures.tiny_bundle import make_tiny_bundle
from tests.inspection.line import Script

SOURCE = Script([])
GOOD = Known("a golden image", np.zeros((2, 2, 3), np.uint8), 0.5, 0.01)
BAD = Known("a known anomaly", np.ones((2, 2, 3), np.uint8), 7.0, 0.07)


class Line:
    """A canary on a clock of its own, with engines that take ``took_s`` and score what ``scores`` says."""

    def __init__(self, took_s: float = 0.01) -> None:
        self.now, self.busy, self.took_s = 100.0, False, took_s
        self.scores = {0: 0.5, 1: 7.0}
        self.judged: list[tuple[float, int]] = []
        self.canary = Canary(self._infer, [GOOD, BAD], lambda: self.busy, clock=lambda: self.now)

    def _infer(self, image: NDArray[np.uint8]) -> float:
        which = int(image[0, 0, 0])
        self.judged.append((round(self.now, 1), which))
        self.now += self.took_s
        return self.scores[which]

    def run(self, seconds: float, step: float = 0.5) -> None:
        for _ in range(round(seconds / step)):
            self.now += step
            self.canary.on_tick()


def verdict(name: str, reason: str | None) -> InspectionResult:
    return InspectionResult(Event("cam", 1, "1", 0.0, name, None, {}, 1.0, reason))  # type: ignore[arg-type]


def test_both_are_judged_in_turn_while_verdicts_flow() -> None:
    line = Line()
    line.run(45.0)
    assert [which for _, which in line.judged] == [0, 1, 0, 1]
    assert line.judged[0][0] == pytest.approx(110.0, abs=0.6)


def test_both_are_judged_in_turn_though_products_take_turns_faster() -> None:
    line = Line()
    products = [SimpleNamespace(name=name, known=[GOOD, BAD], inferring=_Engine(line)) for name in ("red", "blue")]
    for turn in range(200):
        line.canary.on_product(cast(Product, products[turn % 2]))
        line.run(1.0)
    assert [which for _, which in line.judged].count(1) >= 8
    products[0].known = [BAD]  # measured again
    line.canary.on_product(cast(Product, products[0]))
    line.run(25.0)
    assert line.judged[-1][1] == 1


class _Engine:
    def __init__(self, line: Line) -> None:
        self._line = line

    def infer(self, image: NDArray[np.uint8]) -> SimpleNamespace:
        return SimpleNamespace(score=self._line._infer(image))


def test_it_takes_no_more_than_its_share() -> None:
    line = Line(took_s=1.0)
    line.run(1000.0)
    assert 9 <= len(line.judged) <= 11, "one second of a hundred"


def test_parts_go_first_until_it_is_overdue() -> None:
    line = Line()
    line.busy = True
    line.run(29.0)
    assert line.judged == []
    line.run(3.0)
    assert len(line.judged) == 1


@pytest.mark.parametrize(("which", "score"), [(0, 0.6), (0, float("nan")), (1, 0.5), (1, 0.0)])
def test_a_wrong_score_ends_the_run(which: int, score: float) -> None:
    line = Line()
    line.scores[which] = score
    with pytest.raises(DeviceFault, match="self-test failed while running"):
        line.run(45.0)


def test_an_engine_that_a_verdict_blames_is_tried_at_once() -> None:
    line = Line()
    line.canary.on_result(verdict("NONE", "dark: nothing to see"), SOURCE)
    line.run(0.5)
    assert line.judged == []
    line.canary.on_result(verdict("NONE", "engine: every raw score is exactly 0"), SOURCE)
    line.run(0.5)
    assert [which for _, which in line.judged] == [0, 1]
    line.run(5.0)
    assert len(line.judged) == 2


def test_what_a_bundle_gives(tmp_path: Path) -> None:
    bundle = open_bundle(make_tiny_bundle(tmp_path / "tiny.edgead"))
    with Pipeline(bundle) as pipeline:
        good, bad = known_images(lambda image: pipeline.infer(image).score, bundle)
    assert good.score <= bundle.thresholds.warn
    assert bad.score > bundle.thresholds.ng
