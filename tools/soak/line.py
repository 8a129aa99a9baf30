"""A line whose camera, network and engine lie at random: does a bad part ever pass? The real `edge-ad run` and real peers.

`python tools/soak/line.py --json FILE [--resume] [--minutes 30] [--seed 0] [--no-light]`. GStreamer's RTSP server shows good
and bad parts, each for 1 to 3.5 s, behind a proxy; a PLC reads `pass` over Modbus. Mixed at random: the delay of the network
grows without a gap, the camera shows one old image or a few in turn while a clock beside the judged region goes on, and
the engine gives zeros, scores near zero or its last result again. A light that blinks in the image proves that it is new;
with --no-light equality does, where 17 different images must be seen before the first verdict. A
pass is wrong when something has been wrong without a break for longer than max_age + hold + 50 ms: the part in place, the
camera, the network or the engine. Ends with 1 when a pass was wrong.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from pymodbus.client import ModbusTcpClient
from pymodbus.exceptions import ModbusException

from tests.camera.delay_proxy import DelayProxy
from tests.camera.part_camera import LIVENESS, ROI, PartCamera
from tests.camera.rtsp import server_missing
from tests.fixtures.loopback import free_port
from tools.soak.trial import Inspector, begin, bundle_for

MAX_AGE_S, HOLD_S = 0.5, 0.3
LIMIT_S = MAX_AGE_S + HOLD_S + 0.05
MIN_DELAY_S = 0.1  # the steps of the proxy, and the encoder
SAMPLE_S = 0.006
PATIENCE_S = 5.0  # a fault waits so long for a pass that it could hold
LETTERS = {"zeros": "z", "near zero": "l", "stuck result": "s"}


class Truth:
    """What is wrong at the moment, and since when; every sample of `pass` is held against it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._onsets: dict[str, float] = {}
        self._last_pass: dict[str, float] = {}
        self._since: float | None = None
        self.times: defaultdict[str, list[float]] = defaultdict(list)
        self.onsets: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.wrong: list[dict[str, Any]] = []

    def set(self, what: str, wrong: bool, at: float) -> None:
        """Say that something is wrong from a moment on, or right again."""
        with self._lock:
            if wrong and what not in self._onsets:
                self._onsets[what] = at
                self.onsets[what] += 1
                self._since = at if self._since is None else self._since
            elif not wrong and what in self._onsets:
                onset = self._onsets.pop(what)
                if what in self._last_pass:
                    self.times[what].append(round(1000.0 * (self._last_pass.pop(what) - onset), 1))
                self._since = self._since if self._onsets else None

    def since(self) -> float | None:
        """From when on there was always something wrong."""
        with self._lock:
            return self._since

    def judge(self, before: float, since: float | None, passed: bool) -> None:
        """Check a sample that was asked for at ``before``, when things were wrong ``since`` then."""
        with self._lock:
            self.counts["samples"] += 1
            self.counts["passes"] += passed
            if not passed or since is None or since != self._since:
                return
            self.counts["passes within the limit"] += 1
            for what, onset in self._onsets.items():
                if before > onset:
                    self._last_pass[what] = before
            if before - since > LIMIT_S:
                late = {what: round(1000.0 * (before - onset)) for what, onset in self._onsets.items()}
                self.wrong.append({"at": round(before, 3), "ms": round(1000.0 * (before - since)), "ms_each": late})


class Trial:
    """The line, its faults, and a PLC that reads."""

    def __init__(self, seed: int, folder: Path, light: bool = True) -> None:
        logging.getLogger("pymodbus").setLevel(logging.CRITICAL)  # it tells every connection that ends
        self.chance, self.truth, self.folder = random.Random(seed), Truth(), folder
        settings = f"[run]\nmax_age_ms = {1000 * MAX_AGE_S:g}\n"
        settings += f'[camera]\nliveness = ["{LIVENESS if light else "different:17"}"]\n'
        (folder / "edge-ad.toml").write_text(settings)
        self._mode = folder / "mode"
        self._mode.write_bytes(b"n")
        self._bundle = bundle_for(folder, "")
        self.camera = PartCamera(random.Random(seed + 1), self.truth.set)
        self._ramp = (0.0, 0.0, 0.0)  # its beginning, seconds per second, most
        self._proxy = DelayProxy(self.camera.server.port, self.delay)
        self._port = free_port()
        self._plc: Any = None
        self.starts = 0
        self.start()
        now = time.monotonic()
        self._next = {"camera": now + 4.0, "network": now + 8.0, "engine": now + 12.0}
        self._active: dict[str, str] = {}
        self._passing = False

    def delay(self, now: float) -> float:
        """Return the delay of the network."""
        began, rate, most = self._ramp
        return min(max(now - began, 0.0) * rate, most)

    def start(self) -> None:
        """Start the inspector."""
        self.starts += 1
        words = [self._mode, self._bundle, "--camera", f"rtsp://127.0.0.1:{self._proxy.port}/line", "--roi", ROI]
        words += ["--alarm", f"modbus-server://127.0.0.1:{self._port}", "--hold-ms", f"{1000 * HOLD_S:g}"]
        words += ["--events", self.folder / f"events{self.starts}.jsonl"]
        self.inspector = Inspector(self.folder, *words, module="tests.inspection.spoilt_run")

    def step(self) -> None:
        """Begin and end faults, keep the inspector running, and take a sample."""
        now = time.monotonic()
        for track, due in list(self._next.items()):
            if now > due and (track in self._active or self._passing or now > due + PATIENCE_S):
                getattr(self, "_" + track)(now)
        self.truth.set("network delay", self.delay(now) > MAX_AGE_S + MIN_DELAY_S, now)
        if (code := self.inspector.process.poll()) is not None:
            self.truth.counts[f"runs ended with {code}"] += 1
            if code != 3:  # a device fault: the self-test found the engine out
                self.inspector.require_running()
            if "engine" in self._active:
                self._engine(now)
            self.start()
        since = self.truth.since()
        before = time.monotonic()
        self._passing = self._read_pass()
        self.truth.judge(before, since, self._passing)
        time.sleep(SAMPLE_S)

    def _read_pass(self) -> bool:
        if self._plc is None:
            self._plc = ModbusTcpClient("127.0.0.1", port=self._port, timeout=1, retries=0)
        with contextlib.suppress(ModbusException, OSError):
            if self._plc.connected or self._plc.connect():
                answer = self._plc.read_discrete_inputs(0, count=8)
                if not answer.isError():
                    return bool(answer.bits[0])
        self.truth.counts["no answer"] += 1
        self._plc.close()
        self._plc = None
        time.sleep(0.05)
        return False

    def _network(self, now: float) -> None:
        if self._active.pop("network", None):
            self._ramp = (0.0, 0.0, 0.0)
            self._next["network"] = now + self.chance.uniform(10.0, 25.0)
            return
        self._active["network"] = "delay"
        rate, most = self.chance.uniform(0.2, 0.8), self.chance.uniform(1.0, 4.0)
        self._ramp = (now, rate, most)
        self._next["network"] = now + most / rate + self.chance.uniform(0.0, 3.0)

    def _camera(self, now: float) -> None:
        ended = self._active.pop("camera", None)
        if not ended:
            self._active["camera"] = "stale"
        self.camera.stale = 0 if ended else self.chance.choice([1, 1, 2, 2, 3, 5, 8])
        self._next["camera"] = now + (self.chance.uniform(4.0, 15.0) if ended else self.chance.uniform(1.5, 6.0))

    def _engine(self, now: float) -> None:
        if what := self._active.pop("engine", None):
            self._spoil("n")
            self.truth.set(what, False, time.monotonic())
            self._next["engine"] = now + self.chance.uniform(8.0, 25.0)
            return
        self._active["engine"] = what = self.chance.choice(list(LETTERS))
        letter = LETTERS[what]
        self.truth.set(what, True, now)
        self._spoil(letter.upper() if self.chance.random() < 0.7 else letter)
        self._next["engine"] = now + self.chance.uniform(2.0, 6.0)

    def _spoil(self, letter: str) -> None:
        with self._mode.open("r+b") as file:  # at once: the inspector reads it before each image
            file.write(letter.encode())

    def reasons(self) -> dict[str, int]:
        """Count verdicts, and why there was none."""
        result: Counter[str] = Counter()
        for path in self.folder.glob("events*.jsonl"):
            for line in path.read_text().splitlines():
                event = json.loads(line)
                reason = str(event["reason"]).split(":")[0]
                result[event["verdict"] + (f" {reason}" if event["verdict"] == "NONE" else "")] += 1
        return dict(result)

    def close(self) -> None:
        """End all."""
        self.inspector.kill()
        self.camera.close()
        self._proxy.close()


def summary(trial: Trial) -> dict[str, Any]:
    """Return what was found."""
    truth, times = trial.truth, {}
    for what, onsets in sorted(truth.onsets.items()):
        seen = sorted(truth.times[what])
        middle = statistics.median(seen) if seen else None
        times[what] = {"onsets": onsets, "passing": len(seen), "median_ms": middle, "max_ms": max(seen, default=None)}
    return {
        "samples": truth.counts["samples"],
        "passes": truth.counts["passes"],
        "wrong": len(truth.wrong),
        "first_wrong": truth.wrong[:5],
        "limit_ms": round(1000.0 * LIMIT_S),
        "time_to_reject": times,
        "counts": dict(truth.counts),
        "verdicts": trial.reasons(),
        "starts": trial.starts,
        "frames": trial.camera.frames,
        "load": os.getloadavg(),
    }


def main() -> int:
    """Run the trial; 1 when a pass was wrong, or when there was none at all."""
    record = begin(str(__doc__), {"done_s": 0.0, "wrong": [], "counts": {}}, minutes=30.0, seed=0, light=True)
    if reason := server_missing():
        print(f"not run: {reason}")
        return 0
    values = record.values
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(values["seed"] + int(values["done_s"]), Path(folder), values["light"])
        try:
            record.run(trial.step, lambda: {"wrong": trial.truth.wrong, "counts": dict(trial.truth.counts)})
        finally:
            trial.close()
        result = summary(trial)
    record.finish(result)
    print(f"{'wrong':<16}{'onsets':>8}{'passing':>9}{'median ms':>11}{'max ms':>9}   (at most {result['limit_ms']} ms)")
    for what, row in result["time_to_reject"].items():
        print(f"{what:<16}" + "".join(f"{row[key]!s:>{w}}" for key, w in zip(row, (8, 9, 11, 9), strict=True)))
    return int(bool(result["wrong"] or not result["passes"]))


if __name__ == "__main__":
    sys.exit(main())
