"""Bring a lot in other light or colour back to the light of the training, before anything of it is learned. Ours.

Networks that were trained in one light take another for an anomaly everywhere, and no refit of statistics makes them see a
faint defect in it again. Gains of the channels, the same for all images of the lot, do, where the light is what moved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_ad.bundle import Bundle
from edge_ad.data.datasets import MIN_NORMAL_IMAGES
from edge_ad.data.prepared import prepare_files
from edge_ad.deployment.lot import MIN_KNOWN, Images, LotReader, anomalous, has_moved, inputs_of, known_normal
from edge_ad.deployment.refit import Described
from edge_ad.errors import BadInput
from edge_ad.geometry.colour import Gains, channel_levels, gains_between, is_gains, with_gains
from edge_ad.geometry.geometry import Geometry
from edge_ad.scoring import Array, fuse

REPORT_KEY = "colour"  # of a training: the light that gains bring a lot back to
MIN_CHANGE = 0.01  # of a gain from 1: less is within what few images tell of a lot
MIN_LOWER = 0.75  # of the images must score less by the gains
MAX_LEFT = 0.5  # of what they score above known normal images: else something else has moved, and is learned


def colour_report(images: Images, inspected: NDArray[np.bool_] | None) -> dict[str, Any]:
    """Return what the report keeps of the light of normal images u8 [N, H, W, 3], of which ``inspected`` bool [H, W] counts."""
    levels = np.median(channel_levels(images, inspected), axis=0)
    return {REPORT_KEY: {"levels": [round(float(level), 3) for level in levels], "images": len(images)}}


def match_colour(
    bundle: Bundle, reader: LotReader, images: Images, normal: Described
) -> tuple[Bundle, Described, Gains] | None:
    """Return the bundle with a geometry that brings the inputs u8 [N, H, W, 3] of a lot to the light of the training, their
    description so, and the gains that it did not have before; None where the lot has not moved, or not by its light.

    ``normal`` describes the images as they are.
    """
    known = known_normal(bundle, normal.raw)
    if len(known) < MIN_KNOWN or not has_moved(bundle, known, normal.raw):
        return None
    gains = gains_between(channel_levels(images, bundle.geometry.inspected), _wanted(bundle))
    if gains is None or max(abs(gain - 1.0) for gain in gains) < MIN_CHANGE:
        return None
    matched = reader.describe(seen_with(bundle, images, gains))
    whole = _joined(bundle.geometry.gains, gains)
    if not is_gains(whole) or not _explains(bundle, known, normal.raw, matched.raw):
        return None
    return bundle.with_geometry(replace(bundle.geometry, gains=whole)), matched, gains


def in_training_light(
    bundle: Bundle, reader: LotReader, paths: Sequence[Path], *, keep: bool, progress: Callable[[int, int], None] | None
) -> tuple[Bundle, Described, Gains | None]:
    """Return the bundle as it sees the lot in image files, their description, and the gains that it did not have before: None
    with ``keep``, or where ``match_colour`` takes none.
    """
    images = np.stack([*inputs_of(bundle, paths)])
    normal = reader.describe(images, progress)
    matched = None if keep else match_colour(bundle, reader, images, normal)
    return matched or (bundle, normal, None)


def matched_geometry(bundle: Bundle, paths: Sequence[Path], jobs: int | None = None) -> Geometry | None:
    """Return the geometry that brings the lot in image files to the light of the training; None where ``match_colour`` takes
    none, and for too few images.
    """
    images = prepare_files(paths, bundle.geometry, bundle.image_bits).images
    if len(images) < MIN_NORMAL_IMAGES:
        return None
    with LotReader(bundle, jobs) as reader:
        matched = match_colour(bundle, reader, images, reader.describe(images))
    return None if matched is None else matched[0].geometry


def seen_with(bundle: Bundle, images: Images, gains: Gains) -> Images:
    """Return inputs u8 [N, H, W, 3] of a bundle as it would see them with further gains."""
    return np.stack([bundle.geometry.without_ignored(with_gains(image, gains)) for image in images])


def _wanted(bundle: Bundle) -> NDArray[np.float64]:
    """Return levels f64 [M, 3] of the channels in the light of the training; an older bundle has its proof images alone."""
    reported = bundle.report.get(REPORT_KEY)
    if reported is None:
        images = [*bundle.golden.images, *(() if bundle.quantisation is None else bundle.quantisation.proof)]
        return channel_levels(images, bundle.geometry.inspected)
    try:
        levels = np.array(reported["levels"], np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"the report of {bundle.path} has no levels of its channels: train it again") from error
    if levels.shape != (3,) or not ((levels >= 0) & (levels <= 255)).all():
        raise BadInput(f"the report of {bundle.path} has the levels {levels.tolist()} of its channels: train it again")
    return levels[None]


def _joined(old: Gains | None, new: Gains) -> Gains:
    red, green, blue = (first * second for first, second in zip(old or (1.0, 1.0, 1.0), new, strict=True))
    return red, green, blue


def _explains(bundle: Bundle, known: Array, before: Array, after: Array) -> bool:
    """Whether the light is what moved: with it brought back, most images of raw scores f32 [N, B] score less, what they score above
    ``known`` normal images is at most half as much, and not more of them are NG.
    """
    usual, old, new = (fuse(rows, bundle.statistics)[1] for rows in (known, before, after))
    excess = [float(np.median(scores) - np.median(usual)) for scores in (old, new)]
    lower = bool(np.mean(new < old) >= MIN_LOWER) and excess[1] <= MAX_LEFT * excess[0]
    return lower and anomalous(bundle, after) <= anomalous(bundle, before)
