"""Does a bundle judge a new lot once it has been recalibrated? `python tools/benchmarks/lot_shift.py BUNDLE --set FOLDER`

Draws normal images of FOLDER/test/good as the first of a new lot, recalibrates on them, and judges the rest of FOLDER/test by the
bundle before and after: the rate of normal images called NG, recall, and AUROC with its 95 % bootstrap interval, of all
branches and of each. What the child says of normal images of the old lot is printed as `edge-ad recalibrate` prints it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_ad.bundle import Bundle, open_bundle
from edge_ad.data.datasets import load_test
from edge_ad.data.images import read_image
from edge_ad.deployment.recalibration import recalibrate
from edge_ad.engines.pipeline import Pipeline
from edge_ad.errors import BadInput, EdgeAdError
from edge_ad.geometry.pose import NotLocated
from edge_ad.scoring import fuse
from edge_ad.scoring.auroc import auroc, auroc_difference, auroc_interval

Floats = NDArray[np.float32]


def main() -> int:
    """Read the command line and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--set", dest="root", type=Path, required=True, help="a set with test/good and other folders in test")
    parser.add_argument("--images", type=int, default=40, help="normal images of the new lot to recalibrate on")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--replace", action="store_true", help="forget the old lot")
    parser.add_argument("--keep-colour", action="store_true", help="bring no light back to that of the training")
    parser.add_argument("--old", type=Path, help="a folder of the old lot, at most twice the promise NG; else what is kept")
    parser.add_argument("--out", type=Path, help="where the child is kept; without it it is not")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    options = parser.parse_args()
    try:
        figures = measure(options)
    except EdgeAdError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print("\n".join(lines(figures)))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one draw."""
    bundle = open_bundle(options.bundle)
    items = load_test(options.root, bundle.image_bits).test
    good = [item.path for item in items if item.kind == "good"]
    bad = [item.path for item in items if item.kind != "good"]
    if len(good) <= options.images or not bad:
        raise BadInput(
            f"{options.root} has {len(good)} normal and {len(bad)} anomalous test images: more than {options.images} normal ones "
            "(--images) and some anomalies are needed, to judge those that were not drawn"
        )
    drawn = set(np.random.default_rng(options.seed).permutation(len(good))[: options.images].tolist())
    rest = [path for row, path in enumerate(good) if row not in drawn]
    with tempfile.TemporaryDirectory() as folder:
        lot, out = Path(folder) / "lot", options.out or Path(folder) / "child.edgead"
        lot.mkdir()
        for row in sorted(drawn):
            shutil.copy(good[row], lot / f"{row:04d}_{good[row].name}")
        started = time.monotonic()
        asked = {"forget": options.replace, "keep_old": options.old, "keep_colour": options.keep_colour, "seed": options.seed}
        child = open_bundle(recalibrate(options.bundle, lot, out, yes=True, **asked))
        seconds = time.monotonic() - started
        raw = {name: (_raw(one, rest), _raw(one, bad)) for name, one in (("before", bundle), ("after", child))}
    report = child.report["recalibration"]
    lost = len(report.get("unlocated", []))
    return {
        "images": {"learned": len(drawn) - lost, "normal": len(raw["after"][0]), "anomalies": len(raw["after"][1])},
        "unlocated": {"learned": lost, "normal": len(rest) - len(raw["after"][0]), "anomalies": len(bad) - len(raw["after"][1])},
        "seconds": round(seconds, 1),
        "moved": report["moved"],
        "gains": report.get("gains"),
        "shares": report["shares"],
        "old_lot": report.get("old_lot"),
        "promised": child.thresholds.supported_ng,
        "weights": {"before": _weights(bundle), "after": _weights(child)},
        "before": _figures(bundle, *raw["before"]),
        "after": _figures(child, *raw["after"]),
        "gain": _gain(bundle, child, raw),
    }


def _weights(bundle: Bundle) -> list[float]:
    return [round(float(weight), 3) for weight in bundle.statistics.weight]


def _raw(bundle: Bundle, paths: list[Path]) -> Floats:
    """Return raw scores f32 [N, B] of the images whose part is located."""
    raw = []
    with Pipeline(bundle, all_branches=True) as pipeline:
        for path in paths:
            prepared = bundle.geometry.prepare(read_image(path, bundle.image_bits))
            if not isinstance(prepared, NotLocated):
                raw.append(pipeline.infer(prepared.image).raw.copy())
    return np.stack(raw)


def _figures(bundle: Bundle, normal: Floats, bad: Floats) -> dict[str, Any]:
    good, anomalies = (fuse(raw, bundle.statistics)[1] for raw in (normal, bad))
    interval = auroc_interval(good, anomalies)
    rejected, result = int((good > bundle.thresholds.ng).sum()), int((anomalies > bundle.thresholds.ng).sum())
    columns = {branch: auroc(normal[:, row], bad[:, row]) for row, branch in enumerate(bundle.statistics.branches)}
    return {
        "ng": rejected,
        "normal": len(good),
        "found": result,
        "anomalies": len(anomalies),
        "auroc": None if interval is None else [interval.value, interval.low, interval.high],
        "branches": {branch: value if value is None else round(value, 3) for branch, value in columns.items()},
    }


def _gain(bundle: Bundle, child: Bundle, raw: dict[str, tuple[Floats, Floats]]) -> list[float] | None:
    """Return by how much the AUROC of the child is higher, with the bounds of the paired interval."""
    scores = [tuple(fuse(part, one.statistics)[1] for part in raw[name]) for name, one in (("after", child), ("before", bundle))]
    difference = auroc_difference(scores[0], scores[1])
    return None if difference is None else [difference.value, difference.low, difference.high]


def lines(figures: dict[str, Any]) -> list[str]:
    """Return the figures as text."""
    shares = ", ".join(f"{branch} {share:.0%}" for branch, share in figures["shares"].items())
    weight = f"the new lot counts: {shares}" if figures["moved"] else "the lot has not moved, and sets thresholds with the old one"
    lost = figures["unlocated"]
    text = [f"learned {figures['images']['learned']} normal images in {figures['seconds']} s; {weight}"]
    text += [f"gains of red, green and blue: {figures['gains']}"] if figures["gains"] else []
    if any(lost.values()):
        counts = f"{lost['learned']} of those drawn, {lost['normal']} other normal images, {lost['anomalies']} anomalies"
        text.append(f"not located, so without a verdict and not counted below: {counts}")
    for name in ("before", "after"):
        one = figures[name]
        value, low, high = one["auroc"] or (np.nan, np.nan, np.nan)
        text.append(
            f"{name:>6}: NG {one['ng']} of {one['normal']} normal images ({one['ng'] / one['normal']:.1%}), "
            f"found {one['found']} of {one['anomalies']}, AUROC {value:.3f} [{low:.3f}, {high:.3f}]"
        )
        text.append(f"        weights {figures['weights'][name]}; AUROC by branch {one['branches']}")
    if figures["gain"]:
        text.append("AUROC gained: {:+.3f} [{:+.3f}, {:+.3f}]".format(*figures["gain"]))
    if old := figures["old_lot"]:
        text.append(f"old lot: {old['ng']} of {old['images']} normal images NG (promised {figures['promised']:.1%})")
    return text


if __name__ == "__main__":
    sys.exit(main())
