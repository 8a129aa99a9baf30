"""What differs between versions of TensorRT, one named question each. Source: NVIDIA's change log and bindings."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from edge_ad.errors import BadInput

LOWEST = (10, 3)
STRONG_FROM = (10, 12)
_JETPACK_PYTHON = "usr/lib/python3*/dist-packages/tensorrt"


def version(trt: Any) -> tuple[int, ...]:
    """Return (major, minor) of the module."""
    return tuple(int(part) for part in str(trt.__version__).split(".")[:2])


def is_rtx(trt: Any) -> bool:
    """Whether this is TensorRT for RTX, which counts its versions on its own and never had precision flags."""
    return str(trt.__name__).startswith("tensorrt_rtx")


def too_old(trt: Any) -> bool:
    """Whether the parser cannot take opset 20 (before 10.3; JetPack 6.0 and older)."""
    return not is_rtx(trt) and version(trt) < LOWEST


def strongly_typed(trt: Any) -> bool:
    """Whether graphs are compiled in the types written in them; else FP16 and INT8 are flags on FP32 graphs."""
    return is_rtx(trt) or version(trt) >= STRONG_FROM


def network_flags(trt: Any) -> int:
    """Return the flags of ``create_network``; 11 still has the flag for strong typing, ignores it and may drop it."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 1 << int(flag) if flag is not None and strongly_typed(trt) else 0


def reports_progress(trt: Any) -> bool:
    """Whether the builder tells its progress."""
    return hasattr(trt, "IProgressMonitor")


def keeps_timing_cache(trt: Any) -> bool:
    """Whether a timing cache may be attached; that of RTX asks for a GPU, and its builder times nothing."""
    return not is_rtx(trt)


def check_version(trt: Any) -> None:
    """Raise BadInput for a version below the floor."""
    if too_old(trt):
        raise BadInput(
            f"TensorRT {trt.__version__} is too old: 10.3 or newer is needed; upgrade a Jetson to JetPack 6.1 or newer"
        )


def import_tensorrt(root: Path = Path("/")) -> Any:
    """Return the module ``tensorrt`` of a version that can be used, or raise BadInput that says what to install.

    JetPack's bindings are compiled for the Python of its Ubuntu alone: under another Python they are absent, or their
    library does not load. ``root`` is the root of the file system that is looked at for them.
    """
    try:
        trt = importlib.import_module("tensorrt")
    except ImportError as error:
        raise BadInput(_missing(root, error)) from error
    except OSError as error:  # the loader's own words for a library that is not there
        raise BadInput(
            f"the package 'tensorrt' cannot load its libraries ({_line(error)}); install it again"
        ) from error
    check_version(trt)
    return trt


DLA_COMPILER = "libnvdla_compiler.so"
"""What TensorRT of JetPack 6 needs of the board, and Jetson Linux 39.2 (JetPack 7.2) no longer has."""
DLA_ADVICE = (
    "Jetson Linux 39.2 has it no longer: in a container on JetPack 7.2 use an image with the board's own TensorRT "
    "(docker/jetpack72.Dockerfile); on JetPack 6 `sudo apt-get install nvidia-l4t-dla-compiler` on the board brings it"
)


def _missing(root: Path, error: ImportError) -> str:
    if DLA_COMPILER in str(error):
        return f"TensorRT of this environment asks for {DLA_COMPILER}, which is not here. {DLA_ADVICE}"
    here = f"python{sys.version_info.major}.{sys.version_info.minor}"
    results = sorted(path.parts[-3] for path in root.glob(_JETPACK_PYTHON))
    if results and here not in results:
        return (
            f"JetPack's TensorRT is made for {' and '.join(results)}, but this is {here}: "
            f"make the venv again with `/usr/bin/{results[-1]} -m venv --system-site-packages`"
        )
    if isinstance(error, ModuleNotFoundError) and error.name == "tensorrt":
        return (
            "backend 'tensorrt' needs the package 'tensorrt': pip install 'edge-ad[gpu]' "
            "(JetPack brings it: make the venv there with --system-site-packages), or use --backend onnxruntime"
        )
    return (
        f"the package 'tensorrt' is installed but {here} cannot import it ({_line(error)}): "
        "on a Jetson use the Python of the system and a venv with --system-site-packages"
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
