"""A stand-in for the inspector of a triggered line, as a process: answers every call at once, with the verdict of its number.

`python -m tests.outputs.answerer HOLD_MS TRIGGER URI`. It keeps its camera alive, and prints the guard's process first.
"""

from __future__ import annotations

import json
import sys
import threading
import time

from edge_ad.outputs.guard_client import GuardClient
from edge_ad.outputs.guard_state import Message

VERDICTS = ("OK", "WARN", "NG", "NONE", "OK")


def verdict_of(part: str) -> str:
    """Return the verdict on a part, by its number."""
    return VERDICTS[int(part) % len(VERDICTS)]


def main() -> None:
    hold_ms, trigger, uri = float(sys.argv[1]), sys.argv[2], sys.argv[3]
    lock = threading.Lock()
    waiting: list[tuple[str, float]] = []
    came = threading.Event()

    def heard(record: dict[str, object]) -> None:
        if record["kind"] == "trigger":
            with lock:
                waiting.append((str(record["part"]), float(str(record["at"]))))
            came.set()

    link = GuardClient([uri], hold_ms, 1, heard, calls=True, trigger=trigger)
    print(json.dumps({"guard": link.pid}), flush=True)
    while True:
        came.wait(0.05)
        came.clear()
        with lock:
            calls, waiting[:] = list(waiting), []
        for part, at in calls:
            verdict = verdict_of(part)
            link.send(Message("verdict", time.monotonic(), 0, verdict, verdict == "OK", part, at))
        link.send(Message("held", time.monotonic()))


if __name__ == "__main__":
    main()
