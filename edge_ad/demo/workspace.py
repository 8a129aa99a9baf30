"""Two simple detectors that a hard data set must defeat: a global colour histogram, and the difference to a mean image.

Of the variants tried on the synthetic line (nearest neighbour, distance to the mean, other bins, windows and colour
spaces) these are among the strongest, so that a low figure says something about the line. Images are u8[N,H,W,3];
``train`` and ``normal`` are good parts, ``anomalies`` bad ones, all of one size. Both return the area under the
ROC curve of normal images against anomalies: 0.5 is guessing, 1 is perfect. BadInput when a stack is empty or sizes
differ.

How large a demonstration is.

The folder of a demonstration: an interrupted one goes on, a finished one is replaced, anything else is never touched.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad import __version__
from edge_ad.data.images import read_image
from edge_ad.errors import BadInput
from edge_ad.scoring.auroc import auroc
from edge_ad.synthetic.line import CATEGORY, Progress, write_line
from edge_ad.utils.files import atomic_write

_LEVELS = 8
_SHRINKAGE = 0.01
_WINDOW = 9
_MIN_DEVIATION = 5.0


def colour_histogram_auroc(train: NDArray[np.uint8], normal: NDArray[np.uint8], anomalies: NDArray[np.uint8]) -> float:
    """Return the AUROC of the Mahalanobis distance between square roots of 8 x 8 x 8 colour histograms."""
    _check(train, normal, anomalies)
    fit, good, bad = (np.stack([_histogram(image) for image in images]) for images in (train, normal, anomalies))
    centre = fit.mean(axis=0)
    spread = (fit - centre).T @ (fit - centre) / len(fit)
    floor = max(float(np.trace(spread)) / len(spread), 1e-9)
    # With fewer images than bins the covariance is singular; pulling it towards a sphere makes it invertible.
    precision = np.linalg.inv((1 - _SHRINKAGE) * spread + _SHRINKAGE * floor * np.eye(len(spread)))
    return _auroc(*(np.einsum("nd,de,ne->n", x - centre, precision, x - centre) for x in (good, bad)))


def mean_difference_auroc(train: NDArray[np.uint8], normal: NDArray[np.uint8], anomalies: NDArray[np.uint8]) -> float:
    """Return the AUROC of the largest 9 x 9 average of |image - mean image|, in standard deviations of each pixel."""
    _check(train, normal, anomalies)
    total, squares = np.zeros(train.shape[1:]), np.zeros(train.shape[1:])
    for image in train:
        pixels = image.astype(np.float64)
        total += pixels
        squares += pixels * pixels
    mean = total / len(train)
    deviation = np.sqrt(np.maximum(squares / len(train) - mean * mean, 0)) + _MIN_DEVIATION
    good, bad = (np.array([_worst_spot(image, mean, deviation) for image in images]) for images in (normal, anomalies))
    return _auroc(good, bad)


def _histogram(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the square roots of the shares of all 512 coarse colours, f64[512]."""
    coarse = image.astype(np.int64) * _LEVELS // 256
    bins = (coarse[..., 0] * _LEVELS + coarse[..., 1]) * _LEVELS + coarse[..., 2]
    shares = np.bincount(bins.ravel(), minlength=_LEVELS**3) / bins.size
    return np.asarray(np.sqrt(shares), dtype=np.float64)


def _worst_spot(image: NDArray[np.uint8], mean: NDArray[np.float64], deviation: NDArray[np.float64]) -> float:
    difference = (np.abs(image - mean) / deviation).mean(axis=2)
    return float(np.asarray(cv2.blur(difference, (_WINDOW, _WINDOW))).max())


def _auroc(good: NDArray[np.float64], bad: NDArray[np.float64]) -> float:
    value = auroc(good, bad)
    assert value is not None  # empty stacks were refused
    return value


def _check(*stacks: NDArray[np.uint8]) -> None:
    shapes = {stack.shape[1:] for stack in stacks}
    if not all(len(stack) for stack in stacks) or len(shapes) != 1:
        raise BadInput(f"baselines need images of one size in every stack, not {[stack.shape for stack in stacks]}")


@dataclass(frozen=True)
class Plan:
    """Trays a split, frames of the video (half of them anomalous) and training steps (None: the preset's own)."""

    train: int = 240
    validation: int = 100
    test_good: int = 200
    test_logical: int = 120
    test_structural: int = 80
    video_frames: int = 200
    steps: int | None = None

    def line(self) -> dict[str, int]:
        """Return the arguments of ``write_line`` that this plan decides."""
        return {name: value for name, value in vars(self).items() if name != "steps"}

    def to_json(self) -> dict[str, Any]:
        """Return the plan as a JSON object."""
        return dict(vars(self))


FULL = Plan()
QUICK = Plan(
    train=48, validation=20, test_good=20, test_logical=12, test_structural=8, video_frames=20, steps=12
)  # fmt: skip


MARKER = "demo.json"
RESULTS = ("report", "events.jsonl")
PARTS = ("line", "training", *RESULTS, MARKER)


def clear(folder: Path) -> None:
    """Make ``folder`` ready: empty, or emptied of an earlier demonstration; BadInput when it holds anything else."""
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder} is a file: name a folder for the demonstration with --out")
    strangers = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if strangers and MARKER not in strangers:
        raise BadInput(f"{folder} holds {strangers[0]!r}, not an earlier demonstration: name another folder with --out")
    # The marker goes last, so that an interrupted clean-up can be repeated.
    _remove(folder, PARTS)


def _remove(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def open_workplace(folder: Path, plan: Plan, seed: int) -> bool:
    """Mark ``folder`` as a demonstration's; return whether an interrupted one of the same plan and seed goes on there.

    It goes on once its line is complete, and keeps line and training. Whatever else was there is cleared.
    """
    state = {"version": __version__, "seed": seed, **plan.to_json()}
    if _read_marker(folder) == {**state, "line": "complete"}:
        _remove(folder, RESULTS)
        return True
    clear(folder)
    atomic_write(folder / MARKER, json.dumps(state) + "\n")
    return False


def make_line(folder: Path, plan: Plan, seed: int, progress: Progress | None = None) -> Path:
    """Write the line of a demonstration in ``folder``, note that it is complete, and return its folder."""
    line = write_data(folder / "line", plan, seed, progress)
    atomic_write(folder / MARKER, json.dumps({**_read_marker(folder), "line": "complete"}) + "\n")
    return line


def line_folder(folder: Path) -> Path:
    """Return where the line of a demonstration in ``folder`` lies."""
    return folder / "line" / CATEGORY


def _read_marker(folder: Path) -> dict[str, Any]:
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return marker if isinstance(marker, dict) else {}


def write_data(folder: Path, plan: Plan, seed: int, progress: Progress | None = None) -> Path:
    """Write the synthetic line of ``plan`` below ``folder`` and return its folder in LOCO layout."""
    return write_line(folder, seed=seed, progress=progress, **plan.line())


def difficulty(line: Path) -> dict[str, float]:
    """Return the AUROC of two simple detectors on the test trays: 0.5 is guessing, so low figures mean a hard line."""
    train, normal = _images(line / "train" / "good"), _images(line / "test" / "good")
    kinds = ("logical_anomalies", "structural_anomalies")
    anomalies = np.concatenate([_images(line / "test" / kind) for kind in kinds])
    return {
        "colour_histogram": colour_histogram_auroc(train, normal, anomalies),
        "mean_difference": mean_difference_auroc(train, normal, anomalies),
    }


def _images(folder: Path) -> NDArray[np.uint8]:
    return np.stack([read_image(path) for path in sorted(folder.glob("*.png"))])
