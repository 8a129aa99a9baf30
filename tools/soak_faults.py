"""Hours of frames with random faults: every fault told in time, nothing bad let through, nothing lost, nothing growing.

`python tools/soak_faults.py --json FILE [--resume] [--frames 50000] [--fps 28] [--paced] [--bundle FILE]`. The frames are
cut into legs with faults of their own; a finished leg is written down, and --resume goes on behind the last one. With
--paced they come in real time and the freshest wins, as from a camera: a fault of which no frame was looked at, because
this machine was busy with something else, is counted as unseen. Without it every frame is looked at.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_ad.bundle import Bundle, open_bundle
from edge_ad.camera.fault_plan import Episode
from edge_ad.camera.faults import FaultInjector
from edge_ad.camera.frames import Frame, Read, Source, SourceKind
from edge_ad.camera.pacing import Paced
from edge_ad.camera.synthetic import SyntheticLine, plan
from edge_ad.data.images import resize
from edge_ad.engines.pipeline import Pipeline
from edge_ad.files import atomic_write
from edge_ad.inspection.counters import Counters
from edge_ad.inspection.events import Event
from edge_ad.inspection.judge import Judge
from edge_ad.inspection.loop import Loop
from edge_ad.inspection.settings import LoopSettings
from edge_ad.inspection.sinks import CallSink

LEG = 5_000
SETTLED_AFTER = 5_000  # frames of a process after which its memory must be flat
MEMORY_MB = 2.0
GRACE_S = 0.1
ANOMALIES = 0.3
TRAYS = 60
SLOW_MS = 1500
GAPS = ("drop", "hang", "gone", "slow")  # faults that show themselves without a frame


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """What is kept of an event: little, because memory is measured here."""

    frame: int | None
    part: str | None
    time: float
    verdict: str
    reason: str
    score: float | None


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
    bundle: Bundle, pipeline: Pipeline, frames: int, seed: int, fps: float, paced: bool, sample: Callable[[int], None]
) -> Account:
    """Run one leg and check it; ``sample`` is called with each event's number."""
    faults = plan(f"frames={frames}&seed={seed}&rate=0.01&slow_ms={SLOW_MS}")
    line = SyntheticLine(f"soak {seed}", frames, seed, fps, 256, ANOMALIES, TRAYS)
    timed = Timed(Paced(line, fps) if paced else line, frames)
    seen: list[tuple[float, Seen]] = []

    def note(event: Event) -> None:
        word = sys.intern((event.reason or "").split(":")[0])
        seen.append((time.time(), Seen(event.frame, event.part, event.time, event.verdict, word, event.score)))
        sample(len(seen))

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
    reasons = Counter(event.reason for _, event in seen if event.verdict == "NONE" and _unexplained(event, episodes))
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
    allowed = max(1.0, 2.0 / fps) + GRACE_S
    nones = [(told, event) for told, event in seen if event.verdict == "NONE"]
    worst: dict[str, float] = {}
    problems = []
    for one in episodes:
        due = at[one.first]
        delays = [
            told - due
            for told, event in nones
            if event.reason in one.reasons and told >= due and _touches(event, one, told, at)
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

    A frame that came late may be judged where it was not too late; and where frames may be dropped, a frozen picture is
    news to a loop that has not seen it before, so its verdict is that of a picture that was really there.
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
        score = pipeline.infer(resize(image, bundle.image_size)).score
        if abs(score - (event.score or 0.0)) > 1e-3 * max(1.0, abs(score)) or score > bundle.thresholds.warn:
            problems.append(f"anomalous frame {event.frame} was OK at {event.score}, without faults it has {score:.4f}")
    return compared, problems


def _touches(event: Seen, one: Episode, told: float, at: Sequence[float] | np.ndarray) -> bool:
    """Whether a NONE can be about this fault: its frame lies in it, or it was told before the next frame was judged."""
    if event.frame is not None:
        return one.first <= event.frame <= one.last + 1
    after = at[min(one.last + 2, len(at) - 1)]
    return told <= after + 0.5


def _unexplained(event: Seen, episodes: Sequence[Episode]) -> bool:
    return event.frame is not None and not any(one.first <= event.frame <= one.last + 1 for one in episodes)


class Health:
    """Memory, handles and threads of this process."""

    def __init__(self) -> None:
        self.events = 0
        self.rows: list[dict[str, float]] = []

    def sample(self, number: int) -> None:
        """Take one sample every 500 events."""
        self.events += 1
        if self.events % 500 == 0:
            gc.collect()
            self.rows.append({"frames": self.events, **facts()})

    def problems(self) -> list[str]:
        """What grew after the process had settled."""
        rows = [row for row in self.rows if row["frames"] >= SETTLED_AFTER]
        if len(rows) < 4:
            return []
        first, last = rows[0], rows[-1]
        found = []
        # The mean of a few samples: a page more or less is no trend.
        grown = np.mean([row["rss_mb"] for row in rows[-3:]]) - np.mean([row["rss_mb"] for row in rows[:3]])
        if grown > MEMORY_MB:
            found.append(f"memory grew by {grown:.1f} MB from frame {first['frames']:.0f} to {last['frames']:.0f}")
        for name in ("handles", "threads"):
            if last[name] > first[name]:
                found.append(f"{name} grew from {first[name]:.0f} to {last[name]:.0f}")
        return found


def facts() -> dict[str, float]:
    """Return resident memory, open handles and threads."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    threads = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Threads"))
    return {
        "rss_mb": round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 2),
        "handles": len(os.listdir("/proc/self/fd")),
        "threads": int(threads.split()[1]),
    }


def make_bundle(folder: Path) -> Path:
    """Return the miniature bundle of the tests, with statistics of good trays of the synthetic line."""
    from edge_ad.data.synthetic_line import write_line
    from edge_ad.recalibration import recalibrate
    from tests.fixtures.tiny_bundle import make_tiny_bundle

    line = write_line(
        folder / "line", train=60, validation=0, test_good=0, test_logical=0, test_structural=0, video_frames=0
    )
    return recalibrate(make_tiny_bundle(folder / "tiny.edgead"), line / "train" / "good", folder / "trays.edgead")


def soak(bundle: Bundle, pipeline: Pipeline, record: dict[str, Any], save: Callable[[], None]) -> None:
    """Run the legs that are missing in ``record``; ``save`` is called after each."""
    health, frames = Health(), int(record["frames"])
    while (done := sum(leg["frames"] for leg in record["legs"])) < frames:
        count = min(LEG, frames - done)
        seed = 1 + len(record["legs"])
        leg = run_leg(bundle, pipeline, count, seed, record["fps"], record["paced"], health.sample)
        record["legs"].append(dataclasses.asdict(leg))
        record["processes"][str(os.getpid())] = {"samples": health.rows, "problems": health.problems()}
        save()
        print(f"{done + count} of {frames} frames: {len(leg.problems)} problems, {facts()}", file=sys.stderr)
    record["complete"] = True
    record["summary"] = summary(record)
    save()


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
    samples = [row for process in record["processes"].values() for row in process["samples"]]
    return {
        "frames": sum(leg["frames"] for leg in legs),
        "faults": dict(faults),
        "told_after_ms_at_most": worst,
        "counters": dict(totals),
        "none_outside_faults": dict(sum((Counter(leg["other_none"]) for leg in legs), Counter())),
        "faults_unseen": sum(leg["unseen"] for leg in legs),
        "anomalous_ok_compared": sum(leg["compared_ok"] for leg in legs),
        "rss_mb": [samples[0]["rss_mb"], samples[-1]["rss_mb"]] if samples else None,
        "problems": problems,
    }


def main() -> int:
    """Run the trial; 1 when something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--frames", type=int, default=50_000)
    parser.add_argument("--fps", type=float, default=28.0)
    parser.add_argument("--paced", action="store_true")
    parser.add_argument("--bundle", type=Path)
    arguments = parser.parse_args()
    asked = {"frames": arguments.frames, "fps": arguments.fps, "paced": arguments.paced}
    record: dict[str, Any] = {**asked, "legs": [], "processes": {}}
    if arguments.resume and arguments.json.exists():
        record = json.loads(arguments.json.read_text())
    if record.get("complete"):
        print(f"{arguments.json} is complete")
        return int(bool(record["summary"]["problems"]))

    def save() -> None:
        atomic_write(arguments.json, json.dumps(record, indent=1) + "\n")

    with tempfile.TemporaryDirectory() as folder:
        bundle = open_bundle(arguments.bundle or make_bundle(Path(folder)))
        with Pipeline(bundle) as pipeline:
            soak(bundle, pipeline, record, save)
    print(json.dumps(record["summary"], indent=1))
    return int(bool(record["summary"]["problems"]))


if __name__ == "__main__":
    sys.exit(main())
