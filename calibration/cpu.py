"""What 8-bit arithmetic this processor has."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

from calibration.weights import INT7_LIMIT, INT8_LIMIT

_X86 = ("x86_64", "amd64", "i686")
_ROUNDS_SINCE = (1, 28)


def weight_limit(machine: str | None = None, cpuinfo: Path = Path("/proc/cpuinfo")) -> int:
    """Return the greatest 8-bit weight that ONNX Runtime may be given here: 127, or 63 where sums saturate.

    An x86 processor without VNNI adds two products of U8 and S8 in 16 bits, which overflow with weights beyond 63. ARM
    and x86 with VNNI add in 32 bits. Where the processor cannot be read, the careful answer is given.
    """
    kind = (machine or platform.machine()).lower()
    if kind not in _X86:
        return INT8_LIMIT
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return INT7_LIMIT
    flags = {flag for line in text.splitlines() if line.startswith("flags") for flag in line.split()}
    return INT8_LIMIT if flags & {"avx512_vnni", "avx_vnni"} else INT7_LIMIT


@functools.cache
def rounds_resized_bytes(version: str | None = None) -> bool:
    """Whether ONNX Runtime (``version``; by default the one installed) rounds what linear Resize makes of 8-bit numbers.

    1.23 to 1.26 were seen to cut the decimals, a bias of half a step; 1.28, 1.30 and 1.31 to round. Without ONNX Runtime
    the answer is yes.
    """
    if version is None:
        try:
            import onnxruntime
        except ImportError:
            return True
        version = str(onnxruntime.__version__)
    return tuple(map(int, version.split(".")[:2])) >= _ROUNDS_SINCE
