"""The backends by name and the precisions by name: what may be asked for in this version."""

from __future__ import annotations

import importlib.util

from edge_ad.engines.onnxruntime import OrtBackend
from edge_ad.engines.protocol import Backend
from edge_ad.errors import BadInput

BACKENDS = ("onnxruntime", "tensorrt")
PRECISIONS = ("fp32", "fp16", "int8")


def check_precision(precision: str) -> str:
    """Return ``precision`` if this version has it, else raise BadInput that says which there are."""
    if precision not in PRECISIONS:
        raise BadInput(f"precision {precision!r} is unknown; allowed are {', '.join(PRECISIONS)}")
    return precision


def check_backend(backend: str) -> str:
    """Return ``backend`` if it is known and its package is installed; BadInput otherwise."""
    if backend not in BACKENDS:
        raise BadInput(f"backend {backend!r} is unknown; allowed are {' and '.join(BACKENDS)}")
    if backend == "tensorrt" and importlib.util.find_spec("tensorrt") is None:
        raise BadInput(
            "backend 'tensorrt' needs the package 'tensorrt': pip install 'edge-ad[gpu]' "
            "(JetPack brings it: make the venv there with --system-site-packages), or use --backend onnxruntime"
        )
    return backend


def open_backend(backend: str, threads: int | None = None) -> Backend:
    """Return a backend that can run engines; BadInput where this version, or this machine, has none of that name."""
    check_backend(backend)
    if backend == "tensorrt":
        raise BadInput("running engines on tensorrt is not available in this version; use --backend onnxruntime")
    return OrtBackend(threads)
