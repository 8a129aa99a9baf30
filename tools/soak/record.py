"""Kills and power cuts while events are written: no committed event may be missing, the index must open.

`python tools/soak/record.py --json FILE [--resume] [--kills 200] [--cuts 200]`. Kills: a process that writes a store is
killed with -9 at a random moment, again and again on the same store. Power cuts: the system calls of such a process are
recorded with strace; at random places of the record everything that was not synced is kept, torn at a sector or thrown
away, each write by chance, and the store is opened from what is left.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.store.durability import calls, faults, kill_once, power_cuts
from tests.store.durability import record as trace
from tools.soak.trial import Record, begin

PAGES = (40, 1000)  # how long the write-ahead log grows before it is taken in: a short one cuts many checkpoints
EVENTS = 1500
KILLS_A_STORE = 20


def kill(record: Record, found: dict[str, Any], count: int) -> None:
    """Kill so many times, a fresh store every twenty times."""
    while found["done"] < count:
        rng = random.Random(found["done"])
        with tempfile.TemporaryDirectory() as name:
            message: set[str] = set()
            rounds = min(KILLS_A_STORE, count - found["done"])
            for _ in range(rounds):
                message |= kill_once(Path(name), rng)
                found["faults"] += faults(Path(name), message)
            found["told"] += len(message)
            found["done"] += rounds
        record.save()


def cut(record: Record, cuts: dict[str, Any], count: int) -> None:
    """Cut so many times, half of them with a short write-ahead log."""
    for pages in PAGES:
        share = count // len(PAGES)
        result = cuts.setdefault(str(pages), {"done": 0, "told": 0, "faults": [], "skipped": None})
        if result["done"] >= share or result["skipped"]:
            continue
        with tempfile.TemporaryDirectory() as name:
            root = Path(name) / "line"
            root.mkdir()
            result["skipped"] = trace(root, Path(name) / "trace", pages, EVENTS)
            if result["skipped"] is None:
                listed = list(calls(Path(name) / "trace"))
                result.update(calls=len(listed), done=0, told=0, faults=[])  # another record: begin again
                for place, message, wrong in power_cuts(root, listed, share, pages, Path(name) / "cuts"):
                    result["done"] += 1
                    result["told"] = max(result["told"], message)
                    result["faults"] += [f"at call {place}: {fault}" for fault in wrong]
        record.save()


def main() -> int:
    """Run both trials; 1 when anything was missing or could not be tried."""
    killed: dict[str, Any] = {"done": 0, "told": 0, "faults": []}
    record = begin(str(__doc__), {"killed": killed, "cut": {}}, kills=200, cuts=200)
    values = record.values
    if not record.complete:
        kill(record, values["killed"], values["kills"])
        cut(record, values["cut"], values["cuts"])
        record.finish({"kills": values["killed"], "cuts": values["cut"]})
    summary = values["summary"]
    return int(any(result["faults"] or result.get("skipped") for result in (summary["kills"], *summary["cuts"].values())))


if __name__ == "__main__":
    sys.exit(main())
