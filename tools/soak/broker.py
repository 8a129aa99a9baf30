"""A broker that is away for minutes while the inspector is killed: nothing lost, order kept, the loop undisturbed.

`python tools/soak/broker.py --json FILE [--resume] [--minutes 10] [--rate 20] [--kills 2] [--bundle FILE]`. A real
`edge-ad run` on the synthetic line and a real mosquitto. The broker is there for half the time, away for `--minutes`, and
there again for half the time. A second `edge-ad run` without outputs, started and killed at the same moments, is the
measure for the camera-to-verdict times: whatever else this machine does strikes both. `moved` is the p99 away over the p99
there, each over that of the second run; the loop counts as slowed down when its whole 95 % interval lies above 1.05. A
trial that is complete is left out with --resume; one that was cut off begins anew.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.fixtures.mosquitto import Mosquitto
from tests.outputs.arrivals import Arrivals, account, waiting
from tools.soak.trial import Inspector, begin, bundle_for

ALLOWED = 1.05
WARM_UP_S = 5.0  # of a process, left out of the comparison
DRAIN_S = 300.0
BLOCK_S = 10.0
RESAMPLED = 2000

Span = tuple[float, float]


class Line(Inspector):
    """A run with a store that can be killed and started again; ``starts`` are the moments of its first verdicts."""

    def __init__(self, folder: Path, bundle: Path, outputs: list[str], rate: float) -> None:
        self.starts = list[float]()
        self.store = folder / "line.sqlite"
        words = ["run", bundle, "--realtime", *outputs, "--precision", "fp32", "--store", self.store]
        words += [
            "--camera",
            f"synthetic://line?frames=10000000&seed=1&fps={rate:g}",
            "--events",
            folder / "events.jsonl",
        ]
        super().__init__(folder, *words)
        self.wait()

    def start(self) -> None:
        """Start the process."""
        self._before = self.events()
        super().start()

    def wait(self) -> None:
        """Wait for the first verdict of this process."""
        while self.events() == self._before:
            self.require_running()
            time.sleep(0.2)
        self.starts.append(time.time())

    def events(self) -> int:
        """How many events are committed."""
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(self.store, timeout=20)) as store:
            return int(store.execute("SELECT count(*) FROM event").fetchone()[0])
        return 0


def run(folder: Path, bundle: Path, minutes: float, rate: float, kills: int) -> dict[str, Any]:
    """Run the trial in an empty folder and return its record."""
    seconds, spans = 60.0 * minutes, dict[str, Span]()
    broker = Mosquitto(folder / "broker")
    arrivals = Arrivals(broker, "soak")
    line = Line(folder / "line", bundle, ["--alarm", f"mqtt://{broker.address}/soak"], rate)
    control = Line(folder / "control", bundle, [], rate)
    both = (line, control)
    try:
        spans["before"] = wait(seconds / 2)
        broker.stop()
        started = time.time()
        for _ in range(kills):
            wait(seconds / (kills + 1))
            for one in both:
                one.kill()
            for one in both:
                one.start()
            for one in both:
                one.wait()
        wait(max(started + seconds - time.time(), 0.0))
        spans["away"] = (started, time.time())
        most = waiting(line.store)
        broker.start()
        arrivals.come_back()
        back = time.time()
        while waiting(line.store) > rate and time.time() - back < DRAIN_S:
            time.sleep(0.1)
        spans["catching up"] = (back, time.time())
        spans["after"] = wait(seconds / 2)
        for one in both:
            one.stop()
        deadline = time.time() + 30
        while account(line.store, arrivals.ids).lost and time.time() < deadline:
            time.sleep(0.2)
        result = account(line.store, arrivals.ids)
        unrecorded = unrecorded_events(line.folder / "events.jsonl", line.store)
        return {
            "events": asdict(result),
            "good": result.good,
            "most_waiting": most,
            "caught_up_s": round(spans["catching up"][1] - back, 1),
            "verdicts_not_committed_at_kills": unrecorded,
            **compare(line, control, spans),
        }
    finally:
        for one in both:
            one.process.kill()
        arrivals.close()
        broker.kill()


def wait(seconds: float) -> Span:
    """Let time pass and return it."""
    started = time.time()
    time.sleep(seconds)
    return started, time.time()


def unrecorded_events(events: Path, store: Path) -> int:
    """How many verdicts were told in the event file and not yet committed when the process was killed."""
    message = set()
    for text in events.read_text().splitlines():
        with contextlib.suppress(ValueError):
            message.add(json.loads(text)["id"])
    with contextlib.closing(sqlite3.connect(store)) as connection:
        return len(message - {one for (one,) in connection.execute("SELECT id FROM event")})


def compare(line: Line, control: Line, spans: dict[str, Span]) -> dict[str, Any]:
    """Return camera-to-verdict percentiles of every span, and by how much the p99 moved, with its 95 % interval."""
    starts = [*line.starts, *control.starts]
    runs = {"with_mqtt": line.store, "without_outputs": control.store}
    parts = {name: {run: blocks(store, span, starts) for run, store in runs.items()} for name, span in spans.items()}
    there = {run: parts["before"][run] + parts["after"][run] for run in runs}
    rng = np.random.default_rng(0)

    def ratio(pair: dict[str, list[NDArray[np.float64]]], draw: bool) -> float:
        results = [p99(pair[run], rng if draw else None) for run in runs]
        return results[0] / results[1]

    moved = ratio(parts["away"], False) / ratio(there, False)
    drawn = [ratio(parts["away"], True) / ratio(there, True) for _ in range(RESAMPLED)]
    low, high = np.percentile(drawn, (2.5, 97.5))
    figures = {
        name: {run: summary(results) for run, results in pair.items()} for name, pair in parts.items() if all(pair.values())
    }
    return {"latency_ms": figures, "moved": round(moved, 3), "moved_95": [round(float(low), 3), round(float(high), 3)]}


def summary(parts: list[NDArray[np.float64]]) -> dict[str, Any]:
    """Return count and percentiles."""
    ms = np.concatenate(parts)
    return {"n": len(ms), **{f"p{percent}": round(float(np.percentile(ms, percent)), 3) for percent in (50, 90, 99)}}


def blocks(store: Path, span: Span, starts: list[float]) -> list[NDArray[np.float64]]:
    """Return the times of a span in stretches of 10 s, because neighbours suffer together; not those of warming up."""
    with contextlib.closing(sqlite3.connect(store)) as connection:
        query = "SELECT time, latency_ms FROM event WHERE latency_ms IS NOT NULL AND time >= ? AND time < ?"
        rows = connection.execute(query, span).fetchall()
    if not rows:
        return []
    at, ms = np.array(rows).T
    warm = np.all([(at < start - 1.0) | (at > start + WARM_UP_S) for start in starts], axis=0)
    numbers = (at // BLOCK_S).astype(np.int64)
    return [ms[warm & (numbers == number)] for number in np.unique(numbers[warm])]


def p99(parts: list[NDArray[np.float64]], rng: np.random.Generator | None) -> float:
    """Return the p99 of all blocks, or of as many drawn with replacement."""
    drawn = range(len(parts)) if rng is None else rng.integers(0, len(parts), len(parts))
    return float(np.percentile(np.concatenate([parts[place] for place in drawn]), 99))


def main() -> int:
    """Run the trial; 1 when an event was lost or the loop was slower."""
    record = begin(str(__doc__), {}, minutes=10.0, rate=20.0, kills=2, bundle="")
    values = record.values
    if not record.complete:
        with tempfile.TemporaryDirectory() as name:
            bundle = bundle_for(Path(name), values["bundle"])
            record.finish(run(Path(name), bundle, values["minutes"], values["rate"], values["kills"]))
    result = values["summary"]
    return int(not result["good"] or result["moved_95"][0] > ALLOWED)


if __name__ == "__main__":
    sys.exit(main())
