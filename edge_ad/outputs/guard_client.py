"""The inspector's side of the guard: starts it, feeds it, watches it, starts it again."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from edge_ad.errors import DeviceFault
from edge_ad.outputs.channels import address_names, parse_output, require_packages
from edge_ad.outputs.delivery import ChannelState, wait_until_up
from edge_ad.outputs.guard_state import Message
from edge_ad.utils.supervision import MAX_RESTARTS, RESTART_WINDOW_S, Ends, SupervisedThread, ThreadFaults

_log = logging.getLogger(__name__)

OPEN_S = 15.0
ECHO_S = 1.0
PINGS = 10  # in ECHO_S

OnRecord = Callable[[dict[str, Any]], None]


class GuardClient:
    """A running guard. Every method returns at once; a guard that died, hangs or does not read any more is replaced.

    ``on_record`` gets what the guard tells, in a thread of its own: ``{"kind": "trigger", "part", "at"}``,
    ``{"kind": "acknowledge", "number", "at"}``, ``{"kind": "order", "order", "at"}`` for another request of a PLC,
    ``{"kind": "taken", "sent_at", "at"}`` when one has a verdict while a challenge is open,
    ``{"kind": "product", "code", "number"}`` when a PLC asks for a product, again and again until ``product`` answers it,
    ``{"kind": "channel", "name", "fault"}`` when an output fails (fault None: works) and ``{"kind": "error", "text"}``. With
    ``calls`` a trigger calls for parts and only a verdict on the latest call passes; ``trigger`` says which outputs call
    ("modbus", "gpio", "s7", "enip", else ""). BadInput for a wrong URI or a missing package, DeviceFault when an output
    cannot be opened or the guard ends more than five times a minute.
    """

    def __init__(
        self,
        outputs: Sequence[str],
        hold_ms: float,
        cameras: int,
        on_record: OnRecord,
        *,
        calls: bool = False,
        trigger: str = "",
        faults: ThreadFaults | None = None,
    ) -> None:
        addresses = [parse_output(uri) for uri in outputs]
        require_packages(addresses)
        names = address_names(addresses)
        self._outputs = ", ".join(outputs)
        self._settings = {
            "outputs": list(outputs), "hold_ms": hold_ms, "cameras": cameras, "calls": calls, "trigger": trigger
        }  # fmt: skip
        self._on_record = on_record
        self._faults = faults or ThreadFaults()
        self._lock = threading.RLock()
        self._standing: dict[str, dict[str, Any]] = {}  # by kind: what a guard that takes over must know
        self._ends = Ends()
        self._states = {name: ChannelState(name) for name in names}
        self._fault: DeviceFault | None = None
        self._unanswered = 0
        self.ports: dict[str, int] = {}
        self.restarts = 0
        self._closed = threading.Event()
        self._pipe = -1
        try:
            self._process = self._start()
        except BaseException:
            self.close()
            raise
        SupervisedThread("guard watch", self._watch, self._faults, essential=True).start()

    @property
    def pid(self) -> int:
        """The process of the guard."""
        return self._process.pid

    def states(self) -> list[ChannelState]:
        """Return how the outputs stand, in the order of their addresses."""
        with self._lock:
            return list(self._states.values())

    def prove(self, seconds: float) -> None:
        """Wait until every output has taken what the guard brings out; DeviceFault names those that have not in time.
        """
        wait_until_up(self.states, seconds, "no answer")

    def send(self, message: Message) -> None:
        """Tell the guard something about a camera."""
        record: dict[str, Any] = {"kind": message.kind, "at": message.at, "camera": message.camera}
        if message.kind == "verdict":
            record.update(verdict=message.verdict, passed=message.passed, part=message.part[:64], call=message.call)
        self._write(record)

    def called(self, at: float) -> None:
        """Tell the guard that a part was called for at monotonic second ``at``; from any thread."""
        with contextlib.suppress(DeviceFault):  # told by the next message of the loop
            self._write({"kind": "called", "at": at})

    def lamp(self, lit: bool, waiting: bool, number: int) -> None:
        """Tell the guard how the alarm stands."""
        self._stand({"kind": "alarm", "lit": lit, "waiting": waiting, "number": number})

    def pause(self, paused: bool) -> None:
        """Tell the guard that the line is paused, or no more; from any thread."""
        with contextlib.suppress(DeviceFault):  # a fault is told by the next message of the loop
            self._stand({"kind": "pause", "paused": paused})

    def challenge(self, opened: bool, locked: bool) -> None:
        """Tell the guard that known parts are asked for, and whether a challenge lets nothing pass; from any thread."""
        with contextlib.suppress(DeviceFault):
            self._stand({"kind": "challenge", "open": opened, "locked": locked})

    def product(self, code: int, state: str, number: int) -> None:
        """Tell the guard which product is judged, and the last request of a PLC that this answers; from any thread."""
        with contextlib.suppress(DeviceFault):
            self._stand({"kind": "product", "code": code, "state": state, "number": number})

    def _stand(self, record: dict[str, Any]) -> None:
        """Tell the guard what stands until it is told otherwise, and every later guard as well."""
        with self._lock:
            self._standing[record["kind"]] = record
            self._write(record)

    def check(self) -> None:
        """Raise DeviceFault when the guard ended too often."""
        if self._fault is not None:
            raise self._fault

    def close(self) -> None:
        """Close the pipe, on which the guard rejects; it ends by itself a moment later. Again does nothing."""
        with self._lock:
            if not self._closed.is_set():
                self._closed.set()
                os.close(self._pipe)

    def _start(self) -> subprocess.Popen[bytes]:
        read_end, self._pipe = os.pipe()
        os.set_blocking(self._pipe, False)
        process = subprocess.Popen(
            [sys.executable, "-m", "edge_ad.outputs.guard"],
            stdin=read_end,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,  # so that nothing it writes can block it
            start_new_session=True,
        )
        os.close(read_end)
        self._unanswered = 0
        self._opened = opened = _Opening()
        # Essential: what it hears are the calls and acknowledges of a PLC. Reading goes on where it stopped.
        SupervisedThread("guard", lambda: self._listen(process, opened), self._faults, essential=True).start()
        os.write(self._pipe, (json.dumps(self._settings) + "\n").encode())
        for state in self._standing.values():
            os.write(self._pipe, (json.dumps(state) + "\n").encode())
        if not self.restarts:
            self.ports = opened.wait()
        return process

    def _listen(self, process: subprocess.Popen[bytes], opened: _Opening) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            try:
                record = json.loads(line)
            except ValueError:  # what Python itself writes when the guard breaks
                record = {"kind": "error", "text": f"the output guard: {line.decode(errors='replace').strip()}"}
            with self._faults.caught("guard"):
                self._heard(record, opened)
        process.stdout.close()
        opened.done({"kind": "failed", "text": "the guard ended before its outputs were open"})
        process.wait()
        self._ended(process)

    def _heard(self, record: Any, opened: _Opening) -> None:
        kind = record.get("kind") if isinstance(record, dict) else None
        if kind in ("open", "failed"):
            self._unanswered = 0
            for name in record.get("ports", ()):  # a server that listens has done its part
                self._note({"name": name, "fault": None})
            opened.done(record)
        elif kind == "pong":
            self._unanswered = 0
        elif kind == "channel":
            self._note(record)
            self._on_record(record)
        elif kind is not None:
            self._on_record(record)

    def _note(self, record: dict[str, Any]) -> None:
        """Keep the state of a channel; what a guard says that lets go of its channels is no fault."""
        with self._lock:
            if not self._closed.is_set():
                state = self._states.get(record["name"], ChannelState(record["name"]))
                self._states[state.name] = state.after(record["fault"], time.time())

    def _ended(self, process: subprocess.Popen[bytes]) -> None:
        """A guard that ended by itself is replaced at once, not with the next message."""
        with self._lock, contextlib.suppress(DeviceFault):
            if getattr(self, "_process", None) is process and not self._closed.is_set():
                self._restart()

    def _watch(self) -> None:
        """Ping the guard; one that answers none of ten pings is hung.

        Pings are counted, not seconds: when this process was stopped for a while the answers had no time to be read.
        """
        while not self._closed.wait(ECHO_S / PINGS) and self._fault is None:
            with self._lock, contextlib.suppress(DeviceFault, OSError):
                if self._closed.is_set():
                    return
                self._unanswered += 1
                if self._unanswered > (PINGS if self._opened.is_set() else PINGS * OPEN_S / ECHO_S):
                    self._restart()
                else:
                    self._write({"kind": "ping", "number": self._unanswered})

    def _write(self, record: dict[str, Any]) -> None:
        data = (json.dumps(record) + "\n").encode()  # shorter than PIPE_BUF: all or nothing
        with self._lock:
            self.check()
            if self._closed.is_set():
                return
            try:
                os.write(self._pipe, data)
            except (BrokenPipeError, BlockingIOError):
                self._restart()
                with contextlib.suppress(BlockingIOError, BrokenPipeError):
                    os.write(self._pipe, data)

    def _restart(self) -> None:
        """Kill the guard, on which the kernel lets go of its pins and connections, and start another one."""
        ended = self._ends.count()
        self.restarts += 1
        os.close(self._pipe)
        self._process.kill()
        if ended > MAX_RESTARTS:
            self._closed.set()
            self._fault = DeviceFault(
                f"the output guard ended {ended} times within {RESTART_WINDOW_S:g} s: check the outputs {self._outputs}"
            )
            raise self._fault
        _log.warning("the output guard ended or does not answer and is started again")
        self._process = self._start()


class _Opening:
    """Waits for the first word of a guard."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._record: dict[str, Any] = {}

    def done(self, record: dict[str, Any]) -> None:
        if not self._event.is_set():
            self._record = record
            self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    def wait(self) -> dict[str, int]:
        if not self._event.wait(OPEN_S):
            raise DeviceFault(f"the output guard did not open its outputs within {OPEN_S:g} s: check the address")
        if self._record["kind"] == "failed":
            raise DeviceFault(f"the outputs cannot be opened: {self._record['text']}")
        return dict(self._record["ports"])
