"""A line at full speed, as a process: `burst.py STORE URI RATE` records events until a line comes on standard input.

Numbers go on where an earlier process was killed. Then it delivers what waits and ends.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

from edge_ad.events import Event
from edge_ad.outputs.delivery import make_output
from edge_ad.outputs.dispatcher import Dispatcher
from edge_ad.store import Store

VERDICTS = ("OK", "OK", "WARN", "NG", "NONE")


def main() -> None:
    path, uri, rate = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    dispatcher = Dispatcher([make_output(uri)])
    store = Store(path, dispatcher.committed, dispatcher.outbox.add)
    dispatcher.start(path)
    number = store.counters.get("cam", {}).get("recorded", 0)
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), over.set()), daemon=True).start()
    print("running", flush=True)
    due = time.monotonic()
    while not over.is_set():
        due += 1.0 / rate
        time.sleep(max(0.0, due - time.monotonic()))
        number += 1
        verdict = VERDICTS[number % len(VERDICTS)]
        row = Event("cam", number, str(number), time.time(), verdict, 1.0, {}, 1.0, None)
        store.record(row, {"recorded": number})
    store.close(20)
    dispatcher.close(120)


if __name__ == "__main__":
    main()
