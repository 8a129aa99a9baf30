"""Finite nonsense: scores that no sound engine gives, however good the part is."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_ad.bundle import Bundle
from edge_ad.engines.pipeline import Inference
from edge_ad.scoring import BRANCHES, Array, fuse

NORMAL_SPLITS = ("normalise", "threshold")
SPREADS = 4.0
FEW, FEW_SPREADS = 20, 8.0
MIN_SPREAD = 1.0
UNKNOWN = -12.0
REMEMBERED = 4
DIFFERENT = 0.25
"""Grey levels, on average over the image: less than sensor noise that was resized."""


@dataclass(frozen=True, eq=False)
class Floors:
    """The least plausible ``score`` and ``z`` f32[B] (in branch order), and the least of normal images, ``known``."""

    score: float
    z: Array
    known: float


def floors_of(bundle: Bundle) -> Floors:
    """Derive the floors from the raw scores of normal images in the bundle.

    A floor lies ``SPREADS`` times as far below the median as the least normal image does, which counts as at least
    ``MIN_SPREAD`` standard deviations away. With fewer than ``FEW`` images it is ``FEW_SPREADS`` times as far, because
    their least says less. A bundle without such scores gets ``UNKNOWN`` standard deviations.
    """
    raw = [bundle.raw_scores[split] for split in NORMAL_SPLITS if split in bundle.raw_scores]
    if len(raw) > 1 and np.array_equal(raw[0], raw[1]):  # after a recalibration both are the same images
        raw = raw[:1]
    known = np.concatenate(raw) if raw else np.zeros((0, len(bundle.statistics.branches)), np.float32)
    known = known[np.isfinite(known).all(axis=1)]
    if not len(known):
        return Floors(UNKNOWN, np.full(known.shape[1], UNKNOWN, np.float32), 0.0)
    z, score = fuse(known, bundle.statistics)
    spreads = FEW_SPREADS if len(known) < FEW else SPREADS
    both = np.column_stack([z, score])
    median, minimum = np.median(both, axis=0), both.min(axis=0)
    floors = (median - spreads * np.maximum(median - minimum, MIN_SPREAD)).astype(np.float32)
    return Floors(float(floors[-1]), floors[:-1], float(minimum[-1]))


class Plausibility:
    """Looks at every inference of one judge, in any order of cameras and tiles.

    Not plausible: every raw score exactly 0; a score or a branch below its floor (``floors`` None: not asked); raw
    scores and map equal to the last bit to those of one of the last ``REMEMBERED`` images although the images differ,
    as of a result or an image that was never written. Branches that did not run are not asked.
    """

    def __init__(self, floors: Floors | None, branches: tuple[str, ...]) -> None:
        self._floors = floors
        self._computed = [(index, name) for index, name in enumerate(BRANCHES) if name in branches]
        self._last: deque[tuple[bytes, NDArray[np.uint8], Inference]] = deque(maxlen=REMEMBERED)

    def fault(self, image: NDArray[np.uint8], inference: Inference, ng: float = math.inf) -> str | None:
        """Return why the scores of ``image`` u8[H,W,3] are nonsense, or None.

        Floors are not asked of a score above ``ng``: an anomaly may take a branch far down while it drives up others.
        """
        repeated = self._repeated(image, inference)
        return self._zero(inference) or (None if inference.score > ng else self._low(inference)) or repeated

    def _asked(self, inference: Inference) -> list[tuple[int, str]]:
        return [(index, name) for index, name in self._computed if name not in inference.skipped]

    def _zero(self, inference: Inference) -> str | None:
        asked = self._asked(inference)
        if asked and all(inference.raw[index] == 0.0 for index, _ in asked):
            return "engine: every raw score is exactly 0; no image gives that"
        return None

    def _low(self, inference: Inference) -> str | None:
        if self._floors is None:
            return None
        for index, name in self._asked(inference):
            if inference.z[index] < self._floors.z[index]:
                return (
                    f"engine: {name} is {float(inference.z[index]):.1f}, far below every normal image; at least "
                    f"{float(self._floors.z[index]):.1f} is plausible"
                )
        if not inference.skipped and inference.score < self._floors.score:
            return (
                f"engine: the score is {inference.score:.1f}; normal images have at least {self._floors.known:.1f}, and "
                f"{self._floors.score:.1f} is the least that is plausible"
            )
        return None

    def _repeated(self, image: NDArray[np.uint8], inference: Inference) -> str | None:
        key = inference.raw.tobytes()
        match = None
        for before, other, result in self._last:
            if before == key and np.array_equal(result.map, inference.map) and _differ(image, other):
                match = "engine: all scores and the map are those of another image to the last bit"
        self._last.append((key, image, inference))
        return match


def _differ(image: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
    difference = np.maximum(image, other) - np.minimum(image, other)
    return float(difference.mean()) >= DIFFERENT
