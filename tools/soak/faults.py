"""Hours of frames with random faults: every fault told in time, nothing bad let through, nothing lost, nothing growing.

`python tools/soak/faults.py --json FILE [--resume] [--frames 50000] [--fps 28] [--paced] [--bundle FILE]`. The frames are
cut into legs with faults of their own; a finished leg is written down, and --resume goes on behind the last one. With
--paced they come in real time and the freshest wins, as from a camera: a fault of which no frame was looked at, because
this machine was busy with something else, is counted as unseen. Without it every frame is looked at.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_ad.bundle import Bundle, open_bundle
from edge_ad.camera.frames import Frame, Paced, Read, Source, SourceKind
from edge_ad.camera.synthetic import Episode, FaultInjector, SyntheticLine, plan
from edge_ad.config import Config, RunTable
from edge_ad.deployment.recalibration import recalibrate
from edge_ad.engines.pipeline import Pipeline
from edge_ad.events import Event
from edge_ad.geometry.pose import NotLocated
from edge_ad.inspection.camera_worker import Counters
from edge_ad.inspection.judge import Judge
from edge_ad.inspection.locating import Locating
from edge_ad.inspection.loop import Loop
from edge_ad.inspection.observers import EventCallback
from edge_ad.synthetic.line import write_line
from tools.soak.trial import Health, Record, begin, bundle_for, facts

LEG = 5_000
ANOMALIES = 0.3
TRAYS = 60
SLOW_MS = 1500
TAIL = 60  # frames without a fault at the end of a leg: what strikes there would be cut off by the end
ALLOWED_S = 1.0  # within so many seconds, or two frame times if they are longer, a fault must be told
GAPS = ("drop", "hang", "gone", "slow")  # faults that show themselves without a frame


@dataclass(frozen=True, slots=True)
class Seen:
    """What is kept of an event: little, because memory is measured here."""

    frame: int | None
    part: str | None
    time: float
    verdict: str
    reason: str
    score: float | None


def check_account(counters: Counters) -> list[str]:
    """captured = judged + dropped + faulted."""
    total = counters.judged + counters.dropped + counters.faulted + counters.idle
    return [] if counters.captured == total else [f"captured {counters.captured}, but {total} are accounted for"]


def check_told(
    episodes: Sequence[Episode], seen: Sequence[tuple[float, Seen]], at: Sequence[float] | np.ndarray, fps: float
) -> tuple[dict[str, float], list[str]]:
    """Every fault is NONE with a right reason within 1 s or two frame times; returns the worst delay by kind.

    ``at`` is the wall-clock second at which each frame left the source.
    """
    allowed = max(ALLOWED_S, 2.0 / fps)
    nones = [(message, event) for message, event in seen if event.verdict == "NONE"]
    worst: dict[str, float] = {}
    problems = []
    for one in episodes:
        due = at[one.first]
        delays = [
            message - due
            for message, event in nones
            if event.reason in one.reasons and message >= due and _touches(event, one, message, at)
        ]
        delay = float(min(delays, default=float("inf")))
        worst[one.fault] = max(worst.get(one.fault, 0.0), delay)
        if delay > allowed:
            problems.append(f"{one.fault} at frames {one.first} to {one.last} was told after {delay:.2f} s")
    return worst, problems


def check_faulty_frames(
    episodes: Sequence[Episode], seen: Sequence[tuple[float, Seen]], paced: bool = False
) -> list[str]:
    """No frame that a fault spoilt is judged.

    A frame that came late may be judged where it was not too late; and where frames may be dropped, a frozen image is
    news to a loop that has not seen it before, so its verdict is that of an image that was really there.
    """
    excused = ("slow", "freeze") if paced else ("slow",)
    spoilt = {f: one for one in episodes if one.fault not in excused for f in range(one.first, one.last + 1)}
    return [
        f"frame {event.frame} was judged {event.verdict} during {spoilt[event.frame].fault}"
        for _, event in seen
        if event.frame in spoilt and event.verdict != "NONE" and event.part is not None
    ]


def compare_ok(
    bundle: Bundle,
    pipeline: Pipeline,
    line: SyntheticLine,
    seen: Sequence[tuple[float, Seen]],
    episodes: Sequence[Episode],
) -> tuple[int, list[str]]:
    """Every anomalous tray that was called OK is called OK without any fault too, with the same score."""
    frozen = {frame for one in episodes if one.fault == "freeze" for frame in range(one.first, one.last + 1)}
    problems, compared = [], 0
    for _, event in seen:
        if event.verdict != "OK" or event.frame is None or event.frame in frozen or line.defect(event.frame) == "good":
            continue
        compared += 1
        image, _ = line._tray(event.frame)
        prepared = bundle.geometry.prepare(image)
        if isinstance(prepared, NotLocated):
            problems.append(f"anomalous frame {event.frame} was OK at {event.score}, without faults: {prepared.reason}")
            continue
        score = pipeline.infer(prepared.image).score
        if abs(score - (event.score or 0.0)) > 1e-3 * max(1.0, abs(score)) or score > bundle.thresholds.warn:
            problems.append(f"anomalous frame {event.frame} was OK at {event.score}, without faults it has {score:.4f}")
    return compared, problems


def _touches(event: Seen, one: Episode, told: float, at: Sequence[float] | np.ndarray) -> bool:
    """Whether a NONE can be about this fault: its frame lies in it, or it was told before the next frame was judged."""
    if event.frame is not None:
        return one.first <= event.frame <= one.last + 1
    after = at[min(one.last + 2, len(at) - 1)]
    return told <= after + 0.5


def unexplained(event: Seen, episodes: Sequence[Episode]) -> bool:
    """Whether the frame of an event lies outside every fault."""
    return event.frame is not None and not any(one.first <= event.frame <= one.last + 1 for one in episodes)


@dataclass
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
    line = SyntheticLine(f"soak {seed}", frames, seed, fps, size=256, anomalies=ANOMALIES, trays=TRAYS)
    timed = Timed(Paced(line, fps) if paced else line, frames)
    seen: list[tuple[float, Seen]] = []

    def note(event: Event) -> None:
        word = sys.intern((event.reason or "").split(":")[0])
        seen.append((time.time(), Seen(event.frame, event.part, event.time, event.verdict, word, event.score)))
        sample()

    settings = Config(run=RunTable(realtime=paced, max_age_ms=700.0))
    weight, max_age_ms = bundle.statistics.weight, settings.run.max_age_ms
    judge = Judge(pipeline, bundle.thresholds, weight, max_age_ms, locating=Locating(bundle.geometry))
    loop = Loop(judge, [FaultInjector(timed, faults, fps)], [EventCallback(note)], settings)
    loop.run()
    counters = loop.workers[0].counters
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
    line = write_line(
        folder / "line", train=60, validation=0, test_good=0, test_logical=0, test_structural=0, video_frames=0
    )
    goods = line / "train" / "good"
    return recalibrate(bundle_for(folder, ""), goods, folder / "trays.edgead", yes=True, any_product=True)


def soak(bundle: Bundle, pipeline: Pipeline, record: Record) -> None:
    """Run the legs that are missing in ``record``."""
    health, values = Health(), record.values
    while (done := sum(leg["frames"] for leg in values["legs"])) < values["frames"]:
        count = min(LEG, values["frames"] - done)
        seed = 1 + len(values["legs"])
        leg = run_leg(bundle, pipeline, count, seed, values["fps"], values["paced"], health.sample)
        values["legs"].append(asdict(leg))
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


def main() -> int:
    """Run the trial; 1 when something is wrong."""
    record = begin(str(__doc__), {"legs": [], "processes": {}}, frames=50_000, fps=28.0, paced=False, bundle="")
    if not record.complete:
        with tempfile.TemporaryDirectory() as folder:
            bundle = open_bundle(Path(record.values["bundle"] or make_bundle(Path(folder))))
            with Pipeline(bundle) as pipeline:
                soak(bundle, pipeline, record)
        record.finish(summary(record.values))
    return int(bool(record.values["summary"]["problems"]))


if __name__ == "__main__":
    sys.exit(main())
