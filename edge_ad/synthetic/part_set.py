"""A data set of single parts at any angle on a belt, written in MVTec AD's layout with masks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_ad.errors import BadInput
from edge_ad.synthetic.line import write_png
from edge_ad.synthetic.part_defects import LOGICAL, STRUCTURAL, Defect
from edge_ad.synthetic.single_part import PartOptions, render_part

GOOD_FOLDERS = ("train", "test")
_CAPACITY = 100_000


def write_parts(
    out: Path, options: PartOptions | None = None, *, train: int = 200, test_good: int = 60, each: int = 12, seed: int = 0
) -> Path:
    """Write normal images and ``each`` images of every defect under ``out``/parts_<kind> and return that folder.

    Equal arguments give equal files. Raises BadInput where images are there already: old and new parts would mix.
    """
    options = options or PartOptions()
    root = out / f"parts_{options.kind}"
    if any(root.rglob("*.png")):
        raise BadInput(f"{root} already holds images: choose another folder or delete it first")
    for split, (folder, count) in enumerate(zip(GOOD_FOLDERS, (train, test_good), strict=True)):
        for index in range(count):
            part = render_part(_seed(seed, split, index), options)
            write_png(root / folder / "good" / f"{index:03d}.png", _bgr(part.image))
    for split, defect in enumerate((*LOGICAL, *STRUCTURAL), start=len(GOOD_FOLDERS)):
        for index in range(each):
            _write_defect(root, defect, index, replace(options, defect=defect), seed=_seed(seed, split, index))
    return root


def _seed(seed: int, split: int, index: int) -> int:
    if not 0 <= index < _CAPACITY or seed < 0:
        raise BadInput(f"image {index} with seed {seed}: choose a seed of 0 or more and up to {_CAPACITY:,} images a folder")
    return (seed * 100 + split) * _CAPACITY + index


def _write_defect(root: Path, defect: Defect, index: int, options: PartOptions, *, seed: int) -> None:
    part = render_part(seed, options)
    write_png(root / "test" / defect / f"{index:03d}.png", _bgr(part.image))
    write_png(root / "ground_truth" / defect / f"{index:03d}_mask.png", part.damaged)


def _bgr(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(image[..., ::-1])
