"""Rendered parts with known poses, and how far a locator's pose is from the truth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from edge_ad.geometry.foreground import ForegroundLocator
from edge_ad.geometry.foreground_fit import fit_foreground
from edge_ad.geometry.pose import Locator, Pose, wrap
from edge_ad.synthetic.single_part import Kind, PartImage, PartOptions, render_part

NORMAL = 16
LENGTH = 0.45


@cache
def normal_parts(kind: Kind) -> list[PartImage]:
    """Return undamaged parts on a belt, at any angle."""
    return [render_part(seed, PartOptions(kind=kind, length=LENGTH)) for seed in range(NORMAL)]


@cache
def fitted(kind: Kind) -> tuple[ForegroundLocator, NDArray[np.float64]]:
    """Return a locator learned from ``normal_parts``, and the constant between its frame and the renderer's, f64[3,3]."""
    parts = normal_parts(kind)
    locator = fit_foreground([part.image for part in parts], [f"{index}.png" for index in range(len(parts))])
    return locator, frame_offset(locator, parts)


def frame_offset(locator: Locator, parts: list[PartImage]) -> NDArray[np.float64]:
    """Return the median over parts of what leads from the renderer's frame to the locator's."""
    offsets = []
    for part in parts:
        pose = locator.locate(part.image)
        assert isinstance(pose, Pose), pose
        offsets.append(np.linalg.inv(_lifted(pose)) @ _lifted(Pose(part.x, part.y, part.angle, 1, 1)))
    return np.asarray(np.median(np.stack(offsets), axis=0))


@dataclass(frozen=True)
class Error:
    """How far a pose is from the truth: degrees, and the shift of the part's origin as a share of its long side."""

    angle: float
    shift: float


def error_of(pose: Pose, offset: NDArray[np.float64], part: PartImage) -> Error:
    """Return the error of a pose against a rendered part's truth."""
    seen = _lifted(pose) @ offset
    angle = wrap(math.degrees(math.atan2(seen[1, 0], seen[0, 0])) - part.angle)
    return Error(abs(angle), math.hypot(seen[0, 2] - part.x, seen[1, 2] - part.y) / part.extent)


def _lifted(pose: Pose) -> NDArray[np.float64]:
    return np.vstack([pose.matrix(), (0, 0, 1)])
