"""Write the solar cells of the package elpv-dataset as folders that `edge-ad train` and `evaluate` read.

Good is probability 0, anomalous is 1; the two labels between are left out. `shuffled` draws 60 % of the normal images for training
with a fixed seed, `early` takes the first 60 % by file number, so that what came later is tested. The photographs are for
non-commercial use (CC BY-NC-SA 4.0).

    pip install elpv-dataset
    python tools/benchmarks/elpv_folders.py elpv/mono_shuffled --cells mono --split shuffled
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

SHARE = 0.6


def training_goods(goods: NDArray[np.intp], split: str, seed: int = 0) -> NDArray[np.intp]:
    """Return the indices, in order, of the normal images that train: a seeded draw, or the first ones."""
    count = round(SHARE * len(goods))
    chosen = np.random.default_rng(seed).permutation(goods)[:count] if split == "shuffled" else np.sort(goods)[:count]
    return np.sort(chosen)


def main() -> None:
    """Write train/good, test/good and test/defective."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--cells", choices=("mono", "poly"), default="mono")
    parser.add_argument("--split", choices=("shuffled", "early"), default="shuffled")
    arguments = parser.parse_args()
    from elpv_dataset.utils import load_dataset

    images, probability, cells = load_dataset()
    mine = cells == arguments.cells
    goods = np.flatnonzero(mine & (probability == 0))
    trained = set(training_goods(goods, arguments.split).tolist())
    folders = {int(index): "train/good" if int(index) in trained else "test/good" for index in goods}
    folders.update({int(index): "test/defective" for index in np.flatnonzero(mine & (probability == 1))})
    for index, folder in folders.items():
        path = arguments.out / folder / f"cell{index:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), images[index])
    counts = {name: list(folders.values()).count(name) for name in sorted(set(folders.values()))}
    print(f"{arguments.out}: {', '.join(f'{count} in {name}' for name, count in counts.items())}")


if __name__ == "__main__":
    main()
