"""Golden images replayed: how far an engine is from the FP32 reference, in the units that decide verdicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_ad.bundle import Bundle
from edge_ad.engines.pipeline import Pipeline
from edge_ad.errors import DeviceFault
from edge_ad.scoring import Thresholds, fuse

# An error of 0.05 standard deviations of normal images in what a branch adds to the score (its weight times its z) changes no
# verdict that was not open anyway; the branch itself, which events report, may be four times as far off. Far away from
# the normal images, beyond |z| = 5, the verdict is certain and the same shares of 1 % of z are allowed.
TOLERANCE_Z = 0.05
TOLERANCE_SHARE = 0.01
BRANCH_FACTOR = 4.0
TOLERANCE = (
    f"{TOLERANCE_Z} z in the score and in what a branch adds to it, {TOLERANCE_Z * BRANCH_FACTOR:g} z in a branch, "
    f"or {TOLERANCE_SHARE:.0%} and {TOLERANCE_SHARE * BRANCH_FACTOR:.0%} of z where that is more"
)


@dataclass(frozen=True)
class BranchParity:
    """One row of the parity table: the largest error of ``z`` over the golden images, and what the score gets of it.

    ``share`` is the largest error over what is allowed at that z: up to 1 passes. Both are infinite for scores that are
    not finite numbers.
    """

    branch: str
    error_z: float
    share: float


@dataclass(frozen=True)
class Parity:
    """Errors of all branches in use and of the fused ``score``, and verdict flips over ``images`` golden images.

    ``flips`` counts changed verdicts, ``far_flips`` those whose reference score is farther than 0.05 z from both
    thresholds.
    """

    rows: tuple[BranchParity, ...]
    images: int
    flips: int
    far_flips: int

    @property
    def accepted(self) -> bool:
        """Whether every error is within its tolerance and no far verdict flipped."""
        return not self.far_flips and all(row.share <= 1.0 for row in self.rows)

    @property
    def badness(self) -> float:
        """One number to compare refused engines by: the largest share, infinite when a far verdict flipped."""
        return max(row.share for row in self.rows) + self.far_flips


def replay(pipeline: Pipeline, bundle: Bundle) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return z f32 [G, B] and score f32 [G] that ``pipeline`` gives the golden images."""
    results = [pipeline.infer(image) for image in bundle.golden.images]
    return np.stack([result.z for result in results]), np.array([result.score for result in results], dtype=np.float32)


def compare(pipeline: Pipeline, bundle: Bundle) -> Parity:
    """Replay the golden images and compare z, score and verdicts with those of the stored FP32 raw scores."""
    reference_z, reference_score = fuse(bundle.golden.raw, bundle.statistics)
    z, score = replay(pipeline, bundle)
    branches, weight = bundle.statistics.branches, bundle.statistics.weight
    used = np.flatnonzero(weight > 0).tolist()
    rows = [_row(branches[index], z[:, index], reference_z[:, index], float(weight[index])) for index in used]
    rows.append(_row("score", score, reference_score))
    flips, far_flips = _flips(reference_score, score, bundle.thresholds)
    return Parity(tuple(rows), len(score), flips, far_flips)


def _row(name: str, value: NDArray[Any], reference: NDArray[Any], weight: float = 1.0) -> BranchParity:
    error = np.abs(value.astype(np.float64) - reference.astype(np.float64))
    error[~np.isfinite(error)] = np.inf
    allowed = np.maximum(TOLERANCE_Z, TOLERANCE_SHARE * np.abs(reference.astype(np.float64)))
    share = error / allowed * max(weight, 1.0 / BRANCH_FACTOR)
    return BranchParity(name, float(error.max()), float(share.max()))


def _flips(reference: NDArray[Any], score: NDArray[Any], thresholds: Thresholds) -> tuple[int, int]:
    flipped = [
        float(wanted)
        for wanted, actual in zip(reference, score, strict=True)
        if _verdict(thresholds, float(wanted)) != _verdict(thresholds, float(actual))
    ]
    far = [value for value in flipped if min(abs(value - thresholds.warn), abs(value - thresholds.ng)) > TOLERANCE_Z]
    return len(flipped), len(far)


def _verdict(thresholds: Thresholds, score: float) -> str:
    try:
        return thresholds.verdict(score)
    except DeviceFault:
        return "NONE"
