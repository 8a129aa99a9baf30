"""LAViT is left out only where the rest leaves no doubt: what is said of a part is what the full run says, or OK too early."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest

from edge_ad.bundle import Bundle, open_bundle, write_bundle
from edge_ad.engines.pipeline import Cascade, Pipeline, limit_of, min_scores
from edge_ad.errors import BadInput
from edge_ad.inspection.assembly import make_drift
from edge_ad.scoring import Thresholds, fuse
from tests.fixtures.tiny_bundle import tiny_contents, tiny_image


def with_known(bundle: Bundle, anomalies: np.ndarray, goods: np.ndarray | None = None) -> Bundle:
    """Return the bundle with anomalies and normal images of known scores: only the branch local speaks."""

    def raw(scores: np.ndarray) -> np.ndarray:
        rows = np.tile(bundle.statistics.mean, (len(scores), 1)).astype(np.float32)
        rows[:, 2] += scores / bundle.statistics.weight[2] * bundle.statistics.std[2]
        return rows

    known = copy.copy(bundle)
    known.raw_scores = {"synthetic": raw(anomalies), **({} if goods is None else {"threshold": raw(goods)})}
    return known


def test_the_limit_is_a_rank_among_the_anomalies_that_are_found(tiny_bundle: Bundle) -> None:
    """Of 10..109 and a warning above 9.5: a rate of 1 % is the lowest of 100 (2 of 101 are 1.98 %), 2 % the second."""
    known = with_known(tiny_bundle, np.arange(5, 110, dtype=np.float32))
    thresholds = Thresholds(9.5, 1000.0)
    logic = float(tiny_bundle.statistics.mean[1] / tiny_bundle.statistics.std[1] * tiny_bundle.statistics.weight[1])
    assert limit_of(known, thresholds, 0.0101) == pytest.approx(min(10 - logic, 9.5), rel=1e-4)
    assert limit_of(known, thresholds, 0.02) == pytest.approx(min(11 - logic, 9.5), rel=1e-4)
    assert limit_of(known, thresholds, 0.5) <= 9.5
    with pytest.raises(BadInput, match="--cascade is 0.009, but the 100 anomalies .* support no rate below 0.0099"):
        limit_of(known, thresholds, 0.009)


@pytest.mark.parametrize(
    ("goods", "limit"),
    [(np.arange(40), 37.0), (np.arange(41), 38.0), (np.arange(1), 0.0), (np.arange(40) + 500, 100.0)],
)
def test_the_limit_lets_no_part_pass_that_is_less_usual_than_the_goods(
    tiny_bundle: Bundle, goods: np.ndarray, limit: float
) -> None:
    """Of 40 normal images 38 are 95 %, of 41 it is 39; where they lie higher the anomalies decide, the lowest of which is 100."""
    known = with_known(tiny_bundle, np.arange(100, 200, dtype=np.float32), goods.astype(np.float32))
    logic = float(tiny_bundle.statistics.mean[1] / tiny_bundle.statistics.std[1] * tiny_bundle.statistics.weight[1])
    assert limit_of(known, Thresholds(99.0, 1000.0), 0.0101) == pytest.approx(min(limit - logic, 99.0), rel=1e-4, abs=1e-4)


def test_the_least_score_is_a_bound(tiny_bundle: Bundle) -> None:
    raw = np.abs(np.random.default_rng(0).normal(0, 50, (200, 5))).astype(np.float32)
    assert (min_scores(raw, tiny_bundle.statistics) <= fuse(raw, tiny_bundle.statistics)[1] + 1e-4).all()


def test_what_is_judged_in_full_is_judged_as_in_the_full_run(tiny_bundle: Bundle, tiny_pipeline: Pipeline) -> None:
    images = [tiny_image(seed, blob=seed % 2 == 0) for seed in range(30)]
    full = [tiny_pipeline.infer(image) for image in images]
    known = with_known(tiny_bundle, np.array([one.score for one in full] * 4, np.float32))
    cascade = Cascade(tiny_pipeline, known, 0.1, lambda: tiny_bundle.thresholds)
    results = [cascade.infer(image) for image in images]
    left_out = [one for one in results if one.skipped]
    assert 0 < len(left_out) < len(images)
    for one, whole in zip(results, full, strict=True):
        if one.skipped:
            assert one.skipped == ("logic",)
            assert "lavit" not in one.stages_ms
            assert one.score < cascade.limit <= tiny_bundle.thresholds.warn
            assert one.score <= whole.score + 1e-4
            np.testing.assert_array_equal(np.delete(one.raw, 1), np.delete(whole.raw, 1))
        else:
            assert one.score == whole.score
            np.testing.assert_array_equal(one.map, whole.map)
            np.testing.assert_array_equal(one.z, whole.z)
            assert set(one.stages_ms) == set(whole.stages_ms)


def test_the_limit_follows_the_thresholds(tiny_bundle: Bundle, tiny_pipeline: Pipeline) -> None:
    known = with_known(tiny_bundle, np.arange(5, 205, dtype=np.float32))
    now = [Thresholds(50.0, 60.0)]
    cascade = Cascade(tiny_pipeline, known, 0.05, lambda: now[0])
    before = cascade.limit
    now[0] = Thresholds(7.0, 60.0)
    assert cascade.limit <= 7.0 < before
    now[0] = Thresholds(200.0, 210.0)  # 4 known anomalies lie above: they support no rate of 5 %
    assert cascade.limit == -np.inf


def test_what_cannot_be_a_cascade(tmp_path: Path) -> None:
    path = tmp_path / "dropped.edgead"
    write_bundle(path, tiny_contents(weight=(0.2, 0.0, 0.3, 0.2, 0.3)))
    dropped = open_bundle(path)
    with Pipeline(dropped, threads=1) as other, pytest.raises(BadInput, match="logic has weight 0"):
        Cascade(other, dropped, 0.1, lambda: dropped.thresholds)


def test_drift_watches_what_is_known_of_every_part(tiny_bundle: Bundle) -> None:
    whole, part = make_drift(tiny_bundle), make_drift(tiny_bundle, cascade=True)
    assert whole is not None
    assert part is not None
    assert set(whole.report().mean) - set(part.report().mean) == {"logic", "score"}
