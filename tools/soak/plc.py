"""S7 and EtherNet/IP: does a PLC see every verdict with its part, and how soon a reject? Real processes, PLCs in software.

`python tools/soak/plc.py --json FILE [--resume] [--parts 2000] [--rounds 20]`. A PLC calls for parts, one after
the other, and takes what comes with the id of the part; beside that every sample of `pass` must stand beside the id of a good
part. Then the inspector is stopped, killed or hangs, `rounds` times each; the time runs from the signal, so it holds the way
of the last verdict too. Ends with 1 when a verdict is missing or wrong, or a reject later than the hold and 50 ms.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from edge_ad.outputs.signals import registers_text
from tests.outputs.answerer import verdict_of
from tests.outputs.plcs import KINDS, BlockPlc, call, passed, plc_of, ready, uri_of
from tests.outputs.test_guard import HOLD_MS, feeding
from tools.soak.guard import ALLOWED_MS, WAYS
from tools.soak.trial import ROOT, Record, begin

CHUNK = 100
MAX_WAIT_S = 60.0
STANDS_MS = 500.0  # as long as a verdict stands by default


class Watch:
    """Looks at a PLC a thousand times a second: a pass must stand beside the id of a good part."""

    def __init__(self, plc: BlockPlc) -> None:
        self._plc = plc
        self._over = threading.Event()
        self.samples = self.passes = 0
        self.wrong: list[str] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.001):
            words = self._plc.words()
            self.samples += 1
            if words[0] & 1:
                self.passes += 1
                part = registers_text(words[8:24])
                if not part or verdict_of(part) != "OK":
                    self.wrong.append(part)


def call_for_parts(kind: str, found: dict[str, Any], parts: int, record: Record) -> None:
    """Call for the parts that are still to come, with one inspector."""
    with plc_of(kind) as plc:
        words = [sys.executable, "-m", "tests.outputs.answerer", str(STANDS_MS), kind, uri_of(kind, plc.port)]
        with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL) as line:
            watch = Watch(plc)
            assert ready(plc)
            while found["parts"] < parts:
                part = str(found["parts"])
                started = time.monotonic()
                verdict, good = call(plc, part, 2.0)
                found["ms"].append(round(1000.0 * (time.monotonic() - started) - 100.0, 1))  # it rests for 100 ms
                due = verdict_of(part)
                if (verdict, good) != (due, due == "OK"):
                    shown = registers_text(plc.words()[8:24])  # that of this part: its verdict came, and was too short
                    found["wrong"].append([part, verdict, good, shown])
                found["parts"] += 1
                if found["parts"] % CHUNK == 0:
                    record.save()
            line.kill()
        watch.close()
    found["samples"] += watch.samples
    found["passes"] += watch.passes
    found["wrong"] += watch.wrong


def measure(kind: str, how: str) -> float:
    """Return the milliseconds from the end of an inspector to the reject in the PLC."""
    with plc_of(kind) as plc, feeding(uri_of(kind, plc.port)) as feeder:
        _await(lambda: passed(plc), lambda: feeder.process.poll() is None)
        time.sleep(0.2)
        started = time.monotonic()
        feeder.stop(how)
        _await(lambda: not passed(plc))
        return 1000.0 * (time.monotonic() - started)


def _await(condition: Callable[[], bool], possible: Callable[[], bool] = lambda: True) -> None:
    """Wait until a condition holds; the trial ends, and can be resumed, where it cannot any more or does not in a minute."""
    ends = time.monotonic() + MAX_WAIT_S
    while not condition():
        if not possible() or time.monotonic() > ends:
            raise SystemExit("error: the inspector ended or the PLC saw no change; run the trial again with --resume")
        time.sleep(0.0005)


def summary(values: dict[str, Any], limit_ms: float) -> dict[str, Any]:
    """Return what was found, kind by kind."""
    result: dict[str, Any] = {}
    for kind in KINDS:
        one = values[kind]
        times = sorted(one["ms"])
        result[kind] = {
            "parts": one["parts"],
            "wrong": len(one["wrong"]),
            "first_wrong": one["wrong"][:5],
            "samples": one["samples"],
            "passes": one["passes"],
            "call_to_answer_ms": {"median": times[len(times) // 2], "max": times[-1]},
            "reject_ms": {how: {"max": max(ms), "too_late": sum(t > limit_ms for t in ms)} for how, ms in one["reject"].items()},
        }
    return {**result, "load": os.getloadavg()}


def main() -> int:
    """Run the trial; 1 when a verdict was missing or wrong, or a reject came too late."""
    empty = {
        kind: {"parts": 0, "ms": [], "wrong": [], "samples": 0, "passes": 0, "reject": {how: [] for how in WAYS}}
        for kind in KINDS
    }
    record = begin(str(__doc__), empty, parts=2000, rounds=20)
    values = record.values
    for kind in KINDS:
        for how, times in values[kind]["reject"].items():
            while len(times) < values["rounds"]:
                times.append(round(measure(kind, how), 1))
                record.save()
        call_for_parts(kind, values[kind], values["parts"], record)
    result = summary(values, HOLD_MS + ALLOWED_MS)
    record.finish(result)
    late = any(way["too_late"] for kind in KINDS for way in result[kind]["reject_ms"].values())
    return int(late or any(result[kind]["wrong"] for kind in KINDS))


if __name__ == "__main__":
    sys.exit(main())
