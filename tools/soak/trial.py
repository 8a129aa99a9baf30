"""What the long trials share: arguments, a record that can be resumed, an inspector as a process, and memory."""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edge_ad.utils.files import atomic_write
from tests.fixtures.tiny_bundle import make_tiny_bundle

ROOT = Path(__file__).parents[2]
SAVE_EVERY_S = 20.0
SETTLED_AFTER = 5_000  # frames of a process after which its memory must be flat
MEMORY_MB = 2.0
SAMPLE_EVERY = 500
_M_ARENA_MAX = -8  # malloc.h of glibc


class Record:
    """What a trial has found so far, written to ``path`` as JSON; ``values`` holds the options and the findings."""

    def __init__(self, path: Path, values: dict[str, Any]) -> None:
        self.path = path
        self.values = values

    def save(self) -> None:
        """Write it down."""
        atomic_write(self.path, json.dumps(self.values, indent=1) + "\n")

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the summary and print it; from then on the trial is complete."""
        self.values.update(summary=summary, complete=True)
        self.save()
        print(json.dumps(summary, indent=1))

    @property
    def complete(self) -> bool:
        """Whether an earlier run came to the end."""
        return bool(self.values.get("complete"))

    def run(self, step: Callable[[], None], findings: Callable[[], dict[str, Any]]) -> None:
        """Call ``step`` until ``minutes`` are over, those of an earlier run included, and save the findings meanwhile."""
        started = saved = time.monotonic()
        before = self.values.setdefault("done_s", 0.0)
        while before + time.monotonic() - started < 60.0 * self.values["minutes"]:
            step()
            if time.monotonic() - saved > SAVE_EVERY_S:
                saved = time.monotonic()
                self.values.update(findings(), done_s=round(before + saved - started, 1))
                self.save()


def begin(document: str, findings: dict[str, Any], **options: Any) -> Record:
    """Parse ``--json FILE``, ``--resume`` and the options (names with their defaults) of a trial.

    Returns the record of the run that is resumed, else a new one with options and empty ``findings``. From here on the
    process has one heap: with one for each thread, what a finished leg leaves unused looks like growth, or hides it.
    """
    ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
    parser = argparse.ArgumentParser(description=document, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--resume", action="store_true")
    for name, default in options.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=default)
        else:
            parser.add_argument(flag, type=type(default), default=default)
    arguments = parser.parse_args()
    if arguments.resume and arguments.json.exists():
        return Record(arguments.json, json.loads(arguments.json.read_text()))
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    return Record(arguments.json, {**{name: getattr(arguments, name) for name in options}, **findings})


def bundle_for(folder: Path, named: str) -> Path:
    """Return the bundle that an option names, by default the miniature one of the tests, made in ``folder``."""
    return Path(named).resolve() if named else make_tiny_bundle(folder / "tiny.edgead")


class Inspector:
    """`edge-ad run` on one core as a process in ``folder``; what it prints goes into its file ``log``."""

    def __init__(self, folder: Path, *words: object, module: str = "edge_ad") -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self._words = [sys.executable, "-m", module, *map(str, words), "--backend", "onnxruntime"]
        self.start()

    def start(self) -> None:
        """Start the process, after it was killed once more."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(self._words, cwd=self.folder, env=environment, stdout=log, stderr=log)

    def require_running(self) -> None:
        """Raise RuntimeError with the end of the log when it has ended by itself."""
        if (code := self.process.poll()) is not None:
            raise RuntimeError(f"the run ended with {code}: {(self.folder / 'log').read_text()[-2000:]}")

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End it in good order."""
        self.require_running()
        self.process.terminate()
        if code := self.process.wait(30):
            raise RuntimeError(
                f"the run was stopped and ended with {code}: {(self.folder / 'log').read_text()[-2000:]}"
            )


class Health:
    """Memory, handles and threads of this process, sampled from its frames."""

    def __init__(self) -> None:
        self.events = 0
        self.rows: list[dict[str, float]] = []

    def sample(self) -> None:
        """Count one event; every 500th gives a sample of what is held, not of what the allocator keeps for later."""
        self.events += 1
        if self.events % SAMPLE_EVERY == 0:
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)
            self.rows.append({"frames": self.events, **facts()})

    def problems(self) -> list[str]:
        """What grew after the process had settled."""
        rows = [row for row in self.rows if row["frames"] >= SETTLED_AFTER]
        if len(rows) < 4:
            return []
        results = []
        if (grown := growth_mb(rows)) > MEMORY_MB:
            results.append(
                f"memory grew by {grown:.1f} MB from frame {rows[0]['frames']:.0f} to {rows[-1]['frames']:.0f}"
            )
        for name in ("handles", "threads"):
            most = max(row[name] for row in rows)
            if most > rows[0][name]:
                results.append(f"{name} grew from {rows[0][name]:.0f} to {most:.0f}")
        return results

    def figures(self) -> dict[str, Any]:
        """Return growth in MB, and least and most handles and threads, after the process had settled."""
        rows = [row for row in self.rows if row["frames"] >= SETTLED_AFTER]
        if len(rows) < 4:
            return {}
        spans = {
            name: [min(row[name] for row in rows), max(row[name] for row in rows)] for name in ("handles", "threads")
        }
        return {"frames": [rows[0]["frames"], rows[-1]["frames"]], "rss_growth_mb": round(growth_mb(rows), 2), **spans}


def growth_mb(rows: list[dict[str, float]]) -> float:
    """Return by how much memory grew, from the mean of three samples at both ends: a page more or less is no trend."""
    first, last = (float(np.mean([row["rss_mb"] for row in some])) for some in (rows[:3], rows[-3:]))
    return last - first


def facts() -> dict[str, float]:
    """Return resident memory, open handles and threads of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    threads = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Threads"))
    return {
        "rss_mb": round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 2),
        "handles": len(os.listdir("/proc/self/fd")),
        "threads": int(threads.split()[1]),
    }
