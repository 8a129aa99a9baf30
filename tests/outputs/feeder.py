"""A stand-in for the inspector, as a process: tells the guard a good verdict every 10 ms.

Prints the port that the PLC reads, or ``open``, then one line for what the PLC asks. ``hang`` on its standard input
stops the feeding while the process lives on.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Mapping

from edge_ad.outputs.guard_client import GuardClient
from edge_ad.outputs.guard_state import Message


def print_record(record: Mapping[str, object]) -> None:
    """Write one line at once: print writes its end by itself, and two threads speak here."""
    sys.stdout.write(f"{json.dumps(record)}\n")
    sys.stdout.flush()


def main() -> None:
    uri, hold_ms = sys.argv[1], float(sys.argv[2])
    link = GuardClient([uri], hold_ms, 1, print_record)
    print_record({"port": next(iter(link.ports.values()), 0), "guard": link.pid})
    hang = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), hang.set()), daemon=True).start()
    count = 0
    while True:
        if not hang.is_set():
            count += 1
            link.send(Message("verdict", time.monotonic(), 0, "OK", True, str(count)))
        time.sleep(0.01)


if __name__ == "__main__":
    main()
