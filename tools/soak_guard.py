"""How long a PLC sees "good" after the inspector was stopped, killed or hangs: real processes, a pymodbus peer.

`python tools/soak_guard.py --json FILE [--resume] [--rounds 30] [--hold-ms 300]`. The PLC asks every millisecond; the time
runs from the signal, so it holds the way of the last verdict too.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from edge_ad.files import atomic_write

ALLOWED_MS = 50.0
WAYS = ("STOP", "KILL", "hang")


def measure(how: str, hold_ms: float) -> float:
    """Return the milliseconds from the end of an inspector to the reject that the PLC reads."""
    from tests.outputs.peers import ReadingPlc, until

    feeder = subprocess.Popen(
        [sys.executable, "-m", "tests.outputs.feeder", "modbus-server://127.0.0.1:0", str(hold_ms)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert feeder.stdout is not None
    assert feeder.stdin is not None
    try:
        plc = ReadingPlc(json.loads(feeder.stdout.readline())["port"])
        assert until(plc.passed)
        time.sleep(0.2)
        started = time.monotonic()
        if how == "hang":
            feeder.stdin.write("hang\n")
            feeder.stdin.flush()
        else:
            feeder.send_signal(signal.SIGSTOP if how == "STOP" else signal.SIGKILL)
        while plc.passed():
            time.sleep(0.001)
        took = 1000.0 * (time.monotonic() - started)
        plc.close()
        return took
    finally:
        feeder.kill()
        feeder.communicate()


def main() -> int:
    """Run the trial; 1 when a reject came too late."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--hold-ms", type=float, default=300.0)
    arguments = parser.parse_args()
    record: dict[str, Any] = {"hold_ms": arguments.hold_ms, "rounds": arguments.rounds, "ms": {how: [] for how in WAYS}}
    if arguments.resume and arguments.json.exists():
        record = json.loads(arguments.json.read_text())
    for how in WAYS:
        while len(record["ms"][how]) < record["rounds"]:
            record["ms"][how].append(round(measure(how, record["hold_ms"]), 1))
            atomic_write(arguments.json, json.dumps(record) + "\n")
    limit = record["hold_ms"] + ALLOWED_MS
    record["summary"] = {
        how: {
            "max_ms": max(times),
            "median_ms": sorted(times)[len(times) // 2],
            "too_late": sum(t > limit for t in times),
        }
        for how, times in record["ms"].items()
    }
    atomic_write(arguments.json, json.dumps(record) + "\n")
    print(json.dumps(record["summary"], indent=1))
    return int(any(found["too_late"] for found in record["summary"].values()))


if __name__ == "__main__":
    sys.exit(main())
