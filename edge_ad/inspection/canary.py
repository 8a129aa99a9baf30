"""Known images judged between the parts: proof that the engines still tell good from bad while verdicts flow."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_ad.bundle import Bundle
from edge_ad.camera.frames import Source
from edge_ad.errors import DeviceFault
from edge_ad.inspection.judge import Inferring, InspectionResult
from edge_ad.inspection.observers import Observer
from edge_ad.scoring import fuse

if TYPE_CHECKING:
    from edge_ad.inspection.products import Product

EVERY_S = 10.0
SHARE = 0.01
TOLERANCE = 0.01
FORCED = 3.0
"""A canary waits for a moment without an image for so many of its periods, then it goes first."""


@dataclass(frozen=True, eq=False)
class Known:
    """An image u8[H,W,3], what it scores on these engines, and how far the score may be off; ``infer`` where it has engines
    of its own.
    """

    name: str
    image: NDArray[np.uint8]
    score: float
    tolerance: float
    infer: Callable[[NDArray[np.uint8]], float] | None = None


class Canary(Observer):
    """Judges known images in turn every ``every_s`` seconds, and at once after a verdict that blames the engine.

    A sink and a listener of the loop. DeviceFault when a score is not what it was. It takes at most ``SHARE`` of the
    time: the period grows with the duration of an inference. It waits while images wait (``busy``), unless it is long
    overdue.
    """

    def __init__(
        self,
        infer: Callable[[NDArray[np.uint8]], float],
        known: Sequence[Known],
        busy: Callable[[], bool],
        *,
        every_s: float = EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._infer = infer
        self._known: Iterator[Known] = itertools.cycle(known)
        self._size = len(known)
        # By product: where products take turns each goes on where it was, or only the first image would ever be judged.
        self._turns: dict[str | None, tuple[Sequence[Known], Iterator[Known]]] = {}
        self._busy = busy
        self._every_s = every_s
        self._clock = clock
        self._done_at = clock()
        self._took_s = 0.0
        self._suspected = False
        self.tests = 0

    @property
    def period_s(self) -> float:
        """Seconds from one known image to the next."""
        return max(self._every_s, self._took_s / SHARE)

    def on_result(self, result: InspectionResult, source: Source) -> None:
        """Suspect the engine when a verdict does."""
        event = result.event
        self._suspected |= event.verdict == "NONE" and (event.reason or "").startswith("engine:")

    def on_product(self, product: Product) -> None:
        """Judge the known images of another product."""
        self._infer = score_of(product.inferring)
        known, turn = self._turns.get(product.name, (None, self._known))
        if known is not product.known:  # new, or measured again when its engines were opened
            turn = itertools.cycle(product.known)
        self._turns[product.name] = product.known, turn
        self._known, self._size = turn, len(product.known)

    def on_tick(self) -> None:
        """Judge the next known image when it is time; all of them when the engine is suspected."""
        waited = self._clock() - self._done_at
        if self._suspected:
            self._suspected = False
            for _ in range(self._size):
                self._test()
        elif waited >= self.period_s and (waited >= FORCED * self.period_s or not self._busy()):
            self._test()

    def _test(self) -> None:
        one, began = next(self._known), self._clock()
        score = (one.infer or self._infer)(one.image)
        self._done_at = self._clock()
        self._took_s = self._done_at - began
        self.tests += 1
        if not abs(score - one.score) <= one.tolerance:  # a NaN fails too
            raise DeviceFault(
                f"the self-test failed while running: {one.name} scores {score:.4f} instead of {one.score:.4f}; the engine or "
                "the memory is damaged, so restart or rebuild it with `edge-ad build-engine`"
            )


def score_of(pipeline: Inferring) -> Callable[[NDArray[np.uint8]], float]:
    """Return the score of an image as a function."""
    return lambda image: pipeline.infer(image).score


def known_images(infer: Callable[[NDArray[np.uint8]], float], bundle: Bundle) -> list[Known]:
    """Return the golden image that scores least and a known anomaly, with what they score on these engines.

    The anomaly is the golden image that scores most; where that is not NG, the other one with its middle turned upside
    down and inverted. One that does not score above the NG threshold either is left out.
    """
    scores = fuse(bundle.golden.raw, bundle.statistics)[1]
    good, bad = bundle.golden.images[int(np.argmin(scores))], bundle.golden.images[int(np.argmax(scores))]
    if scores.max() <= bundle.thresholds.ng:
        bad = _corrupted(good)
    images = [_measured("a golden image", good, infer)]
    anomaly = _measured("a known anomaly", bad, infer)
    return [*images, anomaly] if anomaly.score > max(bundle.thresholds.ng, images[0].score) else images


def _measured(name: str, image: NDArray[np.uint8], infer: Callable[[NDArray[np.uint8]], float]) -> Known:
    score = infer(image)
    return Known(name, image, score, TOLERANCE * max(1.0, abs(score)))


def _corrupted(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    corrupted = image.copy()
    rows, columns = (slice(side // 4, side - side // 4) for side in image.shape[:2])
    corrupted[rows, columns] = 255 - image[rows, columns][::-1]
    return corrupted
