"""Derive a child of a bundle with other thresholds, set by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from edge_ad.bundle import SUFFIX, Bundle, open_bundle, write_bundle
from edge_ad.engines import engine_store
from edge_ad.errors import BadInput
from edge_ad.scoring import Thresholds

REPORT = "rethreshold"
MAX_CHANGES = 100


def rethreshold(bundle_path: Path | str, warn: float, ng: float, reason: str = "", *, by: str = "") -> Path:
    """Write the child ``<name>-thresholds.edgead`` beside a bundle, with other thresholds, and return its path.

    Graphs, statistics and golden images stay, and the engine built for the parent serves the child. Thresholds set by
    hand promise no rate of normal images, so the counts of normal images are dropped. ``parent`` is the sha256 of the
    bundle that was trained or recalibrated; a child is changed in place, and ``report["rethreshold"]`` lists its
    changes (the last 100) with ``reason`` and ``by``. Raises BadInput for thresholds that are not finite or WARN above
    NG, and where the file cannot be written.
    """
    if not (math.isfinite(warn) and math.isfinite(ng)):
        raise BadInput(f"the thresholds are {warn:g} and {ng:g}: both must be finite numbers")
    bundle = open_bundle(bundle_path)
    now = bundle.thresholds
    changed = Thresholds(
        warn, ng, target_warn=now.target_warn, target_ng=now.target_ng, operating_point=now.operating_point, zones=now.zones
    )
    is_child = REPORT in bundle.report
    parent = bundle.parent if is_child and bundle.parent else bundle.sha256
    change = {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "by": by,
        "reason": reason,
        "from": {"warn": now.warn, "ng": now.ng},
        "to": {"warn": warn, "ng": ng},
    }
    changes = [*bundle.report.get(REPORT, []), change][-MAX_CHANGES:]
    target = bundle.path if is_child else _target(bundle)
    child = replace(bundle.contents(), parent=parent, thresholds=changed, report={**bundle.report, REPORT: changes})
    current = _current_engine(bundle)
    write_bundle(target, child)
    if current is not None:
        _hand_over(bundle, target, current)
    return target


def _target(bundle: Bundle) -> Path:
    """Return the file of the child: the one that this bundle already has, else a new name."""
    numbers = ["", *(f"-{number}" for number in range(2, 1000))]
    paths = [bundle.path.with_name(f"{bundle.path.stem}-thresholds{number}{SUFFIX}") for number in numbers]
    return next(path for path in paths if not path.exists() or _is_child(path, bundle))


def _is_child(path: Path, bundle: Bundle) -> bool:
    try:
        result = open_bundle(path)
    except BadInput:
        return False
    return REPORT in result.report and result.parent == bundle.sha256


def _current_engine(bundle: Bundle) -> engine_store.Current | None:
    try:
        return engine_store.current(bundle)
    except BadInput:  # an engine of another bundle: it does not serve this one either
        return None


def _hand_over(bundle: Bundle, target: Path, current: engine_store.Current) -> None:
    """Let the engine of a bundle serve its child; with the same graphs and statistics its proof holds."""
    child = open_bundle(target)
    if child.path != bundle.path:
        engine_store.copy(bundle, child, current)
    engine_store.make_current(child, current.backend, current.precision)
