"""Which Python packages can really be imported, each in a process of its own: a broken library ends only that one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

TIMEOUT_S = 60.0

_TELL = "import json; tell = lambda version, **facts: print('\\n' + json.dumps([str(version), facts]))\n"
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
        [sys.executable, "-c", _TELL + script],
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
    version, facts = json.loads(output.splitlines()[-1])
    return Package(version, facts=facts)
