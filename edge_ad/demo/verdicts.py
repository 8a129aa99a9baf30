"""The verdicts of the loop beside the truth of the synthetic line."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_ad.bundle import Bundle
from edge_ad.camera.frames import Source
from edge_ad.camera.sources import open_source
from edge_ad.data.line_sequence import FrameTruth
from edge_ad.data.synthetic_line import GOOD, LOGICAL, STRUCTURAL, TRUTH_NAME, VIDEO_NAME
from edge_ad.engines.selection import open_pipeline
from edge_ad.errors import BadInput
from edge_ad.inspection.events import EventWriter
from edge_ad.inspection.judge import Judge, Judgement
from edge_ad.inspection.loop import Loop
from edge_ad.inspection.settings import LoopSettings
from edge_ad.inspection.verdict import VERDICTS, Verdict


@dataclass(frozen=True)
class Judged:
    """The truth of one tray of the video and the verdict the loop gave it."""

    truth: FrameTruth
    verdict: Verdict


class _Record:
    """A sink that writes events and keeps the verdict of every frame."""

    def __init__(self, events: Path) -> None:
        self.verdicts: dict[int, Verdict] = {}
        self._writer = EventWriter(str(events))

    def take(self, judgement: Judgement, source: Source) -> None:
        """Write the event and keep its verdict."""
        event = judgement.event
        self._writer.write(event)
        if event.frame is not None:
            self.verdicts[event.frame] = event.verdict

    def close(self) -> None:
        """Write out what is pending."""
        self._writer.close()


def judge_video(bundle: Bundle, line: Path, events: Path) -> tuple[list[Judged], float]:
    """Run the loop over the video of ``line``; return every tray with its verdict, and the median latency in ms.

    Raises BadInput when the truth does not fit the video.
    """
    record = _Record(events)
    try:
        with open_pipeline(bundle) as pipeline:
            settings = LoopSettings()
            judge = Judge(pipeline, bundle.thresholds, bundle.statistics.weight, settings.max_age_ms)
            loop = Loop(judge, [open_source(str(line / VIDEO_NAME))], [record], settings)
            loop.run()
    finally:
        record.close()
    truth = read_truth(line / TRUTH_NAME)
    if sorted(record.verdicts) != [frame["frame"] for frame in truth]:
        told = f"{line / VIDEO_NAME} has {len(record.verdicts)} frames, but its truth has {len(truth)}"
        raise BadInput(f"{told}: write the line again with `edge-ad demo --data-only`")
    return [Judged(frame, record.verdicts[frame["frame"]]) for frame in truth], loop.latencies.percentile(50) or 0.0


def read_truth(path: Path) -> list[FrameTruth]:
    """Read the truth file of a video: one object a line, in the order of the frames."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def verdict_table(judged: Iterable[Judged]) -> list[str]:
    """Return the lines of a table: one row a defect (goods first), one column a verdict."""
    counts = Counter((tray.truth["defect"], tray.verdict) for tray in judged)
    lines = [f"{'truth':<18}{'kind':<12}{'trays':>6}" + "".join(f"{verdict:>6}" for verdict in VERDICTS)]
    for defect in (GOOD, *LOGICAL, *STRUCTURAL):
        row = [counts[defect, verdict] for verdict in VERDICTS]
        if sum(row):
            kind = "good" if defect == GOOD else "logical" if defect in LOGICAL else "structural"
            lines.append(f"{defect:<18}{kind:<12}{sum(row):>6}" + "".join(f"{count:>6}" for count in row))
    return lines


def count_verdicts(judged: Sequence[Judged]) -> dict[str, int]:
    """Return how many goods and anomalies there are, and how many of each are NG, and NG or WARN."""
    found: dict[str, int] = {}
    for name, trays in (
        ("goods", [tray for tray in judged if tray.truth["kind"] == "good"]),
        ("anomalies", [tray for tray in judged if tray.truth["kind"] != "good"]),
    ):
        found[name] = len(trays)
        found[f"{name}_ng"] = sum(tray.verdict == "NG" for tray in trays)
        found[f"{name}_ng_or_warn"] = sum(tray.verdict in ("NG", "WARN") for tray in trays)
    return found


def tell_counts(counts: dict[str, int]) -> list[str]:
    """Return the two sentences a person wants to know: anomalies found, goods bothered."""
    return [
        f"anomalies NG or WARN: {_share(counts['anomalies_ng_or_warn'], counts['anomalies'])}",
        f"goods NG: {_share(counts['goods_ng'], counts['goods'])}; "
        f"goods NG or WARN: {_share(counts['goods_ng_or_warn'], counts['goods'])}",
    ]


def _share(count: int, total: int) -> str:
    return f"{count} of {total} ({count / total:.1%})" if total else "none shown"
