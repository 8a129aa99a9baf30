"""The normal images of a data set in memory, at the size the networks see, and anomalies made from the unseen ones.

Photographs of anything, and the random crops of them that a teacher learns from.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.data.component_anomalies import logical_anomalies
from edge_ad.data.datasets import DataSet
from edge_ad.data.folders import is_normal_name, list_nested, relative
from edge_ad.data.images import list_images, read_image, resize
from edge_ad.data.part_regions import Mask
from edge_ad.data.prepared import prepare_files
from edge_ad.data.synthetic_anomalies import FADES, fade, kind_at, origin_of, synthetic
from edge_ad.deployment.validation_images import evenly
from edge_ad.errors import BadInput
from edge_ad.geometry.geometry import Geometry
from edge_ad.presets.networks import Sides, size_of

Images = NDArray[np.uint8]
MAX_PENALTY = 4096  # images of other things that are read
Defects: TypeAlias = tuple[Images, tuple[str, ...]]
"""Images of defects u8[N,H,W,3] and the kind of each."""

@dataclass(frozen=True)
class ScoringImages:
    """u8 [N, H, W, 3] each: normal images to learn, unseen normal images to stop by, unseen ones that nothing else uses
    (both normalise and set the thresholds), anomalies.

    ``origins`` are the indices of the ``normalise`` normal images that synthetic anomalies were made from; labelled
    defects have none. ``logical`` ones are never faded, and choose weights alone.
    """

    fit: Images
    normalise: Images
    threshold: Images
    anomalies: Images
    kinds: tuple[str, ...]
    origins: tuple[int, ...] = ()
    logical: Images | None = None
    logical_kinds: tuple[str, ...] = ()

    @property
    def shares(self) -> tuple[float, ...]:
        """The FADES at which anomalies are shown again; none where defects are labelled."""
        return FADES if self.origins else ()

    def faded(self, share: float) -> Images:
        """Return the synthetic anomalies with ``share`` (0 to 1) of their difference from their normal images; else
        none.
        """
        result = np.empty((len(self.origins), *self.normalise.shape[1:]), np.uint8)
        for row, origin in enumerate(self.origins):
            result[row] = fade(self.normalise[origin], self.anomalies[row], share)
        return result

    def shown_once(self, limit: int) -> tuple[Images, tuple[str, ...]]:
        """Return anomalies, each at one strength, and their kinds; of more than ``limit`` as many, spread evenly.

        Those of a kind take turns at full strength and at each of the FADES, and kinds begin at different ones.
        """
        rows = evenly(len(self.anomalies), limit)
        strengths, everything = (1.0, *self.shares), with_faded(self.kinds, self.shares)
        seen: Counter[str] = Counter({kind: turn for turn, kind in enumerate(dict.fromkeys(self.kinds))})
        chosen = np.empty(len(rows), np.intp)
        for index, row in enumerate(rows):
            chosen[index] = seen[self.kinds[row]] % len(strengths)
            seen[self.kinds[row]] += 1
        result = self.anomalies[rows]
        for turn, share in enumerate(self.shares, 1):
            result[chosen == turn] = self.faded(share)[rows][chosen == turn]
        kinds = tuple(everything[turn * len(self.kinds) + row] for turn, row in zip(chosen, rows, strict=True))
        return result, kinds


def with_faded(kinds: Sequence[str], shares: Iterable[float]) -> tuple[str, ...]:
    """Return the kinds of anomalies at full strength, then those of the same anomalies at each of the ``shares``."""
    return (*kinds, *(kind_at(kind, share) for share in shares for kind in kinds))


def scoring_images(
    normal: tuple[Images, Images, Images],
    anomalies: int,
    seed: int,
    *,
    defects: Defects | None = None,
    part: Mask | None = None,
    inspected: Mask | None = None,
) -> ScoringImages:
    """Return ``normal`` images (fit, normalise, threshold) with ``anomalies`` synthetic ones on the ``part`` where it is
    ``inspected``, or ``defects`` instead.
    """
    fit, normalise, threshold = normal
    result, kinds = synthetic(normalise, anomalies, seed, part, inspected=inspected) if defects is None else defects
    if defects is not None:
        return ScoringImages(fit, normalise, threshold, result, kinds)
    origins = tuple(origin_of(number, normalise) for number in range(anomalies))
    logical, logical_kinds = logical_anomalies(normalise, fit, seed, part, inspected=inspected)
    return ScoringImages(fit, normalise, threshold, result, kinds, origins, logical, logical_kinds)


def load_images(
    dataset: DataSet, side: Sides, anomalies: int, seed: int, *, defects: Path | None = None
) -> ScoringImages:
    """Read and squash every normal image; make ``anomalies`` synthetic ones, or read labelled defects from a folder."""
    normal, bits = dataset.normal, dataset.bits
    images = (read_all(normal.fit, side, bits), read_all(normal.normalise, side, bits), read_all(normal.threshold, side, bits))
    shown = None if defects is None else labelled(defects, Geometry.square(size_of(side)), bits)
    return scoring_images(images, anomalies, seed, defects=shown)


def read_all(paths: Sequence[Path], side: Sides, bits: int = 16) -> Images:
    """Read images in order as u8 [N, H, W, 3] of a size, or of a square's side; ``bits`` as for ``read_image``."""
    size = size_of(side)
    with ThreadPoolExecutor(4) as pool:
        return np.stack(list(pool.map(lambda path: resize(read_image(path, bits), size), paths)))


def penalty_paths(folder: Path | None) -> list[Path]:
    """Return the images of other things in a folder, if one is named; BadInput when it holds none."""
    if folder is None:
        return []
    paths = list_nested(folder)
    if not paths:
        raise BadInput(f"--penalty {folder} holds no image: name a folder of images of other things")
    return paths


def read_centres(paths: Sequence[Path], side: Sides) -> Images:
    """Read images at twice a size and keep their centre, u8 [N, H, W, 3], as EfficientAD's penalty takes them."""
    height, width = size_of(side)
    top, left = height // 2, width // 2

    def centre(path: Path) -> Images:
        whole = resize(read_image(path), (2 * height, 2 * width))
        return whole[top : top + height, left : left + width].copy()

    with ThreadPoolExecutor(4) as pool:
        return np.stack(list(pool.map(centre, paths)))


def read_penalty(paths: Sequence[Path], side: Sides, *, cropped: bool) -> Images | None:
    """Read images of other things, u8 [N, H, W, 3], whole or their centres; None without any."""
    if not paths:
        return None
    return (read_centres if cropped else read_all)(paths[:MAX_PENALTY], side)


def _kind(parent: Path, folder: Path) -> str:
    return folder.name if parent == folder else relative(parent, folder)


def labelled(folder: Path, geometry: Geometry, bits: int = 16) -> Defects:
    """Read a folder of labelled defects with all folders below it, whose paths name the kinds; a part that is not located
    is left out and logged.

    BadInput when it holds no image, and when a folder in it is named as one of normal images.
    """
    if not folder.is_dir():
        raise BadInput(f"--defects {folder} is not a folder: name one with images of defects, or leave it out")
    listed = [(path, _kind(path.parent, folder)) for path in list_nested(folder)]
    normal = next((path.parent for path, _ in listed if is_normal_name(path.parent.name) and path.parent != folder), None)
    if normal is not None:
        raise BadInput(f"--defects {folder} holds normal images in {normal}: name a folder of defects alone")
    if not listed:
        raise BadInput(f"--defects {folder} holds no image: name a folder with images of defects, or leave it out")
    prepared, kinds = prepare_files([path for path, _ in listed], geometry, bits), dict(listed)
    for path, reason in prepared.unlocated:
        logging.getLogger(__name__).warning("left out of the defects, %s: %s", path, reason)
    if not len(prepared):
        path, reason = prepared.unlocated[0]
        raise BadInput(f"--defects {folder} holds no part that could be located ({path.name}: {reason}): leave it out")
    return prepared.images, tuple(kinds[path] for path in prepared.paths)


Image = NDArray[np.uint8]
GREY_SHARE = 0.1
AREA = (0.2, 1.0)
ASPECT = (3 / 4, 4 / 3)
MEMORY = 3 << 30
READERS = 8


class Photographs:
    """Images read on demand and kept while they fit in memory; crops are u8 [N, side, side, 3]."""

    def __init__(self, paths: Sequence[Path], memory: int = MEMORY) -> None:
        self.paths = tuple(paths)
        self.memory = memory
        self.cache: dict[int, Image] = {}

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
        result = self.cache.get(index)
        if result is None:
            result = read_image(self.paths[index])
            self.memory -= result.nbytes
            if self.memory > 0:
                self.cache[index] = result
        return result


def random_crop(image: Image, side: int, rng: np.random.Generator) -> Image:
    """Return u8 [side, side, 3]: a random part, resized; mirrored half of the time, grey one time in ten (methods 4.2).
    """
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
    """List every image in the folders and below them, and files named themselves; BadInput for one that holds none."""
    paths: list[Path] = []
    for root in roots:
        if root.is_file():
            paths.append(root)
            continue
        folders = [root, *sorted(path for path in root.rglob("*") if path.is_dir())] if root.is_dir() else []
        below = [path for folder in folders for path in list_images(folder)]
        if not below:
            raise BadInput(f"{root} holds no photograph: name folders of images (PNG, JPEG, BMP, TIFF, WebP)")
        paths += below
    return paths


def split_photographs(paths: Sequence[Path], seed: int, held_out: int) -> tuple[list[Path], list[Path]]:
    """Return photographs to learn and ``held_out`` others, by a seeded draw; BadInput when too few are left to learn.
    """
    if len(paths) < 2 * held_out:
        raise BadInput(
            f"{len(paths)} photographs are too few: name at least {2 * held_out}; a teacher wants a few thousand of many things"
        )
    order = np.random.default_rng([seed, 11]).permutation(len(paths))
    return [paths[i] for i in sorted(order[held_out:])], [paths[i] for i in sorted(order[:held_out])]
