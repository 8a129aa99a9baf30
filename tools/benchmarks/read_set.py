"""What each branch brings on a set, and how many normal images a small movement makes NG.

    python tools/benchmarks/read_set.py BUNDLE --set ROOT --out reading.json    # reads ROOT/test: log the reading
    python tools/benchmarks/read_set.py BUNDLE --normal FOLDER                  # movements of normal images alone

Prints the AUROC of all branches, of each branch alone and of the others without it, with 95 % bootstrap intervals, and
the counts of verdicts on normal images as they are, shifted by 2 %, turned by 2 degrees and scaled by 2 %. An image whose
part is not located counts as the worst one and as NONE.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.bundle import Bundle, open_bundle
from edge_ad.data.datasets import TestItem, load_test
from edge_ad.data.images import list_images, read_image
from edge_ad.engines.offline import Workers
from edge_ad.engines.pipeline import Pipeline
from edge_ad.errors import BadInput
from edge_ad.evaluation.figures import judge_all, subset_score, z_scores
from edge_ad.geometry.pose import NotLocated
from edge_ad.scoring.auroc import auroc_interval

Image = NDArray[np.uint8]
Scores = NDArray[np.float64]
SHARE, DEGREES = 0.02, 2.0


def main() -> int:
    """Read the command line and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--set", type=Path, dest="root", help="a set as `edge-ad evaluate` reads it")
    parser.add_argument("--normal", type=Path, help="a folder of normal images to move instead of those of the set")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    try:
        result = read(options.bundle, options.root, options.normal, precision=options.precision)
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(lines(result)))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def read(bundle_path: Path, root: Path | None, normal: Path | None, *, precision: str = "fp32") -> dict[str, Any]:
    """Return the figures of a bundle on a set, and of moved normal images; BadInput where both are missing."""
    if root is None and normal is None:
        raise BadInput("name a set (--set) or a folder of normal images (--normal)")
    bundle = open_bundle(bundle_path)
    items = [] if root is None else load_test(root).test
    good = [item.path for item in items if item.kind == "good"] if normal is None else list_images(normal)
    result: dict[str, Any] = {"bundle": str(bundle_path), "geometry": bundle.geometry.method, "input": list(bundle.image_size)}
    with Pipeline(bundle, precision=precision, all_branches=True) as pipeline:
        if root is not None:
            result["branches"] = _branches(pipeline, bundle, items)
        images = [read_image(path, bundle.image_bits) for path in good]
        result["moved"] = {
            name: _verdicts(pipeline, bundle, (move(image) for image in images))
            for name, move in movements().items()
        }
    return result


def _branches(pipeline: Pipeline, bundle: Bundle, items: Sequence[TestItem]) -> dict[str, Any]:
    scores, statistics = judge_all(Workers([pipeline]), items, geometry=bundle.geometry), bundle.statistics
    z, good = z_scores(scores, statistics), np.array([item.kind == "good" for item in items])
    names = statistics.branches
    sets = {"all": names}
    sets |= {name: (name,) for name in names}
    sets |= {f"without {name}": tuple(other for other in names if other != name) for name in names}
    if "memory" in names:
        sets["without composition and memory"] = tuple(name for name in names if name not in ("composition", "memory"))
    kinds = {"anomalies": ~good}
    kinds |= {kind: np.array([item.kind == kind for item in items]) for kind in {item.kind for item in items} - {"good"}}
    return {
        label: {kind: _interval(subset_score(z, statistics, chosen), good, rows) for kind, rows in sorted(kinds.items())}
        for label, chosen in sets.items()
    }


def _interval(score: Scores | None, good: NDArray[np.bool_], bad: NDArray[np.bool_]) -> list[float] | None:
    if score is None:
        return None
    interval = auroc_interval(score[good], score[bad])
    return None if interval is None else [round(value, 4) for value in (interval.value, interval.low, interval.high)]


def _verdicts(pipeline: Pipeline, bundle: Bundle, images: Iterable[Image]) -> dict[str, int]:
    verdicts: list[str] = []
    for image in images:
        prepared = bundle.geometry.prepare(image)
        none = isinstance(prepared, NotLocated)
        verdicts.append("NONE" if none else bundle.thresholds.verdict(pipeline.infer(prepared.image).score))
    return {"images": len(verdicts), **Counter(verdicts)}


def movements() -> dict[str, Callable[[Image], Image]]:
    """Return the movements by name; the border's last pixels are repeated."""
    moves: dict[str, Callable[[Image], Image]] = {"as they are": lambda image: image}
    for name, x, y in (("right", 1, 0), ("left", -1, 0), ("down", 0, 1), ("up", 0, -1)):
        moves[f"shifted {name} by 2 %"] = lambda image, x=x, y=y: _warped(image, shift=(x * SHARE, y * SHARE))
    for sign, name in ((1, "left"), (-1, "right")):
        moves[f"turned {name} by 2 degrees"] = lambda image, sign=sign: _warped(image, angle=sign * DEGREES)
    for sign, name in ((1, "larger"), (-1, "smaller")):
        moves[f"{name} by 2 %"] = lambda image, sign=sign: _warped(image, scale=1 + sign * SHARE)
    return moves


def _warped(image: Image, shift: tuple[float, float] = (0, 0), angle: float = 0.0, scale: float = 1.0) -> Image:
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, scale)
    # Whole pixels: a shift by a part of one would blur the image too.
    matrix[:, 2] += np.rint(np.array(shift) * min(height, width))
    return np.asarray(cv2.warpAffine(image, matrix, (width, height), None, cv2.INTER_LINEAR, cv2.BORDER_REPLICATE), np.uint8)


def lines(result: dict[str, Any]) -> list[str]:
    """Return the figures as tables."""
    high, wide = result["input"]
    rows = [f"{result['bundle']}: {result['geometry']}, input {wide} x {high}"]
    branches = result.get("branches", {})
    if branches:
        kinds = list(branches["all"])
        rows += [f"| AUROC | {' | '.join(kinds)} |", f"|---|{'--:|' * len(kinds)}"]
        rows += [f"| {label} | {' | '.join(_words(one[kind]) for kind in kinds)} |" for label, one in branches.items()]
    rows += ["| normal images | NG | WARN | not located | of |", "|---|--:|--:|--:|--:|"]
    for name, counts in result["moved"].items():
        values = [counts.get(verdict, 0) for verdict in ("NG", "WARN", "NONE")]
        rows.append(f"| {name} | {' | '.join(map(str, values))} | {counts['images']} |")
    return rows


def _words(interval: list[float] | None) -> str:
    return "" if interval is None else "{:.3f} [{:.3f}, {:.3f}]".format(*interval)


if __name__ == "__main__":
    sys.exit(main())
