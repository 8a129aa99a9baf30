"""Evaluation of parts that are located: maps and masks meet in the original image, and an unlocated part never passes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from edge_ad.data.datasets import Kind, TestItem
from edge_ad.data.images import Image
from edge_ad.engines.offline import Workers
from edge_ad.evaluation.evaluate import drift
from edge_ad.evaluation.figures import TestScores, image_figures, judge_all, logic_figures, spro_figures, suspect_masks
from edge_ad.evaluation.report import describe_counts, write_report
from edge_ad.geometry.fit import fit_geometry
from edge_ad.geometry.geometry import Geometry
from edge_ad.scoring import BRANCHES, MAPS, Statistics, Thresholds
from edge_ad.synthetic.single_part import PartOptions, render_part

VIEW = (240, 320)
RED = (255, 0, 0)
COUNT = len(BRANCHES)
STATISTICS = Statistics(
    np.tile(np.array([0, 1], np.float32), (len(MAPS), 1)), np.zeros(2, np.float32), np.eye(2, dtype=np.float32),
    np.zeros(COUNT, np.float32), np.ones(COUNT, np.float32), np.full(COUNT, 1 / COUNT, np.float32),
)
THRESHOLDS = Thresholds(warn=2.0, ng=5.0)


@dataclass
class Result:
    raw: npt.NDArray[np.float32]
    score: float
    map: npt.NDArray[np.float32]


class RedSeer:
    """Judges the share of red pixels; its maps show where they are."""

    branches: Sequence[str] = BRANCHES

    def __init__(self, size: tuple[int, int]) -> None:
        self.image_size = size

    def infer(self, image: Image) -> Result:
        red = ((image[..., 0] > 200) & (image[..., 1] < 90)).astype(np.float32)
        self.map = cv2.resize(red, (image.shape[1] // 2, image.shape[0] // 2), interpolation=cv2.INTER_AREA)
        score = float(1000 * red.mean())
        return Result(np.full(COUNT, score, np.float32), score, self.map)

    def tensor(self, name: str) -> npt.NDArray[Any]:
        return self.map[None, None]


@pytest.fixture(scope="module")
def geometry() -> Geometry:
    return fit_geometry([part(seed) for seed in range(12)], method="foreground", pixels=16384).geometry


def part(seed: int) -> Image:
    return render_part(seed, PartOptions(kind="key", size=VIEW)).image


def item(folder: Path, name: str, kind: Kind, image: Image, mask: npt.NDArray[np.bool_] | None = None) -> TestItem:
    cv2.imwrite(str(folder / f"{name}.png"), image[:, :, ::-1])
    if mask is not None:
        cv2.imwrite(str(folder / f"{name}_mask.png"), mask.astype(np.uint8) * np.uint8(255))
    return TestItem(folder / f"{name}.png", kind, kind, () if mask is None else (folder / f"{name}_mask.png",))


def spoilt(seed: int) -> tuple[Image, npt.NDArray[np.bool_]]:
    """A part with a red spot in its middle, and the mask of the spot in the original image."""
    rendered = render_part(seed, PartOptions(kind="key", size=VIEW))
    mask = np.zeros(VIEW, np.uint8)
    cv2.circle(mask, (round(rendered.x), round(rendered.y)), 8, 255, -1)
    spot = (mask > 0) & (rendered.mask > 0)
    image = rendered.image.copy()
    image[spot] = RED
    return image, spot


@pytest.fixture(scope="module")
def scores(geometry: Geometry, tmp_path_factory: pytest.TempPathFactory) -> TestScores:
    folder = tmp_path_factory.mktemp("items")
    empty = np.full((*VIEW, 3), (62, 70, 66), np.uint8)
    items = [item(folder, f"good_{seed}", "good", part(seed)) for seed in range(100, 104)]
    items.append(item(folder, "good_empty", "good", empty))
    items += [item(folder, f"bad_{seed}", "structural", *spoilt(seed)) for seed in range(200, 203)]
    corner = np.zeros(VIEW, bool)
    corner[:20, :20] = True
    items.append(item(folder, "bad_empty", "structural", empty, corner))
    return judge_all(Workers([RedSeer(geometry.size)]), items, geometry=geometry)


def test_heat_is_found_where_the_mask_is_in_the_original_image(scores: TestScores) -> None:
    """Three defects of four are found almost whole before any other pixel. The fourth shows no part, and ties with all other
    pixels: up to a rate of 0.3 its overlap rises to 0.3, to 0.15 in the mean.
    """
    areas = spro_figures(scores, {})
    assert areas["0.3"]["structural"] == pytest.approx((3 + 0.15) / 4, abs=0.01)
    assert areas["0.01"]["structural"] > 0.6
    # A map that is not turned back finds a spot only where it lies in the middle of the image by chance.
    whole = TestScores(scores.items, scores.raw, scores.score, scores.maps, scores.sizes)
    assert spro_figures(whole, {})["0.01"]["structural"] < 0.3


def test_the_logic_map_meets_the_defect_in_the_cut_out(scores: TestScores) -> None:
    factor = logic_figures(scores)["structural"]
    assert factor is not None
    assert factor > 20  # all of the mass of three of four maps lies in a spot of about two percent of them
    assert suspect_masks(scores) == []


def test_a_part_that_is_not_located_does_not_pass(scores: TestScores) -> None:
    """It counts as NG and as the highest score, good or not: of 4 x 5 pairs the unlocated good one wins 3 and ties 1."""
    figures = image_figures(scores, STATISTICS, THRESHOLDS, seed=0)
    assert sorted(scores.unlocated) == [4, 8]
    assert figures["unlocated"] == {"good": 1, "logical": 0, "structural": 1}
    assert figures["false_reject"] == {"count": 1, "warn_count": 1, "of": 5}
    assert figures["found"]["structural"] == {"count": 4, "warn_count": 4, "of": 4}
    assert figures["image_auroc"]["structural"] == pytest.approx((20 - 3 - 0.5) / 20)
    assert set(figures["branches"]) == set(BRANCHES)
    assert all(values["structural"] == pytest.approx(16.5 / 20) for values in figures["branches"].values())
    json.dumps(figures, allow_nan=False)
    words = describe_counts({**figures, "suspect_masks": []})[-1]
    assert words == (
        "parts not located: 1 of 5 good, 1 of 4 structural; none of them passes, so they count as NG and as the highest score"
    )


def test_a_set_without_any_located_part_has_figures_too(geometry: Geometry, tmp_path: Path) -> None:
    empty = np.full((*VIEW, 3), (62, 70, 66), np.uint8)
    items = [item(tmp_path, "a", "good", empty), item(tmp_path, "b", "structural", empty)]
    nothing = judge_all(Workers([RedSeer(geometry.size)]), items, geometry=geometry)
    figures = image_figures(nothing, STATISTICS, THRESHOLDS, seed=0)
    assert figures["image_auroc"]["structural"] == 0.5
    assert drift(Workers([RedSeer(geometry.size)]), nothing, STATISTICS, THRESHOLDS, geometry=geometry) is None


def test_a_disturbed_part_is_located_again(scores: TestScores, geometry: Geometry) -> None:
    """A part that is shifted is cut out where it lies then; squashed whole images are shifted as inputs, as ever."""
    found = drift(Workers([RedSeer(geometry.size)]), scores, STATISTICS, THRESHOLDS, geometry=geometry)
    assert found is not None
    assert found["shift right 2 %"]["of"] == 4
    assert found["shift right 2 %"]["unlocated"] == 0
    assert abs(found["shift right 2 %"]["score"]) < 0.5


def test_the_report_shows_the_part_and_says_what_was_not_located(scores: TestScores, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="edge-ad[train] is not installed")
    figures = image_figures(scores, STATISTICS, THRESHOLDS, seed=0)
    figures |= {"au_spro": spro_figures(scores, {}), "logic_map": logic_figures(scores), "suspect_masks": [], "drift": None}
    bundle = {"path": "p", "name": "n", "preset": "t", "sha256": "0"}
    figures |= {"backend": "x", "precision": "fp32", "data": "d", "folders": [], "bundle": bundle}
    write_report(tmp_path / "report.html", figures, scores, STATISTICS, thresholds=THRESHOLDS, name="parts")
    page = (tmp_path / "report.html").read_text()
    assert "NONE, not located: no part is in view" in page
    assert "What the thresholds promise: NG above 5, WARN above 2; set by hand" in page
