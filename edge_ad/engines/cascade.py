"""Cheap branches first: LAViT is left out while the others alone leave no doubt that a part is OK (ours).

No raw score of LAViT lies below 0, so the score with a raw score of 0 in its place is the least that the whole can be.
Below a limit on that least score a part is called OK and LAViT, the dearest graph, does not run. Every other part is
judged in full, so a part that the cascade calls WARN or NG is called so by the full run too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edge_ad.bundle import Bundle
from edge_ad.bundle.graphs import EXPENSIVE, FUSION, IMAGE, RESULTS, TEACHER, expensive_branches
from edge_ad.engines.pipeline import Inference, Pipeline
from edge_ad.errors import BadInput
from edge_ad.scoring import BRANCHES, Statistics, Thresholds, fuse

SKIPPED = expensive_branches()  # none of their raw scores may lie below 0
USUAL = 0.95  # of the normal images: what is less usual than these is judged in full


def min_scores(raw: NDArray[np.float32], statistics: Statistics) -> NDArray[np.float32]:
    """Return the least that the scores f32 [N] of ``raw`` f32 [N, B] can be before LAViT has run."""
    without = raw.copy()
    without[:, [BRANCHES.index(branch) for branch in SKIPPED]] = 0.0
    return fuse(without, statistics)[1]


def limit_of(bundle: Bundle, thresholds: Thresholds, rate: float) -> float:
    """Return the least score below which LAViT is left out.

    Of anomalies like the synthetic ones of the training that the full run calls WARN or NG, on average at most ``rate``
    come out as OK: m known ones support no rate below 1 / (m + 1) (split conformal), and less is refused with BadInput.
    Real anomalies may be unlike them, so the limit is never above what ``USUAL`` of the threshold's normal images
    reach.
    """
    raw = bundle.raw_scores["synthetic"] if "synthetic" in bundle.raw_scores else np.zeros((0, len(BRANCHES)), np.float32)
    result = raw[fuse(raw, bundle.statistics)[1] > thresholds.warn] if len(raw) else raw
    allowed = math.floor(rate * (len(result) + 1)) - 1
    if allowed < 0:
        raise BadInput(
            f"--cascade is {rate:g}, but the {len(result)} anomalies that the bundle knows support no rate below "
            f"{1 / (len(result) + 1):.2g}: allow more, or leave --cascade out"
        )
    by_anomalies = float(np.sort(min_scores(result, bundle.statistics))[allowed])
    return min(by_anomalies, _usual(bundle), thresholds.warn)


def _usual(bundle: Bundle) -> float:
    normal = bundle.raw_scores["threshold"] if "threshold" in bundle.raw_scores else np.zeros((0, len(BRANCHES)), np.float32)
    if not len(normal):
        return math.inf
    return float(np.sort(min_scores(normal, bundle.statistics))[math.ceil(USUAL * len(normal)) - 1])


class Cascade:
    """A pipeline that runs LAViT only where the verdict is open. It closes nothing: the pipeline is the caller's.

    ``thresholds`` gives those in force; the limit follows them. BadInput for a pipeline without LAViT or on a GPU,
    where the whole frame is one recorded graph.
    """

    def __init__(self, pipeline: Pipeline, bundle: Bundle, rate: float, thresholds: Callable[[], Thresholds]) -> None:
        engines, left_out = pipeline.engines, [name for name in EXPENSIVE if name in pipeline.engines]
        if not left_out:
            raise BadInput(
                f"--cascade has nothing to leave out: the branch {' and '.join(SKIPPED)} has weight 0 in this bundle"
            )
        if pipeline.backend.name != "onnxruntime":
            raise BadInput(f"--cascade runs on onnxruntime, not on {pipeline.backend.name}: leave it out")
        self._pipeline, self._bundle, self._rate, self._thresholds = pipeline, bundle, rate, thresholds
        self._known: tuple[Thresholds, float] | None = None
        self.image_size, self.branches = pipeline.image_size, pipeline.branches
        image = engines[TEACHER].bound(IMAGE)
        results = [engines[FUSION].bound(name) for name in RESULTS]
        self._expensive = [engines[name].bound(output) for name in left_out for output in engines[name].outputs]
        cheap = {name: engine for name, engine in engines.items() if name not in left_out}
        rest = {name: engines[name] for name in (*left_out, FUSION)}
        self._cheap = pipeline.backend.frame(cheap, image, results)
        self._rest = pipeline.backend.frame(rest, image, results)

    @property
    def limit(self) -> float:
        """The least score below which LAViT is left out, for the thresholds in force."""
        now = self._thresholds()
        if self._known is None or self._known[0] is not now:
            try:
                self._known = (now, limit_of(self._bundle, now, self._rate))
            except BadInput:  # new thresholds, above which too few known anomalies lie: everything is judged in full
                self._known = (now, -math.inf)
        return self._known[1]

    def infer(self, image: NDArray[np.uint8]) -> Inference:
        """Judge ``image`` as the pipeline does, or without LAViT; then ``skipped`` names its branch."""
        for tensor in self._expensive:
            tensor.write(np.zeros(tensor.spec.shape, tensor.spec.dtype))
        stages = self._cheap.run(image[None])
        result = self._pipeline.collect(stages)
        if result.score < self.limit:
            return replace(result, skipped=SKIPPED)
        more = self._rest.run(image[None])
        both = {name: stages.get(name, 0.0) + more.get(name, 0.0) for name in {**stages, **more}}
        return self._pipeline.collect(both)
