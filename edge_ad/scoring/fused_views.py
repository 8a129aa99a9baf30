"""One score of a part that several cameras see, with thresholds learned from normal parts that all of them saw.

Each view has a promise of its own, so the worst of several views rejects more normal parts than any of them promises. The
fused score has one promise for the part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_ad.errors import BadInput
from edge_ad.events import Verdict
from edge_ad.scoring.thresholds import Thresholds, choose_thresholds

FORMAT = 1
MIN_PARTS = 10
MIN_STD = 1e-6


class ViewScores(NamedTuple):
    """What a view scores on normal parts: mean and standard deviation, by the bundle (sha256) that gave the scores."""

    bundle: str
    mean: float
    std: float


@dataclass(frozen=True)
class FusedResult:
    """The verdict on a part by its fused score; ``most`` is the view that adds most to it."""

    verdict: Verdict
    score: float
    reason: str
    most: str


@dataclass(frozen=True)
class FusedViews:
    """Judges the scores of all views of a part together.

    The fused score is the length of the vector of the views' deviations from normal parts, in their standard deviations;
    what lies below the mean counts as 0. So one strong deviation counts as it is, and weak ones in several views add up.
    """

    views: Mapping[str, ViewScores]
    thresholds: Thresholds

    def judge(self, scores: Mapping[str, float]) -> FusedResult:
        """Return the verdict on the scores of all views, by name."""
        deviations = {name: (scores[name] - view.mean) / view.std for name, view in self.views.items()}
        score = float(_lengths(np.array([list(deviations.values())]))[0])
        verdict = self.thresholds.verdict(score)
        limit = self.thresholds.ng if verdict == "NG" else self.thresholds.warn
        most = max(deviations, key=lambda name: deviations[name])
        return FusedResult(verdict, score, f"fused: score {score:.2f} of all views above {limit:.2f}", most)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; ``from_json`` gives back an equal object."""
        views = {name: view._asdict() for name, view in self.views.items()}
        return {"format": FORMAT, "views": views, "thresholds": self.thresholds.to_json()}

    @classmethod
    def from_json(cls, value: object, where: str) -> FusedViews:
        """Read what ``to_json`` wrote; BadInput for anything else."""
        advice = "write it again with `edge-ad views learn`"
        if not isinstance(value, Mapping) or value.get("format") != FORMAT or not isinstance(value.get("views"), Mapping):
            raise BadInput(f"{where} holds no fused thresholds of format {FORMAT}: {advice}")
        views = {str(name): _view_scores(row, f"{where}: view {name}", advice) for name, row in value["views"].items()}
        if len(views) < 2:
            raise BadInput(f"{where} has {len(views)} views, and a fused score needs at least two: {advice}")
        return cls(views, Thresholds.from_json(value.get("thresholds")))


def _view_scores(row: object, where: str, advice: str) -> ViewScores:
    if isinstance(row, Mapping) and set(row) == set(ViewScores._fields) and isinstance(row["bundle"], str):
        numbers = (row["mean"], row["std"])
        known = all(isinstance(one, (int, float)) and not isinstance(one, bool) and math.isfinite(one) for one in numbers)
        if known and row["std"] > 0:
            return ViewScores(row["bundle"], float(row["mean"]), float(row["std"]))
    raise BadInput(f"{where} must have bundle, a finite mean and a std above 0: {advice}")


def learn_fused(
    scores: ArrayLike, bundles: Mapping[str, str], target_ng: float = 0.01, target_warn: float = 0.05
) -> FusedViews:
    """Learn from the ``scores`` [N, V] of N normal parts in V views; ``bundles`` has the sha256 of each view's bundle, in order.

    Mean and deviation come from all parts; the thresholds from fused scores each made with a mean and deviation that its
    part took no part in, as those of a bundle (``choose_thresholds``). BadInput for fewer than MIN_PARTS parts, or scores
    that are not finite.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != len(bundles) or len(values) < MIN_PARTS:
        raise BadInput(
            f"a fused threshold needs the scores of at least {MIN_PARTS} normal parts in all {len(bundles)} views, but there are "
            f"{len(values)}: take more parts"
        )
    if not np.isfinite(values).all():
        raise BadInput("the score of a normal part is not a finite number; look at the engine that judged it")
    mean, std = values.mean(0), np.maximum(values.std(0, ddof=1), MIN_STD)
    views = {
        name: ViewScores(sha256, float(mean[index]), float(std[index])) for index, (name, sha256) in enumerate(bundles.items())
    }
    return FusedViews(views, choose_thresholds(_left_out(values), target_ng, target_warn))


def _left_out(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the fused score [N] of each part by the mean and deviation of the others."""
    count, values = len(values), values - values.mean(0)
    total, squares = values.sum(0), (values**2).sum(0)
    mean = (total - values) / (count - 1)
    variance = (squares - values**2 - (count - 1) * mean**2) / (count - 2)
    std = np.maximum(np.sqrt(np.maximum(variance, 0.0)), MIN_STD)
    return _lengths((values - mean) / std)


def _lengths(deviations: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths: NDArray[np.float64] = np.sqrt((np.maximum(deviations, 0.0) ** 2).sum(1))
    return lengths
