"""Figures from made-up scores: every number by hand, and None wherever there is nothing to measure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_ad.data.datasets import TestItem
from edge_ad.evaluation.evaluate import mean_figures
from edge_ad.evaluation.figures import TestScores, above, image_figures, spro_figures, subset_score
from edge_ad.scoring import BRANCHES, Statistics, Thresholds, fuse

KINDS = {"g": "good", "l": "logical", "s": "structural"}


def _statistics(weight: tuple[float, ...]) -> Statistics:
    f32 = np.float32
    return Statistics(
        quantiles=np.tile(np.array([0, 1], f32), (3, 1)),
        centre=np.zeros(2, f32),
        precision=np.eye(2, dtype=f32),
        mean=np.ones(5, f32),
        std=np.full(5, 2, f32),
        weight=np.array(weight, f32),
    )


STATISTICS = _statistics((0.0, 0.25, 0.25, 0.0, 0.5))
THRESHOLDS = Thresholds(warn=1.0, ng=2.0)


def _scores(kinds: str, z: list[list[float]], statistics: Statistics = STATISTICS) -> TestScores:
    raw = (np.array(z, np.float32).reshape(-1, 5) * 2 + 1).astype(np.float32)
    items = tuple(TestItem(Path(f"{i}.png"), KINDS[kind], kind) for i, kind in enumerate(kinds))  # type: ignore[arg-type]
    maps = tuple(np.zeros((4, 4), np.float32) for _ in kinds)
    return TestScores(items, raw, fuse(raw, statistics)[1], maps, ((4, 4),) * len(kinds))


def test_every_figure_by_hand() -> None:
    # Columns: structure, logic, local, global, composition. Score = logic/4 + local/4 + composition/2.
    scores = _scores(
        "gglls",
        [
            [0, 0, 0, 9, 0],  # 0
            [1, 4, 0, 9, 2],  # 2
            [2, 8, 0, 9, 2],  # 3
            [0, 0, 0, 9, 3],  # 1.5
            [0, 0, 9, 9, 2],  # 3.25
        ],
    )
    result = image_figures(scores, STATISTICS, THRESHOLDS)
    assert result["image_auroc"] == {"logical": 0.75, "structural": 1.0, "mean": 0.875}
    # logic/2 + local/2: normal images 0, 2; logical 4, 0; structural 4.5. A tie of 0 and 0 counts half.
    assert result["auroc_without_composition"] == {"logical": 0.625, "structural": 1.0, "mean": 0.8125}
    assert result["branches"]["structure"] == {"logical": 0.625, "structural": 0.25}
    assert result["branches"]["global"] == {"logical": 0.5, "structural": 0.5}
    assert result["branches"]["composition"] == {"logical": 0.875, "structural": 0.75}
    # structure has weight 0, so structure + logic is logic alone; local + global is local alone.
    assert result["subsets"]["structure+logic"] == {"logical": 0.625, "structural": 0.25, "mean": 0.4375}
    assert result["subsets"]["local+global"] == {"logical": 0.5, "structural": 1.0, "mean": 0.75}
    # Normal images 0 and 2; without logic: local/3 + 2 composition/3, so normal images 0, 4/3, logical 4/3, 2, structural 13/3.
    assert result["without"]["logic"] == {"logical": 0.875, "structural": 1.0, "mean": 0.9375}
    assert result["without"]["structure"] == result["image_auroc"]  # it has weight 0
    assert result["without"]["composition"] == result["auroc_without_composition"]
    # No good of two may be lost: the threshold is 2, above it lie 3 of 3 and 1.5, and 3.25.
    assert result["recall_at_1_percent"] == {"logical": 0.5, "structural": 1.0, "mean": 0.75}
    assert result["threshold"] == 2.0
    assert result["thresholds"] == {"warn": 1.0, "ng": 2.0}
    assert result["false_reject"] == {"count": 0, "warn_count": 1, "of": 2}  # 2 is not above 2
    assert result["found"]["logical"] == {"count": 1, "warn_count": 2, "of": 2}
    assert result["images"] == {"good": 2, "logical": 2, "structural": 1}
    assert result["weights"] == {"structure": 0, "logic": 0.25, "local": 0.25, "global": 0, "composition": 0.5}
    interval = result["confidence"]["image_auroc"]["logical"]
    assert interval["low"] <= interval["value"] == 0.75 <= interval["high"]
    assert result["confidence"]["gain_by_composition"]["logical"]["value"] == 0.125


@pytest.mark.parametrize(
    ("kinds", "nulls"),
    [
        ("gg", ("logical", "structural", "mean")),
        ("ggl", ("structural", "mean")),
        ("gs", ("logical", "mean")),
        ("ls", None),
    ],
)
def test_a_kind_without_images_is_null(kinds: str, nulls: tuple[str, ...] | None) -> None:
    rows = [[float(i)] * 5 for i in range(len(kinds))]
    result = image_figures(_scores(kinds, rows), STATISTICS, THRESHOLDS)
    expected = nulls or ("logical", "structural", "mean")
    for figures in (result["image_auroc"], result["auroc_without_composition"], result["subsets"]["local+global"]):
        assert tuple(key for key, value in figures.items() if value is None) == expected
    assert result["false_reject"]["of"] == kinds.count("g")
    assert (result["found"]["logical"] is None) == ("l" not in kinds)


def test_branches_that_were_not_computed_are_null() -> None:
    scores = _scores("ggl", [[0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [2, 2, 2, 2, 2]])
    result = image_figures(scores, STATISTICS, THRESHOLDS, computed=("structure", "composition"))
    assert result["branches"]["local"] == {"logical": None, "structural": None}
    assert result["branches"]["structure"] == {"logical": 1.0, "structural": None}
    assert result["subsets"]["local+global"] == {"logical": None, "structural": None, "mean": None}
    assert result["subsets"]["structure+logic"]["logical"] == 1.0
    assert result["without"]["composition"] == {"logical": 1.0, "structural": None, "mean": None}


@pytest.mark.parametrize(
    ("branches", "expected"),
    [
        (BRANCHES, 0.25 * 2 + 0.25 * 4 + 0.5 * 16),
        (("logic", "local"), (2 + 4) / 2),
        (("structure", "logic"), 2.0),  # structure has weight 0
        (("structure", "global"), (1 + 8) / 2),  # both have weight 0: equal
        ((), None),
    ],
)
def test_subsets_renormalise_the_weights(branches: tuple[str, ...], expected: float | None) -> None:
    result = subset_score(np.array([[1, 2, 4, 8, 16]], np.float32), STATISTICS, branches)
    assert (result is None) if expected is None else (result is not None and result.tolist() == [expected])


def test_counts_at_both_thresholds() -> None:
    scores = _scores("ggggg", [[0, 0, 0, 0, 2 * value] for value in (0.5, 1.0, 1.5, 2.0, 2.5)])
    assert above(scores, "good", THRESHOLDS) == {"count": 1, "warn_count": 3, "of": 5}


def test_spro_is_null_without_masks() -> None:
    result = spro_figures(_scores("gls", [[0.0] * 5] * 3), {})
    assert list(result) == ["0.01", "0.05", "0.1", "0.3", "1.0"]
    assert result["0.05"] == {"logical": None, "structural": None, "mean": None}


def test_means_over_categories() -> None:
    first = {
        "image_auroc": {"logical": 0.5, "structural": 1.0, "mean": 0.75},
        "auroc_without_composition": {"logical": 0.5, "structural": 1.0, "mean": 0.75},
        "au_spro": {"0.05": {"logical": None, "structural": 0.5, "mean": None}},
        "branches": {"logic": {"logical": 0.25, "structural": 0.5}},
        "subsets": {},
        "false_reject": {"count": 1, "warn_count": 2, "of": 50},
    }
    second = {
        **first,
        "image_auroc": {"logical": 1.0, "structural": None, "mean": None},
        "false_reject": {"count": 0, "warn_count": 1, "of": 30},
    }
    result = mean_figures([first, second])
    assert result["image_auroc"] == {"logical": 0.75, "structural": None, "mean": None}
    assert result["au_spro"] == {"0.05": {"logical": None, "structural": 0.5, "mean": None}}
    assert result["branches"] == {"logic": {"logical": 0.25, "structural": 0.5}}
    assert result["false_reject"] == {"count": 1, "warn_count": 3, "of": 80}
