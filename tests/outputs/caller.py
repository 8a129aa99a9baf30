"""A stand-in for the inspector of a triggered line, as a process: answers every call with the truth about its part.

`python -m tests.outputs.caller HOLD_MS SEED URI...`. Even numbers are good parts. Each verdict is printed before the guard
gets it; the first line names the guard. The targets are locked as a run locks them.
"""

from __future__ import annotations

import heapq
import json
import random
import sys
import threading
import time

from edge_ad.outputs.guard_client import GuardClient
from edge_ad.outputs.guard_state import Message
from edge_ad.outputs.targets import ADVICE, targets_of
from edge_ad.utils.locks import Targets

MIN_S, MAX_S = 0.02, 0.6


def main() -> None:
    hold_ms, seed, uris = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    Targets().lock(targets_of(uris), ADVICE)
    chance, lock = random.Random(seed), threading.Lock()
    due: list[tuple[float, str, float]] = []

    def heard(record: dict[str, object]) -> None:
        if record["kind"] == "trigger":
            with lock:
                latency = chance.uniform(MIN_S, MAX_S)
                heapq.heappush(due, (time.monotonic() + latency, str(record["part"]), float(str(record["at"]))))

    link = GuardClient(uris, hold_ms, 1, heard, calls=True, trigger="modbus")
    guard = 0
    while True:
        if link.pid != guard:
            guard = link.pid
            print(json.dumps({"guard": guard}), flush=True)
        with lock:
            ready = [heapq.heappop(due) for _ in range(len(due)) if due[0][0] <= time.monotonic()]
        for _, part, call in ready:
            good = part.isdigit() and int(part) % 2 == 0
            print(json.dumps({"part": part, "good": good, "at": time.monotonic()}), flush=True)
            link.send(Message("verdict", time.monotonic(), 0, "OK" if good else "NG", good, part, call))
        link.send(Message("held", time.monotonic()))
        time.sleep(0.01)


if __name__ == "__main__":
    main()
