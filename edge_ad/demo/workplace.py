"""The folder of a demonstration: what an earlier one left there is replaced, anything else is never touched."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_ad.data.images import read_image
from edge_ad.data.line_baselines import colour_histogram_auroc, mean_difference_auroc
from edge_ad.data.synthetic_line import Progress, write_line
from edge_ad.demo.plan import Plan
from edge_ad.errors import BadInput
from edge_ad.files import atomic_write

MARKER = "demo.json"
PARTS = ("line", "training", "report", "events.jsonl", MARKER)


def clear(folder: Path) -> None:
    """Make ``folder`` ready: empty, or emptied of an earlier demonstration; BadInput when it holds anything else."""
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder} is a file: name a folder for the demonstration with --out")
    strangers = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if strangers and MARKER not in strangers:
        raise BadInput(f"{folder} holds {strangers[0]!r}, not an earlier demonstration: name another folder with --out")
    # The marker goes last, so that an interrupted clean-up can be repeated.
    for name in PARTS:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def open_workplace(folder: Path, plan: Plan, seed: int) -> None:
    """Clear ``folder`` and mark it as a demonstration's."""
    clear(folder)
    atomic_write(folder / MARKER, json.dumps({"seed": seed, **plan.to_json()}) + "\n")


def write_data(folder: Path, plan: Plan, seed: int, progress: Progress | None = None) -> Path:
    """Write the synthetic line of ``plan`` below ``folder`` and return its folder in LOCO layout."""
    return write_line(folder, seed=seed, progress=progress, **plan.line())


def difficulty(line: Path) -> dict[str, float]:
    """Return the AUROC of two simple detectors on the test trays: 0.5 is guessing, so low figures mean a hard line."""
    train, goods = _images(line / "train" / "good"), _images(line / "test" / "good")
    kinds = ("logical_anomalies", "structural_anomalies")
    anomalies = np.concatenate([_images(line / "test" / kind) for kind in kinds])
    return {
        "colour_histogram": colour_histogram_auroc(train, goods, anomalies),
        "mean_difference": mean_difference_auroc(train, goods, anomalies),
    }


def _images(folder: Path) -> NDArray[np.uint8]:
    return np.stack([read_image(path) for path in sorted(folder.glob("*.png"))])
