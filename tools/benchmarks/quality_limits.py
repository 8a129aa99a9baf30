"""Does image quality refuse frames beyond a tolerance, with the right reason, and none within it?

    python tools/benchmarks/quality_limits.py $SETS/mvtec_bottle/train/good $SETS/loco_juice_bottle/train/good --learn 60

Limits are learned from --learn images of each folder, drawn at random, and measured on --test others: undisturbed, at each limit of
the tolerance, in two random states within it, and at three times each limit. No networks, no images of defects. Prints a table.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_ad.camera.health import HealthLimits, ReferenceCheck
from edge_ad.camera.layout import LayoutChange
from edge_ad.camera.measure import measure_quality, measure_reference
from edge_ad.camera.quality import Quality, QualityLimits
from edge_ad.camera.tolerance_limits import LimitLearner, pixel_ratio
from edge_ad.data.images import list_images, read_image, resize
from edge_ad.data.synthetic_anomalies import KINDS, make_anomaly
from edge_ad.data.tolerance import Disturbance, Tolerance, quality_looks
from edge_ad.deployment.validation_images import evenly
from edge_ad.errors import BadInput
from edge_ad.synthetic.tray import render_tray

Image = NDArray[np.uint8]
TRAYS = "trays"


class Folder:
    """Normal images of a folder, or rendered trays: limits learned from some of them, and the others to ``test``."""

    def __init__(self, name: str, tolerance: Tolerance, options: argparse.Namespace) -> None:
        self.name, self.tolerance, self._side = name, tolerance, options.side
        self.looks = {fault: pair for fault, pair in quality_looks(tolerance).items() if options.place or not pair[0].moves}
        frames = self._frames(options.learn + options.test)
        order = np.random.default_rng(0).permutation(len(frames))
        learned, self.test = ([frames[row] for row in sorted(part)] for part in np.split(order, [options.learn]))
        whole = measure_reference(self.shown(frame) for frame in learned)
        layout = LayoutChange(whole.template) if options.place else None
        self.limits = self._plain_limits(learned, layout) if options.without_gains else self._limits(learned, layout)
        self.check = ReferenceCheck(replace(whole, limits=self.limits), HealthLimits(), layout=options.place)

    def _limits(self, frames: Sequence[Image], layout: LayoutChange | None) -> QualityLimits | None:
        learner = LimitLearner(self.tolerance, layout)
        for number, frame in enumerate(frames):
            learner.add(frame, self.shown(frame), np.random.default_rng(number), self._to_input(frame))
        return learner.limits

    def _plain_limits(self, frames: Sequence[Image], layout: LayoutChange | None) -> QualityLimits:
        """Return limits without gains or random states: of each fault between its own limit and three times it."""
        inside: dict[str, list[Quality]] = {fault: [] for fault in self.looks}
        beyond: dict[str, list[Quality]] = {fault: [] for fault in self.looks}
        for number, frame in enumerate(frames):
            plain = measure_quality(self.shown(frame), layout)
            for fault, (near, far) in self.looks.items():
                inside[fault] += [plain, measure_quality(self.disturbed(frame, near, number), layout)]
                beyond[fault].append(measure_quality(self.disturbed(frame, far, number), layout))
        return QualityLimits.of(inside, beyond)

    def _frames(self, count: int) -> list[Image]:
        if self.name == TRAYS:
            return [render_tray(seed, None, self._side).image for seed in range(count)]
        paths = list_images(Path(self.name))
        if len(paths) < 20:
            raise BadInput(f"{self.name} holds {len(paths)} images: 20 are needed")
        return [read_image(paths[row]) for row in evenly(len(paths), count)]

    def shown(self, frame: Image) -> Image:
        """Return a frame as it is measured."""
        return resize(frame, (self._side, self._side))

    def _to_input(self, frame: Image) -> NDArray[np.float64]:
        scale = self._side / np.sqrt(frame.shape[0] * frame.shape[1])  # as if the input were the whole frame
        return np.diag([scale, scale, 1.0])

    def disturbed(self, frame: Image, one: Disturbance, seed: int) -> Image:
        """Return a frame as it is measured in the state ``one``."""
        view = self.shown(one.move(frame))
        blur = one.blur * pixel_ratio(frame, view, self._to_input(frame))
        return replace(one, blur=blur).degrade(view, np.random.default_rng([seed, 1]))

    def reason(self, frame: Image, one: Disturbance, seed: int) -> str:
        """Return the name of the fault of a frame in the state ``one``; empty where it may be judged."""
        fault = self.check.fault(self.disturbed(frame, one, seed))
        return "" if fault is None else fault.partition(":")[0]


def rows_of(folder: Folder) -> list[str]:
    """Return the rows of a table: which frames are refused within the tolerance, and which beyond it, by their faults."""
    test = [*enumerate(folder.test)]
    rows = [f"| {folder.name} | undisturbed | {_counted([folder.reason(one, Disturbance(), 0) for _, one in test])} | |"]
    drawn = [  # place has limits of its own
        folder.reason(one, replace(state, shift=(0.0, 0.0), angle=0.0, scale=1.0), number)
        for number, one in test
        for state in map(folder.tolerance.draw, (np.random.default_rng([number, draw]) for draw in range(2)))
    ]
    rows.append(f"| {folder.name} | random within | {_counted(drawn)} | |")
    for fault, (near, far) in folder.looks.items():
        inside, beyond = (_counted([folder.reason(one, state, number) for number, one in test]) for state in (near, far))
        limit = folder.limits.by_fault.get(fault) if folder.limits else None
        measure = "no limit" if limit is None else f"{limit.measure} {limit.limit:.3f}"
        rows.append(f"| {folder.name} | {fault} ({measure}) | {inside} | {beyond} |")
    return rows


def _counted(reasons: Sequence[str]) -> str:
    counts = Counter(reason for reason in reasons if reason)
    return ", ".join(f"{reason} {count}" for reason, count in counts.most_common()) + f" of {len(reasons)}" if counts else "none"


def anomalies(folder: Folder) -> str:
    """Return the row of synthetic anomalies, which are for the engines and should not be refused."""
    rng, reasons = np.random.default_rng(0), []
    for number, frame in enumerate(folder.test):
        view, others = folder.shown(frame), [folder.shown(one) for one in folder.test if one is not frame][:8]
        drawn = make_anomaly(view, others, rng, KINDS[number % len(KINDS)])[0]
        reasons.append(folder.reason(drawn, Disturbance(), 0))
    return f"| {folder.name} | synthetic anomalies | {_counted(reasons)} | |"


def main() -> int:
    """Read the command line, learn and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help=f"normal images, or {TRAYS!r} for rendered ones")
    parser.add_argument("--tolerance", default="default")
    parser.add_argument("--learn", type=int, default=60, metavar="N")
    parser.add_argument("--test", type=int, default=100, metavar="N")
    parser.add_argument("--side", type=int, default=256, help="pixels of the image that is measured")
    parser.add_argument("--place", action="store_true", help="turn and scale as well, as where parts are not located")
    parser.add_argument("--without-gains", action="store_true", help="limits of plain measures alone, to compare")
    options = parser.parse_args()
    print("| images | state | NONE within | NONE beyond |\n|---|---|---|---|")
    try:
        for name in options.folders:
            folder = Folder(name, Tolerance.parse(options.tolerance), options)
            print("\n".join([*rows_of(folder), anomalies(folder)]), flush=True)
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
