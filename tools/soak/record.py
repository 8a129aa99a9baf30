"""Kills and power cuts while events are written: no committed event may be missing, the index must open.

`python tools/soak/record.py --json FILE [--resume] [--kills 200] [--cuts 200]`. Kills: a process that writes a store is
killed with -9 at a random moment, again and again on the same store. Power cuts: the system calls of such a process are
recorded with strace; at random places of the record everything that was not synced is kept, torn at a sector or thrown
away, each write by chance, and the store is opened from what is left.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from edge_ad.files import atomic_write

PAGES = (40, 1000)  # how long the write-ahead log grows before it is taken in: a short one cuts many checkpoints
EVENTS = 1500
KILLS_A_STORE = 20


def kills(record: dict[str, Any], count: int, save: Any) -> None:
    """Kill so many times, a fresh store every twenty times."""
    from tests.store.durability import faults, kill_once

    while record["kills"]["done"] < count:
        rng = random.Random(record["kills"]["done"])
        with tempfile.TemporaryDirectory() as name:
            told: set[str] = set()
            rounds = min(KILLS_A_STORE, count - record["kills"]["done"])
            for _ in range(rounds):
                told |= kill_once(Path(name), rng)
                record["kills"]["faults"] += faults(Path(name), told)
            record["kills"]["told"] += len(told)
            record["kills"]["done"] += rounds
        save()


def cuts(record: dict[str, Any], count: int, save: Any) -> None:
    """Cut so many times, half of them with a short write-ahead log."""
    from tests.store.durability import calls, power_cuts
    from tests.store.durability import record as trace

    for pages in PAGES:
        share = count // len(PAGES)
        found = record["cuts"].setdefault(str(pages), {"done": 0, "told": 0, "faults": [], "skipped": None})
        if found["done"] >= share or found["skipped"]:
            continue
        with tempfile.TemporaryDirectory() as name:
            root = Path(name) / "line"
            root.mkdir()
            found["skipped"] = trace(root, Path(name) / "trace", pages, EVENTS)
            if found["skipped"] is None:
                listed = list(calls(Path(name) / "trace"))
                found.update(calls=len(listed), done=0, told=0, faults=[])  # another record: begin again
                for place, told, wrong in power_cuts(root, listed, share, pages, Path(name) / "cuts"):
                    found["done"] += 1
                    found["told"] = max(found["told"], told)
                    found["faults"] += [f"at call {place}: {fault}" for fault in wrong]
        save()


def main() -> int:
    """Run both trials; 1 when anything was missing or could not be tried."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--cuts", type=int, default=200)
    arguments = parser.parse_args()
    record: dict[str, Any] = {"kills": {"done": 0, "told": 0, "faults": []}, "cuts": {}}
    if arguments.resume and arguments.json.exists():
        record = json.loads(arguments.json.read_text())

    def save() -> None:
        atomic_write(arguments.json, json.dumps(record, indent=1) + "\n")

    kills(record, arguments.kills, save)
    cuts(record, arguments.cuts, save)
    save()
    print(json.dumps(record, indent=1))
    tried = all(found["skipped"] is None for found in record["cuts"].values())
    return int(
        not tried or bool(record["kills"]["faults"]) or any(found["faults"] for found in record["cuts"].values())
    )


if __name__ == "__main__":
    sys.exit(main())
