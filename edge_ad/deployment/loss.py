"""How far raw scores of an engine are from the FP32 reference, in the units that decide verdicts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_ad.errors import DeviceFault
from edge_ad.scoring import Statistics, Thresholds, fuse
from edge_ad.scoring.auroc import auroc, auroc_difference

NEAR = 0.05  # a reference score this close to a threshold, in z, was open anyway: its flips do not count

Array = NDArray[np.float32]


@dataclass(frozen=True)
class BranchLoss:
    """Error of one branch, or of the fused ``score``: mean, root mean square and greatest in z, and both AUROCs.

    AUROC separates normal images from anomalies; None where one of the two is missing. ``fall_is_clear`` says that the
    paired bootstrap interval of how AUROC moved lies below 0: on 12 images one pair that changes its order moves it by 0.03.
    """

    branch: str
    bias: float
    rms: float
    largest: float
    auroc_reference: float | None
    auroc: float | None
    fall_is_clear: bool = False

    @property
    def auroc_change(self) -> float:
        """How far AUROC moved, 0 where it is not known."""
        return abs(self._auroc_rise)

    @property
    def auroc_loss(self) -> float:
        """By how much AUROC fell; 0 where it rose or is not known."""
        return max(0.0, -self._auroc_rise)

    @property
    def _auroc_rise(self) -> float:
        return 0.0 if self.auroc is None or self.auroc_reference is None else self.auroc - self.auroc_reference


@dataclass(frozen=True)
class Loss:
    """Rows of all branches in use and of the score over ``images``; ``flips`` of verdicts, ``far_flips`` those that
    count.

    ``expected`` is the share of far flips if every measured error could befall every measured score: with few images it
    tells more than the count of flips, which is mostly 0.
    """

    rows: tuple[BranchLoss, ...]
    images: int
    flips: int
    far_flips: int
    expected: float

    @property
    def rate(self) -> float:
        """The share of images with a far flip."""
        return self.far_flips / self.images

    @property
    def auroc_change(self) -> float:
        """The greatest change of AUROC of any branch in use and of the score."""
        return max(row.auroc_change for row in self.rows)

    @property
    def auroc_loss(self) -> float:
        """By how much AUROC of any branch in use or of the score fell at most."""
        return max(row.auroc_loss for row in self.rows)

    @property
    def error(self) -> float:
        """The greatest rms error of any branch in use and of the score, in z."""
        return max(row.rms for row in self.rows)

    @property
    def finite(self) -> bool:
        """Whether all errors are finite numbers."""
        return all(np.isfinite(row.largest) for row in self.rows)


def loss(
    reference: Array,
    raw: Array,
    anomalous: NDArray[np.bool_],
    statistics: Statistics,
    *,
    thresholds: Thresholds,
    everyone: bool = False,
) -> Loss:
    """Compare raw scores f32 [N, B] with the ``reference``; ``anomalous`` bool [N] says which images are no normal
    images.

    Branches of weight 0 are left out unless ``everyone``.
    """
    z_reference, score_reference = fuse(reference, statistics)
    z, score = fuse(raw, statistics)
    used = [i for i, branch in enumerate(statistics.branches) if everyone or branch in statistics.active]
    rows = [_row(statistics.branches[i], z_reference[:, i], z[:, i], anomalous) for i in used]
    rows.append(_row("score", score_reference, score, anomalous))
    before, after = (_levels(values, thresholds) for values in (score_reference, score))
    flipped = before != after
    far = flipped & ~_near(score_reference, thresholds)
    expected = _expected(score_reference, score - score_reference, thresholds)
    return Loss(tuple(rows), len(raw), int(flipped.sum()), int(far.sum()), expected)


def weighted_error(reference: Array, raw: Array, statistics: Statistics) -> float:
    """Return the root mean square over images of what all branches together add to the score's error, in z."""
    error = (fuse(raw, statistics)[0] - fuse(reference, statistics)[0]).astype(np.float64) * statistics.weight
    used = error[:, statistics.weight > 0]
    return float(np.sqrt((used**2).sum(axis=1).mean())) if np.isfinite(used).all() else np.inf


def check_finite(values: Array, what: str) -> None:
    """Raise DeviceFault when a reference score is not finite: nothing can be compared with it."""
    if not np.isfinite(values).all():
        raise DeviceFault(f"{what} gives scores that are not finite numbers; train the bundle again")


def _row(name: str, reference: Array, value: Array, anomalous: NDArray[np.bool_]) -> BranchLoss:
    error = value.astype(np.float64) - reference.astype(np.float64)
    if not np.isfinite(error).all():
        return BranchLoss(name, np.inf, np.inf, np.inf, _auroc(reference, anomalous), None)
    rms = float(np.sqrt((error**2).mean()))
    aurocs = _auroc(reference, anomalous), _auroc(value, anomalous)
    clear = _falls_clearly(reference, value, anomalous)
    return BranchLoss(name, float(error.mean()), rms, float(np.abs(error).max()), *aurocs, fall_is_clear=clear)


def _falls_clearly(reference: Array, value: Array, anomalous: NDArray[np.bool_]) -> bool:
    after, before = ((scores[~anomalous], scores[anomalous]) for scores in (value, reference))
    moved = auroc_difference(after, before)
    return moved is not None and moved.high < 0


def _auroc(values: Array, anomalous: NDArray[np.bool_]) -> float | None:
    return auroc(values[~anomalous], values[anomalous])


def _levels(scores: Array, thresholds: Thresholds) -> NDArray[np.int64]:
    """0 OK, 1 WARN, 2 NG, 3 no verdict."""
    wide = scores.astype(np.float64)
    level = (wide > thresholds.warn).astype(np.int64) + (wide > thresholds.ng)
    return np.where(np.isfinite(wide), level, 3)


def _near(scores: Array, thresholds: Thresholds) -> NDArray[np.bool_]:
    distance = np.minimum(np.abs(scores - thresholds.warn), np.abs(scores - thresholds.ng))
    return np.asarray(distance <= NEAR)


def _expected(scores: Array, errors: Array, thresholds: Thresholds) -> float:
    """Return the share of far flips over all pairs of a score and an error.

    Errors grow with the score of an anomaly, so those of images beyond NG by more than the normal images' spread are
    left out.
    """
    if not np.isfinite(errors).all():
        return 1.0
    usual = errors[scores < thresholds.ng + 3.0]
    if not usual.size:
        usual = errors
    before = _levels(scores, thresholds)[:, None]
    after = _levels((scores[:, None] + usual[None, :]).ravel(), thresholds).reshape(len(scores), -1)
    return float(((before != after) & ~_near(scores, thresholds)[:, None]).mean())
