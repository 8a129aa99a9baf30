"""Give one coloured part of a picture the colour that another good has there: a wrong combination without a seam."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from edge_ad.data.images import Image, resize
from edge_ad.data.regions import Alpha

COLOURS = 5
LEAST_AREA, MOST_AREA = 0.015, 0.5  # shares of the picture that a part may have
LEAST_CHANGE = 12.0  # distance in CIE L*a*b*: clearly another colour
MOST_SPREAD = 12.0  # of the other good's colour within the part; above it the part is not one thing there
LEAST_CORE = 12  # cells of the small picture

Float = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


def recolour(image: Image, others: Sequence[Image], rng: np.random.Generator) -> tuple[Image, Alpha] | None:
    """Return a copy of ``image`` u8[H,W,3] with one part in the colour it has in one of ``others``, and where f32[H,W].

    Parts are connected areas of one of five colours (k-means in L*a*b*). Light and shade inside the part stay. None when no
    other good has a clearly different colour in the place of a part, as where all goods are of one colour. Ours.
    """
    lab = _lab(image)
    labels = _colours(lab, rng)
    small = [_lab(resize(other, (64, 64))) for other in others]
    here = _lab(resize(image, (64, 64)))
    candidates = [
        (part, shift) for part in _parts(labels) for other in small if (shift := _shift(part, here, other)) is not None
    ]
    if not candidates:
        return None
    part, shift = candidates[int(rng.integers(len(candidates)))]
    blur = max(0.8, min(image.shape[:2]) / 256)
    alpha: Alpha = np.asarray(cv2.GaussianBlur(part.astype(np.float32), (0, 0), blur), dtype=np.float32)
    changed = cv2.cvtColor(lab + alpha[..., None] * shift, cv2.COLOR_LAB2RGB)
    painted = np.clip(np.rint(changed * 255), 0, 255).astype(np.uint8)
    return np.where(alpha[..., None] > 0, painted, image), alpha  # elsewhere L*a*b* and back would cost a last bit


def _lab(image: Image) -> Float:
    return np.asarray(cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), dtype=np.float32)


def _colours(lab: Float, rng: np.random.Generator) -> npt.NDArray[np.int32]:
    """Return for each pixel which of the picture's main colours it has, i32[H,W]."""
    calm = cv2.GaussianBlur(lab, (0, 0), max(0.8, min(lab.shape[:2]) / 128))
    sample = cv2.resize(calm, (64, 64), interpolation=cv2.INTER_AREA).reshape(-1, 3)
    cv2.setRNGSeed(int(rng.integers(2**31)))
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 20, 0.5)
    start = np.zeros((len(sample), 1), np.int32)
    _, _, centres = cv2.kmeans(sample, COLOURS, start, stop, 2, cv2.KMEANS_PP_CENTERS)
    distance = np.stack([((calm - centre) ** 2).sum(axis=2) for centre in centres])
    return np.asarray(distance.argmin(axis=0), dtype=np.int32)


def _parts(labels: npt.NDArray[np.int32]) -> list[Mask]:
    """Return the connected areas bool[H,W] of one colour that are neither specks nor the whole picture."""
    found = []
    for colour in range(COLOURS):
        count, pieces, facts, _ = cv2.connectedComponentsWithStats((labels == colour).astype(np.uint8), connectivity=4)
        shares = facts[:, cv2.CC_STAT_AREA] / labels.size
        found += [pieces == piece for piece in range(1, count) if LEAST_AREA <= shares[piece] <= MOST_AREA]
    return found


def _shift(part: Mask, here: Float, other: Float) -> Float | None:
    """Return the step in L*a*b* from the part's colour to the other good's in its place, if that is clear."""
    inside = cv2.erode(resize(part.astype(np.uint8) * np.uint8(255), (64, 64)), np.ones((3, 3), np.uint8)) > 127
    if inside.sum() < LEAST_CORE:
        return None
    there = other[inside]
    colour = np.median(there, axis=0)
    shift = colour - np.median(here[inside], axis=0)
    clear = float(np.linalg.norm(shift)) >= LEAST_CHANGE and float(np.abs(there - colour).mean()) < MOST_SPREAD
    return np.asarray(shift, dtype=np.float32) if clear else None
