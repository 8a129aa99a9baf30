"""Groups of images that show the same thing, so that a split never puts one of them on each side."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from edge_ad.data.images import read_thumbnail, resize
from edge_ad.errors import BadInput

SIDE = 32
"""Side of the grey thumbnails that are compared, in pixels."""

CLOSE = 1.0
"""Two images are near-duplicates when the root mean square difference of their thumbnails (each less its own mean,
so that flicker of the light does not count) is below this many grey levels of 255. Camera noise averages out to some
tenths; two different good parts under a fixed camera were 1.8 or more apart in every real set this was tried on.
"""

MIN_RANGE = 1.0
"""A thumbnail that spans less than one grey level of 255 shows no structure: a camera's noise and the fall-off of any
lens give more, only a covered, saturated or made-up image less."""


def thumbnails(paths: Sequence[Path], bits: int = 16, threads: int = 2) -> tuple[npt.NDArray[np.float32], dict[int, str]]:
    """Return thumbnails f32[N, SIDE*SIDE] with zero mean each, and the reason for each index that could not be
    decoded; ``bits`` as for ``read_image``.
    """
    table = np.zeros((len(paths), SIDE * SIDE), np.float32)
    failed: dict[int, str] = {}

    def load(index: int) -> None:
        try:
            table[index] = read_thumbnail(paths[index], SIDE, bits).reshape(-1)
        except BadInput as error:
            failed[index] = str(error)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(load, range(len(paths))))
    return table - table.mean(axis=1, keepdims=True), failed


def usable_thumbnails(paths: Sequence[Path], bits: int) -> tuple[npt.NDArray[np.float32], list[tuple[Path, str]]]:
    """Return the thumbnails of the images that can be used, in order, and the others with the reason."""
    table, failed = thumbnails(paths, bits)
    reasons = dict(failed)
    for index in np.flatnonzero(np.ptp(table, axis=1) < MIN_RANGE).tolist():
        reasons.setdefault(
            index,
            f"{paths[index]} shows nothing but one brightness; look at the lens, the light and the exposure of the camera",
        )
    usable = [index for index in range(len(paths)) if index not in reasons]
    return table[usable], [(paths[index], reason) for index, reason in sorted(reasons.items())]


def thumbnail(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return the thumbnail f32[SIDE*SIDE] with zero mean of an image u8[H,W,3] RGB."""
    small = resize(np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8), (SIDE, SIDE))
    values = small.reshape(-1).astype(np.float32)
    return np.asarray(values - values.mean(), np.float32)


class Gallery:
    """Thumbnails seen so far, one by one, and how near a new one comes to any of them."""

    def __init__(self) -> None:
        self._table = np.zeros((64, SIDE * SIDE), np.float32)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, thumbnail: npt.NDArray[np.float32]) -> None:
        """Take in a thumbnail f32[SIDE*SIDE]."""
        if self._count == len(self._table):
            self._table = np.concatenate([self._table, np.zeros_like(self._table)])
        self._table[self._count] = thumbnail
        self._count += 1

    def nearest(self, thumbnail: npt.NDArray[np.float32]) -> tuple[int, float]:
        """Return the index of the most similar thumbnail and its root mean square difference in grey levels.

        (-1, infinity) while there is none.
        """
        if not self._count:
            return -1, float("inf")
        squared = ((self._table[: self._count] - thumbnail) ** 2).mean(axis=1)
        index = int(np.argmin(squared))
        return index, float(np.sqrt(squared[index]))


def distances(table: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return f32[N,N], the root mean square difference of every pair of thumbnails, in grey levels."""
    wide = table.astype(np.float64)
    squares = (wide**2).sum(axis=1)
    squared = squares[:, None] + squares[None, :] - 2.0 * wide @ wide.T
    return np.asarray(np.sqrt(np.maximum(squared, 0.0) / max(table.shape[1], 1)), dtype=np.float32)


def near_duplicate_groups(
    table: npt.NDArray[np.float32], close: float = CLOSE, largest: float = 0.1
) -> list[list[int]]:
    """Return the indices of the thumbnails f32[N,P] in groups of near-duplicates; every index is in exactly one group.

    Groups are closed: whoever is near a member is a member. Where good parts look so much alike that a group would hold
    more than ``largest`` of all images, the limit is halved until none does or only identical images remain.
    """
    apart = distances(table)
    limit = close
    while True:
        groups = _components(apart < limit)
        if limit < 1e-2 or max(map(len, groups), default=0) <= max(2.0, largest * len(table)):
            return groups
        limit /= 2


def _components(near: npt.NDArray[np.bool_]) -> list[list[int]]:
    seen = np.zeros(len(near), dtype=bool)
    groups: list[list[int]] = []
    for start in range(len(near)):
        if seen[start]:
            continue
        seen[start] = True
        group, frontier = [start], [start]
        while frontier:
            fresh = np.flatnonzero(near[frontier.pop()] & ~seen).tolist()
            seen[fresh] = True
            group += fresh
            frontier += fresh
        groups.append(sorted(group))
    return groups
