"""A dashboard for a run: what it is told once, and what it may ask for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from edge_ad import __version__
from edge_ad.bundle import Bundle
from edge_ad.engines.pipeline import Pipeline
from edge_ad.inspection.assembly import LineSettings, Wiring
from edge_ad.inspection.reload import Reloader
from edge_ad.inspection.settings import LoopSettings
from edge_ad.scoring import BRANCHES, Thresholds
from edge_ad.web.link import Asked, WebLink
from edge_ad.web.panel import Panel


def open_web(
    line: LineSettings,
    bundle: Bundle,
    pipeline: Pipeline,
    cameras: Sequence[str],
    settings: LoopSettings,
    wiring: Wiring,
    tiled: bool,
    thresholds: Thresholds,
    reloader: Reloader,
) -> WebLink:
    """Start the dashboard of a run that begins with ``thresholds``; the page may change them through ``reloader``."""
    assert line.web is not None
    store = wiring.store
    hello = {
        "store": None if store is None else str(store.path.resolve()),
        "bundle_path": str(bundle.path.resolve()),
        "about": {
            **about(bundle, pipeline, settings, locked(thresholds, bundle, tiled)),
            "require_alarms": line.require_alarms,
        },
    }
    panel = Panel(cameras, None if store is None else lambda: store.committed + store.dropped, view=settings.view)
    asked = Asked(wiring.desk.acknowledge, reloader.take_over)
    return WebLink(line.web, line.web_names, hello, asked, panel, wiring.faults, wiring.outputs)


def about(bundle: Bundle, pipeline: Pipeline, settings: LoopSettings, why_locked: str | None) -> dict[str, Any]:
    """Return what a page tells of a run and does not change; no paths, no addresses."""
    weights = dict(zip(BRANCHES, map(float, bundle.statistics.weight), strict=True))
    return {
        "version": __version__,
        "bundle": bundle.path.name,
        "name": bundle.name,
        "preset": bundle.preset,
        "sha256": bundle.sha256,
        "backend": pipeline.backend.name,
        "precision": pipeline.precision,
        "weights": {name: weight for name, weight in weights.items() if name in pipeline.branches},
        "presence": settings.part.presence,
        "warn_rejects": settings.alarm.warn_rejects,
        "latch": settings.alarm.latch,
        "locked": why_locked,
        "started": time.time(),
    }


def locked(thresholds: Thresholds, bundle: Bundle, tiled: bool) -> str | None:
    """Return why the page cannot change the ``thresholds`` of this run, None when it can."""
    if tiled:
        return "with tiles the thresholds come from --tile-goods"
    found = bundle.thresholds
    if (thresholds.warn, thresholds.ng) != (found.warn, found.ng):
        return "warn_above or ng_above of edge-ad.toml count before the bundle's; remove them and start again"
    return None
