"""Two variants of a graph on the same inputs: how far apart their outputs are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def relative_errors(
    reference: bytes, variant: bytes, feeds: Iterable[Mapping[str, NDArray[Any]]], threads: int | None = None
) -> dict[str, float]:
    """Return by output the greatest difference over all ``feeds``, as a share of the greatest magnitude in FP32.

    An output that is not finite gives infinity. Raises ImportError without onnxruntime, ValueError without feeds.
    """
    sessions = [_session(model, threads) for model in (reference, variant)]
    names = [node.name for node in sessions[0].get_outputs()]
    errors, sizes = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    seen = False
    for feed in feeds:
        seen = True
        exact, found = (session.run(names, dict(feed)) for session in sessions)
        for name, a, b in zip(names, exact, found, strict=True):
            difference = np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64))
            worst = float(difference.max()) if difference.size else 0.0
            errors[name] = max(errors[name], worst if np.isfinite(difference).all() else np.inf)
            sizes[name] = max(sizes[name], float(np.abs(np.asarray(a, np.float64)).max()) if a.size else 0.0)
    if not seen:
        raise ValueError("verifying needs at least one set of inputs")
    return {name: errors[name] / max(sizes[name], 1e-12) for name in names}


def _session(model: bytes, threads: int | None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
