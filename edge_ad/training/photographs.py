"""Photographs of anything, and the random crops of them that a teacher learns from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.data.images import list_images, read_image, resize
from edge_ad.errors import BadInput

Image = NDArray[np.uint8]
GREY_SHARE = 0.1
AREA = (0.2, 1.0)
ASPECT = (3 / 4, 4 / 3)
MEMORY = 3 << 30
READERS = 8


class Photographs:
    """Pictures read on demand and kept while they fit in memory; crops are u8 [N, side, side, 3]."""

    def __init__(self, paths: Sequence[Path], memory: int = MEMORY) -> None:
        self.paths = tuple(paths)
        self.memory = memory
        self.kept: dict[int, Image] = {}

    def __len__(self) -> int:
        return len(self.paths)

    def random_crops(self, count: int, side: int, rng: np.random.Generator) -> Image:
        """Draw photographs, and of each a random part of 20 to 100 % of its area, mirrored or grey by chance."""
        chosen = rng.integers(0, len(self), count)
        seeds = rng.integers(0, 2**63, count)

        def crop(pair: tuple[int, int]) -> Image:
            return random_crop(self._read(int(pair[0])), side, np.random.default_rng(int(pair[1])))

        with ThreadPoolExecutor(READERS) as pool:
            return np.stack(list(pool.map(crop, zip(chosen, seeds, strict=True))))

    def central_crops(self, side: int) -> Image:
        """Return the largest central square of every photograph."""
        with ThreadPoolExecutor(READERS) as pool:
            return np.stack(list(pool.map(lambda i: central_crop(self._read(i), side), range(len(self)))))

    def _read(self, index: int) -> Image:
        found = self.kept.get(index)
        if found is None:
            found = read_image(self.paths[index])
            self.memory -= found.nbytes
            if self.memory > 0:
                self.kept[index] = found
        return found


def random_crop(image: Image, side: int, rng: np.random.Generator) -> Image:
    """Return u8 [side, side, 3]: a random part, resized; mirrored half of the time, grey one time in ten (methods 4.2)."""
    height, width = image.shape[:2]
    area = height * width * rng.uniform(*AREA)
    aspect = math.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
    w = min(width, max(1, round(math.sqrt(area * aspect))))
    h = min(height, max(1, round(math.sqrt(area / aspect))))
    top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
    part = resize(np.ascontiguousarray(image[top : top + h, left : left + w]), (side, side))
    if rng.random() < 0.5:
        part = part[:, ::-1]
    if rng.random() < GREY_SHARE:
        part = np.repeat(cv2.cvtColor(np.ascontiguousarray(part), cv2.COLOR_RGB2GRAY)[:, :, None], 3, axis=2)
    return np.ascontiguousarray(part).astype(np.uint8)


def central_crop(image: Image, side: int) -> Image:
    """Return the largest central square, resized to u8 [side, side, 3]."""
    height, width = image.shape[:2]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    return resize(np.ascontiguousarray(image[top : top + edge, left : left + edge]), (side, side))


def find_photographs(roots: Sequence[Path]) -> list[Path]:
    """List every picture in the folders and below them, and files named themselves; BadInput for one that holds none."""
    found: list[Path] = []
    for root in roots:
        if root.is_file():
            found.append(root)
            continue
        folders = [root, *sorted(path for path in root.rglob("*") if path.is_dir())] if root.is_dir() else []
        below = [path for folder in folders for path in list_images(folder)]
        if not below:
            raise BadInput(f"{root} holds no photograph: name folders of pictures (PNG, JPEG, BMP, TIFF, WebP)")
        found += below
    return found


def split_photographs(paths: Sequence[Path], seed: int, held_out: int) -> tuple[list[Path], list[Path]]:
    """Return photographs to learn and ``held_out`` others, by a seeded draw; BadInput when too few are left to learn."""
    if len(paths) < 2 * held_out:
        raise BadInput(
            f"{len(paths)} photographs are too few: name at least {2 * held_out}; a teacher wants a few thousand of many things"
        )
    order = np.random.default_rng([seed, 11]).permutation(len(paths))
    return [paths[i] for i in sorted(order[held_out:])], [paths[i] for i in sorted(order[:held_out])]
