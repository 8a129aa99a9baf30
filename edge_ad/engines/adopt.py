"""A child bundle with the graphs of its parent takes over the parent's engine, once it is proven on the child's scores.

Statistics and weights are inputs of the fusion graph, so new ones need no new engine; but the tolerance is in standard
deviations of goods, which are new, so the proof is made again.
"""

from __future__ import annotations

from pathlib import Path

from edge_ad.bundle import Bundle, open_bundle
from edge_ad.engines import artefacts
from edge_ad.engines.gate import measure_gate
from edge_ad.engines.parity import compare
from edge_ad.engines.pipeline import Pipeline
from edge_ad.errors import EdgeAdError


def adopt(parent_path: Path, child: Bundle) -> str | None:
    """Make the parent's current engine that of ``child`` if it fits and passes; return a sentence, None without an engine."""
    try:
        parent = open_bundle(parent_path)
        held = artefacts.current(parent)
        if held is None or parent.path == child.path:
            return None
        reason = _take_over(parent, child, held)
    except EdgeAdError as error:
        held, reason = None, str(error)
    if held is not None and reason is None:
        images = len(child.golden.images)
        return f"engine: {held.backend} {held.precision} of the parent, proven again on {images} golden images"
    return f"no engine was taken over from the parent ({reason}); run `edge-ad build-engine`"


def _take_over(parent: Bundle, child: Bundle, held: artefacts.Current) -> str | None:
    """Copy, prove, and make current; return why not, and leave nothing then."""
    artefacts.copy(parent, child, held)
    try:
        reason = _refusal(child, held)
        if reason is None:
            artefacts.make_current(child, held.backend, held.precision)
            return None
    except BaseException:
        artefacts.remove(child, held)
        raise
    artefacts.remove(child, held)
    return reason


def _refusal(child: Bundle, held: artefacts.Current) -> str | None:
    with Pipeline(child, precision=held.precision, backend=held.backend) as engine:
        if held.precision != "int8":
            return None if compare(engine, child).accepted else "it is too far from the reference in the new scores"
        with Pipeline(child) as reference:
            return measure_gate(engine, reference, child).refused
