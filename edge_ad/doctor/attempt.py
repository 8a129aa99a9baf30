"""Runs one trial in a process of its own and waits for a limited time: a driver that hangs or crashes ends only that one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edge_ad.doctor.finding import MISSING, UNWELL

GO_S = 6.0
"""A trial that took too long gets so long to release its camera before it is killed."""


@dataclass(frozen=True)
class Attempt:
    """What came of a trial: whether it went well, in words, after how many seconds, with which exit code and facts."""

    ok: bool
    found: str
    seconds: float
    code: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)


def attempt(name: str, target: str = "", timeout_s: float = 60.0, prefix: Sequence[str] = ()) -> Attempt:
    """Try ``name`` (a key of ``edge_ad.doctor.trial.TRIALS``) on ``target``; ``prefix`` is a command to run it under."""
    began = time.monotonic()
    command = [*prefix, sys.executable, "-m", "edge_ad.doctor.trial", name]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        return Attempt(False, f"it cannot be started: {error.strerror or error}", 0.0, UNWELL)
    try:
        output, errors = process.communicate(json.dumps(target), timeout=timeout_s)
    except subprocess.TimeoutExpired:
        _end(process)
        return Attempt(False, f"no answer within {timeout_s:g} s", time.monotonic() - began, UNWELL)
    return _outcome(process.returncode, output, errors, time.monotonic() - began)


def _outcome(code: int, output: str, errors: str, seconds: float) -> Attempt:
    lines = [line for line in output.splitlines() if line.startswith("{")]
    try:
        told = json.loads(lines[-1])
        return Attempt(bool(told["ok"]), str(told["found"]), seconds, int(told["code"]), told["facts"])
    except (IndexError, KeyError, TypeError, ValueError):
        pass
    if code < 0:
        return Attempt(False, f"it was ended by signal {-code} ({_signal(-code)})", seconds, UNWELL)
    last = [line for line in errors.splitlines() if line.strip()]
    return Attempt(
        False, " ".join(last[-1].split()) if last else f"it left with {code} and no answer", seconds, MISSING
    )


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def _end(process: subprocess.Popen[str]) -> None:
    """Interrupt, so that a camera is released; then kill the whole group."""
    for number, wait_s in ((signal.SIGINT, GO_S), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=wait_s)
            return
