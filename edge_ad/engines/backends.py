"""The backends by name and the precisions by name: what may be asked for in this version."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from edge_ad.engines.onnxruntime import OrtBackend
from edge_ad.engines.protocol import Backend
from edge_ad.engines.tensorrt.versions import import_tensorrt
from edge_ad.errors import BadInput
from edge_ad.utils.board import is_jetson

BACKENDS = ("onnxruntime", "tensorrt")
PRECISIONS = ("fp32", "fp16", "int8")


def check_precision(precision: str) -> str:
    """Return ``precision`` if this version has it, else raise BadInput that says which there are."""
    if precision not in PRECISIONS:
        raise BadInput(f"precision {precision!r} is unknown; allowed are {', '.join(PRECISIONS)}")
    return precision


def check_backend(backend: str) -> str:
    """Return ``backend`` if it is known and its package can be used; BadInput otherwise."""
    if backend not in BACKENDS:
        raise BadInput(f"backend {backend!r} is unknown; allowed are {' and '.join(BACKENDS)}")
    if backend == "tensorrt":
        import_tensorrt()
    return backend


def default_backend(root: Path = Path("/")) -> str:
    """Return the backend that ``build-engine`` builds for: tensorrt on a Jetson and where it and pycuda are installed.
    """
    installed = all(importlib.util.find_spec(name) is not None for name in ("tensorrt", "pycuda"))
    return "tensorrt" if installed or is_jetson(root) else "onnxruntime"


def open_backend(backend: str, threads: int | None = None) -> Backend:
    """Return a backend that can run engines; BadInput where this machine lacks its packages, DeviceFault for its
    device.
    """
    check_backend(backend)
    if backend == "tensorrt":
        from edge_ad.engines.tensorrt.backend import TrtBackend

        return TrtBackend()
    return OrtBackend(threads)
