"""All checks of `edge-ad doctor` in their order, with those of cameras, clock, memory, disk and installed software.

``report`` is all of it as JSON, with machine and versions but without names of hosts or users; ``device_state`` is what a
measurement of time must be read with (`edge-ad benchmark --json`).
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from edge_ad.engines.tensorrt.build import MIN_FREE
from edge_ad.engines.tensorrt.versions import DLA_ADVICE, DLA_COMPILER, LOWEST
from edge_ad.system.board import board, clocks, has_gpu, power_mode, release, temperatures, throttling
from edge_ad.system.machine import UNWELL, UPGRADE, Finding, Machine, Package, in_container, jetpack, to_json
from edge_ad.system.tries import Tried
from edge_ad.utils import board as this
from edge_ad.utils.board import is_jetson, l4t

_NOT_ASKED = Package(None, "it was not asked")


def python(machine: Machine) -> Finding:
    """Tell the Python; JetPack's bindings of TensorRT are made for one version only."""
    message = _dotted(machine.python)
    result = jetpack(machine)
    if result is not None and result.supported and machine.python != result.python:
        wanted = _dotted(result.python)
        return Finding(
            "python",
            "fail",
            f"{message}, but the TensorRT of JetPack {result.name} is made for Python {wanted}",
            f"make the environment again: python{wanted} -m venv --system-site-packages .venv",
        )
    if not (3, 10) <= machine.python < (3, 14):
        return Finding("python", "fail", f"{message}, but 3.10 to 3.13 are supported", "install one of these versions")
    return Finding("python", "ok", message)


def cuda(machine: Machine) -> Finding:
    """Tell the CUDA toolkit under ``usr/local/cuda``; pycuda is compiled with it."""
    if not has_gpu(machine):
        return Finding("cuda", "ok", "none, and none needed: no NVIDIA GPU")
    version = _toolkit(machine)
    expected = jetpack(machine)
    if version is None and machine.packages.get("pycuda", _NOT_ASKED).version is not None:
        return Finding("cuda", "ok", "no toolkit in /usr/local/cuda, but pycuda is compiled already")
    if version is None:
        advice = "sudo apt-get install nvidia-jetpack" if is_jetson(machine.root) else "install the CUDA toolkit"
        return Finding("cuda", "fail" if is_jetson(machine.root) else "warn", "no toolkit in /usr/local/cuda", advice)
    if expected is not None and expected.known and _pair(version)[:1] != expected.cuda[:1]:
        return Finding(
            "cuda",
            "warn",
            f"{version}, but JetPack {expected.name} comes with {_dotted(expected.cuda)}",
            "let /usr/local/cuda lead to JetPack's own toolkit: sudo update-alternatives --config cuda",
        )
    return Finding("cuda", "ok", version)


def tensorrt(machine: Machine) -> Finding:
    """Tell the TensorRT that this Python sees, and the one that apt installed."""
    package = machine.packages.get("tensorrt", _NOT_ASKED)
    system = _debian_version(machine, "libnvinfer10") or _debian_version(machine, "libnvinfer8")
    if package.version is None:
        return _no_tensorrt(machine, package, system)
    if _pair(package.version) < LOWEST:
        return Finding(
            "tensorrt", "fail", f"{package.version} is too old", UPGRADE if is_jetson(machine.root) else _GPU
        )
    if is_jetson(machine.root) and system and _pair(system)[0] != _pair(package.version)[0]:
        return Finding(
            "tensorrt",
            "fail",
            f"Python sees {package.version}, but JetPack installed {system}",
            "pip uninstall tensorrt tensorrt-cu12 tensorrt-cu13: the one of PyPI is not made for this JetPack",
        )
    board = jetpack(machine)
    if board is not None and board.known and in_container(machine) and _pair(package.version) != board.tensorrt:
        return Finding(
            "tensorrt",
            "warn",
            f"this image has {package.version}, the board {_dotted(board.tensorrt)} (JetPack {board.name})",
            "build the image that is made for this JetPack, see docker/README.md: engines of one do not run in the other",
        )
    return Finding("tensorrt", "ok", package.version)


_GPU = "pip install 'edge-ad[gpu]' for TensorRT engines; without it ONNX Runtime judges on the CPU"


def _no_tensorrt(machine: Machine, package: Package, system: str | None) -> Finding:
    if package.error and DLA_COMPILER in package.error:
        return Finding("tensorrt", "fail", f"its import fails: {package.error}", DLA_ADVICE)
    if not is_jetson(machine.root):
        if not has_gpu(machine):
            return Finding("tensorrt", "ok", "none, and none needed: no NVIDIA GPU, ONNX Runtime judges on the CPU")
        return Finding("tensorrt", "warn", _why(package), _GPU)
    if system and _pair(system) < LOWEST:
        return Finding("tensorrt", "fail", f"{system} is too old", UPGRADE)
    if system is None:
        return Finding("tensorrt", "fail", "not installed", "sudo apt-get install nvidia-jetpack")
    if not package.absent:
        return Finding(
            "tensorrt",
            "fail",
            f"{system} is installed, but its import fails: {package.error}",
            "sudo apt-get install --reinstall python3-libnvinfer libnvinfer10",
        )
    return Finding(
        "tensorrt",
        "fail",
        f"{system} is installed, but this Python does not see it",
        "sudo apt-get install python3-libnvinfer, and make the environment with --system-site-packages",
    )


def pycuda(machine: Machine) -> Finding:
    """Tell pycuda and the device that it opens."""
    package = machine.packages.get("pycuda", _NOT_ASKED)
    if package.version is None and not has_gpu(machine):
        return Finding("pycuda", "ok", "none, and none needed: no NVIDIA GPU")
    extra = "jetson" if is_jetson(machine.root) else "gpu"
    if package.version is None:
        return Finding(
            "pycuda",
            "fail" if is_jetson(machine.root) else "warn",
            _why(package),
            f"PATH=/usr/local/cuda/bin:$PATH pip install 'edge-ad[{extra}]' (it is compiled, which takes minutes)",
        )
    if package.facts.get("error"):
        return Finding(
            "pycuda",
            "fail" if is_jetson(machine.root) else "warn",
            f"{package.version} finds no device: {package.facts['error']}",
            "add the user to the groups video and render, log in again, and look at the driver: nvidia-smi",
            code=UNWELL,
        )
    return Finding("pycuda", "ok", f"{package.version} on {package.facts.get('device')}, SM {package.facts.get('sm')}")


def onnxruntime(machine: Machine) -> Finding:
    """Tell ONNX Runtime: what judges without a GPU, and the reference on a Jetson."""
    package = machine.packages.get("onnxruntime", _NOT_ASKED)
    if package.version is not None:
        return Finding("onnxruntime", "ok", package.version)
    result = _why(package)
    if is_jetson(machine.root):
        return Finding(
            "onnxruntime", "warn", result, "pip install onnxruntime, to compare engines with the reference on this board"
        )
    return Finding("onnxruntime", "fail", result, "pip install 'edge-ad[cpu]'")


def opencv(machine: Machine) -> Finding:
    """Tell OpenCV, and whether GStreamer is there: in it, or as gst-launch-1.0 beside it."""
    package = machine.packages.get("cv2", _NOT_ASKED)
    if package.version is None:
        jetson = "sudo apt-get install python3-opencv, and make the environment with --system-site-packages"
        return Finding(
            "opencv", "fail", _why(package), jetson if is_jetson(machine.root) else "pip install 'edge-ad[cpu]'"
        )
    inside = bool(package.facts.get("gstreamer"))
    beside = machine.exists("usr/bin/gst-launch-1.0")
    message = f"{package.version} with{'' if inside else 'out'} GStreamer{', gst-launch-1.0 is there' if beside else ''}"
    if is_jetson(machine.root) and not inside and not beside:
        return Finding(
            "opencv",
            "warn",
            message,
            "for CSI cameras: sudo apt-get install gstreamer1.0-tools gstreamer1.0-plugins-good gstreamer1.0-plugins-bad, "
            "or pip uninstall opencv-python-headless to get JetPack's OpenCV",
        )
    return Finding("opencv", "ok", message)


def _why(package: Package) -> str:
    return "not installed" if package.absent else f"it cannot be imported: {package.error}"


def _toolkit(machine: Machine) -> str | None:
    try:
        version = json.loads(machine.text("usr/local/cuda/version.json"))["cuda"]["version"]
    except (ValueError, KeyError, TypeError):
        return None
    return str(version)


def _debian_version(machine: Machine, package: str) -> str | None:
    """Return the version of an installed Debian package without its revision."""
    for entry in machine.text("var/lib/dpkg/status").split("\n\n"):
        fields: dict[str, str] = dict(re.findall(r"^(Package|Status|Version): (.*)$", entry, flags=re.MULTILINE))
        if fields.get("Package") == package and fields.get("Status") == "install ok installed":
            return fields.get("Version", "").split("-")[0]
    return None


def _pair(version: str) -> tuple[int, int]:
    numbers = [int(number) for number in re.findall(r"\d+", version)[:2]]
    return (numbers[0], numbers[1]) if len(numbers) == 2 else (0, 0)


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


_BY_ID = "dev/v4l/by-id"


def cameras(machine: Machine) -> Finding:
    """Tell USB cameras by their stable name and others by their device; none at all is a warning.

    A USB camera shows several devices: ``index0`` gives the images, the others its metadata.
    """
    devices = [path for path in machine.find("dev/video*") if re.fullmatch(r"dev/video\d+", path)]
    stable = {
        os.path.basename(os.readlink(machine.root / path)): path
        for path in machine.find(f"{_BY_ID}/*")
        if (machine.root / path).is_symlink()
    }
    if not devices and not stable:
        return Finding(
            "cameras",
            "warn",
            "none at this machine",
            "plug one in, or name a network camera, a video or a folder: edge-ad run --camera URI",
        )
    closed = [device for device in devices if not os.access(machine.root / device, os.R_OK | os.W_OK)]
    if closed:
        return Finding(
            "cameras",
            "warn",
            f"/{', /'.join(closed)} may not be opened by this user",
            "sudo usermod -aG video $USER, and log in again",
        )
    usb = [f"/{path}" for _, path in sorted(stable.items()) if path.endswith("index0")]
    others = [_named(machine, device) for device in devices if os.path.basename(device) not in stable]
    return Finding("cameras", "ok", ", ".join([*usb, *others]))


def _named(machine: Machine, device: str) -> str:
    name = machine.text(f"sys/class/video4linux/{os.path.basename(device)}/name")
    return f"/{device} ({name or 'without a name'})"


_SERVICES = {
    "chrony": ("run/chrony/chronyd.pid", "run/chronyd.pid"),
    "systemd-timesyncd": ("run/systemd/timesync/synchronized",),
    "ntpd": ("run/ntpd.pid",),
}


def clock(machine: Machine) -> Finding:
    """Tell whether a service keeps the clock; verdicts run on a monotonic clock and do not depend on it, records do.

    The kernel's own word counts; where it cannot be asked, what systemd-timesyncd left behind.
    """
    running = [name for name, files in _SERVICES.items() if any(map(machine.exists, files))]
    synchronised = machine.clock if machine.clock is not None else machine.exists("run/systemd/timesync/synchronized")
    if synchronised:
        return Finding("clock", "ok", f"synchronised{f' by {running[0]}' if running else ''}")
    return Finding(
        "clock",
        "warn",
        f"not synchronised{f', though {running[0]} runs' if running else ''}: the times of events may be wrong",
        "sudo timedatectl set-ntp true, or give chrony the time server of the plant: sudo apt-get install chrony",
    )


_GIB = 1 << 30
LOW_MEMORY = _GIB
LOW_DISK, NO_DISK = 4 * _GIB, _GIB // 2


def memory(machine: Machine) -> Finding:
    """Tell memory that can be had without swapping; TensorRT builds need the most of it."""
    fields = {
        name: int(kib) * 1024 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB", machine.text("proc/meminfo"), re.M)
    }
    if "MemAvailable" not in fields or "MemTotal" not in fields:
        return Finding("memory", "warn", "unknown: /proc/meminfo does not tell", "look at it with: free -h")
    free = fields["MemAvailable"]
    message = f"{free / _GIB:.1f} of {fields['MemTotal'] / _GIB:.1f} GiB free"
    advice = "end other programs, or leave the desktop: sudo systemctl isolate multi-user.target"
    if free < MIN_FREE:
        return Finding("memory", "fail", message, advice, code=UNWELL)
    if free < LOW_MEMORY:
        return Finding("memory", "warn", f"{message}; the build of an engine may use half of it", advice)
    return Finding("memory", "ok", message)


def disk(machine: Machine) -> Finding:
    """Tell free disk in the working folder: engines, events and images are written there."""
    message = f"{machine.free_disk / _GIB:.1f} GiB free in this folder"
    advice = "remove old images and engines, or keep fewer of them"
    if machine.free_disk < NO_DISK:
        return Finding("disk", "fail", message, advice, code=UNWELL)
    if machine.free_disk < LOW_DISK:
        return Finding("disk", "warn", message, advice)
    return Finding("disk", "ok", message)


CHECKS: tuple[Callable[[Machine], Finding], ...] = (
    board,
    release,
    python,
    cuda,
    tensorrt,
    pycuda,
    onnxruntime,
    opencv,
    cameras,
    power_mode,
    clocks,
    temperatures,
    throttling,
    memory,
    disk,
    clock,
)


def examine(machine: Machine) -> list[Finding]:
    """Return what every check finds on a machine."""
    return [check(machine) for check in CHECKS]


_OTHERS = ("numpy", "onnx", "paho-mqtt", "asyncua", "python-snap7", "pylogix", "gpiod", "Jetson.GPIO", "harvesters")


def machine_details(machine: Machine) -> dict[str, Any]:
    """Return what machine this is: board, JetPack, processor, memory, kernel, Python and the version of edge-ad."""
    from edge_ad import __version__

    result = jetpack(machine)
    total = re.search(r"^MemTotal:\s+(\d+) kB", machine.text("proc/meminfo"), re.MULTILINE)
    system = re.search(r'^PRETTY_NAME="?([^"\n]*)', machine.text("etc/os-release"), re.MULTILINE)
    processor = re.search(r"^model name\s*:\s*(.+)$", machine.text("proc/cpuinfo"), re.MULTILINE)
    return {
        "edge_ad": __version__,
        "jetson": is_jetson(machine.root),
        "board": this.board(machine.root),
        "l4t": l4t(machine.root),
        "jetpack": result.name if result else "",
        "container": in_container(machine),
        "architecture": platform.machine(),
        "processor": processor[1] if processor else "",
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": int(total[1]) * 1024 if total else None,
        "system": system[1] if system else "",
        "kernel": platform.release(),
        "python": ".".join(map(str, machine.python)),
    }


def package_details(packages: Mapping[str, Package]) -> dict[str, Any]:
    """Return version, error and facts of what was imported, and the versions of other packages that are installed."""
    imported = {name: {"version": one.version, "error": one.error, **one.facts} for name, one in packages.items()}
    others = {name: {"version": _installed(name)} for name in _OTHERS}
    return {**imported, **{name: details for name, details in others.items() if details["version"]}}


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def device_state(root: Path = Path("/")) -> dict[str, str]:
    """Return board, power mode, clocks, temperatures and throttling as the doctor finds them; only files are read."""
    machine = _machine(root)
    checks = (board(machine), power_mode(machine), clocks(machine), temperatures(machine), throttling(machine))
    return {finding.name: finding.found for finding in checks}


def device_details(root: Path = Path("/")) -> dict[str, Any]:
    """Return which machine this is, as `edge-ad doctor --json` has it under ``machine``."""
    return machine_details(_machine(root))


def _machine(root: Path) -> Machine:
    return Machine(root, (sys.version_info.major, sys.version_info.minor), {}, 0, None)


def report(machine: Machine, findings: Sequence[Finding], tried: Sequence[Tried]) -> dict[str, Any]:
    """Return ``ready``, ``exit_code``, ``checks``, ``tried``, ``machine``, ``packages`` and ``made`` (UTC).

    It holds no host name, no user and no password; cameras appear as in events.
    """
    return {
        **to_json(findings),
        "tried": [one.to_json() for one in tried],
        "machine": machine_details(machine),
        "packages": package_details(machine.packages),
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
