"""The tool that shows an older processor to a command: kernels, flags and children see it, and the libraries stay whole."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools/release/older_processor.sh"
PROBE = """
import faulthandler, json, subprocess, sys
faulthandler.enable()  # pytest does so; it takes the signal of illegal instructions
from pathlib import Path
from calibration.cpu import limit_by_flags, weight_limit
found = {"kernels": weight_limit(), "flags": limit_by_flags()}
if len(sys.argv) > 1:
    found["child"] = json.loads(subprocess.check_output([sys.executable, __file__]))
print(json.dumps(found))
"""
PRODUCT = """
import sys
import numpy as np
from calibration.session import open_session
from tests.calibration.test_session import saturating
from onnx import TensorProto
x = np.ones((4, 64), np.float32)
print(*(float(open_session(saturating(kind), 1).run(None, {"x": x})[0][0, 0]) for kind in (TensorProto.INT8, TensorProto.UINT8)))
"""
ILLEGAL = """
import ctypes, mmap
memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
memory.write(b"\\x0f\\x0b")
ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))()
"""

pytestmark = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64")
    or not all(map(shutil.which, ("gcc", "objdump")))
    or "/.venv/" not in sys.executable,
    reason="the tool needs Linux on x86-64, gcc, objdump and the .venv of this repository",
)


def under(*command: str) -> str:
    done = subprocess.run([str(TOOL), *command], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_kernels_flags_and_children_are_older(tmp_path: Path) -> None:
    probe = tmp_path / "probe.py"
    probe.write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{PROBE}")
    older = {"kernels": 63, "flags": 63}
    assert json.loads(under(sys.executable, str(probe), "child")) == {**older, "child": older}


def test_only_the_cpus_own_dialect_saturates_there() -> None:
    """255 x 127 twice is 64,770 and becomes 32,767: a sum of 64 ones comes to 32.4. For TensorRT it stays 64."""
    signed, unsigned = map(float, under(sys.executable, "-c", PRODUCT).split())
    assert signed == pytest.approx(64.0, rel=1e-5)
    assert unsigned == pytest.approx(64 * 32767 / (2 * 255 * 127), rel=1e-3)


def test_a_real_illegal_instruction_still_ends_the_process() -> None:
    done = subprocess.run([str(TOOL), sys.executable, "-c", ILLEGAL], capture_output=True, timeout=300, check=False)
    assert done.returncode in (-4, 132)
