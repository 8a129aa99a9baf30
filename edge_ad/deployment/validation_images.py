"""Images to prove an engine on, made from the few normal images that a bundle carries: later views of them, and
anomalies.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_ad.data.datasets import load_test
from edge_ad.data.part_regions import Mask, estimate_part
from edge_ad.data.prepared import prepare_files
from edge_ad.data.synthetic_anomalies import KINDS, inspected_part, make_anomaly
from edge_ad.errors import BadInput
from edge_ad.geometry.geometry import Geometry

Images = NDArray[np.uint8]
SHIFT, GAIN, NOISE = 2, 0.03, 1.5  # pixels; share of brightness; grey levels


@dataclass(frozen=True, eq=False)
class ValidationImages:
    """``images`` u8 [N, H, W, 3] and, for each, whether it is ``anomalous``."""

    images: Images
    anomalous: NDArray[np.bool_]

    def joined(self, other: ValidationImages) -> ValidationImages:
        """Return both."""
        images = np.concatenate([self.images, other.images])
        return ValidationImages(images, np.concatenate([self.anomalous, other.anomalous]))


def make_validation_images(
    normal_images: Images, copies: int = 2, anomalies: int = 3, seed: int = 0, *, geometry: Geometry | None = None
) -> ValidationImages:
    """Return ``normal_images``, ``copies`` jittered views and ``anomalies`` synthetic anomalies of each, seeded.

    The ``geometry`` may know where the part lies, else that is estimated, and what is ignored.
    """
    rng = np.random.default_rng([seed, 11])
    geometry = geometry or Geometry.square((normal_images.shape[1], normal_images.shape[2]))
    known, keep = geometry.part_mask(), geometry.without_ignored
    part = inspected_part(estimate_part(list(normal_images)) if known is None else known, geometry.inspected)
    views = [keep(jitter(image, rng)) for image in normal_images for _ in range(copies)]
    numbers = [(index, turn) for index in range(len(normal_images)) for turn in range(anomalies)]
    bad = [_anomaly(normal_images, index, turn, part, rng=rng, inspected=geometry.inspected) for index, turn in numbers]
    images = np.stack([*normal_images, *views, *bad])
    return ValidationImages(images, np.arange(len(images)) >= len(normal_images) + len(views))


def labelled_validation_images(data: Path, geometry: Geometry, bits: int = 16) -> ValidationImages:
    """Read a labelled test set as inputs, without parts that are not located; ``bits`` and BadInput as for ``load_test``.

    BadInput where no part is located.
    """
    items = load_test(data, bits).test
    prepared = prepare_files([item.path for item in items], geometry, bits)
    if not len(prepared):
        path, reason = prepared.unlocated[0]
        raise BadInput(f"{data} shows no part that the bundle's geometry locates ({path.name}: {reason}); name another set")
    kinds = {item.path: item.kind for item in items}
    return ValidationImages(prepared.images, np.array([kinds[path] != "good" for path in prepared.paths]))


def jitter(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return the same part a moment later: shifted by up to SHIFT pixels, a little brighter or darker, noisy."""
    rows, columns = rng.integers(-SHIFT, SHIFT + 1, 2)
    edge = np.pad(image, ((SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), mode="edge")
    height, width = image.shape[:2]
    moved = edge[SHIFT + rows : SHIFT + rows + height, SHIFT + columns : SHIFT + columns + width]
    lit = moved * rng.uniform(1 - GAIN, 1 + GAIN) + rng.normal(0.0, NOISE, image.shape)
    return np.asarray(np.clip(np.rint(lit), 0, 255), np.uint8)


def spread(images: Images, count: int) -> Images:
    """Return at most ``count`` of ``images``, evenly spread over them."""
    if len(images) <= count:
        return images
    picked: Images = images[evenly(len(images), count)]
    return picked


def evenly(total: int, count: int) -> NDArray[np.intp]:
    """Return at most ``count`` of the numbers from 0 to ``total`` - 1, evenly spread, rising."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).astype(np.intp))


def _anomaly(
    normal_images: Images, index: int, turn: int, part: Mask, *, rng: np.random.Generator, inspected: Mask | None
) -> NDArray[np.uint8]:
    others = [normal_images[other] for other in rng.permutation(len(normal_images))[:9] if other != index] or [normal_images[index]]
    kind = KINDS[(index + 3 * turn) % len(KINDS)]
    return make_anomaly(normal_images[index], others, rng, kind, part=part, inspected=inspected)[0]
