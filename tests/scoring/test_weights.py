"""Weights of branches, on normal images and anomalies whose separation is known by construction."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_ad.errors import BadInput
from edge_ad.scoring import choose_weights
from edge_ad.scoring.weights import Trial, student_quantile

GOODS, ANOMALIES, KINDS = 40, 200, 5
SEEDS = range(12)

Shift = Callable[[NDArray[Any], NDArray[Any]], None]


def draw(
    seed: int, shift: Shift, images: int = GOODS, branches: int = 5
) -> tuple[NDArray[Any], NDArray[Any], list[str]]:
    """Standard normal scores, and anomalies that ``shift`` moves by their kind 0..4."""
    random = np.random.default_rng(seed)
    goods, anomalies = random.normal(size=(images, branches)), random.normal(size=(ANOMALIES, branches))
    kinds = np.arange(ANOMALIES) % KINDS
    shift(anomalies, kinds)
    return goods, anomalies, [f"kind {kind}" for kind in kinds]


def four_of_five(z: NDArray[Any], kinds: NDArray[Any]) -> None:
    z[:, :4] += 1.5


def four_perfect(z: NDArray[Any], kinds: NDArray[Any]) -> None:
    z[:, :4] += 9.0


def complementary(z: NDArray[Any], kinds: NDArray[Any]) -> None:
    z[kinds < 2, 0] += 3.0
    z[kinds >= 2, 1] += 3.0


def one_strong_others_at_chance(z: NDArray[Any], kinds: NDArray[Any]) -> None:
    z[:, 0] += 3.0


def backwards(z: NDArray[Any], kinds: NDArray[Any]) -> None:
    z[:, :2] += 2.0
    z[:, 2:] -= 2.0


def all_alike(z: NDArray[Any], kinds: NDArray[Any]) -> None:
    z += 1.0


KEPT = [
    (four_of_five, (0, 1, 2, 3)),
    (four_perfect, (0, 1, 2, 3)),  # nothing to gain, yet noise goes and help stays
    (complementary, (0, 1)),
    (one_strong_others_at_chance, (0,)),
    (backwards, (0, 1)),
    (all_alike, (0, 1, 2, 3, 4)),
]


@pytest.mark.parametrize(("shift", "kept"), KEPT, ids=[shift.__name__ for shift, _ in KEPT])
def test_with_enough_images_branches_that_help_stay_and_others_get_nothing(shift: Shift, kept: tuple[int, ...]) -> None:
    agreed = 0
    for seed in SEEDS:
        weight = choose_weights(*draw(seed, shift, 100), labelled=True)
        assert weight.dtype == np.float32
        assert weight.sum() == pytest.approx(1, abs=1e-6)
        agreed += tuple(np.flatnonzero(weight)) == kept
    assert agreed >= len(SEEDS) - 1


def test_versions_of_an_image_count_as_one_image() -> None:
    goods, anomalies, kinds = draw(3, one_strong_others_at_chance, 8)
    once = choose_weights(goods, anomalies, kinds, labelled=True)
    versions = choose_weights(np.repeat(goods, 9, axis=0), anomalies, kinds, images=len(goods), labelled=True)
    np.testing.assert_allclose(versions, once, atol=1e-6)


def test_synthetic_anomalies_take_no_usable_branch_away() -> None:
    """Half of the weight stays equal, 0.1 of five branches each; what labelled defects ask for moves the other half."""
    goods, anomalies, kinds = draw(0, one_strong_others_at_chance, 100)
    labelled = choose_weights(goods, anomalies, kinds, labelled=True)
    assert np.flatnonzero(labelled).tolist() == [0]
    np.testing.assert_allclose(choose_weights(goods, anomalies, kinds), [0.6, 0.1, 0.1, 0.1, 0.1], atol=1e-6)


@pytest.mark.parametrize("images", [4, 8, 15])
def test_with_few_images_no_branch_goes_that_is_not_clearly_useless(images: int) -> None:
    """One of five sees faint anomalies alone, an AUROC of 0.66; the rule before gave it weight 0 in most samples."""

    def one_is_weak(z: NDArray[Any], kinds: NDArray[Any]) -> None:
        z += (2.0, 2.0, 2.0, 2.0, 0.6)

    lost = sum(choose_weights(*draw(seed, one_is_weak, images), labelled=True)[4] == 0 for seed in SEEDS)
    assert lost <= 1


@pytest.mark.any_version
def test_fewer_images_leave_weights_nearer_to_equal() -> None:
    def first_sees_more(z: NDArray[Any], kinds: NDArray[Any]) -> None:
        z += (3.0, 0.8, 0.8, 0.8, 0.8)

    distances = [
        np.mean([np.abs(choose_weights(*draw(seed, first_sees_more, images), labelled=True) - 0.2).sum() for seed in SEEDS])
        for images in (4, 15, 100)
    ]
    assert distances == sorted(distances)
    assert distances[0] < 0.7 * distances[2]


@pytest.mark.parametrize("branches", [1, 2, 6, 8])
def test_any_number_of_branches_is_weighed(branches: int) -> None:
    def first_alone(z: NDArray[Any], kinds: NDArray[Any]) -> None:
        z[:, 0] += 3.0

    weight = choose_weights(*draw(0, first_alone, 60, branches))
    assert weight.shape == (branches,)
    assert weight.sum() == pytest.approx(1, abs=1e-6)
    assert weight.argmax() == 0


@pytest.mark.parametrize(("freedom", "quantile"), [(3, 2.353), (7, 1.895), (14, 1.761), (29, 1.699), (10**6, 1.645)])
def test_students_quantile(freedom: int, quantile: float) -> None:
    """Against the table of one-sided 95 % quantiles."""
    assert student_quantile(freedom, 0.95) == pytest.approx(quantile, rel=0.02)


def test_branches_alike_get_nearly_the_same_weight() -> None:
    """None is better than another, so nothing but noise parts them; on average over samples nothing is left of it."""
    found = np.stack([choose_weights(*draw(seed, all_alike)) for seed in SEEDS])
    assert (found > 0.1).all()
    assert (found < 0.4).all()
    np.testing.assert_allclose(found.mean(axis=0), 0.2, atol=0.05)


def test_weights_on_which_no_draw_depends_are_equal() -> None:
    """Every combination parts all normal images from all anomalies: all tie in all draws, and their mean is symmetric."""
    goods, anomalies = np.random.default_rng(0).normal(size=(2, 40, 5))
    np.testing.assert_allclose(choose_weights(goods, anomalies + 50.0, ["one"] * 40), 0.2, atol=1e-6)


def test_weights_hardly_change_from_sample_to_sample() -> None:
    """Branch 0 sees more than the others; another 40 normal images and 200 anomalies of the same kind say nearly the same."""

    def first_sees_more(z: NDArray[Any], kinds: NDArray[Any]) -> None:
        z += (2.0, 1.0, 1.0, 1.0, 1.0)

    found = np.stack([choose_weights(*draw(seed, first_sees_more), labelled=True) for seed in SEEDS])
    assert (found.argmax(axis=1) == 0).all()
    assert found.std(axis=0).max() < 0.08


def test_an_uneven_pair_gets_uneven_weights() -> None:
    """Independent normals with shifts 2 and 0.8: the best weights have the ratio 2.5, the grid offers 2 and 4."""
    random = np.random.default_rng(5)
    goods, anomalies = random.normal(size=(1500, 5)), random.normal(size=(1500, 5))
    goods[:, 2:], anomalies[:, 2:] = 0.0, 0.0
    anomalies[:, :2] += (2.0, 0.8)
    weight = choose_weights(goods, anomalies, ["one"] * 1500, labelled=True)
    assert 1.9 < weight[0] / weight[1] < 4.1


def test_macro_auroc_counts_every_kind_alike() -> None:
    """A kind of 2 images weighs as much as one of 190; the reference counts pairs, ties half."""
    random = np.random.default_rng(0)
    goods = np.round(random.normal(size=(30, 5)), 1)
    anomalies = np.round(random.normal(size=(192, 5)) + 0.5, 1)
    kinds = ["rare"] * 2 + ["common"] * 190
    weight = np.array([1.0, 0.5, 0, 0, 2.0])

    def slow(members: range) -> float:
        pairs = product(goods @ weight, anomalies[members.start : members.stop] @ weight)
        return float(np.mean([1.0 if good < bad else 0.5 if good == bad else 0.0 for good, bad in pairs]))

    expected = (slow(range(2)) + slow(range(2, 192))) / 2
    trial = Trial(goods, anomalies, kinds, seed=0)
    assert trial.macro(weight) == pytest.approx(expected, abs=1e-12)
    assert trial.draws(weight).mean() == pytest.approx(expected, abs=0.03)


def test_the_bootstrap_knows_the_standard_error_of_an_auroc() -> None:
    """Against the spread of the AUROC over fresh samples; scores are one normal branch shifted by 1."""
    weight = np.eye(5)[0]
    estimates, spreads = [], []
    for seed in range(200):
        random = np.random.default_rng(seed)
        goods, anomalies = np.zeros((40, 5)), np.zeros((60, 5))
        goods[:, 0], anomalies[:, 0] = random.normal(size=40), random.normal(1.0, size=60)
        trial = Trial(goods, anomalies, ["one"] * 60, seed)
        estimates.append(trial.macro(weight))
        spreads.append(trial.draws(weight).std(ddof=1))
    assert np.mean(spreads) == pytest.approx(np.std(estimates, ddof=1), rel=0.15)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 3.0], ids=["nan", "inf", "constant"])
def test_a_degenerate_branch_gets_nothing(bad: float) -> None:
    goods, anomalies, kinds = draw(0, all_alike)
    goods[:, 2], anomalies[:, 2] = (3.0, 3.0) if bad == 3.0 else (goods[:, 2], bad)
    weight = choose_weights(goods, anomalies, kinds)
    assert weight[2] == 0
    assert np.isfinite(weight).all()


def test_one_branch_always_remains() -> None:
    goods, anomalies, kinds = draw(1, lambda z, kinds: None)  # nothing separates anything
    assert np.count_nonzero(choose_weights(goods, anomalies, kinds)) >= 1


def test_without_anomalies_all_usable_branches_are_equal() -> None:
    goods = np.random.default_rng(0).normal(size=(20, 5))
    goods[:, 4] = 0
    np.testing.assert_allclose(choose_weights(goods, [], []), [0.25, 0.25, 0.25, 0.25, 0])


def test_weights_are_deterministic() -> None:
    given = draw(3, four_of_five)
    np.testing.assert_array_equal(choose_weights(*given, seed=4), choose_weights(*given, seed=4))


REFUSED = [
    (np.zeros((0, 5)), np.ones((2, 5)), ["a", "b"], "there are none"),
    (np.zeros(3), np.ones((2, 5)), ["a", "b"], "z of normal images"),
    (np.zeros((3, 5)), np.ones((2, 4)), ["a", "b"], "z of anomalies"),
    (np.zeros((3, 5)), np.ones((2, 5)), ["a"], "2 anomalies and 1 kinds"),
    (np.zeros((3, 5)), np.zeros((2, 5)), ["a", "b"], "no branch gives scores that vary"),
]


@pytest.mark.parametrize(("goods", "anomalies", "kinds", "told"), REFUSED)
def test_weights_refuse(goods: NDArray[Any], anomalies: NDArray[Any], kinds: list[str], told: str) -> None:
    with pytest.raises(BadInput) as caught:
        choose_weights(goods, anomalies, kinds)
    assert told in str(caught.value)


@pytest.mark.parametrize("images", [4, 8, 30])
def test_alternatives_that_are_alike_leave_the_default(images: int) -> None:
    """One standard error of the comparison, as the variant of a memory once asked for, is passed by one sample in three."""
    chosen = [Trial(*draw(seed, all_alike, images, 3), seed).choose(np.eye(3), 1) for seed in range(40)]
    assert np.mean([index != 1 for index in chosen]) <= 0.1


def test_a_clearly_better_alternative_is_chosen() -> None:
    def second_sees_more(z: NDArray[Any], kinds: NDArray[Any]) -> None:
        z += (0.5, 2.0, 0.7)

    for seed in SEEDS:
        trial = Trial(*draw(seed, second_sees_more, 30, 3), seed)
        assert trial.choose(np.eye(3)) == 1
        assert trial.gain(np.eye(3)[1], np.eye(3)[0])[0] > trial.needed(np.eye(3)[1], np.eye(3)[0], 2)


def test_families_count_equally_however_many_kinds_they_have() -> None:
    """Nine kinds that the first branch sees, one of another family that the second sees."""
    random = np.random.default_rng(0)
    normal, anomalies = random.normal(size=(60, 2)), random.normal(size=(100, 2))
    kinds = [f"surface {row % 9}" if row < 90 else "combined" for row in range(100)]
    families = [kind.split(" ")[0] for kind in kinds]
    anomalies[:90, 0] += 1.0
    anomalies[90:, 1] += 1.0
    alone, together = choose_weights(normal, anomalies, kinds), choose_weights(normal, anomalies, kinds, families=families)
    assert alone[0] > 0.6 > together[0] > 0.4
    by_kind = Trial(normal, anomalies, kinds, 0).by_kind(np.array([1.0, 0.0]))  # in the order of the names, "combined" first
    macro = Trial(normal, anomalies, kinds, 0, families=families).macro(np.array([1.0, 0.0]))
    assert macro == pytest.approx((by_kind[0] + by_kind[1:].mean()) / 2)
