"""The inspector's side of the guard: starts it, feeds it, starts it again."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from edge_ad.errors import DeviceFault
from edge_ad.outputs.channels import parse_output
from edge_ad.outputs.hold import Message
from edge_ad.outputs.restarts import MOST_RESTARTS, RESTART_WINDOW_S, Ends

OPEN_S = 15.0

OnRecord = Callable[[dict[str, Any]], None]


class GuardLink:
    """A running guard. Every method returns at once; a guard that died or does not read any more is replaced.

    ``on_record`` gets what the guard tells, in a thread of its own: ``{"kind": "trigger", "part", "at"}``,
    ``{"kind": "acknowledge", "number", "at"}`` and ``{"kind": "error", "text"}``. BadInput for a wrong URI, DeviceFault
    when an output cannot be opened or the guard dies more than five times a minute.
    """

    def __init__(self, outputs: Sequence[str], hold_ms: float, cameras: int, on_record: OnRecord) -> None:
        for uri in outputs:
            parse_output(uri)
        self._outputs = ", ".join(outputs)
        self._settings = {"outputs": list(outputs), "hold_ms": hold_ms, "cameras": cameras}
        self._on_record = on_record
        self._lamp: dict[str, Any] | None = None
        self._ends = Ends()
        self.ports: dict[str, int] = {}
        self.restarts = 0
        self._closed = False
        self._process = self._start()

    @property
    def pid(self) -> int:
        """The process of the guard."""
        return self._process.pid

    def send(self, message: Message) -> None:
        """Tell the guard something about a camera."""
        record: dict[str, Any] = {"kind": message.kind, "at": message.at, "camera": message.camera}
        if message.kind == "verdict":
            record.update(verdict=message.verdict, passed=message.passed, part=message.part[:64])
        self._write(record)

    def lamp(self, lit: bool, waiting: bool, number: int) -> None:
        """Tell the guard how the alarm stands."""
        self._lamp = {"kind": "alarm", "lit": lit, "waiting": waiting, "number": number}
        self._write(self._lamp)

    def close(self) -> None:
        """Close the pipe, on which the guard rejects; it ends by itself a moment later. Again does nothing."""
        if not self._closed:
            self._closed = True
            os.close(self._pipe)

    def _start(self) -> subprocess.Popen[bytes]:
        read_end, self._pipe = os.pipe()
        os.set_blocking(self._pipe, False)
        process = subprocess.Popen(
            [sys.executable, "-m", "edge_ad.outputs.guard"],
            stdin=read_end,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        os.close(read_end)
        opened = _Opening()
        threading.Thread(target=self._listen, args=(process, opened), name="guard", daemon=True).start()
        os.write(self._pipe, (json.dumps(self._settings) + "\n").encode())
        if self._lamp is not None:
            os.write(self._pipe, (json.dumps(self._lamp) + "\n").encode())
        if not self.restarts:
            self.ports = opened.wait()
        return process

    def _listen(self, process: subprocess.Popen[bytes], opened: _Opening) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            with contextlib.suppress(ValueError):
                record = json.loads(line)
                if record["kind"] in ("open", "failed"):
                    opened.done(record)
                else:
                    self._on_record(record)
        process.stdout.close()
        opened.done({"kind": "failed", "text": "the guard ended before its outputs were open"})
        process.wait()

    def _write(self, record: dict[str, Any]) -> None:
        if self._closed:
            return
        data = (json.dumps(record) + "\n").encode()  # shorter than PIPE_BUF: all or nothing
        try:
            os.write(self._pipe, data)
        except (BrokenPipeError, BlockingIOError):
            self._restart()
            with contextlib.suppress(BlockingIOError, BrokenPipeError):
                os.write(self._pipe, data)

    def _restart(self) -> None:
        ended = self._ends.count()
        self.restarts += 1
        os.close(self._pipe)
        self._process.kill()
        if ended > MOST_RESTARTS:
            raise DeviceFault(
                f"the output guard ended {ended} times within {RESTART_WINDOW_S:g} s: check the outputs {self._outputs}"
            )
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

    def wait(self) -> dict[str, int]:
        if not self._event.wait(OPEN_S):
            raise DeviceFault(f"the output guard did not open its outputs within {OPEN_S:g} s: check the address")
        if self._record["kind"] == "failed":
            raise DeviceFault(f"the outputs cannot be opened: {self._record['text']}")
        return dict(self._record["ports"])
