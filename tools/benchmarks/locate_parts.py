"""Measure how exactly and how fast rendered parts are located: angle, shift, flips, refusals, time.

    python tools/benchmarks/locate_parts.py --parts 2400 --out locate.json
    python tools/benchmarks/locate_parts.py --parts 2400 --compare    # moments, SIFT and a template beside it

Parts are rendered (edge_ad/synthetic/single_part.py) undamaged and with 15 % of the outline missing or added, on a belt,
at any angle. Times are CPU time of one core (cv2.setNumThreads(1)).
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.geometry.foreground import ForegroundLocator, view_of
from edge_ad.geometry.foreground_fit import fit_foreground
from edge_ad.geometry.outline import centroid
from edge_ad.geometry.pose import Image, NotLocated, Pose, wrap
from edge_ad.geometry.template_fit import fit_template
from edge_ad.synthetic.single_part import FINAL_SEEDS, KINDS, Damage, Kind, PartImage, PartOptions, render_part

FIT = 24
FIRST_TEST = 10_000
DAMAGES: tuple[Damage, ...] = ("none", "missing", "added")
Locate = Callable[[Image], Any]


def lifted(pose: Pose) -> NDArray[np.float64]:
    """Return f64[3,3] from the pose's frame to the image."""
    return np.vstack([pose.matrix(), (0, 0, 1)])


def errors(locate: Locate, offset: NDArray[np.float64], parts: list[PartImage]) -> dict[str, Any]:
    """Return what a locator does on parts: errors in degrees and in % of the part, reasons, milliseconds."""
    angles, shifts, times, reasons = [], [], [], []
    for part in parts:
        start = time.process_time()
        pose = locate(part.image)
        times.append((time.process_time() - start) * 1e3)
        if isinstance(pose, NotLocated):
            reasons.append(pose.reason)
            continue
        seen = lifted(pose) @ offset
        angles.append(abs(wrap(math.degrees(math.atan2(seen[1, 0], seen[0, 0])) - part.angle)))
        shifts.append(100 * math.hypot(seen[0, 2] - part.x, seen[1, 2] - part.y) / part.extent)
    return {"angles": angles, "shifts": shifts, "times": times, "reasons": reasons}


def offset_of(locate: Locate, parts: list[PartImage]) -> NDArray[np.float64]:
    """Return the constant between the locator's frame and the renderer's: the median over undamaged parts."""
    pairs = [(pose, part) for part in parts if isinstance(pose := locate(part.image), Pose)]
    truths = [np.linalg.inv(lifted(pose)) @ lifted(Pose(part.x, part.y, part.angle, 1, 1)) for pose, part in pairs]
    return np.asarray(np.median(np.stack(truths), axis=0))


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """Return counts and percentiles."""
    angles, shifts, times = (np.array(result[name]) for name in ("angles", "shifts", "times"))
    upright = angles[angles <= 90]
    return {
        "parts": len(times), "not_located": len(result["reasons"]), "flips": int((angles > 90).sum()),
        "angle_p50_p99_max": [round(float(value), 3) for value in np.quantile(upright, (0.5, 0.99, 1))],
        "shift_p50_p99_max": [round(float(value), 3) for value in np.quantile(shifts[angles <= 90], (0.5, 0.99, 1))],
        "within_half_a_degree": round(float((angles <= 0.5).mean()), 4),
        "within_half_a_percent": round(float((shifts <= 0.5).mean()), 4),
        "ms_p50_p99": [round(float(value), 2) for value in np.quantile(times, (0.5, 0.99))],
        "reasons": sorted(set(result["reasons"]))[:5],
    }


class Moments:
    """Centroid, main axis and the sign of the third moment alone: what the outline's registration is compared with."""

    def __init__(self, locator: ForegroundLocator) -> None:
        self.locator = locator

    def __call__(self, image: Image) -> Pose | NotLocated:
        view = view_of(image, self.locator.background, self.locator.level)
        if not view.contours:
            return NotLocated("no foreground")
        contour = view.contours[0]
        moments = cv2.moments(contour.astype(np.float32).reshape(-1, 1, 2))
        turn = 0.5 * math.atan2(2 * moments["mu11"], moments["mu20"] - moments["mu02"])
        cos, sin = math.cos(turn), math.sin(turn)
        skew = (cos**3 * moments["mu30"] + 3 * cos**2 * sin * moments["mu21"] + 3 * cos * sin**2 * moments["mu12"]
                + sin**3 * moments["mu03"])
        x, y = centroid(contour) * 2**self.locator.level
        return Pose(float(x), float(y), wrap(math.degrees(turn) + (0 if skew >= 0 else 180)), 1, 1)


class Sift:
    """SIFT features (Lowe 2004) of one undamaged part, matched and posed by RANSAC."""

    def __init__(self, reference: Image) -> None:
        self.sift = cv2.SIFT_create(500)
        self.points, self.features = self.sift.detectAndCompute(cv2.cvtColor(reference, cv2.COLOR_RGB2GRAY), None)
        self.matcher = cv2.BFMatcher()

    def __call__(self, image: Image) -> Pose | NotLocated:
        points, features = self.sift.detectAndCompute(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), None)
        if features is None:
            return NotLocated("no features")
        pairs = [pair for pair in self.matcher.knnMatch(self.features, features, 2) if len(pair) == 2]
        good = [first for first, second in pairs if first.distance < 0.8 * second.distance]
        if len(good) < 4:
            return NotLocated("too few matches")
        cv2.setRNGSeed(0)
        matrix, _ = cv2.estimateAffinePartial2D(np.array([self.points[match.queryIdx].pt for match in good]),
                                                np.array([points[match.trainIdx].pt for match in good]))
        if matrix is None:
            return NotLocated("no pose")
        return Pose(float(matrix[0, 2]), float(matrix[1, 2]), math.degrees(math.atan2(matrix[1, 0], matrix[0, 0])), 1, 1)


def locators(kind: Kind, options: PartOptions, compare: bool) -> dict[str, tuple[Locate, NDArray[np.float64]]]:
    """Return what is measured for one kind of part, with its constant offset."""
    fit = [render_part(seed, options) for seed in range(FIT)]
    foreground = fit_foreground([part.image for part in fit], [str(seed) for seed in range(FIT)])
    chosen: dict[str, Locate] = {"foreground": foreground.locate}
    if compare:
        chosen |= {"moments": Moments(foreground), "sift": Sift(fit[0].image)}
        high, wide = options.size
        size = 1.15 * options.length * min(high, wide)
        middle = ((wide - size) / 2, (high - size) / 2, (wide + size) / 2, (high + size) / 2)
        still = replace(options, max_shift=0.0)
        central = [render_part(seed, still) for seed in range(FIT)]
        template = fit_template([part.image for part in central], [str(seed) for seed in range(FIT)], turn=180.0, region=middle)
        chosen["template"] = template.locate
    return {name: (locate, offset_of(locate, fit)) for name, locate in chosen.items()}


def main() -> None:
    """Run the measurement and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=int, default=2400, help="parts over all kinds and damages")
    parser.add_argument("--size", default="640x480", help="WIDTHxHEIGHT of the images")
    parser.add_argument("--length", type=float, default=0.45, help="the part's long side as a share of the image's short side")
    parser.add_argument("--compare", action="store_true", help="measure moments, SIFT and a template too")
    parser.add_argument("--final", action="store_true", help="seeds that nothing was tuned on")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    wide, high = (int(side) for side in arguments.size.split("x"))
    each = max(1, arguments.parts // (len(KINDS) * len(DAMAGES)))
    first = FINAL_SEEDS if arguments.final else FIRST_TEST
    pooled: dict[str, dict[str, list[Any]]] = {}
    for kind in KINDS:
        options = PartOptions(kind=kind, size=(high, wide), length=arguments.length)
        measured = locators(kind, options, arguments.compare)
        for damage in DAMAGES:
            parts = [render_part(first + seed, replace(options, damage=damage))
                     for seed in range(each)]
            for name, (locate, offset) in measured.items():
                row = errors(locate, offset, parts)
                for key in (f"{name}, all", f"{name}, {damage}"):
                    total = pooled.setdefault(key, {field: [] for field in row})
                    for field, values in row.items():
                        total[field] += values
    table = {key: summary(result) for key, result in sorted(pooled.items())}
    print(json.dumps(table, indent=1))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
