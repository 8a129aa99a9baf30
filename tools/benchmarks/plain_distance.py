"""Does a bundle beat a distance that needs no training? `python tools/benchmarks/plain_distance.py BUNDLE ROOT`

Fits a Gaussian (Ledoit-Wolf) to pooled features of EfficientNet-Lite0 for every image of ROOT/train/good and judges
ROOT/test by the Mahalanobis distance to it, beside the bundle in FP32. Prints AUROC of both with 95 % bootstrap intervals
and, over the same draws of images, the difference. Three choices of features: means over the image of the stages that
the networks of `fast` see, those of all stages of the branch `composition`, and these with its regions.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edge_ad.bundle import open_bundle
from edge_ad.data.datasets import load_test
from edge_ad.data.images import list_images
from edge_ad.engines.offline import open_workers
from edge_ad.errors import BadInput
from edge_ad.evaluation.figures import judge_all
from edge_ad.models.teachers import LiteTeacher
from edge_ad.presets.presets import FAST
from edge_ad.scoring.auroc import Interval, Scores, auroc_difference, auroc_interval
from edge_ad.scoring.statistics import fit_gaussian, mahalanobis
from edge_ad.training.images import Images, read_all
from edge_ad.training.teacher import describe, load_teacher
from edge_ad.utils.progress import Progress

Floats = NDArray[np.float32]

FEATURES = ("means, strides 4, 8 and 16", "means, strides 4 to 32", "means and regions")


def main() -> int:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("root", type=Path, help="a set as `edge-ad evaluate` reads it, with train/good")
    options = parser.parse_args()
    try:
        print("\n".join(table(options.bundle, options.root)))
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def table(bundle_path: Path, root: Path) -> list[str]:
    """Return a heading, the row of the bundle and a row for each distance; BadInput where normal images or anomalies lack."""
    bundle, test = open_bundle(bundle_path), load_test(root).test
    goods = list_images(root / "train" / "good") if (root / "train" / "good").is_dir() else []
    bad = np.array([item.kind != "good" for item in test])
    if len(goods) < 2 or bad.all() or not bad.any():
        raise BadInput(f"{root} needs train/good, test/good and a folder of anomalies under test to compare on")
    progress = Progress()
    with open_workers(bundle, "onnxruntime", "fp32") as workers:
        scores = judge_all(workers, test).score
    fused = scores[~bad], scores[bad]
    learned, tested = (read_all(paths, FAST.image_side) for paths in (goods, [item.path for item in test]))
    rows = [
        f"{root.name}: {len(goods)} normal images to learn, {(~bad).sum()} normal images and {bad.sum()} anomalies to judge",
        "| score | width | AUROC | bundle minus it |\n|---|--:|--:|--:|",
        f"| bundle | | {words(auroc_interval(*fused))} | |",
    ]
    progress.log("describing the images")
    for name, (one, other) in features(learned, tested).items():
        distances = mahalanobis(other, *fit_gaussian(one))
        plain: tuple[Scores, Scores] = distances[~bad], distances[bad]
        gain = auroc_difference(fused, plain)
        rows.append(f"| {name} | {one.shape[1]} | {words(auroc_interval(*plain))} | {words(gain, '+')} |")
    return rows


def features(learned: Images, tested: Images) -> dict[str, tuple[Floats, Floats]]:
    """Return each of the FEATURES f32 [N, D] and [M, D] of ``learned`` [N, S, S, 3] and ``tested`` images [M, S, S, 3].

    One pass gives all: what is pooled begins with the means of the stages, the finest first, and ends with the regions.
    """
    device = torch.device("cpu")
    teacher = load_teacher(FAST, None, device)
    assert isinstance(teacher, LiteTeacher)  # as `fast` has it
    pooled = [describe(teacher, images, FAST, device)[1].numpy() for images in (learned, tested)]
    width = dict(zip(teacher.trunk.taps, teacher.trunk.channels, strict=True))
    seen, means = (sum(width[tap] for tap in taps) for taps in (FAST.teacher.taps, FAST.teacher.pooled_taps))
    widths = (seen, means, teacher.pooled_width)
    return {name: (pooled[0][:, :n], pooled[1][:, :n]) for name, n in zip(FEATURES, widths, strict=True)}


def words(interval: Interval | None, sign: str = "") -> str:
    """Return "value [low, high]" with three decimals."""
    assert interval is not None  # there are normal images and anomalies
    value, low, high = (f"{one:{sign}.3f}" for one in (interval.value, interval.low, interval.high))
    return f"{value} [{low}, {high}]"


if __name__ == "__main__":
    sys.exit(main())
