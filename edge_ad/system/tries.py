"""Tries what a run will do: OpenCV, the GPU's memory, a graph on every backend, a frame of each camera, the service's
view.

Runs one trial in a process of its own and waits for a limited time: a driver that hangs or crashes ends only that one.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_ad.system.board import has_gpu
from edge_ad.system.machine import MISSING, UNWELL, Finding, Machine, Package
from edge_ad.utils.board import is_jetson

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
    """Try ``name`` (a key of ``edge_ad.system.trial.TRIALS``) on ``target``; ``prefix`` is a command to run it under.
    """
    began = time.monotonic()
    command = [*prefix, sys.executable, "-m", "edge_ad.system.trial", name]
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
        message = json.loads(lines[-1])
        return Attempt(bool(message["ok"]), str(message["found"]), seconds, int(message["code"]), message["facts"])
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


OPENCV_S, GPU_S, GRAPH_S, CAMERA_S = 60.0, 60.0, 60.0, 60.0
TENSORRT_S = 300.0
"""TensorRT reads its libraries for the first build, which takes a Jetson up to minutes from a card."""
_NONE = Package(None, "it was not asked")


@dataclass(frozen=True)
class Tried:
    """A finding of something that was tried, on which ``target``, after how many seconds, and its facts."""

    finding: Finding
    target: str = ""
    seconds: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the entry of ``tried`` in ``doctor --json``."""
        return {
            "name": self.finding.name,
            "target": self.target,
            "status": self.finding.status,
            "found": self.finding.found,
            "seconds": round(self.seconds, 2),
            "facts": dict(self.facts),
        }


@dataclass(frozen=True)
class CameraTarget:
    """A camera to take a frame from; ``name`` is free of credentials, ``wanted`` says that edge-ad.toml names it."""

    uri: str = field(repr=False)
    name: str
    wanted: bool


def try_backends(machine: Machine, prefix: Sequence[str] = ()) -> list[Tried]:
    """Try OpenCV, pinned memory and a graph on each backend that is installed."""
    tried = [
        _tried("opencv tried", attempt("opencv", timeout_s=OPENCV_S, prefix=prefix), _OPENCV_ADVICE),
        _try_gpu(machine, prefix),
    ]
    installed = {name: machine.packages.get(name, _NONE).version is not None for name in ("onnxruntime", "tensorrt")}
    if installed["onnxruntime"]:
        done = attempt("graph onnxruntime", timeout_s=GRAPH_S, prefix=prefix)
        tried.append(_tried("graph on onnxruntime", done, "pip install --force-reinstall onnxruntime onnx"))
    if installed["tensorrt"] and has_gpu(machine):
        done = attempt("graph tensorrt", timeout_s=TENSORRT_S, prefix=prefix)
        tried.append(_tried("graph on tensorrt", done, _gpu_advice(machine)))
    if not any(installed.values()):
        tried.append(Tried(Finding("graph", "fail", "no backend is installed to run one", "see onnxruntime above")))
    return tried


def try_cameras(cameras: Sequence[CameraTarget], prefix: Sequence[str] = ()) -> list[Tried]:
    """Take one frame from each camera; one that edge-ad.toml names must give it, others may not."""
    return [_try_camera(camera, prefix) for camera in cameras]


def _try_camera(camera: CameraTarget, prefix: Sequence[str]) -> Tried:
    done = attempt("camera", camera.uri, CAMERA_S, prefix)
    result = f"{camera.name}: {done.found}"
    if done.ok:
        return Tried(Finding("frame", "ok", result), camera.name, done.seconds, done.facts)
    advice = "end what uses it (systemctl stop edge-ad), look at cable and power, then ask again"
    status, code = ("fail", done.code or UNWELL) if camera.wanted else ("warn", UNWELL)
    finding = Finding("frame", "fail" if status == "fail" else "warn", result, advice, code)
    return Tried(finding, camera.name, done.seconds)


def no_cameras() -> Tried:
    """Return the finding that no camera was asked."""
    return Tried(Finding("frame", "ok", "not tried: edge-ad doctor --cameras takes one from each camera"))


def camera_targets(machine: Machine, named: Sequence[str], search: bool = True) -> list[CameraTarget]:
    """Return the cameras that are named and, with ``search``, those that the machine shows besides, each device once.

    A sensor that the image processor of a Jetson serves (``vi-output``) is asked through Argus: what Video4Linux gives
    of it are raw values.
    """
    from edge_ad.camera.uri import parse_uri

    targets, devices = [], set()
    for uri in named:
        address = parse_uri(uri)
        targets.append(CameraTarget(uri, address.name, wanted=True))
        here = os.path.realpath(machine.root / address.target.lstrip("/"))
        devices.add(here if address.kind == "device" else f"{address.kind}:{address.target}")
    sensors = 0
    for path in machine.find("dev/video*") if search else []:
        if not re.fullmatch(r"dev/video\d+", path):
            continue
        uri, device = f"/{path}", os.path.realpath(machine.root / path)
        node = os.path.basename(path)
        if machine.text(f"sys/class/video4linux/{node}/name").startswith("vi-output"):
            uri, device = f"csi://{sensors}", f"csi:{sensors}"
            sensors += 1
        elif machine.number(f"sys/class/video4linux/{node}/index"):
            continue  # index 0 gives the images, the others metadata
        if device not in devices:
            targets.append(CameraTarget(uri, uri, wanted=False))
    return targets


def _try_gpu(machine: Machine, prefix: Sequence[str]) -> Tried:
    if not has_gpu(machine):
        return Tried(Finding("gpu memory", "ok", "not tried: no NVIDIA GPU"))
    if machine.packages.get("pycuda", _NONE).version is None:
        return Tried(Finding("gpu memory", "warn", "not tried: pycuda cannot be imported", "see pycuda above"))
    return _tried("gpu memory", attempt("gpu", timeout_s=GPU_S, prefix=prefix), _gpu_advice(machine))


_OPENCV_ADVICE = "this OpenCV lacks what edge-ad needs: take that of JetPack or Ubuntu, or pip install 'edge-ad[cpu]'"


def _gpu_advice(machine: Machine) -> str:
    if is_jetson(machine.root):
        return "log in again after the set-up, see sudo dmesg | grep -i nvgpu, and switch the board off and on"
    return "see nvidia-smi, and sudo dmesg | grep -i nvrm"


def _tried(name: str, done: Attempt, advice: str) -> Tried:
    if done.ok:
        return Tried(Finding(name, "ok", done.found), seconds=done.seconds, facts=done.facts)
    return Tried(Finding(name, "fail", done.found, advice, done.code or UNWELL), seconds=done.seconds)


def configured_cameras(folder: Path) -> list[str]:
    """Return the cameras that edge-ad.toml in ``folder`` names, each once; BadInput for a file that is wrong."""
    from edge_ad.config import CONFIG_NAME, load_config

    config = load_config(folder / CONFIG_NAME)
    return list(dict.fromkeys([*config.run.camera, *filter(None, [config.capture.camera])]))
