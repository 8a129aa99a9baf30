"""A release beside the running bundle: built, proven and shown live parts in a process of its own, at the lowest priority.

The run never loads what is not proven: it hands the process an image now and then and compares verdicts. A process that
hangs, crashes or runs out of memory takes nothing else with it.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_ad.camera.frames import Frame, Source
from edge_ad.config import Config
from edge_ad.errors import DeviceFault, GateRefused
from edge_ad.fleet.desired_state import Shadow
from edge_ad.inspection.judge import InspectionResult
from edge_ad.inspection.observers import Observer
from edge_ad.utils.text import storable

POLL_S = 0.2
PROVE_S = 4 * 3600.0  # an engine may be built for hours at the lowest priority
JUDGE_S = 120.0
MAX_HEADER = 1 << 20
MAX_IMAGE = 1 << 30
_LENGTHS = struct.Struct(">II")  # bytes of the JSON, and of the image


class Messages:
    """Messages over a socket: JSON, and the bytes of an image where there is one, each behind its length."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def send(self, record: dict[str, Any], image: NDArray[Any] | None = None) -> None:
        """Send one message."""
        if image is not None:
            record = {**record, "shape": image.shape, "dtype": image.dtype.str}
        text = json.dumps(record).encode()
        self._end.sendall(_LENGTHS.pack(len(text), 0 if image is None else image.nbytes) + text)
        if image is not None:
            self._end.sendall(np.ascontiguousarray(image).data.cast("B"))

    def receive(self) -> tuple[dict[str, Any], NDArray[Any] | None] | None:
        """Return the next message and its image; None at the end. ValueError for what is no message."""
        lengths = self._exactly(_LENGTHS.size)
        if lengths is None:
            return None
        text_bytes, image_bytes = _LENGTHS.unpack(lengths)
        if text_bytes > MAX_HEADER or image_bytes > MAX_IMAGE:
            raise ValueError("no message of a trial")
        text, data = self._exactly(text_bytes), self._exactly(image_bytes)
        if text is None or data is None:
            return None
        record = json.loads(text)
        return record, np.frombuffer(data, np.dtype(record["dtype"])).reshape(record["shape"]) if data else None

    def _exactly(self, size: int) -> bytearray | None:
        """Return so many bytes; None where the other end closes before."""
        data = bytearray(size)
        view = memoryview(data)
        while view:
            count = self._end.recv_into(view)
            if not count:
                return None
            view = view[count:]
        return data


class Trial:
    """The process that proves one bundle and then judges what it is shown; ``close`` ends it.

    ``settings`` are those of the product, ``images`` a folder with known ``good`` and ``bad`` ones, and ``backend`` and
    ``precision`` what the running engines have.
    """

    def __init__(
        self, bundle: Path, settings: Config, *, backend: str, precision: str, images: Path | None, log: Path
    ) -> None:
        ours, theirs = socket.socketpair()
        ours.settimeout(None)
        words = [sys.executable, "-m", "edge_ad.fleet.trial_process", str(theirs.fileno())]
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with theirs, log.open("wb") as output:
                self._process = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=(theirs.fileno(),)
                )
        except OSError as error:
            ours.close()
            raise DeviceFault(f"no process can be started to prove the bundle: {error.strerror}; close other programs") from error
        self._socket = ours
        self._messages = Messages(ours)
        record = {
            "bundle": str(bundle),
            "settings": settings.model_dump(mode="json", exclude_unset=True),
            "backend": backend,
            "precision": precision,
            "images": None if images is None else str(images),
        }
        with contextlib.suppress(OSError):  # it has ended: whoever waits for its answer hears of it
            self._messages.send(record)

    def prove(self, check: Callable[[], None], progress: Callable[[str], None]) -> None:
        """Wait until the bundle is proven; GateRefused says why it is not. ``check`` may raise to give up."""
        ends = time.monotonic() + PROVE_S
        while True:
            answer = self._answer(ends, check)
            if answer["kind"] == "proved":
                return
            if answer["kind"] == "refused":
                raise GateRefused(storable(str(answer["reason"]), 1000))
            progress(str(answer["text"]))

    def judge(self, camera: str, frame: Frame, check: Callable[[], None]) -> tuple[tuple[str, ...], float]:
        """Return the verdicts on an image and how many seconds they took."""
        try:
            self._messages.send({"camera": camera, "part": frame.part, "index": frame.index}, frame.image)
        except OSError as error:
            raise self._ended() from error
        answer = self._answer(time.monotonic() + JUDGE_S, check)
        return tuple(map(str, answer["verdicts"])), float(answer["seconds"])

    def kill(self) -> None:
        """End the process, from any thread; whoever waits for its answer hears that it ended."""
        with contextlib.suppress(OSError):
            self._process.kill()

    def close(self) -> None:
        """End the process and let go of it."""
        self.kill()
        self._process.wait()
        self._socket.close()

    def _answer(self, ends: float, check: Callable[[], None]) -> dict[str, Any]:
        """Return the next message; DeviceFault where none comes in time, or the process is gone."""
        while not self._is_readable():
            check()
            if time.monotonic() > ends:
                raise DeviceFault("the process that proves the bundle does not answer: look at trial.log, then roll out again")
        try:
            message = self._messages.receive()
        except (OSError, ValueError) as error:
            raise self._ended() from error
        if message is None:
            raise self._ended()
        return message[0]

    def _is_readable(self) -> bool:
        return bool(select.select([self._socket], [], [], POLL_S)[0])

    def _ended(self) -> DeviceFault:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5.0)
        code = self._process.returncode
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        hint = ": out of memory?" if code == -9 else ""
        return DeviceFault(f"the process that proves the bundle ended ({how}{hint}); look at trial.log, then roll out again")


@dataclass(frozen=True, eq=False)
class Shown:
    """A frame that the running bundle has judged, and its verdicts."""

    camera: str
    frame: Frame
    verdicts: tuple[str, ...]


class LiveParts(Observer):
    """Hands out the newest judged frame of a product to whoever waits for one: an observer that costs the line a comparison."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._wanted = False
        self._product: str | None = None
        self._shown: Shown | None = None

    def on_results(self, results: Sequence[InspectionResult], source: Source) -> None:
        """Keep the frame of a verdict where one is waited for."""
        frame = results[0].frame if self._wanted and results else None
        if not isinstance(frame, Frame) or any(result.event.verdict == "NONE" for result in results):
            return
        with self._changed:
            if results[0].event.product != self._product:
                return
            self._wanted = False
            self._shown = Shown(results[0].event.camera, frame, tuple(result.event.verdict for result in results))
            self._changed.notify_all()

    def next(self, timeout_s: float, product: str = "") -> Shown | None:
        """Wait for a part of a product ("" without names) that is judged from now on; None where none came."""
        with self._changed:
            self._shown, self._wanted, self._product = None, True, product or None
            self._changed.wait_for(lambda: self._shown is not None, timeout_s)
            self._wanted = False
            return self._shown


def watch(
    trial: Trial,
    parts: LiveParts,
    *,
    product: str = "",
    seconds: float,
    min_parts: int,
    share: float,
    check: Callable[[], None],
    report: Callable[[Shadow], None],
    clock: Callable[[], float] = time.monotonic,
) -> Shadow:
    """Show live parts of a ``product`` to the trial for so many seconds, and until it has judged ``min_parts``; return how verdicts
    compare.

    The process may use the ``share`` of the time of one core: after each part it rests accordingly. ``check`` may raise to
    give up, ``report`` gets what is known so far.
    """
    table: Counter[str] = Counter()
    count = changes = 0
    ends, rests_until = clock() + seconds, 0.0
    while clock() < ends or count < min_parts:
        check()
        shown = parts.next(POLL_S, product) if clock() >= rests_until else None
        if shown is None:
            time.sleep(min(POLL_S, max(0.0, rests_until - clock())))
            continue
        verdicts, took_s = trial.judge(shown.camera, shown.frame, check)
        rests_until = clock() + took_s * (1.0 / share - 1.0)
        count += 1
        changes += sorted(verdicts) != sorted(shown.verdicts)
        table.update(f"{before}>{after}" for before, after in zip(shown.verdicts, verdicts, strict=False))
        report(Shadow(parts=count, changes=changes, table=dict(table)))
    return Shadow(parts=count, changes=changes, table=dict(table))
