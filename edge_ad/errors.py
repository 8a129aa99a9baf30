"""Errors that a person can act on, each with the exit code the command line ends with."""

from __future__ import annotations

import importlib
from types import ModuleType


class EdgeAdError(Exception):
    """An error told to the user in one sentence, without a traceback."""

    exit_code = 1


class BadInput(EdgeAdError):
    """Bad input, a wrong artefact or a missing package (exit code 2)."""

    exit_code = 2


class DeviceFault(EdgeAdError):
    """A device, memory or camera fault (exit code 3)."""

    exit_code = 3


class GateRefused(EdgeAdError):
    """A quality gate refused to go on (exit code 4)."""

    exit_code = 4


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out: Python's own, OpenCV's, and what C++ libraries say."""
    words = ("insufficient memory", "out of memory", "bad_alloc", "failed to alloc", "unable to alloc", "cannot alloc")
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in words)


def require(module: str, extra: str, needed_by: str) -> ModuleType:
    """Import ``module`` or raise BadInput that names the pip command which brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise BadInput(
            f"{needed_by} needs the package {module!r} ({error}): pip install 'edge-ad[{extra}]'"
        ) from error


# Which extra brings a package, by the name it is imported by.
EXTRAS = {
    **dict.fromkeys(("cv2", "onnx", "onnxruntime", "simplejpeg"), "cpu"),
    **dict.fromkeys(("torch", "onnxscript", "onnxsim", "safetensors", "sklearn", "scipy", "matplotlib"), "train"),
    **dict.fromkeys(("paho", "asyncua", "gpiod", "fastapi", "starlette", "uvicorn", "prometheus_client"), "line"),
    **dict.fromkeys(("pylogix", "snap7"), "plc"),
    "cryptography": "fleet",
    **dict.fromkeys(("tensorrt", "pycuda"), "gpu"),
}


def missing_package(error: ModuleNotFoundError, needed_by: str) -> BadInput | None:
    """Return what to install when ``error`` is about a package of an extra; None when it is a fault of the program."""
    package = (error.name or "").partition(".")[0]
    if package not in EXTRAS:
        return None
    return BadInput(f"{needed_by} needs the package {package!r}: pip install 'edge-ad[{EXTRAS[package]}]'")
