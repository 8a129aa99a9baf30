"""Let a child of a bundle have the engine of its parent: nothing is compiled, and it is proven again in the child's scores."""

from __future__ import annotations

from pathlib import Path

from edge_ad.bundle import Bundle, open_bundle
from edge_ad.deployment.gate import measure_gate
from edge_ad.engines import engine_store
from edge_ad.engines.parity import compare
from edge_ad.engines.pipeline import Pipeline
from edge_ad.errors import EdgeAdError


def reuse_engine(parent_path: Path, child: Bundle) -> str | None:
    """Make the parent's current engine that of ``child`` if it fits and passes; return a sentence, None without an engine."""
    try:
        parent = open_bundle(parent_path)
        current = engine_store.current(parent)
        if current is None or parent.path == child.path:
            return None
        reason = _take_over(parent, child, current)
    except EdgeAdError as error:
        current, reason = None, str(error)
    if current is not None and reason is None:
        images = len(child.golden.images)
        return f"engine: {current.backend} {current.precision} of the parent, proven again on {images} golden images"
    return f"no engine was taken over from the parent ({reason}); run `edge-ad build-engine`"


def _take_over(parent: Bundle, child: Bundle, current: engine_store.Current) -> str | None:
    """Copy, prove, and make current; return why not, and leave nothing then."""
    engine_store.copy(parent, child, current)
    try:
        reason = _refusal(child, current)
        if reason is None:
            engine_store.make_current(child, current.backend, current.precision)
            return None
    except BaseException:
        engine_store.remove(child, current)
        raise
    engine_store.remove(child, current)
    return reason


def _refusal(child: Bundle, current: engine_store.Current) -> str | None:
    with Pipeline(child, precision=current.precision, backend=current.backend) as engine:
        if current.precision != "int8":
            return None if compare(engine, child).accepted else "it is too far from the reference in the new scores"
        with Pipeline(child) as reference:
            return measure_gate(engine, reference, child).refused
