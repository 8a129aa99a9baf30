"""A process that writes a store as fast as it can and tells each event on standard output once it is committed.

`python -m tests.store.writer FOLDER [CHECKPOINT_PAGES [EVENTS]]`: without a number of events it goes on for ever.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from pathlib import Path

from edge_ad.events import Event
from edge_ad.store import Store, StoredImage

VERDICTS = ("OK", "OK", "OK", "WARN", "NG", "NONE")


def main() -> None:
    folder = Path(sys.argv[1])
    pages = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    events = range(1, int(sys.argv[3]) + 1) if len(sys.argv) > 3 else itertools.count(1)
    store = Store(folder / "line.sqlite", write_ids, evidence=folder / "line.evidence")
    assert store._connection is not None
    store._connection.execute(f"PRAGMA wal_autocheckpoint = {pages}")
    for number in events:
        row = Event("cam", number, str(number), time.time(), VERDICTS[number % 6], 1.5, {"logic": 0.25}, 2.0, None)
        store.record(row, {"captured": number})
        if number % 7 == 0:
            store.add_image(StoredImage(f"day/{row.id}.jpg", row.id, row.verdict, row.time, 1000))
            store.save_alarm_state("cam", {"phase": "alarm", "number": number})
        time.sleep(0.001 if number % 5 else 0.004)
    store.close(30.0)


def write_ids(rows: list[Event]) -> None:
    os.write(1, "".join(f"{row.id}\n" for row in rows).encode())


if __name__ == "__main__":
    main()
