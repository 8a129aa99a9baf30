"""What machine this is, as far as an engine depends on it."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

# What decides which kernels compute FP32, FP16 and 8-bit numbers, on x86 and on ARM, as /proc/cpuinfo writes it.
_KERNELS = (
    *("sse4_1", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx_vnni", "avx_vnni_int8"),
    *("avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16", "asimddp", "i8mm", "asimdhp", "bf16", "sve", "sve2", "sme"),
)
PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")
_RELEASE = re.compile(r"R(\d+).*?REVISION:\s*([\d.]+)")


def machine(root: Path = Path("/")) -> dict[str, str]:
    """Return what identifies this machine for graphs on a CPU: system, architecture, processor and its
    ``instructions``.

    The last are those instruction sets that decide which kernels ONNX Runtime has here: virtual machines of one name
    may have them or not, and an INT8 graph that was made with VNNI saturates without.
    """
    text = _text(root / "proc/cpuinfo")
    names = {"system": platform.system(), "architecture": platform.machine(), "processor": _processor(text)}
    return {**names, "instructions": _instructions(text)}


def board(root: Path = Path("/")) -> str:
    """Return the model of the board as its device tree has it, empty where there is no device tree.

    Docker masks /proc/device-tree. In a container it is looked for where docker/inspector.yaml mounts it, and in what
    the kernel says of the chip, which carries the same name.
    """
    locations = ("proc/device-tree/model", "run/device-tree/model")
    models = [_text(root / location).strip("\0 \n") for location in locations]
    if _text(root / "sys/devices/soc0/family").strip() == "Tegra":
        models.append(_text(root / "sys/devices/soc0/machine").strip("\0 \n"))
    return next(filter(None, models), "")


def l4t(root: Path = Path("/")) -> str:
    """Return the release of Jetson Linux, such as ``36.4.3``; empty elsewhere."""
    result = _RELEASE.search(_text(root / "etc/nv_tegra_release"))
    return f"{result[1]}.{result[2]}" if result else ""


def is_jetson(root: Path = Path("/")) -> bool:
    """Return whether this machine is an NVIDIA Jetson, by its release file, its memory manager or its device tree.

    In a container only the nodes that the NVIDIA runtime brings along may be there.
    """
    if (root / "etc/nv_tegra_release").exists() or (root / "dev/nvmap").exists():
        return True
    model = board(root).lower()
    return "jetson" in model or ("nvidia" in model and "orin" in model)


def _instructions(cpuinfo: str) -> str:
    """Return the flags (x86) or features (ARM) of ``_KERNELS`` that /proc/cpuinfo lists for the first core, in a row.
    """
    lines = [line for line in cpuinfo.splitlines() if line.lower().startswith(("flags", "features"))]
    listed = set(lines[0].split(":", 1)[-1].split()) if lines else set()
    return " ".join(name for name in _KERNELS if name in listed)


def _processor(cpuinfo: str) -> str:
    lines = cpuinfo.splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.lower().startswith(("model name", "hardware"))]
    return names[0] if names else platform.processor()


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", errors="replace")
    except OSError:
        return ""


def resident_mb() -> float:
    """Return the memory that this process holds now, in MiB."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_SIZE / 2**20
    except (OSError, IndexError, ValueError):
        return 0.0
