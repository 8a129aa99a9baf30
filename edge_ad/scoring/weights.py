"""Choose one weight a branch from normal images and (synthetic or labelled) anomalies; a branch that is useless gets 0 where
the anomalies are labelled, and little where they are synthetic.

The criterion is the macro AUROC: the mean over kinds of anomaly of the AUROC of the weighted sum of z, so that one easy
or frequent kind does not decide; where kinds have families (changed surfaces, wrong arrangements, wrong combinations), first
within each and then over these, so that the many ways to change a surface do not outvote the few to combine wrongly. It rests
on the unseen normal images, of which there may be four; hence a paired bootstrap measures its noise (normal images, and
anomalies within each kind, are drawn again with replacement; all candidates see the same draws), and whatever departs from
equal weights must be supported by its interval: one-sided, 95 %, with Student's quantile for the number of normal images.

1. Branches that are constant or not finite are out.
2. Backward elimination from equal weights. A branch goes when the interval of what the criterion gains without it lies
   above 0 and the gain is at least 0.01: synthetic anomalies are not the real ones, and a smaller gain on them is no
   ground to go without a branch that sees something else. A branch also goes, although that gains nothing, when the
   interval of its own AUROC lies below 0.6 and its removal loses less than one standard error against the best set seen.
   No branch goes that is missed at half its weight (by two standard errors): a weak but independent branch can hurt an
   equal sum and help a lighter one. Branches that merely repeat each other stay: they average out noise, and real
   defects are more varied than synthetic ones.
3. Multiplicative weights 0.5, 1 or 2 for the branches that are left: every bootstrap draw names the set that is best
   for it, and the weights are the mean of these (bagging: Breiman, Bagging Predictors, 1996; its use here is ours).
   Where noise decides, draws contradict each other and the mean stays near equal weights; where one set is better, most
   draws agree on it. A single best set instead jumped by a factor of 4 between two trainings on the same normal images.
   No branch is lost by this.
4. These are mixed with equal weights of the branches that are left, as if PRIOR_IMAGES normal images had asked for
   those: the fewer images there are, the nearer the weights stay to equal.
5. Synthetic anomalies move SYNTHETIC_SHARE of the weight; the rest stays equal over all usable branches. However many
   images there are, they tell what the synthetic anomalies look like, not the real ones.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import product
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_ad.errors import BadInput
from edge_ad.scoring.statistics import Array

Float = NDArray[np.float64]

DRAWS = 400  # bootstrap draws: the standard error is known to about 4 %
FACTORS = (0.5, 1.0, 2.0)
NOISE = 1.0  # standard errors that the criterion may lose against the best set when a branch goes
MATERIAL = 0.01  # the least gain that matters, in AUROC
CLEAR = 2.0  # standard errors by which a branch is missed at half its weight
LEVEL = 0.95  # of a one-sided interval
NEAR_CHANCE = 0.6  # AUROC below which a branch alone is useless
PRIOR_IMAGES = 2
"""Weight of the equal weights, in normal images. Chosen by simulation (docs/experiments/training.md): 5 cost more where
branches differ than they gained where they are alike, 0 lost where they are alike."""
SYNTHETIC_SHARE = 0.5
"""How much of the weight synthetic anomalies may move. With all of it, 87 unseen images of juice_bottle took `logic` and
`composition` away, which see its real anomalies best (docs/experiments/accuracy.md)."""
MAX_COMBINATIONS = 3**7  # of factors: seven branches; of more than that, as many are drawn
TIE = 1e-9  # AUROCs that differ by less are the same


def choose_weights(
    z_normal: ArrayLike,
    z_anomalies: ArrayLike,
    kinds: Sequence[str],
    seed: int = 0,
    *,
    images: int | None = None,
    families: Sequence[str] | None = None,
    labelled: bool = False,
) -> Array:
    """Return the weights [B] (float32, >= 0, sum 1) for ``z_normal`` [N, B] and ``z_anomalies`` [M, B] of ``kinds``
    [M].

    ``images`` is how many normal images the rows of ``z_normal`` are versions of, where they are not one each: those of an
    image one after the other, as many of each. ``families`` [M] say which kinds belong together; families count equally.
    Anomalies are synthetic, so that no usable branch gets less than half of its equal share, unless they are ``labelled``.
    Without anomalies all usable branches get equal weights. Deterministic for a given ``seed``. Raises BadInput for
    wrong shapes, no normal images, or when no branch is usable.
    """
    normal, anomalies = (np.asarray(z, dtype=np.float64) for z in (z_normal, z_anomalies))
    if anomalies.size == 0 and normal.ndim == 2:
        anomalies = np.zeros((0, normal.shape[1]))
    _check_shapes(normal, anomalies, kinds)
    usable = np.where(_usable(normal, anomalies), 1.0, 0.0)
    weight = usable
    if not weight.any():
        raise BadInput("no branch gives scores that vary and are finite, so none can be weighed; see the raw scores")
    if len(anomalies):
        trial = Trial(normal, anomalies, kinds, seed, images=images, families=families)
        retained = _eliminate(trial, weight)
        weight = _mixed(_tune(trial, retained), retained, len(normal) if images is None else images)
        if not labelled:
            weight = SYNTHETIC_SHARE * weight / weight.sum() + (1 - SYNTHETIC_SHARE) * usable / usable.sum()
    chosen: Array = (weight / weight.sum()).astype(np.float32)
    return chosen


def _mixed(tuned: Float, equal: Float, images: int) -> Float:
    """Return the weights that ``images`` normal images and PRIOR_IMAGES with equal weights ask for together."""
    share = images / (images + PRIOR_IMAGES)
    mixed: Float = share * tuned / tuned.sum() + (1 - share) * equal / equal.sum()
    return mixed


class Trial:
    """The macro AUROC of weights on fixed normal images and anomalies, and its paired bootstrap over fixed draws.

    ``reach`` says how many standard errors a one-sided interval reaches: Student's quantile, and the bootstrap's own bias,
    for the number of normal images. Rows that are versions of the same one of ``images`` are drawn together.
    """

    def __init__(
        self, normal: Float, anomalies: Float, kinds: Sequence[str], seed: int,
        *, images: int | None = None, families: Sequence[str] | None = None,
    ) -> None:  # fmt: skip
        finite = np.isfinite(normal).all(axis=0) & np.isfinite(anomalies).all(axis=0)
        self._normal, self._anomalies = (np.where(finite, z, 0.0) for z in (normal, anomalies))
        names = np.asarray(kinds)
        self._kinds = [np.flatnonzero(names == name) for name in sorted(set(kinds))]
        self._shares = _shares([None if families is None else families[members[0]] for members in self._kinds])
        random = np.random.default_rng(seed)
        self._images = len(normal) if images is None else images
        by_image = random.multinomial(self._images, np.full(self._images, 1 / self._images), DRAWS)
        self._normal_draws = np.repeat(by_image, len(normal) // self._images, axis=1) / len(normal)
        self._draws = np.zeros((DRAWS, len(anomalies)))
        for members, share in zip(self._kinds, self._shares, strict=True):
            count = len(members)
            drawn = random.multinomial(count, np.full(count, 1 / count), DRAWS)
            self._draws[:, members] = drawn / count * share
        self._cache: dict[bytes, Float] = {}
        self.count = normal.shape[1]  # of branches

    def by_kind(self, weight: Float) -> Float:
        """The AUROC of every kind [kinds]."""
        normal = np.sort(self._normal @ weight)
        scores = self._anomalies @ weight
        below = np.searchsorted(normal, scores, "left") + np.searchsorted(normal, scores, "right")
        wins = below / (2 * len(normal))
        return np.array([wins[members].mean() for members in self._kinds])

    def macro(self, weight: Float) -> float:
        """The mean over families of the mean over their kinds of the AUROC."""
        return float(self.by_kind(weight) @ self._shares)

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
        return self.macro(new) - self.macro(old), self.noise(new, old)

    def noise(self, new: Float, old: Float | None = None) -> float:
        """The standard error of the criterion of ``new``, or of how much higher it is than that of ``old``."""
        difference = self.draws(new) if old is None else self.draws(new) - self.draws(old)
        return float(difference.std(ddof=1))

    def reach(self, candidates: int = 1) -> float:
        """How many standard errors an interval of LEVEL reaches, for the best of several candidates (Bonferroni)."""
        images = self._images
        level = 1 - (1 - LEVEL) / candidates
        return student_quantile(images - 1, level) * math.sqrt(images / max(1, images - 1))

    def supports(self, new: Float, old: Float, candidates: int = 1) -> bool:
        """Whether ``new``, the best of ``candidates``, is better than ``old`` by what matters, and the interval of the gain
        lies above 0.
        """
        return self.gain(new, old)[0] > self.needed(new, old, candidates)

    def needed(self, new: Float, old: Float, candidates: int = 1) -> float:
        """The gain above which ``new``, the best of ``candidates``, is better than ``old``."""
        return max(self.reach(candidates) * self.noise(new, old), MATERIAL)

    def choose(self, candidates: Float, default: int = 0) -> int:
        """Return the index of the best of ``candidates`` [C, B] where it is supported against the ``default``, else that one."""
        values = [self.macro(candidate) for candidate in candidates]
        best = max(range(len(values)), key=lambda index: (values[index], index == default))
        supported = self.supports(candidates[best], candidates[default], max(1, len(candidates) - 1))
        return best if supported else default


def _shares(families: Sequence[str | None]) -> Float:
    """Return the share of each kind in the criterion: families count equally, and so do the kinds of one."""
    sizes = Counter(families)
    return np.array([1 / (sizes[family] * len(sizes)) for family in families])


def student_quantile(freedom: int, level: float) -> float:
    """Return a quantile of Student's distribution (Abramowitz and Stegun, 26.7.5; at 95 % within 2 % from 3 degrees on)."""
    z, freedom = NormalDist().inv_cdf(level), max(1, freedom)
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / freedom + second / freedom**2


def _check_shapes(normal: Float, anomalies: Float, kinds: Sequence[str]) -> None:
    for name, z in (("normal images", normal), ("anomalies", anomalies)):
        if z.ndim != 2 or z.shape[1:] != normal.shape[1:]:
            raise BadInput(f"z of {name} must have shape [N, branches], as z of normal images, but has {list(z.shape)}")
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
    halved = np.where(np.arange(len(weight)) == branch, weight / 2, weight)
    for other, errors in ((best, NOISE), (halved, CLEAR)):
        change, noise = trial.gain(fewer, other)
        if change < -errors * noise:
            return False
    return trial.supports(fewer, weight) or _is_useless(trial, branch)


def _is_useless(trial: Trial, branch: int) -> bool:
    alone = np.eye(trial.count)[branch]
    return trial.macro(alone) + trial.reach() * trial.noise(alone) < NEAR_CHANCE


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
    if len(FACTORS) ** len(retained) <= MAX_COMBINATIONS:
        factors = np.array(list(product(FACTORS, repeat=len(retained))))
    else:
        factors = np.random.default_rng(0).choice(FACTORS, (MAX_COMBINATIONS, len(retained)))
    result = np.tile(weight, (len(factors), 1))
    result[:, retained] *= factors
    return np.unique(np.round(result / result.sum(axis=1, keepdims=True), 12), axis=0)
