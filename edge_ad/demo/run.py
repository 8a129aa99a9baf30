"""The demonstration: its folder, its steps with their figures, and the verdicts of the loop beside the truth of the line.

Two simple detectors say how hard the line is: a global colour histogram, and the difference to a mean image. Of the
variants tried (nearest neighbour, distance to the mean, other bins, windows and colour spaces) these are among the
strongest, so that a low figure says something about the line.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad import __version__
from edge_ad.bundle import Bundle, open_bundle
from edge_ad.camera.frames import Source
from edge_ad.camera.sources import open_source
from edge_ad.config import Config, TrainTable
from edge_ad.data.images import read_image
from edge_ad.deployment.build import BuildReport, build
from edge_ad.engines.selection import open_pipeline
from edge_ad.errors import BadInput, GateRefused
from edge_ad.events import VERDICTS, Verdict
from edge_ad.inspection.judge import InspectionResult, Judge
from edge_ad.inspection.locating import Locating
from edge_ad.inspection.loop import Loop
from edge_ad.inspection.observers import EventFile
from edge_ad.scoring.auroc import auroc
from edge_ad.synthetic.line import (
    CATEGORY,
    GOOD,
    LOGICAL,
    STRUCTURAL,
    TRUTH_NAME,
    VIDEO_NAME,
    FrameTruth,
    Progress,
    write_line,
)
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


@dataclass(frozen=True)
class Judged:
    """The truth of one tray of the video and the verdict the loop gave it."""

    truth: FrameTruth
    verdict: Verdict


class _Record(EventFile):
    """A file of events that keeps the verdict of every frame."""

    def __init__(self, events: Path) -> None:
        super().__init__(str(events))
        self.verdicts: dict[int, Verdict] = {}

    def on_result(self, result: InspectionResult, source: Source) -> None:
        """Write the event and keep its verdict."""
        super().on_result(result, source)
        event = result.event
        if event.frame is not None:
            self.verdicts[event.frame] = event.verdict


def judge_video(bundle: Bundle, line: Path, events: Path) -> tuple[list[Judged], float]:
    """Run the loop over the video of ``line``; return every tray with its verdict, and the median latency in ms.

    Raises BadInput when the truth does not fit the video.
    """
    record = _Record(events)
    try:
        with open_pipeline(bundle) as pipeline:
            settings = Config()
            weight, max_age_ms = bundle.statistics.weight, settings.run.max_age_ms
            judge = Judge(pipeline, bundle.thresholds, weight, max_age_ms, locating=Locating(bundle.geometry))
            loop = Loop(judge, [open_source(str(line / VIDEO_NAME))], [record], settings)
            loop.run()
    finally:
        record.close()
    truth = read_truth(line / TRUTH_NAME)
    if sorted(record.verdicts) != [frame["frame"] for frame in truth]:
        message = f"{line / VIDEO_NAME} has {len(record.verdicts)} frames, but its truth has {len(truth)}"
        raise BadInput(f"{message}: write the line again with `edge-ad demo --data-only`")
    return [Judged(frame, record.verdicts[frame["frame"]]) for frame in truth], loop.latencies.percentile(50) or 0.0


def read_truth(path: Path) -> list[FrameTruth]:
    """Read the truth file of a video: one object a line, in the order of the frames."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def verdict_table(judged: Iterable[Judged]) -> list[str]:
    """Return the lines of a table: one row a defect (normal images first), one column a verdict."""
    counts = Counter((tray.truth["defect"], tray.verdict) for tray in judged)
    lines = [f"{'truth':<18}{'kind':<12}{'trays':>6}" + "".join(f"{verdict:>6}" for verdict in VERDICTS)]
    for defect in (GOOD, *LOGICAL, *STRUCTURAL):
        row = [counts[defect, verdict] for verdict in VERDICTS]
        if sum(row):
            kind = "good" if defect == GOOD else "logical" if defect in LOGICAL else "structural"
            lines.append(f"{defect:<18}{kind:<12}{sum(row):>6}" + "".join(f"{count:>6}" for count in row))
    return lines


def count_verdicts(judged: Sequence[Judged]) -> dict[str, int]:
    """Return how many normal images and anomalies there are, and how many of each are NG, and NG or WARN."""
    counts: dict[str, int] = {}
    for name, trays in (
        ("goods", [tray for tray in judged if tray.truth["kind"] == "good"]),
        ("anomalies", [tray for tray in judged if tray.truth["kind"] != "good"]),
    ):
        counts[name] = len(trays)
        counts[f"{name}_ng"] = sum(tray.verdict == "NG" for tray in trays)
        counts[f"{name}_ng_or_warn"] = sum(tray.verdict in ("NG", "WARN") for tray in trays)
    return counts


def report_counts(counts: dict[str, int]) -> list[str]:
    """Return the two sentences a person wants to know: anomalies found, normal images bothered."""
    return [
        f"anomalies NG or WARN: {_share(counts['anomalies_ng_or_warn'], counts['anomalies'])}",
        f"normal images NG: {_share(counts['goods_ng'], counts['goods'])}; "
        f"normal images NG or WARN: {_share(counts['goods_ng_or_warn'], counts['goods'])}",
    ]


def _share(count: int, total: int) -> str:
    return f"{count} of {total} ({count / total:.1%})" if total else "none shown"


PRESET = "demo"
PRECISION = "fp16"
STEPS = 5

Report = Callable[[str], None]


@dataclass(frozen=True)
class Voice:
    """How a demonstration talks: whole lines, the lines of a parity table, and the progress of a named task."""

    report: Report
    parity: Callable[[BuildReport], Iterable[str]]
    progress: Callable[[str], Progress | None]


def run_demo(folder: Path, voice: Voice, plan: Plan = FULL, seed: int = 0) -> dict[str, Any]:
    """Go the whole road below ``folder`` and return its figures, which also go to ``folder``/demo.json.

    An interrupted demonstration of the same plan and seed in ``folder`` goes on, any other one is replaced; BadInput
    when it holds anything else, GateRefused when the engine is too far from the bundle.
    """
    started = time.monotonic()
    resumed = open_workplace(folder, plan, seed)
    figures: dict[str, Any] = {"seed": seed, "plan": plan.to_json()}
    with _step(1, "a synthetic line", voice.report):
        if resumed:
            voice.report(f"going on with the interrupted demonstration in {folder}: its line is there")
        line = line_folder(folder) if resumed else make_line(folder, plan, seed, voice.progress("trays"))
        figures["difficulty"] = difficulty(line)
        _report_line(line, plan, figures["difficulty"], voice.report)
    with _step(2, f"training all three methods, preset {PRESET}", voice.report):
        bundle = _train(line, folder / "training", plan, seed)
        voice.report(f"bundle: {bundle.path}")
    with _step(3, f"engines in {PRECISION}, proven on the golden images of the bundle", voice.report):
        figures["parity"] = _build(bundle, voice)
    with _step(4, "the loop over the video of the line", voice.report):
        figures["video"] = _judge(bundle, line, folder, voice.report)
    with _step(5, "evaluation on test trays that no training saw", voice.report):
        figures["evaluation"] = _evaluate(bundle, line, folder / "report", voice)
    figures["seconds"] = round(time.monotonic() - started, 1)
    atomic_write(folder / MARKER, json.dumps(figures, indent=2) + "\n")
    voice.report(f"\ndone in {figures['seconds'] / 60:.1f} minutes; figures: {folder / MARKER}")
    voice.report(f"report with heat maps: {folder / 'report' / 'report.html'}")
    if plan.steps is not None:
        voice.report(f"{plan.steps} steps a network show that everything works, not how well: for that, leave --quick out")
    return figures


@contextmanager
def _step(number: int, title: str, report: Report) -> Iterator[None]:
    report(f"\n== {number}/{STEPS} {title}")
    started = time.monotonic()
    yield
    report(f"({time.monotonic() - started:.0f} s)")


def _report_line(line: Path, plan: Plan, hardness: dict[str, float], report: Report) -> None:
    normal, anomalies = plan.train + plan.validation, plan.test_logical + plan.test_structural
    report(f"{normal} good trays to train on, {plan.test_good} good and {anomalies} anomalous ones to test on,")
    report(f"a video of {plan.video_frames} more trays with its truth; no two trays are alike: {line}")
    report(
        f"how far simple detectors get (AUROC, 0.5 is guessing): colour histogram {hardness['colour_histogram']:.2f}, "
        f"difference to the mean image {hardness['mean_difference']:.2f}"
    )


def _train(line: Path, out: Path, plan: Plan, seed: int) -> Bundle:
    from edge_ad.training.train import train

    settings = Config(train=TrainTable(preset=PRESET, geometry="square", seed=seed, steps=plan.steps))
    return open_bundle(train(line, out, settings, keep_finished=True))


def _build(bundle: Bundle, voice: Voice) -> dict[str, Any]:
    report = build(bundle, PRECISION)
    for text in voice.parity(report):
        voice.report(text)
    if report.refusal is not None:
        raise GateRefused(report.refusal)
    return report.to_json()


def _judge(bundle: Bundle, line: Path, folder: Path, report: Report) -> dict[str, Any]:
    events = folder / "events.jsonl"
    judged, latency_ms = judge_video(bundle, line, events)
    counts = count_verdicts(judged)
    for text in [*verdict_table(judged), *report_counts(counts)]:
        report(text)
    report(f"median latency {latency_ms:.1f} ms; events: {events}")
    return {**counts, "latency_ms_p50": latency_ms}


def _evaluate(bundle: Bundle, line: Path, report: Path, voice: Voice) -> dict[str, Any]:
    from edge_ad.evaluation.evaluate import evaluate
    from edge_ad.evaluation.report import figures_table

    figures = evaluate(bundle.path, line, report_dir=report, progress=voice.progress("images"))
    voice.report(figures_table(figures))
    counts = evaluation_counts(figures)
    voice.report(report_counts(counts)[0])
    return {**figures, "counts": counts}


def evaluation_counts(figures: dict[str, Any]) -> dict[str, int]:
    """Return the counts of normal images and anomalies of an evaluation, named like those of ``count_verdicts``."""
    normal, kinds = figures["false_reject"], [result for result in figures["found"].values() if result is not None]
    counts = {"goods": normal["of"], "goods_ng": normal["count"], "goods_ng_or_warn": normal["warn_count"]}
    for name, key in (("anomalies", "of"), ("anomalies_ng", "count"), ("anomalies_ng_or_warn", "warn_count")):
        counts[name] = sum(result[key] for result in kinds)
    return counts
