"""The steps of the demonstration, in order, each with its figures and its time.

The verdicts of the loop beside the truth of the synthetic line.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_ad.bundle import Bundle, open_bundle
from edge_ad.camera.frames import Source
from edge_ad.camera.sources import open_source
from edge_ad.config import Config
from edge_ad.demo.workspace import FULL, MARKER, Plan, difficulty, line_folder, make_line, open_workplace
from edge_ad.deployment.build import BuildReport, build
from edge_ad.engines.selection import open_pipeline
from edge_ad.errors import BadInput, GateRefused
from edge_ad.events import VERDICTS, Verdict
from edge_ad.inspection.judge import InspectionResult, Judge
from edge_ad.inspection.loop import Loop
from edge_ad.inspection.observers import EventFile
from edge_ad.synthetic.line import GOOD, LOGICAL, STRUCTURAL, TRUTH_NAME, VIDEO_NAME, Progress
from edge_ad.synthetic.sequence import FrameTruth
from edge_ad.utils.files import atomic_write


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
            judge = Judge(pipeline, bundle.thresholds, bundle.statistics.weight, settings.run.max_age_ms)
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

    return open_bundle(train(data=line, preset=PRESET, out=out, seed=seed, steps=plan.steps, keep_finished=True))


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
