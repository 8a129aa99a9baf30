"""The arithmetic of a refit: mixtures of lots, folds that see no image of their own, and the choice of a share."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_ad.deployment.refit import (
    SHARES,
    BankPart,
    Described,
    GaussianPart,
    Lot,
    blended,
    fold_of,
    refit,
    refit_cells,
)
from edge_ad.scoring.memory import Regions, coreset
from edge_ad.scoring.statistics import BRANCHES

Rows = NDArray[np.float32]


def cloud(count: int, seed: int, width: int = 12, shift: float = 0.0) -> Rows:
    return (np.random.default_rng(seed).normal(size=(count, width)) + shift).astype(np.float32)


def lot_of(normal: Rows, anomalies: Rows, folds: NDArray[np.intp]) -> Lot:
    """A lot whose one feature is ``pooled``; anomalies of one kind, drawn on the images one after the other."""
    described = [Described(np.zeros((len(rows), len(BRANCHES)), np.float32), {"pooled": rows}) for rows in (normal, anomalies)]
    return Lot(described[0], folds, described[1], ("scratch",) * len(anomalies), np.arange(len(anomalies)) % len(normal))


def part(forget: bool = False) -> GaussianPart:
    old = np.zeros(12, np.float32), np.eye(12, dtype=np.float32)
    return GaussianPart("composition", "pooled", ("centre", "precision"), old, forget)


@pytest.mark.parametrize("share", SHARES)
def test_a_blend_is_the_gaussian_of_a_mixture_of_both_lots(share: float) -> None:
    """Of means a and b: (1 - s) A + s B + s (1 - s) (b - a)(b - a)', inverted in the plain way."""
    old, new = cloud(400, 0), cloud(20, 1, shift=3.0)
    inside, away = np.cov(old.T.astype(np.float64)), new.mean(axis=0) - old.mean(axis=0)
    covariance = (1 - share) * inside + share * np.cov(new.T) + share * (1 - share) * np.outer(away, away)
    centre, precision = blended((old.mean(axis=0), np.linalg.inv(inside).astype(np.float32)), new, share)
    np.testing.assert_allclose(centre, (1 - share) * old.mean(axis=0) + share * new.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(precision, np.linalg.inv(covariance), rtol=1e-3, atol=1e-4)


def test_forgetting_puts_the_centre_on_the_new_lot_and_lets_the_old_one_fail() -> None:
    old, new = cloud(400, 0), cloud(20, 1, shift=3.0)
    known = old.mean(axis=0), np.linalg.inv(np.cov(old.T)).astype(np.float32)
    centre, precision = blended(known, new, 0.5, forget=True)
    np.testing.assert_allclose(centre, new.mean(axis=0), atol=1e-5)
    away = old - centre
    kept = old - blended(known, new, 0.5)[0]
    forgotten = np.einsum("ni,ij,nj->n", away, precision, away)
    assert np.median(forgotten) > 3 * np.median(np.einsum("ni,ij,nj->n", kept, blended(known, new, 0.5)[1], kept))


def test_images_are_scored_by_refits_that_have_not_seen_them() -> None:
    """One image far from all others: a refit with it takes it in, so that its distance is small; without it, it is not."""
    normal = cloud(20, 2)
    normal[7] = 12.0
    lot = lot_of(normal, normal + 1, fold_of([[row] for row in range(20)], 0))
    outcome = refit([part()], lot, BRANCHES, 0)
    column = BRANCHES.index("composition")
    seen = part().judge({"pooled": normal}, outcome.constants["composition"])[0]
    assert outcome.normal[7, column] > 3 * seen[7]
    fold = lot.folds == lot.folds[7]
    without = part().refit({"pooled": normal[~fold]}, outcome.shares["composition"])
    np.testing.assert_allclose(outcome.normal[fold, column], part().judge({"pooled": normal[fold]}, without)[0], rtol=1e-5)
    drawn = lot.folds[lot.origins] == lot.folds[7]
    np.testing.assert_allclose(outcome.anomalies[drawn, column], part().judge({"pooled": normal[drawn] + 1}, without)[0], rtol=1e-5)
    assert not outcome.normal[:, :column].any()  # branches that are not refitted stay


def test_near_duplicates_share_a_fold_and_folds_are_of_one_size() -> None:
    groups = [[0, 1, 2], [3], [4, 5], *([row] for row in range(6, 40))]
    folds = fold_of(groups, 3)
    assert all(len({int(folds[row]) for row in group}) == 1 for group in groups)
    assert np.bincount(folds).tolist() == [8] * 5
    assert sorted(np.bincount(fold_of([[0], [1], [2, 3]], 0)).tolist()) == [1, 1, 2]


def test_a_share_other_than_the_default_needs_anomalies_that_support_it() -> None:
    """New images vary along one axis as old ones never did, and anomalies along another: the more the new ones count the better."""
    rng = np.random.default_rng(5)
    normal = np.zeros((60, 12), np.float32)
    normal[:, 0] = rng.normal(0, 30, 60)
    anomalies = normal[np.arange(120) % 60].copy()
    anomalies[:, 1] += 1.5
    folds = fold_of([[row] for row in range(60)], 0)
    assert refit([part()], lot_of(normal, anomalies, folds), BRANCHES, 0).shares == {"composition": 0.75}
    assert refit([part()], lot_of(normal, normal + cloud(60, 6), folds), BRANCHES, 0).shares == {"composition": SHARES[0]}
    assert refit([part()], lot_of(normal, normal[:0], folds), BRANCHES, 0).shares == {"composition": SHARES[0]}


@pytest.mark.parametrize(("share", "forget", "old"), [(0.25, False, 6), (0.75, False, 2), (1.0, True, 0)])
def test_a_bank_keeps_its_size_and_gives_a_share_of_it_to_new_cells(share: float, forget: bool, old: int) -> None:
    known, regions = cloud(8, 0, 4)[None], Regions.whole((3, 3))
    white = cloud(5 * 9, 1, 4, shift=20.0).reshape(5, 3, 3, 4)
    bank = BankPart(known, regions, 1, forget)
    banks = bank.refit({"white": white}, share)["banks"]
    assert banks.shape == known.shape
    new = (banks[0] > 10).all(axis=1)
    np.testing.assert_array_equal(banks[0][~new], known[0, :old])
    assert bank.judge({"white": white}, {"banks": banks})[0].max() < bank.judge({"white": white}, bank.known)[0].min()


def test_a_bank_that_learns_a_third_lot_still_knows_the_second() -> None:
    """Half of the places go to the newest lot each time: 4 of the first two at first, then 2, 2 and 4."""
    regions, lots = Regions.whole((3, 3)), [cloud(5 * 9, seed, 4, shift=20.0 * seed).reshape(5, 3, 3, 4) for seed in (1, 2)]
    banks = cloud(8, 0, 4)[None]
    for white in lots:
        banks = BankPart(banks, regions, 1).refit({"white": white}, 0.5)["banks"]
    lot = np.rint(banks[0].mean(axis=1) / 20).astype(int)
    assert np.bincount(lot, minlength=3).tolist() == [2, 2, 4]


def test_a_coreset_beside_known_cells_begins_with_the_farthest_of_them() -> None:
    known = np.array([[0.0, 0.0]], np.float32)
    cells = np.array([[1, 0], [9, 0], [0, 5], [9, 1]], np.float32)
    assert coreset(cells, 2, 0, known=known).tolist() == [3, 2]
    assert coreset(cells, 0, 0, known=known).tolist() == []


def test_cells_of_the_logic_map_take_the_spread_between_the_lots_in() -> None:
    old = np.zeros(2, np.float32), np.ones(2, np.float32)
    maps = np.array([[4.0, 0.0], [4.0, 2.0]], np.float32)
    mean, std = refit_cells(old, maps, 0.5)
    np.testing.assert_allclose(mean, [2.0, 0.5])
    np.testing.assert_allclose(std**2, [0.5 + 0 + 4.0, 0.5 + 1.0 + 0.25], rtol=1e-6)  # variances of new cells: 0 and 2
    np.testing.assert_allclose(refit_cells(old, maps, 0.5, forget=True)[0], [4.0, 1.0])
