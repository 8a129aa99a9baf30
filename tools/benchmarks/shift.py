"""What does another light, focus, place, lens or file format do to the verdicts of a bundle?

    python tools/benchmarks/shift.py --case BUNDLE ROOT --out shift            # reads ROOT/test: log the reading
    python tools/benchmarks/shift.py --case BUNDLE FOLDER --out shift          # a folder of normal images alone
    python tools/benchmarks/shift.py --case BUNDLE ROOT --unseen --out shift   # unseen normal images of the training

Every image is disturbed in turn, each disturbance at several strengths, with both signs in turn from image to image. Light,
colour, blur, noise, shift, rotation and scale are those of `edge-ad train --tolerance`; by default at its default values and
at three times these. Vignetting darkens the corners, `lens` moves them by another radial distortion, `jpeg` is the quality of
the file. Frames that the camera check of a run refuses, and parts that are not located, are NONE, counted by their reason.
Prints a table and writes OUT.json, OUT.md and, where there is matplotlib, OUT.png. `--case` repeats.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.bundle import Bundle, open_bundle
from edge_ad.camera.health import HealthLimits, ReferenceCheck
from edge_ad.camera.measure import HealthReference
from edge_ad.data.datasets import load_dataset, load_test
from edge_ad.data.images import read_image
from edge_ad.data.tolerance import AXES, Disturbance, Tolerance
from edge_ad.deployment.validation_images import evenly
from edge_ad.engines.pipeline import Pipeline
from edge_ad.errors import BadInput, EdgeAdError
from edge_ad.geometry.pose import NotLocated
from edge_ad.scoring.auroc import auroc

Image = NDArray[np.uint8]
DARK = 0.6  # rates whose cells are dark in the plot
UNDISTURBED, UNLOCATED = "none", "not located"
LEVELS: Mapping[str, tuple[float, ...]] = MappingProxyType({
    "light": (5, 10, 30), "colour": (3, 9), "blur": (0.5, 1, 3), "noise": (2, 6), "jpeg": (80, 40), "shift": (2, 6),
    "rotation": (2, 6), "scale": (2, 6), "vignetting": (10, 30), "lens": (1, 3),
})  # fmt: skip
UNITS = MappingProxyType({**{name: axis.unit for name, axis in AXES.items()}, "jpeg": "quality", "vignetting": "%", "lens": "%"})


@dataclass(frozen=True)
class Variation:
    """One sign of a disturbance: what happens to the frame, and to the light, sharpness and noise of the input."""

    disturbance: Disturbance = Disturbance()
    optics: Callable[[Image], Image] = lambda frame: frame

    def frame(self, frame: Image) -> Image:
        """Return what a camera would show of a frame, but for what the input is degraded by."""
        return self.optics(self.disturbance.move(frame))


@dataclass(frozen=True)
class Cell:
    """The verdicts of one bundle under one disturbance; ``reasons`` are those of NONE, AUROC is that of judged images."""

    case: str
    disturbance: str
    strength: float
    normal: int
    normal_ng: int
    normal_warn: int
    normal_none: int
    anomalies: int
    anomalies_ng: int
    anomalies_none: int
    auroc: float | None
    reasons: dict[str, int]

    @property
    def label(self) -> str:
        """The disturbance with its strength."""
        if self.disturbance == UNDISTURBED:
            return UNDISTURBED
        return f"{self.disturbance} {self.strength:g} {UNITS[self.disturbance]}".strip()


def variations(name: str, strength: float) -> tuple[Variation, ...]:
    """Return the signs of a disturbance, in the units of UNITS; BadInput for an unknown one and an impossible strength."""
    if name in AXES:
        axis = AXES[name]
        axis.read(name, f"{strength:g}")
        return tuple(Variation(one) for one in Tolerance(**{name: strength * axis.factor}).corners().get(name, (Disturbance(),)))
    if name not in LEVELS:
        raise BadInput(f"there is no disturbance {name!r:.40}; there are {', '.join(LEVELS)}")
    low, high = (1, 100) if name == "jpeg" else (0, 50)
    if not low <= strength <= high:
        raise BadInput(f"the strength of {name} is {strength:g}, and {low} to {high} is allowed")
    if name == "jpeg":
        return (Variation(optics=lambda frame: jpeg(frame, round(strength))),)
    if name == "vignetting":
        return (Variation(optics=lambda frame: vignetted(frame, strength / 100)),)
    return tuple(Variation(optics=lambda frame, k=sign * strength / 100: distorted(frame, k)) for sign in (1, -1))  # type: ignore[misc]


def jpeg(frame: Image, quality: int) -> Image:
    """Return a frame as JPEG of a quality from 1 to 100 shows it."""
    data = cv2.imencode(".jpg", np.ascontiguousarray(frame[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None
    return np.ascontiguousarray(decoded[:, :, ::-1].astype(np.uint8))


def vignetted(frame: Image, share: float) -> Image:
    """Return a frame that is darker by ``share`` in its corners, with the square of the distance from its middle."""
    x, y = _radial(frame)
    gain = 1 - share * (x * x + y * y)
    return np.asarray(np.clip(np.rint(frame * gain[..., None]), 0, 255), np.uint8)


def distorted(frame: Image, share: float) -> Image:
    """Return a frame whose corners show what lay ``share`` farther out (barrel), or nearer for a negative one; rims mirrored."""
    x, y = _radial(frame)
    height, width = frame.shape[:2]
    half = math.hypot(width - 1, height - 1) / 2
    factor = 1 + share * (x * x + y * y)
    map_x = (x * factor * half + (width - 1) / 2).astype(np.float32)
    map_y = (y * factor * half + (height - 1) / 2).astype(np.float32)
    return np.asarray(cv2.remap(frame, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101), np.uint8)


def _radial(frame: Image) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return x and y [H, W] of every pixel from the middle, in half diagonals."""
    height, width = frame.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float64)
    half = max(math.hypot(width - 1, height - 1) / 2, 1.0)
    return (x - (width - 1) / 2) / half, (y - (height - 1) / 2) / half


class Station:
    """A bundle with its engines and its camera check, as a run has them."""

    def __init__(self, bundle: Bundle, pipeline: Pipeline, *, checked: bool = True) -> None:
        self.bundle, self.pipeline = bundle, pipeline
        reference = bundle.report.get("health_reference") if checked else None
        self.check = None if reference is None else ReferenceCheck(
            HealthReference.from_json(reference), HealthLimits(), layout=not bundle.geometry.locates
        )  # fmt: skip

    def judge(self, frame: Image, variation: Variation, seed: int) -> tuple[float, str | None]:
        """Return the score of a disturbed frame and None, or infinity and the reason why it is NONE."""
        seen, noise = variation.frame(frame), np.random.default_rng(seed)
        prepared = self.bundle.geometry.prepare(seen)
        scale = 0.0 if isinstance(prepared, NotLocated) else _scale(prepared.transform.matrix)
        if fault := self._fault(seen, variation.disturbance, scale, seed):
            return math.inf, fault
        if isinstance(prepared, NotLocated):
            return math.inf, UNLOCATED
        return float(self.pipeline.infer(variation.disturbance.degrade(prepared.image, noise)).score), None

    def _fault(self, seen: Image, disturbance: Disturbance, scale: float, seed: int) -> str | None:
        """Return the first words of what the camera check says; a blur is as wide there as in an input of a ``scale``."""
        if self.check is None:
            return None
        view = self.check.view(seen)
        shrunk = math.sqrt(view.shape[0] * view.shape[1] / (seen.shape[0] * seen.shape[1]))
        blur = disturbance.blur * (shrunk / scale if scale else 1.0)
        there = Disturbance(disturbance.gain, blur, disturbance.noise)
        fault = self.check.fault(there.degrade(view, np.random.default_rng(seed)))
        return None if fault is None else fault.partition(":")[0]


def _scale(matrix: NDArray[np.float64]) -> float:
    """Return how many pixels of an input one of the frame is, by the part of a transform without perspective."""
    return float(math.sqrt(abs(np.linalg.det(matrix[:2, :2]))))


def measure(
    station: Station, case: str, images: tuple[Sequence[Image], Sequence[Image]], levels: Mapping[str, Sequence[float]]
) -> Iterator[Cell]:
    """Yield the cells of normal and anomalous ``images``, undisturbed first."""
    yield _cell(station, case, images, UNDISTURBED, 0.0, signs=(Variation(),))
    for name, strengths in levels.items():
        for strength in strengths:
            yield _cell(station, case, images, name, strength, signs=variations(name, strength))


def _cell(
    station: Station, case: str, images: tuple[Sequence[Image], Sequence[Image]], name: str, strength: float,
    *, signs: Sequence[Variation],
) -> Cell:  # fmt: skip
    results = [
        [station.judge(frame, signs[number % len(signs)], number) for number, frame in enumerate(part)] for part in images
    ]
    verdicts = [
        Counter("NONE" if reason else station.bundle.thresholds.verdict(score) for score, reason in part) for part in results
    ]
    # A part that is not located never passes: it counts as the highest score, as in an evaluation.
    scores = [np.array([score for score, reason in part if reason in (None, UNLOCATED)]) for part in results]
    normal, bad = verdicts
    return Cell(
        case, name, strength,
        normal=len(images[0]), normal_ng=normal["NG"], normal_warn=normal["WARN"], normal_none=normal["NONE"],
        anomalies=len(images[1]), anomalies_ng=bad["NG"], anomalies_none=bad["NONE"],
        auroc=auroc(scores[0], scores[1]) if len(scores[0]) and len(scores[1]) else None,
        reasons=dict(Counter(reason for part in results for _, reason in part if reason)),
    )  # fmt: skip


def read_images(data: Path, bundle: Bundle, *, unseen: bool, count: int) -> tuple[list[Image], list[Image]]:
    """Return at most ``count`` normal and as many anomalous images of a set, evenly spread over each."""
    if unseen:
        parts = [unseen_of(data, bundle), []]
    else:
        items = load_test(data, bundle.image_bits).test
        parts = [[item.path for item in items if (item.kind == "good") is good] for good in (True, False)]
    chosen = [[paths[index] for index in evenly(len(paths), count)] if paths else [] for paths in parts]
    normal, anomalies = ([read_image(path, bundle.image_bits) for path in paths] for paths in chosen)
    if not normal:
        raise BadInput(f"{data} holds no normal images to disturb")
    return normal, anomalies


def unseen_of(data: Path, bundle: Bundle) -> list[Path]:
    """Return the normal images that the training of a bundle held back: split by its seed, without those it excluded."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as listed:
        listed.write("\n".join(bundle.report.get("excluded", [])))
        listed.flush()
        split = load_dataset(data, int(bundle.report.get("seed", 0)), Path(listed.name)).normal
    return sorted([*split.normalise, *split.threshold])


def table(cells: Sequence[Cell]) -> list[str]:
    """Return the cells as a table."""
    columns = ("normal NG", "normal WARN", "normal NONE", "anomalies NG", "anomalies NONE", "AUROC")
    rows = [f"| bundle | disturbance | {' | '.join(columns)} | NONE by reason |", f"|---|---|{'--:|' * len(columns)}---|"]
    for cell in cells:
        normal = [f"{value} of {cell.normal}" for value in (cell.normal_ng, cell.normal_warn, cell.normal_none)]
        bad = [f"{value} of {cell.anomalies}" if cell.anomalies else "" for value in (cell.anomalies_ng, cell.anomalies_none)]
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(cell.reasons.items()))
        value = "" if cell.auroc is None else f"{cell.auroc:.3f}"
        rows.append(f"| {' | '.join([cell.case, cell.label, *normal, *bad, value, reasons])} |")
    return rows


def plot(cells: Sequence[Cell], path: Path) -> None:
    """Draw NG rates of normal images, and of anomalies where there are any, by disturbance and bundle; a cross is NONE."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    cases, labels = (list(dict.fromkeys(getattr(cell, name) for cell in cells)) for name in ("case", "label"))
    panels = [("normal images NG", "normal")] + [("anomalies NG", "anomalies")] * any(cell.anomalies for cell in cells)
    figure = Figure(figsize=(2.4 + 1.6 * len(cases) * len(panels), 1.2 + 0.26 * len(labels)), layout="constrained")
    for number, (title, kind) in enumerate(panels, 1):
        axes = figure.add_subplot(1, len(panels), number)
        values = np.full((len(labels), len(cases)), np.nan)
        for cell in cells:
            if total := getattr(cell, kind):
                row, column = labels.index(cell.label), cases.index(cell.case)
                values[row, column] = getattr(cell, f"{kind}_ng") / total
                none = getattr(cell, f"{kind}_none") / total
                text = f"{values[row, column]:.0%}" + (f"\n{none:.0%} NONE" if none else "")
                colour = "white" if values[row, column] > DARK else "black"
                axes.text(column, row, text, ha="center", va="center", fontsize=6, color=colour)
        axes.imshow(values, vmin=0, vmax=1, cmap="OrRd" if kind == "normal" else "YlGn", aspect="auto", alpha=0.8)
        axes.set_xticks(range(len(cases)), cases, rotation=30, ha="right", fontsize=7)
        axes.set_yticks(range(len(labels)), labels if number == 1 else [""] * len(labels), fontsize=7)
        axes.set_title(title, fontsize=9)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=130)


def parse_levels(only: Sequence[str] | None, at: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Return the strengths by disturbance: those of LEVELS, or ``only`` some, with those that ``at`` changes."""
    levels = {name: LEVELS[name] for name in LEVELS if only is None or name in only}
    for text in at:
        name, _, values = text.partition("=")
        try:
            levels[name] = tuple(float(value) for value in values.split(","))
        except ValueError:
            raise BadInput(f"--at is {text!r:.60}: write NAME=VALUE,VALUE, such as light=5,10,20") from None
    for name, strengths in levels.items():
        for strength in strengths:
            variations(name, strength)  # refused now, not after an hour
    return levels


def main() -> int:
    """Read the command line, disturb and judge, and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs=2, type=Path, action="append", required=True, metavar=("BUNDLE", "DATA"))
    parser.add_argument("--unseen", action="store_true", help="unseen normal images of the training folder, no test images")
    parser.add_argument("--images", type=int, default=30, metavar="N", help="of each class")
    parser.add_argument("--only", nargs="+", choices=LEVELS, help="these disturbances alone")
    parser.add_argument("--at", action="append", default=[], metavar="NAME=V,V", help="other strengths of a disturbance")
    parser.add_argument("--unchecked", action="store_true", help="judge what the camera check would refuse")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--out", type=Path, help="write OUT.json, OUT.md and OUT.png")
    options = parser.parse_args()
    cells: list[Cell] = []
    try:
        levels = parse_levels(options.only, options.at)
        for path, data in options.case:
            bundle = open_bundle(path)
            images = read_images(data, bundle, unseen=options.unseen, count=options.images)
            with Pipeline(bundle, precision=options.precision) as pipeline:
                for cell in measure(Station(bundle, pipeline, checked=not options.unchecked), bundle.name, images, levels):
                    cells.append(cell)
                    print(table([cell])[-1], file=sys.stderr, flush=True)
                    if options.out:
                        _write(options.out, cells)
    except EdgeAdError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print("\n".join(table(cells)))
    if options.out:
        try:
            plot(cells, options.out.with_suffix(".png"))
        except ImportError:
            print("no plot without matplotlib: pip install 'edge-ad[train]'", file=sys.stderr)
    return 0


def _write(out: Path, cells: Sequence[Cell]) -> None:
    values: list[dict[str, Any]] = [{**asdict(cell), "unit": UNITS.get(cell.disturbance, "")} for cell in cells]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    out.with_suffix(".md").write_text("\n".join(table(cells)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
