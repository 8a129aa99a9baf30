"""Choose one weight a branch from normal images and (synthetic or labelled) anomalies; a branch that does not help gets
0.

The criterion is the macro AUROC: the mean over kinds of anomaly of the AUROC of the weighted sum of z, so that one easy
or frequent kind does not decide. With about 40 normal images and 200 anomalies its standard error is some 0.02, hence
no departure from equal weights may rest on noise, measured by a paired bootstrap (normal images, and anomalies within
each kind, are drawn again with replacement; all candidates see the same draws):

1. Branches that are constant or not finite are out.
2. Backward elimination from equal weights. A branch goes when the criterion without it is higher by more than one
   standard error and by at least 0.01: synthetic anomalies are not the real ones, and a smaller gain on them is no
   ground to go without a branch that sees something else. A branch also goes, although that gains nothing, when alone
   it is no better than chance (within two standard errors) and its removal loses less than one standard error against
   the best set seen. No branch goes that is missed at half its weight (by two standard errors): a weak but independent
   branch can hurt an equal sum and help a lighter one. Branches that merely repeat each other stay: they average out
   noise, and real defects are more varied than synthetic ones.
3. Multiplicative weights 0.5, 1 or 2 for the branches that are left: every bootstrap draw names the set that is best
for
   it, and the weights are the mean of these (bagging: Breiman, Bagging Predictors, 1996; its use here is ours). Where
   noise decides, draws contradict each other and the mean stays near equal weights; where one set is better, most draws
   agree on it. A single best set instead jumped by a factor of 4 between two trainings on the same normal images. No
   branch is lost by this.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_ad.errors import BadInput
from edge_ad.scoring.statistics import BRANCHES, MIN_BRANCHES, Array

Float = NDArray[np.float64]

DRAWS = 400  # bootstrap draws: the standard error is known to about 4 %
FACTORS = (0.5, 1.0, 2.0)
NOISE = 1.0  # standard errors a change must gain
MATERIAL = 0.01  # and the least such gain that matters, in AUROC
CLEAR = 2.0  # standard errors that part a branch alone from chance
TIE = 1e-9  # AUROCs that differ by less are the same


def choose_weights(z_normal: ArrayLike, z_anomalies: ArrayLike, kinds: Sequence[str], seed: int = 0) -> Array:
    """Return the weights [B] (float32, >= 0, sum 1) for ``z_normal`` [N, B] and ``z_anomalies`` [M, B] of ``kinds``
    [M].

    Without anomalies all usable branches get equal weights. Deterministic for a given ``seed``. Raises BadInput for
    wrong shapes, no normal images, or when no branch is usable.
    """
    normal, anomalies = (np.asarray(z, dtype=np.float64) for z in (z_normal, z_anomalies))
    if anomalies.size == 0:
        anomalies = np.zeros((0, normal.shape[-1] if normal.ndim else 0))
    _check_shapes(normal, anomalies, kinds)
    weight = np.where(_usable(normal, anomalies), 1.0, 0.0)
    if not weight.any():
        raise BadInput("no branch gives scores that vary and are finite, so none can be weighed; see the raw scores")
    if len(anomalies):
        trial = Trial(normal, anomalies, kinds, seed)
        weight = _tune(trial, _eliminate(trial, weight))
    chosen: Array = (weight / weight.sum()).astype(np.float32)
    return chosen


class Trial:
    """The macro AUROC of weights on fixed normal images and anomalies, and its paired bootstrap over fixed draws."""

    def __init__(self, normal: Float, anomalies: Float, kinds: Sequence[str], seed: int) -> None:
        finite = np.isfinite(normal).all(axis=0) & np.isfinite(anomalies).all(axis=0)
        self.count = normal.shape[1]  # of branches
        self._normal, self._anomalies = (np.where(finite, z, 0.0) for z in (normal, anomalies))
        names = np.asarray(kinds)
        self._kinds = [np.flatnonzero(names == name) for name in sorted(set(kinds))]
        random = np.random.default_rng(seed)
        self._normal_draws = random.multinomial(len(normal), np.full(len(normal), 1 / len(normal)), DRAWS) / len(normal)
        self._draws = np.zeros((DRAWS, len(anomalies)))
        for members in self._kinds:
            count = len(members)
            drawn = random.multinomial(count, np.full(count, 1 / count), DRAWS)
            self._draws[:, members] = drawn / (count * len(self._kinds))
        self._cache: dict[bytes, Float] = {}

    def by_kind(self, weight: Float) -> Float:
        """The AUROC of every kind [kinds]."""
        normal = np.sort(self._normal @ weight)
        scores = self._anomalies @ weight
        below = np.searchsorted(normal, scores, "left") + np.searchsorted(normal, scores, "right")
        wins = below / (2 * len(normal))
        return np.array([wins[members].mean() for members in self._kinds])

    def macro(self, weight: Float) -> float:
        """The mean over kinds of the AUROC."""
        return float(self.by_kind(weight).mean())

    def draws(self, weight: Float) -> Float:
        """The macro AUROC in every bootstrap draw [DRAWS]; all weights see the same draws."""
        key = weight.tobytes()
        if key not in self._cache:
            normal, scores = (self._normal @ weight)[:, None], (self._anomalies @ weight)[None, :]
            wins = (normal < scores) + 0.5 * (normal == scores)
            self._cache[key] = np.einsum("dm,dm->d", self._normal_draws @ wins, self._draws)
        return self._cache[key]

    def gain(self, new: Float, old: Float) -> tuple[float, float]:
        """How much higher the criterion of ``new`` is than that of ``old``, and the standard error of that."""
        return self.macro(new) - self.macro(old), float((self.draws(new) - self.draws(old)).std(ddof=1))


def _check_shapes(normal: Float, anomalies: Float, kinds: Sequence[str]) -> None:
    count = min(max(normal.shape[-1] if normal.ndim else 0, MIN_BRANCHES), len(BRANCHES))
    for name, z in (("normal images", normal), ("anomalies", anomalies)):
        if z.ndim != 2 or z.shape[1] != count:
            raise BadInput(f"z of {name} must have shape [N, {count}], but has {list(z.shape)}")
    if not len(normal):
        raise BadInput("choosing weights needs normal images, but there are none")
    if len(kinds) != len(anomalies):
        raise BadInput(f"every anomaly needs a kind, but there are {len(anomalies)} anomalies and {len(kinds)} kinds")


def _usable(normal: Float, anomalies: Float) -> NDArray[np.bool_]:
    """Finite everywhere, and not the same value for all images."""
    values = np.concatenate([normal, anomalies])
    finite = np.isfinite(values).all(axis=0)
    safe = np.where(finite, values, 0.0)
    return np.asarray(safe.max(axis=0) > safe.min(axis=0))


def _without(weight: Float, branch: int) -> Float:
    return np.where(np.arange(len(weight)) == branch, 0.0, weight)


def _eliminate(trial: Trial, weight: Float) -> Float:
    """Drop, one at a time, the branch whose removal gains most, as long as one may go."""
    best = weight
    while np.count_nonzero(weight) > 1:
        candidates = [branch for branch in np.flatnonzero(weight) if _may_go(trial, weight, int(branch), best)]
        if not candidates:
            break
        weight = max((_without(weight, int(branch)) for branch in candidates), key=trial.macro)
        best = max((best, weight), key=trial.macro)
    return weight


def _may_go(trial: Trial, weight: Float, branch: int, best: Float) -> bool:
    fewer = _without(weight, branch)
    gained, noise = trial.gain(fewer, weight)
    halved = np.where(np.arange(len(weight)) == branch, weight / 2, weight)
    for other, errors in ((best, NOISE), (halved, CLEAR)):
        change, noise_of_change = trial.gain(fewer, other)
        if change < -errors * noise_of_change:
            return False
    return _worth(gained, noise) or _at_chance(trial, branch)


def _at_chance(trial: Trial, branch: int) -> bool:
    alone = np.where(np.arange(trial.count) == branch, 1.0, 0.0)
    return trial.macro(alone) - 0.5 <= CLEAR * float(trial.draws(alone).std(ddof=1))


def _worth(gained: float, noise: float) -> bool:
    return gained > max(NOISE * noise, MATERIAL)


def _tune(trial: Trial, weight: Float) -> Float:
    """Return the mean over the draws of the factors that are best in each; where several are, the mean of these."""
    candidates = _candidates(weight)
    result = np.stack([trial.draws(candidate) for candidate in candidates])
    best = result >= result.max(axis=0) - TIE
    mean: Float = ((best / best.sum(axis=0)).mean(axis=1)) @ candidates
    return mean


def _candidates(weight: Float) -> Float:
    """Return ``weight`` with every combination of factors on its branches [C, B], each of sum 1, none twice."""
    retained = np.flatnonzero(weight)
    result = np.tile(weight, (len(FACTORS) ** len(retained), 1))
    result[:, retained] *= list(product(FACTORS, repeat=len(retained)))
    return np.unique(np.round(result / result.sum(axis=1, keepdims=True), 12), axis=0)
