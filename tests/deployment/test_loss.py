"""Flips, errors in z and AUROC by hand, and the images that engines are proven on."""

from __future__ import annotations

import numpy as np
import pytest

from edge_ad.deployment.gate import Gate
from edge_ad.deployment.loss import loss, weighted_error
from edge_ad.deployment.validation_images import jitter, make_validation_images, spread
from edge_ad.scoring import Statistics, Thresholds
from tests.fixtures.tiny_bundle import tiny_image

STATISTICS = Statistics(
    quantiles=np.tile(np.array([0, 1], np.float32), (3, 1)),
    centre=np.zeros(2, np.float32),
    precision=np.eye(2, dtype=np.float32),
    mean=np.zeros(5, np.float32),
    std=np.full(5, 0.5, np.float32),
    weight=np.array([0.5, 0, 0.5, 0, 0], np.float32),
)
THRESHOLDS = Thresholds(warn=2.0, ng=4.0)


def raws(*scores: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Raw scores whose two branches in use both have z = score."""
    table = np.zeros((len(scores), 5), np.float32)
    table[:, [0, 2]] = 0.5 * np.array(scores, np.float32)[:, None]
    return table


def test_by_hand() -> None:
    """Scores 1, 1.97, 2.5, 5: the second flips but was near, the third flips for good."""
    reference = raws(1.0, 1.97, 2.5, 5.0)
    result = loss(reference, raws(1.1, 2.07, 1.9, 5.0), np.array([False, False, True, True]), STATISTICS, thresholds=THRESHOLDS)
    assert [row.branch for row in result.rows] == ["structure", "local", "score"]
    score = result.rows[-1]
    assert score.bias == pytest.approx((0.1 + 0.1 - 0.6) / 4, abs=1e-5)
    assert score.rms == pytest.approx(np.sqrt((0.01 + 0.01 + 0.36) / 4), abs=1e-5)
    assert score.largest == pytest.approx(0.6, abs=1e-5)
    assert (result.flips, result.far_flips, result.rate) == (2, 1, 0.25)
    assert score.auroc_reference == 1.0
    assert score.auroc == 0.75  # one of four pairs changed its order
    assert result.auroc_change == result.auroc_loss == 0.25


def test_an_auroc_that_rises_is_no_loss() -> None:
    """A good comes down from 1.95 to 1.9, below the anomaly at 1.93: one of four pairs comes to order, and no verdict flips."""
    anomalous = np.array([False, False, True, True])
    better, worse = raws(1.0, 1.9, 1.93, 5.0), raws(1.0, 1.95, 1.93, 5.0)
    rose, fell = (loss(*pair, anomalous, STATISTICS, thresholds=THRESHOLDS) for pair in ((worse, better), (better, worse)))
    assert (rose.auroc_change, rose.auroc_loss) == (0.25, 0.0)
    assert (fell.auroc_change, fell.auroc_loss) == (0.25, 0.25)
    assert Gate({"proof": rose}, 0.005).refused is None
    assert Gate({"proof": fell}, 0.005).refused is None  # one pair of four images: the interval holds 0


def test_gate_refuses_a_fall_of_auroc_that_the_images_resolve() -> None:
    """A quarter of the pairs changes its order as above, on 20 times as many images: the same fall, and a clear one."""
    anomalous = np.tile([False, False, True, True], 20)
    reference, worse = (raws(*np.tile(scores, 20)) for scores in ([1.0, 1.9, 1.93, 5.0], [1.0, 1.95, 1.93, 5.0]))
    fell = loss(reference, worse, anomalous, STATISTICS, thresholds=THRESHOLDS)
    assert fell.far_flips == 0
    assert (
        Gate({"proof": fell}, 0.005).refused == "AUROC of structure on the proof images falls by 0.2500 (allowed 0.005)"
    )


def test_branches_without_weight_are_reported_only_when_asked() -> None:
    reference = raws(1.0, 3.0)
    result = loss(reference, reference, np.array([False, True]), STATISTICS, thresholds=THRESHOLDS, everyone=True)
    assert len(result.rows) == 6
    assert result.expected == 0.0


def test_expected_flips_count_all_pairs() -> None:
    """Errors 0 and +1 on scores 0 and 1.5: of four pairs only 1.5 + 1 passes the threshold."""
    result = loss(raws(0.0, 1.5), raws(1.0, 1.5), np.array([False, False]), STATISTICS, thresholds=THRESHOLDS)
    assert result.expected == pytest.approx(0.25)
    assert result.far_flips == 0
    assert result.auroc_change == 0.0


def test_errors_as_large_as_the_spread_of_goods_are_refused() -> None:
    """All are OK with or without the error, and keep their order."""
    anomalous = np.array([False, False, True, True])
    result = loss(raws(0.0, 0.1, 1.0, 1.1), raws(-1.2, -1.1, -0.2, -0.1), anomalous, STATISTICS, thresholds=THRESHOLDS)
    assert (result.far_flips, result.auroc_change) == (0, 0.0)
    assert result.error == pytest.approx(1.2, abs=1e-5)
    assert Gate({"proof": result}, 0.005).refused == "structure errs by 1.20 z on the proof images (rms, allowed 1)"


def test_scores_that_are_not_finite() -> None:
    raw = raws(1.0, 3.0)
    raw[0, 0] = np.nan
    result = loss(raws(1.0, 3.0), raw, np.array([False, True]), STATISTICS, thresholds=THRESHOLDS)
    assert not result.finite
    assert result.expected == 1.0
    assert weighted_error(raws(1.0, 3.0), raw, STATISTICS) == np.inf
    refused = Gate({"proof": result}, 0.005).refused
    assert refused is not None
    assert "not finite" in refused


def test_weighted_error_adds_branches_by_squares() -> None:
    raw = raws(1.0, 3.0)
    raw[:, 0] += 0.5 * 0.3  # 0.3 z, weight 0.5
    raw[:, 2] -= 0.5 * 0.4
    assert weighted_error(raws(1.0, 3.0), raw, STATISTICS) == pytest.approx(np.hypot(0.15, 0.2), abs=1e-5)


@pytest.mark.parametrize(
    ("moved", "message"),
    [((1.0, 5.0, 1.0, 5.0), None), ((2.5, 5.0, 1.0, 5.0), "verdicts flip"), ((1.0, 1.9, 1.0, 1.9), "AUROC of")],
)
def test_the_gate(moved: tuple[float, ...], message: str | None) -> None:
    reference = raws(*([1.0, 1.9] * 8)) if message == "AUROC of" else raws(1.0, 5.0, 1.0, 5.0)
    raw = raws(*([1.0, 0.9, 1.0, 1.9] * 4)) if message == "AUROC of" else raws(*moved)
    result = loss(reference, raw, np.array([False, True] * (len(raw) // 2)), STATISTICS, thresholds=THRESHOLDS)
    refused = Gate({"proof": result}, 0.005).refused
    assert (refused is None) is (message is None)
    assert message is None or message in str(refused)


def test_proof_pictures() -> None:
    goods = np.stack([tiny_image(number) for number in range(4)])
    proof = make_validation_images(goods, copies=2, anomalies=3)
    assert len(proof.images) == 4 * 6
    assert proof.anomalous.sum() == 12
    np.testing.assert_array_equal(proof.images[:4], goods)
    np.testing.assert_array_equal(make_validation_images(goods, 2, 3).images, proof.images)
    assert (make_validation_images(goods, 2, 3, seed=1).images != proof.images).any()
    for good, bad in zip(np.repeat(goods, 3, axis=0), proof.images[12:], strict=True):
        assert (good != bad).any()


def test_one_good_is_enough() -> None:
    assert len(make_validation_images(tiny_image(0)[None]).images) == 6


def test_jitter_is_small() -> None:
    image = tiny_image(0)
    moved = jitter(image, np.random.default_rng(0))
    assert moved.shape == image.shape
    assert moved.dtype == np.uint8
    assert 0 < np.abs(moved.astype(int) - image).mean() < 15


def test_spread_takes_the_ends() -> None:
    stack = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
    assert spread(stack, 3).ravel().tolist() == [0, 4, 9]
    assert len(spread(stack, 20)) == 10
