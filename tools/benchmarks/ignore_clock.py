#!/usr/bin/env python3
"""How many good parts a clock in the corner of the image rejects, and what an ignore zone over it brings.

    python tools/benchmarks/ignore_clock.py OUT --preset demo --steps 60

A synthetic line whose images show a digital clock. The normal images were taken within ten minutes, the test parts at any time
of the day, and with --lit the display has another colour every hour. It trains once without and once with a zone over the clock,
and prints how many good test parts are NG beside what the bundle promises, how many anomalies are found, and by how much the score
changes where the clock is painted white.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from edge_ad.bundle import Bundle, open_bundle
from edge_ad.config import Config, TrainTable
from edge_ad.data.datasets import load_dataset
from edge_ad.data.images import read_image
from edge_ad.engines.pipeline import Pipeline
from edge_ad.geometry.geometry import Prepared
from edge_ad.geometry.zone_files import write_zones
from edge_ad.geometry.zones import Zone, Zones
from edge_ad.scoring.auroc import auroc
from edge_ad.synthetic.line import DEFECTS, render_tray

SIZE = 256
PLATE = (0, 0, 84, 34)  # left, top, right, bottom of the clock
MORNING = (540, 550)  # minutes of the day in which the normal images were taken
DAY = 24 * 60

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Counts:
    """How many images there are of each kind."""

    learn: int = 100
    good: int = 100
    bad: int = 60


def with_clock(image: Image, minute: int, *, lit: bool = False) -> Image:
    """Return an image u8[256,256,3] with a clock in its corner, dark or ``lit`` in the colour of the hour."""
    shown = image.copy()
    left, top, right, bottom = PLATE
    hour, colour = minute // 60, (18, 22, 20)
    if lit and hour != MORNING[0] // 60:
        hue = np.uint8([[[180 * hour // 24, 200, 220]]])
        colour = tuple(int(value) for value in cv2.cvtColor(hue, cv2.COLOR_HSV2RGB)[0, 0])
    cv2.rectangle(shown, (left, top), (right - 1, bottom - 1), colour, -1)
    text = f"{minute // 60:02}:{minute % 60:02}"
    cv2.putText(shown, text, (left + 4, bottom - 9), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (90, 240, 120), 2, cv2.LINE_AA)
    return shown


def write_set(folder: Path, counts: Counts, seed: int, *, lit: bool) -> dict[str, list[Path]]:
    """Write normal images, good test parts and anomalous ones; return the paths of the test parts by kind."""
    rng = np.random.default_rng([seed, 29])
    listed: dict[str, list[Path]] = {}
    first = 0
    for name, count in (("train/good", counts.learn), ("test/good", counts.good), ("test/bad", counts.bad)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        listed[name] = []
        for number in range(count):
            defect = DEFECTS[number % len(DEFECTS)] if name == "test/bad" else "good"
            minute = int(rng.integers(*MORNING) if name == "train/good" else rng.integers(0, DAY))
            image = with_clock(render_tray(first + number, defect, SIZE).image, minute, lit=lit)
            listed[name].append(folder / name / f"{number:03}.png")
            assert cv2.imwrite(str(listed[name][-1]), image[:, :, ::-1])
        first += 10_000
    return listed


def scores_of(bundle: Bundle, paths: Sequence[Path], *, paint: bool = False) -> NDArray[np.float64]:
    """Return the fused scores of images, with the clock ``paint``-ed white or as they are."""
    scores = []
    with Pipeline(bundle) as pipeline:
        for path in paths:
            image = read_image(path).copy()
            if paint:
                image[PLATE[1] : PLATE[3], PLATE[0] : PLATE[2]] = 255
            prepared = bundle.geometry.prepare(image)
            assert isinstance(prepared, Prepared)
            scores.append(pipeline.infer(prepared.image).score)
    return np.array(scores)


def figures(bundle: Bundle, listed: dict[str, list[Path]]) -> dict[str, Any]:
    """Return what a bundle makes of the test parts."""
    good, bad = scores_of(bundle, listed["test/good"]), scores_of(bundle, listed["test/bad"])
    painted = scores_of(bundle, listed["test/good"][:20], paint=True)
    thresholds = bundle.thresholds
    return {
        "promised": round(thresholds.supported_ng, 4),
        "false_rejects": round(float((good > thresholds.ng).mean()), 4),
        "false_rejects_at_the_promise": round(float((good > (thresholds.promise_ng or thresholds.ng)).mean()), 4),
        "found": round(float((bad > thresholds.ng).mean()), 4),
        "auroc": round(float(auroc(good, bad) or 0.0), 4),
        "largest_change_by_paint": float(np.abs(painted - good[: len(painted)]).max()),
        "ignored": 0.0 if bundle.geometry.zones is None else bundle.geometry.zones.report()["ignored"],
    }


def main() -> None:
    """Train twice and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--pixels", type=int, default=SIZE * SIZE)
    parser.add_argument("--learn", type=int, default=Counts.learn)
    parser.add_argument("--lit", action="store_true", help="light the display in another colour every hour")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    listed = write_set(options.out / "line", Counts(learn=options.learn), options.seed, lit=options.lit)
    left, top, right, bottom = PLATE
    corners = ((left, top), (right, top), (right, bottom), (left, bottom))
    write_zones(options.out / "zones.json", Zones((SIZE, SIZE), (Zone("ignore", corners, "clock"),)))
    for name, zones in (("without", None), ("with", options.out / "zones.json")):
        path = train_one(options, options.out / name, zones)
        print(json.dumps({"zone": name, "lit": options.lit, **figures(open_bundle(path), listed)}), flush=True)


def train_one(options: argparse.Namespace, out: Path, zones: Path | None) -> Path:
    """Train, or return the bundle that is there."""
    from edge_ad.training.train import train

    load_dataset(options.out / "line", options.seed)
    table = TrainTable(
        preset=options.preset,
        geometry="square",
        pixels=options.pixels,
        steps=options.steps,
        seed=options.seed,
        zones=zones,
    )
    return train(options.out / "line", out, Config(train=table), progress=False, keep_finished=True)


if __name__ == "__main__":
    main()
