"""What the long trials share: their arguments, a record that can be resumed, and the memory of this process."""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from edge_ad.files import atomic_write

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
        found = []
        if (grown := growth_mb(rows)) > MEMORY_MB:
            found.append(
                f"memory grew by {grown:.1f} MB from frame {rows[0]['frames']:.0f} to {rows[-1]['frames']:.0f}"
            )
        for name in ("handles", "threads"):
            most = max(row[name] for row in rows)
            if most > rows[0][name]:
                found.append(f"{name} grew from {rows[0][name]:.0f} to {most:.0f}")
        return found

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
