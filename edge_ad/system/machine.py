"""The machine as the checks see it: a file tree, and the few facts that no file holds.

What the kernel says of its clock: whether a time service disciplines it.

Which Python packages can really be imported, each in a process of its own: a broken library ends only that one.

Whether the doctor looks from inside a container, and what that hides of a Jetson.

JetPack releases: what each Jetson Linux (L4T) is called and brings along, and which one a machine has.

From the release notes of Jetson Linux 35 to 39; docs/jetson.md has the whole table.

What one check found: ok, warn or fail, and what to do next.
"""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from edge_ad.engines.tensorrt.versions import LOWEST
from edge_ad.utils.board import l4t

_UNSYNCHRONISED = 0x0040  # STA_UNSYNC of timex.h
_TIME_ERROR = 5
_STRUCT_BYTES = 512  # timex is 208 bytes on 64-bit Linux


def kernel_clock() -> bool | None:
    """Return whether the kernel's clock is disciplined, by ``adjtimex`` asked to change nothing; None where it is not
    there.

    Every time service (chrony, systemd-timesyncd, ntpd, a PTP client) tells the kernel through this call.
    """
    try:
        adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
    except (OSError, AttributeError):
        return None
    buffer = (ctypes.c_ulong * (_STRUCT_BYTES // ctypes.sizeof(ctypes.c_ulong)))()
    state = int(adjtimex(ctypes.byref(buffer)))
    if state < 0:
        return None
    # timex: unsigned int modes; long offset, freq, maxerror, esterror; int status; ...
    status = ctypes.c_int.from_buffer(buffer, 5 * ctypes.sizeof(ctypes.c_long)).value
    return state != _TIME_ERROR and not status & _UNSYNCHRONISED


TIMEOUT_S = 60.0

_PRINT = "import json; tell = lambda version, **facts: print('\\n' + json.dumps([str(version), facts]))\n"
_SCRIPTS = {
    "tensorrt": "import tensorrt; tell(tensorrt.__version__)",
    "pycuda": """
import pycuda
try:
    import pycuda.driver as driver
    driver.init()
    device = driver.Device(0)
    tell(pycuda.VERSION_TEXT, device=device.name(), sm='%d.%d' % device.compute_capability())
except Exception as error:
    tell(pycuda.VERSION_TEXT, error=str(error))
""",
    "onnxruntime": "import onnxruntime; tell(onnxruntime.__version__)",
    "cv2": """
import cv2
rows = [line.split(':', 1)[1].strip() for line in cv2.getBuildInformation().splitlines() if 'GStreamer' in line]
tell(cv2.__version__, gstreamer=any(row.startswith('YES') for row in rows))
""",
}


@dataclass(frozen=True)
class Package:
    """A package: its version, None when it cannot be imported (then ``error`` says why), and facts about it."""

    version: str | None
    error: str = ""
    facts: Mapping[str, object] = field(default_factory=dict)

    @property
    def absent(self) -> bool:
        """Whether the package is simply not installed, rather than broken."""
        return self.version is None and self.error.startswith("ModuleNotFoundError")


def probe() -> dict[str, Package]:
    """Import every package in a process of its own, all at once, and tell what came of it."""
    running = {name: _start(script) for name, script in _SCRIPTS.items()}
    return {name: _finish(process) for name, process in running.items()}


def _start(script: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _PRINT + script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )


def _finish(process: subprocess.Popen[str]) -> Package:
    try:
        output, errors = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return Package(None, f"its import did not end within {TIMEOUT_S:g} s")
    if process.returncode < 0:
        return Package(None, f"its import was ended by signal {-process.returncode}")
    if process.returncode:
        last = [line for line in errors.splitlines() if line.strip()]
        return Package(None, " ".join(last[-1].split()) if last else f"its import left with {process.returncode}")
    version, details = json.loads(output.splitlines()[-1])
    return Package(version, facts=details)


@dataclass(frozen=True)
class Machine:
    """A machine under ``root``, so that a recorded tree is examined by the same code as the real one.

    ``python`` is (major, minor); ``packages`` tells of every package that matters; ``free_disk`` is in bytes, for the
    working folder; ``clock`` is what the kernel says of its clock (True: disciplined), None where it cannot be asked.
    """

    root: Path
    python: tuple[int, int]
    packages: Mapping[str, Package]
    free_disk: int
    clock: bool | None

    @classmethod
    def here(cls) -> Machine:
        """Return the machine that this runs on."""
        python = (sys.version_info.major, sys.version_info.minor)
        return cls(Path("/"), python, probe(), shutil.disk_usage(".").free, kernel_clock())

    def text(self, path: str) -> str:
        """Return the content of a file without blanks and NULs at its ends; empty when it cannot be read.

        sysfs may refuse a read even to root: a sensor that is switched off answers EAGAIN.
        """
        try:
            return (self.root / path).read_bytes().decode(errors="replace").strip("\0 \n\t")
        except OSError:
            return ""

    def number(self, path: str) -> int | None:
        """Return the whole number in a file; None when there is none."""
        try:
            return int(self.text(path))
        except ValueError:
            return None

    def exists(self, path: str) -> bool:
        """Whether a file, folder or link is there; links need not lead anywhere."""
        return (self.root / path).exists() or (self.root / path).is_symlink()

    def find(self, pattern: str) -> list[str]:
        """Return the paths that fit a pattern, relative to the root, sorted."""
        return sorted(str(path.relative_to(self.root)) for path in self.root.glob(pattern))


MOUNTS = "-v /etc/nv_tegra_release:/etc/nv_tegra_release:ro -v /sys/firmware/devicetree/base:/run/device-tree:ro"


def in_container(machine: Machine) -> bool:
    """Whether this is a container of Docker or Podman."""
    return machine.exists(".dockerenv") or machine.exists("run/.containerenv")


def hides_the_device_tree(machine: Machine) -> bool:
    """Whether the device tree is masked, as Docker does with /sys/firmware, and was not mounted elsewhere."""
    if not in_container(machine) or machine.text("run/device-tree/model"):
        return False
    return not machine.text("proc/device-tree/model")


UPGRADE = "upgrade to JetPack 6.1 or newer: TensorRT 10.3 or newer is needed"


@dataclass(frozen=True)
class JetPack:
    """A release: its name, its L4T as text, the Python of its bindings, and its CUDA and TensorRT (major, minor)."""

    name: str
    l4t: str
    python: tuple[int, int]
    cuda: tuple[int, int]
    tensorrt: tuple[int, int]
    known: bool = True

    @property
    def supported(self) -> bool:
        """Whether its TensorRT is new enough."""
        return self.tensorrt >= LOWEST


# From this L4T on: name, Python, CUDA, TensorRT.
_TABLE: tuple[tuple[tuple[int, int, int], str, tuple[int, int], tuple[int, int], tuple[int, int]], ...] = (
    ((35, 0, 0), "5", (3, 8), (11, 4), (8, 5)),
    ((36, 0, 0), "6.0", (3, 10), (12, 2), (8, 6)),
    ((36, 4, 0), "6.1", (3, 10), (12, 6), (10, 3)),
    ((36, 4, 3), "6.2", (3, 10), (12, 6), (10, 3)),
    ((36, 4, 4), "6.2.1", (3, 10), (12, 6), (10, 3)),
    ((36, 5, 0), "6.2.2", (3, 10), (12, 6), (10, 3)),
    ((38, 0, 0), "7.0", (3, 12), (13, 0), (10, 13)),
    ((38, 4, 0), "7.1", (3, 12), (13, 0), (10, 13)),
    ((39, 2, 0), "7.2", (3, 12), (13, 2), (10, 16)),
)


def jetpack(machine: Machine) -> JetPack | None:
    """Return the JetPack of a machine; None without one, or for one before 5.

    A release newer than the table is taken for the last one in it, with ``known`` False.
    """
    message = l4t(machine.root)
    version = tuple(int(part) for part in message.split(".") if part)
    rows = [row for row in _TABLE if row[0] <= version]
    if not rows:
        return None
    _, name, python, cuda, tensorrt = rows[-1]
    return JetPack(name, message, python, cuda, tensorrt, known=version <= _TABLE[-1][0])


Status = Literal["ok", "warn", "fail"]

MISSING = 2
UNWELL = 3


@dataclass(frozen=True)
class Finding:
    """One line of the doctor: the name of the check, its status, what was found, and what to do unless it is ok.

    ``code`` is the exit code that a fail asks for: 2 something needed is missing or too old, 3 the device is unwell.
    """

    name: str
    status: Status
    found: str
    advice: str = ""
    code: int = MISSING

    def __post_init__(self) -> None:
        if (self.status == "ok") == bool(self.advice):
            raise ValueError(f"{self.name}: an advice goes with warn and fail, and only with them")


def exit_code(findings: Sequence[Finding]) -> int:
    """Return 0 when nothing fails, else the smallest code of what fails."""
    return min((finding.code for finding in findings if finding.status == "fail"), default=0)


def verdict(findings: Sequence[Finding]) -> str:
    """Return the last line: how many are ok, warn and fail, and what that means."""
    counts = {status: sum(finding.status == status for finding in findings) for status in ("ok", "warn", "fail")}
    word = "not ready" if counts["fail"] else "ready"
    return f"{word}: {counts['ok']} ok, {counts['warn']} to look at, {counts['fail']} failed"


def lines(findings: Sequence[Finding]) -> list[str]:
    """Return what is printed: one line a check, and under it what to do."""
    width = max(len(finding.name) for finding in findings)
    messages = []
    for finding in findings:
        messages.append(f"{finding.status:<4}  {finding.name:<{width}}  {finding.found}")
        if finding.advice:
            messages.append(f"{'':<{width + 6}}  -> {finding.advice}")
    return [*messages, verdict(findings)]


def to_json(findings: Sequence[Finding]) -> dict[str, object]:
    """Return the same as JSON values: ``ready``, ``exit_code`` and ``checks``."""
    code = exit_code(findings)
    checks = [{key: value for key, value in asdict(finding).items() if key != "code"} for finding in findings]
    return {"ready": code == 0, "exit_code": code, "checks": checks}
