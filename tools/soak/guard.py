"""How long a PLC sees "good" after the inspector was stopped, killed or hangs: real processes, a pymodbus peer.

`python tools/soak/guard.py --json FILE [--resume] [--rounds 30] [--hold-ms 300]`. The PLC asks every millisecond; the time
runs from the signal, so it holds the way of the last verdict too.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

from tests.fixtures.loopback import until
from tests.outputs.peers import ReadingPlc
from tools.soak.trial import begin

ALLOWED_MS = 50.0
WAYS = ("STOP", "KILL", "hang")


def measure(how: str, hold_ms: float) -> float:
    """Return the milliseconds from the end of an inspector to the reject that the PLC reads."""
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
    record = begin(str(__doc__), {"ms": {how: [] for how in WAYS}}, rounds=30, hold_ms=300.0)
    result = record.values["ms"]
    for how in WAYS:
        while len(result[how]) < record.values["rounds"]:
            result[how].append(round(measure(how, record.values["hold_ms"]), 1))
            record.save()
    limit = record.values["hold_ms"] + ALLOWED_MS
    summary = {
        how: {
            "max_ms": max(times),
            "median_ms": sorted(times)[len(times) // 2],
            "too_late": sum(t > limit for t in times),
        }
        for how, times in result.items()
    }
    record.finish(summary)
    return int(any(one["too_late"] for one in summary.values()))


if __name__ == "__main__":
    sys.exit(main())
