"""The goods of a data set in memory, at the size the networks see, and anomalies made from the unseen ones."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_ad.data.folders import is_normal_name, list_nested, relative
from edge_ad.data.images import read_image, resize
from edge_ad.data.layouts import DataSet
from edge_ad.data.synthetic_anomalies import KINDS, make_anomaly
from edge_ad.errors import BadInput

Images = NDArray[np.uint8]

FADES = (0.5, 0.25)
"""Synthetic anomalies are also shown at these shares of their difference from the good: most of them are plain to every
branch at full strength, and then say nothing about which branch sees more."""


@dataclass(frozen=True)
class Pictures:
    """u8 [N, S, S, 3] each: goods to learn, unseen goods to normalise and stop by, goods for the threshold, anomalies.

    ``origins`` are the indices of the ``normalise`` goods that synthetic anomalies were made from; labelled defects have
    none.
    """

    fit: Images
    normalise: Images
    threshold: Images
    anomalies: Images
    kinds: tuple[str, ...]
    origins: tuple[int, ...] = ()

    def faded(self, share: float) -> Images:
        """Return the synthetic anomalies with ``share`` (0 to 1) of their difference from their goods; else none."""
        found = np.empty((len(self.origins), *self.normalise.shape[1:]), np.uint8)
        for row, origin in enumerate(self.origins):
            good = self.normalise[origin].astype(np.float32)
            found[row] = np.rint(good + share * (self.anomalies[row] - good))
        return found


def load_pictures(dataset: DataSet, side: int, anomalies: int, seed: int, defects: Path | None = None) -> Pictures:
    """Read and resize every good; make ``anomalies`` synthetic ones, or read labelled defects from a folder instead."""
    goods, bits = dataset.goods, dataset.bits
    normalise = read_all(goods.normalise, side, bits)
    found, kinds = synthetic(normalise, anomalies, seed) if defects is None else labelled(defects, side, bits)
    origins = tuple(_origin(number, normalise) for number in range(anomalies)) if defects is None else ()
    fit, threshold = read_all(goods.fit, side, bits), read_all(goods.threshold, side, bits)
    return Pictures(fit, normalise, threshold, found, kinds, origins)


def read_all(paths: Sequence[Path], side: int, bits: int = 16) -> Images:
    """Read pictures in order as u8 [N, side, side, 3]; ``bits`` as for ``read_image``."""
    with ThreadPoolExecutor(4) as pool:
        return np.stack(list(pool.map(lambda path: resize(read_image(path, bits), (side, side)), paths)))


def read_centres(paths: Sequence[Path], side: int) -> Images:
    """Read pictures at twice ``side`` and keep their centre, u8 [N, side, side, 3], as EfficientAD's penalty takes them."""
    start = side // 2

    def centre(path: Path) -> Images:
        whole = resize(read_image(path), (2 * side, 2 * side))
        return whole[start : start + side, start : start + side].copy()

    with ThreadPoolExecutor(4) as pool:
        return np.stack(list(pool.map(centre, paths)))


def _kind(parent: Path, folder: Path) -> str:
    return folder.name if parent == folder else relative(parent, folder)


def synthetic(goods: Images, count: int, seed: int) -> tuple[Images, tuple[str, ...]]:
    """Return ``count`` anomalies, the kinds in turn, each made from one good with patches of eight others."""
    rng = np.random.default_rng([seed, 7])
    found, kinds = [], []
    for number in range(count):
        index, kind = _origin(number, goods), KINDS[(number // len(goods) + number) % len(KINDS)]
        others = [goods[other] for other in rng.permutation(len(goods))[:9] if other != index]
        found.append(make_anomaly(goods[index], others, rng, kind)[0])
        kinds.append(kind)
    return np.stack(found), tuple(kinds)


def _origin(number: int, goods: Images) -> int:
    return number % len(goods)


def labelled(folder: Path, side: int, bits: int = 16) -> tuple[Images, tuple[str, ...]]:
    """Read a folder of labelled defects with all folders below it, whose paths name the kinds.

    BadInput when it holds no picture, and when a folder in it is named as one of normal images.
    """
    if not folder.is_dir():
        raise BadInput(f"--defects {folder} is not a folder: name one with pictures of defects, or leave it out")
    listed = [(path, _kind(path.parent, folder)) for path in list_nested(folder)]
    normal = next((path.parent for path, _ in listed if is_normal_name(path.parent.name) and path.parent != folder), None)
    if normal is not None:
        raise BadInput(f"--defects {folder} holds normal images in {normal}: name a folder of defects alone")
    if not listed:
        raise BadInput(f"--defects {folder} holds no picture: name a folder with pictures of defects, or leave it out")
    return read_all([path for path, _ in listed], side, bits), tuple(kind for _, kind in listed)
