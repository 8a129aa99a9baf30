"""Hours of frames with random faults: every fault told in time, nothing bad let through, nothing lost, nothing growing.

`python tools/soak_faults.py --json FILE [--resume] [--frames 50000] [--fps 28] [--paced] [--bundle FILE]`. The frames are
cut into legs with faults of their own; a finished leg is written down, and --resume goes on behind the last one. With
--paced they come in real time and the freshest wins, as from a camera: a fault of which no frame was looked at, because
this machine was busy with something else, is counted as unseen. Without it every frame is looked at.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edge_ad.bundle import Bundle, open_bundle
from edge_ad.camera.faults import FaultInjector
from edge_ad.camera.frames import Frame, Read, Source, SourceKind
from edge_ad.camera.pacing import Paced
from edge_ad.camera.synthetic import SyntheticLine, plan
from edge_ad.engines.pipeline import Pipeline
from edge_ad.inspection.events import Event
from edge_ad.inspection.judge import Judge
from edge_ad.inspection.loop import Loop
from edge_ad.inspection.settings import LoopSettings
from edge_ad.inspection.sinks import CallSink
from tools.fault_checks import Seen, check_account, check_faulty_frames, check_told, compare_ok, unexplained
from tools.trial import Health, Record, begin, facts

LEG = 5_000
ANOMALIES = 0.3
TRAYS = 60
SLOW_MS = 1500
TAIL = 60  # frames without a fault at the end of a leg: what strikes there would be cut off by the end
GAPS = ("drop", "hang", "gone", "slow")  # faults that show themselves without a frame


@dataclasses.dataclass
class Account:
    """What one leg came to; everything in ``problems`` fails the trial."""

    frames: int
    faults: dict[str, int]
    counters: dict[str, int]
    worst_ms: dict[str, float]
    other_none: dict[str, int]
    unseen: int
    compared_ok: int
    problems: list[str]


class Timed:
    """Notes when each frame leaves the source, before a fault strikes it."""

    def __init__(self, source: Source, frames: int) -> None:
        self.name = source.name
        self.kind: SourceKind = source.kind
        self.fps = source.fps
        self.at = np.zeros(frames)
        self._source = source

    def read(self, timeout_s: float) -> Read:
        """Return what the source gives."""
        result = self._source.read(timeout_s)
        if isinstance(result, Frame):
            self.at[result.index] = time.time()
        return result

    def close(self) -> None:
        """Close the source."""
        self._source.close()


def run_leg(
    bundle: Bundle, pipeline: Pipeline, frames: int, seed: int, fps: float, paced: bool, sample: Callable[[], None]
) -> Account:
    """Run one leg and check it; ``sample`` is called for each event."""
    faults = plan(f"frames={frames - TAIL}&seed={seed}&rate=0.01&slow_ms={SLOW_MS}")
    line = SyntheticLine(f"soak {seed}", frames, seed, fps, 256, ANOMALIES, TRAYS)
    timed = Timed(Paced(line, fps) if paced else line, frames)
    seen: list[tuple[float, Seen]] = []

    def note(event: Event) -> None:
        word = sys.intern((event.reason or "").split(":")[0])
        seen.append((time.time(), Seen(event.frame, event.part, event.time, event.verdict, word, event.score)))
        sample()

    settings = LoopSettings(realtime=paced, max_age_ms=700.0)
    judge = Judge(pipeline, bundle.thresholds, bundle.statistics.weight, settings.max_age_ms)
    loop = Loop(judge, [FaultInjector(timed, faults, fps)], [CallSink(note)], settings)
    loop.run()
    counters = loop.stations[0].counters
    episodes, unseen = faults.episodes(), 0
    if paced and counters.dropped:
        looked = {event.frame for _, event in seen}
        known = [one for one in episodes if one.fault in GAPS or looked & set(range(one.first, one.last + 1))]
        episodes, unseen = known, len(episodes) - len(known)
    worst, late = check_told(episodes, seen, timed.at, fps)
    compared, differ = compare_ok(bundle, pipeline, line, seen, episodes)
    reasons = Counter(event.reason for _, event in seen if event.verdict == "NONE" and unexplained(event, episodes))
    return Account(
        frames,
        dict(Counter(one.fault for one in episodes)),
        counters.numbers(),
        {kind: round(1000 * value, 1) for kind, value in worst.items()},
        dict(reasons),
        unseen,
        compared,
        [*check_account(counters), *late, *check_faulty_frames(episodes, seen, paced), *differ],
    )


def make_bundle(folder: Path) -> Path:
    """Return the miniature bundle of the tests, with statistics of good trays of the synthetic line."""
    from edge_ad.data.synthetic_line import write_line
    from edge_ad.recalibration import recalibrate
    from tests.fixtures.tiny_bundle import make_tiny_bundle

    line = write_line(
        folder / "line", train=60, validation=0, test_good=0, test_logical=0, test_structural=0, video_frames=0
    )
    return recalibrate(make_tiny_bundle(folder / "tiny.edgead"), line / "train" / "good", folder / "trays.edgead")


def soak(bundle: Bundle, pipeline: Pipeline, record: Record) -> None:
    """Run the legs that are missing in ``record``."""
    health, values = Health(), record.values
    while (done := sum(leg["frames"] for leg in values["legs"])) < values["frames"]:
        count = min(LEG, values["frames"] - done)
        seed = 1 + len(values["legs"])
        leg = run_leg(bundle, pipeline, count, seed, values["fps"], values["paced"], health.sample)
        values["legs"].append(dataclasses.asdict(leg))
        process = {"figures": health.figures(), "samples": health.rows, "problems": health.problems()}
        values["processes"][str(os.getpid())] = process
        record.save()
        print(f"{done + count} of {values['frames']} frames: {len(leg.problems)} problems, {facts()}", file=sys.stderr)


def summary(record: dict[str, Any]) -> dict[str, Any]:
    """Return the figures over all legs."""
    legs = record["legs"]
    totals: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    worst: dict[str, float] = {}
    for leg in legs:
        totals.update(leg["counters"])
        faults.update(leg["faults"])
        for kind, value in leg["worst_ms"].items():
            worst[kind] = max(worst.get(kind, 0.0), value)
    problems = [text for leg in legs for text in leg["problems"]]
    problems += [text for process in record["processes"].values() for text in process["problems"]]
    return {
        "frames": sum(leg["frames"] for leg in legs),
        "faults": dict(faults),
        "told_after_ms_at_most": worst,
        "counters": dict(totals),
        "none_outside_faults": dict(sum((Counter(leg["other_none"]) for leg in legs), Counter())),
        "faults_unseen": sum(leg["unseen"] for leg in legs),
        "anomalous_ok_compared": sum(leg["compared_ok"] for leg in legs),
        "processes": [process["figures"] for process in record["processes"].values()],
        "problems": problems,
    }


def main(document: str = str(__doc__), frames: int = 50_000, paced: bool = False) -> int:
    """Run the trial; 1 when something is wrong."""
    record = begin(document, {"legs": [], "processes": {}}, frames=frames, fps=28.0, paced=paced, bundle="")
    if not record.complete:
        with tempfile.TemporaryDirectory() as folder:
            bundle = open_bundle(Path(record.values["bundle"] or make_bundle(Path(folder))))
            with Pipeline(bundle) as pipeline:
                soak(bundle, pipeline, record)
        record.finish(summary(record.values))
    return int(bool(record.values["summary"]["problems"]))


if __name__ == "__main__":
    sys.exit(main())
