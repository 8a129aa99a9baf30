"""A triggered line whose outputs fail at random: is there ever a pass that is not due? Real processes and pymodbus peers.

`python tools/soak/outputs.py --json FILE [--resume] [--minutes 30] [--seed 0]`. One guard drives a Modbus server that the
PLC of docs/howto/plc.md reads, a Modbus client that writes into another PLC, and pins of a stand-in chip. Verdicts take 20 to
600 ms, windows 300. Every sample of `pass` is checked: it must belong to the part in place, which must be good, and to a
verdict on it that is not older than the hold. Ends with 1 when a pass was wrong.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from pymodbus.client import ModbusTcpClient
from pymodbus.exceptions import ModbusException

from edge_ad.outputs.signals import registers_text, text_registers
from tests.fixtures.loopback import free_port
from tests.fixtures.tiny_bundle import make_tiny_bundle
from tests.outputs.board import CHIP, Board
from tests.outputs.peers import WrittenPlc
from tools.soak.trial import ROOT, begin

HOLD_S = 0.3
ALLOWED_S = 0.05
WINDOW_S = 0.3
HUNG_S = 1.6  # ten pings in a second, the kill, and what a loaded machine adds
GUARD_PAUSE_S = 25.0  # a guard may end five times a minute
SECOND_RUN_S = 60.0


class Line:
    """The inspector's process with what it told."""

    def __init__(self, uris: list[str], environment: dict[str, str]) -> None:
        self._uris, self._environment = uris, environment
        self.verdicts: dict[str, float] = {}
        self.guard = 0
        self.guards = 0
        self.started = 0
        self.start()

    def start(self) -> None:
        """Start it, and read what it tells."""
        self.started += 1
        command = [sys.executable, "-m", "tests.outputs.caller", str(1000 * HOLD_S), str(self.started), *self._uris]
        self.process = subprocess.Popen(command, cwd=ROOT, env=self._environment, stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self._read, args=(self.process,), daemon=True).start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            with contextlib.suppress(ValueError):
                message = json.loads(line)
                self.guard = message.get("guard", self.guard)
                self.guards += "guard" in message
                if message.get("good"):
                    self.verdicts[message["part"]] = message["at"]


class Trial:
    """PLCs, faults and the oracle."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.chance = random.Random(seed)
        self.board = Board(folder / "board")
        self.written = WrittenPlc()
        self.port = free_port()
        self.uris = [
            f"modbus-server://127.0.0.1:{self.port}",
            f"modbus://127.0.0.1:{self.written.port}",
            f"{CHIP}?pass=17&heartbeat=22",
        ]
        self.line = Line(self.uris, {**os.environ, **self.board.environment})
        logging.getLogger("pymodbus").setLevel(logging.CRITICAL)  # it tells every connection that we cut
        self.plc: Any = None
        self.part = 0
        self.counts: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.wrong: list[dict[str, Any]] = []
        self.latest_ms = 0.0
        self._guard_hurt = self._second_run = time.monotonic()
        self._hung_at = self._forced_at = float("-inf")
        self._second: subprocess.Popen[str] | None = None
        self._bundle = folder / "tiny.edgead"

    def connect(self) -> bool:
        """Have a connection to the server; False while there is none."""
        if self.plc is None:
            self.plc = ModbusTcpClient("127.0.0.1", port=self.port, timeout=1, retries=0)
        return bool(self.plc.connected or self.plc.connect())

    def one_part(self) -> None:
        """Call for a part and look at all outputs until its window closes."""
        self.part += 1
        if self.line.process.poll() is not None:
            self.counts["restarts of the line"] += 1
            self.line.start()
        try:
            if not self.connect():
                time.sleep(0.05)
                return
            self._call()
            closes = time.monotonic() + WINDOW_S + self.chance.uniform(0.0, 0.5)
            self.maybe_fault()
            while time.monotonic() < closes:
                self.look()
                time.sleep(0.002)
            self.plc.write_coil(17, False)
        except (ModbusException, OSError, LookupError, RuntimeError):
            self.counts["cut"] += 1
            if self.plc is not None:
                self.plc.close()
                self.plc = None

    def _call(self) -> None:
        words = list(text_registers(str(self.part), 16))
        answers = [self.plc.write_registers(32, words), self.plc.write_coil(17, True)]
        if any(answer.isError() for answer in answers):
            raise RuntimeError("not called")
        self.counts["parts"] += 1

    def look(self) -> None:
        """Sample `pass` on every output."""
        before = time.monotonic()
        self.judge("pin", before, self.board.level(17))
        before = time.monotonic()
        registers = self.written.registers()
        mine = registers_text(registers[8:24]) == str(self.part)
        self.judge("written", before, mine and registers[0] & 0b101 == 0b101)
        before = time.monotonic()
        answer = self.plc.read_discrete_inputs(0, count=8)
        if answer.isError():
            raise RuntimeError("no answer")
        self.judge("read", before, bool(answer.bits[0]))

    def judge(self, output: str, at: float, passed: bool) -> None:
        """Check one sample against what is due."""
        self.counts[f"{output} samples"] += 1
        if not passed:
            return
        self.counts[f"{output} passes"] += 1
        part = str(self.part)
        deadline = time.monotonic() + 1.0
        while part not in self.line.verdicts and self.part % 2 == 0 and time.monotonic() < deadline:
            time.sleep(0.01)  # what was told may still be on its way to us
        given = self.line.verdicts.get(part)
        why = None
        if self.part % 2:
            why = "a bad part"
        elif given is None:
            why = "no verdict on this part"
        else:
            late = at - given - HOLD_S
            hung = output != "read" and at < self._hung_at + HUNG_S  # the kernel cannot do more
            if not hung:
                self.latest_ms = max(self.latest_ms, 1000.0 * late)
            if late > ALLOWED_S and not hung:
                why = f"{1000.0 * late:.0f} ms after the hold"
        if why is not None:
            now = time.monotonic()
            since = {"ms_since_glitch": self._forced_at, "ms_since_hang": self._hung_at}
            result = {"output": output, "part": self.part, "why": why}
            result |= {name: round(1000.0 * (now - at)) for name, at in since.items() if at > 0.0}
            self.wrong.append({**result, "faults": dict(self.faults)})

    def maybe_fault(self) -> None:
        """Do something bad, now and then."""
        self._check_second_run()
        if self.chance.random() < 0.5:
            return
        kinds = ["eio", "stuck", "stop", "silent", "drop", "flood", "force"]
        if time.monotonic() - self._guard_hurt > GUARD_PAUSE_S:
            kinds += ["hang guard", "kill guard", "kill line"] * 3
        kind = self.chance.choice(kinds)
        self.faults[kind] += 1
        getattr(self, "_" + kind.replace(" ", "_"))()

    def _eio(self) -> None:
        time.sleep(self.chance.uniform(0.0, 0.4))
        self.board.fail(self.chance.choice(["set", "get", "request"]), self.chance.randint(1, 3))

    def _stuck(self) -> None:
        time.sleep(self.chance.uniform(0.0, 0.4))
        self.board.fail("stuck")
        self._look_for(0.2)
        self.board.fail("stuck", 0)

    def _force(self) -> None:
        hung = time.monotonic() < self._hung_at + HUNG_S  # a guard that stands still can set nothing right
        if self.part % 2 == 0 or hung:
            return
        self.board.force(17, True)  # a glitch: the guard may need one refresh
        self._forced_at = time.monotonic()
        time.sleep(2 * ALLOWED_S)

    def _stop(self) -> None:
        time.sleep(self.chance.uniform(0.0, 0.6))
        self.line.process.send_signal(signal.SIGSTOP)
        try:
            self._look_for(self.chance.uniform(0.3, 1.2))
        finally:  # an answer that fails must not leave it stopped
            self.line.process.send_signal(signal.SIGCONT)

    def _flood(self) -> None:
        """Fill the pipe of an inspector that is stopped."""
        time.sleep(self.chance.uniform(0.0, 0.6))
        self.line.process.send_signal(signal.SIGSTOP)
        try:
            for number in range(2500):
                self.plc.write_coil(16, number % 2 == 0)
                if number % 25 == 0:
                    self.look()
        finally:
            self.line.process.send_signal(signal.SIGCONT)

    def _silent(self) -> None:
        quiet = [socket.create_connection(("127.0.0.1", self.port), timeout=2) for _ in range(20)]
        self._look_for(0.1)
        for one in quiet:
            one.close()

    def _drop(self) -> None:
        self.plc.close()
        self.plc = None
        raise RuntimeError("dropped")

    def _hang_guard(self) -> None:
        time.sleep(self.chance.uniform(0.0, 0.6))
        self._hurt()
        self._hung_at = time.monotonic()
        os.kill(self.line.guard, signal.SIGSTOP)

    def _kill_guard(self) -> None:
        time.sleep(self.chance.uniform(0.0, 0.6))
        self._hurt()
        self._hung_at = time.monotonic()  # the PLC that is written to learns of it from the next guard
        os.kill(self.line.guard, signal.SIGKILL)

    def _kill_line(self) -> None:
        time.sleep(self.chance.uniform(0.0, 0.6))
        self._hurt()
        self.line.process.kill()
        self._look_for(0.6)
        self.line.process.wait()
        self.line.start()

    def _hurt(self) -> None:
        self._guard_hurt = time.monotonic()

    def _look_for(self, seconds: float) -> None:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            self.look()

    def _check_second_run(self) -> None:
        """Try a second run on the same outputs now and then: it must be refused."""
        if self._second is not None and self._second.poll() is not None:
            if self._second.returncode != 2:
                self.wrong.append({"output": "second run", "why": f"it ended with {self._second.returncode}"})
            self.counts["second runs refused"] += self._second.returncode == 2
            self._second = None
        if self._second is None and time.monotonic() - self._second_run > SECOND_RUN_S:
            if time.monotonic() - self._guard_hurt < 5.0:
                return  # an inspector that is being started holds nothing yet
            self._second_run = time.monotonic()
            if not self._bundle.exists():
                make_tiny_bundle(self._bundle)
            words = ["run", str(self._bundle), "--camera", "synthetic://line?frames=200&fps=20", "--precision", "fp32"]
            words += [word for uri in self.uris for word in ("--alarm", uri)]
            path = f"{ROOT}:{self.board.environment['PYTHONPATH']}"
            self._second = subprocess.Popen(
                [sys.executable, "-m", "edge_ad", *words, "--backend", "onnxruntime"],
                cwd=self._bundle.parent,
                env={**os.environ, **self.board.environment, "PYTHONPATH": path},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                text=True,
            )

    def close(self) -> None:
        """End all."""
        for process in (self.line.process, self._second):
            if process is not None:
                process.kill()
        self.written.close()
        self.board.close()


def findings(trial: Trial) -> dict[str, Any]:
    """Return what was found so far."""
    counts, faults = dict(trial.counts), dict(trial.faults)
    return {"wrong": trial.wrong, "counts": counts, "faults": faults, "latest_ms": round(trial.latest_ms, 1)}


def summary(trial: Trial) -> dict[str, Any]:
    """Return what was found."""
    result = findings(trial)
    return {
        **{what: sum(n for name, n in trial.counts.items() if name.endswith(what)) for what in ("samples", "passes")},
        "wrong": len(trial.wrong),
        "first_wrong": trial.wrong[:5],
        "latest_after_the_hold_ms": result["latest_ms"],
        "counts": result["counts"],
        "faults": result["faults"],
        "guards": trial.line.guards,
        "load": os.getloadavg(),
    }


def main() -> int:
    """Run the trial; 1 when a pass was wrong, or there was none."""
    record = begin(str(__doc__), {"done_s": 0.0}, minutes=30.0, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(record.values["seed"] + int(record.values["done_s"]), Path(folder))
        try:
            record.run(trial.one_part, lambda: findings(trial))
        finally:
            trial.close()
    record.finish(summary(trial))
    return int(bool(trial.wrong) or not trial.counts["pin passes"])  # what was never seen to pass proves nothing


if __name__ == "__main__":
    sys.exit(main())
