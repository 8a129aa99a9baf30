"""How long a change from one product to another takes while a line runs, from the request to the acknowledge.

`python tools/benchmarks/change_product.py A.edgead B.edgead [--camera URI] [--changes 50] [--json FILE]`. Both are loaded; frames
of the camera (default: the synthetic line at 10 frames a second; a folder of images comes as fast as it is judged) are judged
by whichever is chosen, and requests come at random moments. Prints the percentiles in milliseconds and in frame times, as
frames were judged, and the time to the first verdict of the new product: of a frame captured after the acknowledge.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from edge_ad.config import Config, EngineTable, ProductTable, RunTable
from edge_ad.events import Event
from edge_ad.inspection.changeover import Standing
from edge_ad.inspection.inspector import Inspector, RunOptions

PATIENCE_S = 30.0


class Moments:
    """When a product was acknowledged and first judged after a request."""

    def __init__(self) -> None:
        self._wanted = ""
        self._asked_at = 0.0
        self._acknowledged = False
        self.judged = threading.Event()
        self.acknowledge_ms: list[float] = []
        self.verdict_ms: list[float] = []

    def ask(self, name: str) -> None:
        """Begin to measure."""
        self._wanted, self._asked_at, self._acknowledged = name, time.monotonic(), False
        self.judged.clear()

    def stands(self, standing: Standing) -> None:
        """Take in how products stand."""
        if standing.state == "active" and standing.product == self._wanted and not self._acknowledged:
            self._acknowledged = True
            self.acknowledge_ms.append(1000.0 * (time.monotonic() - self._asked_at))

    def event(self, event: Event) -> None:
        """Take in an event."""
        if event.verdict != "NONE" and event.product == self._wanted and not self.judged.is_set():
            self.verdict_ms.append(1000.0 * (time.monotonic() - self._asked_at))
            self.judged.set()


def measure(bundles: list[Path], changes: int, camera: str, store: Path) -> dict[str, Any]:
    """Change ``changes`` times between two bundles and return the figures."""
    names = ("first", "second")
    products = {name: ProductTable(bundle=bundle) for name, bundle in zip(names, bundles, strict=True)}
    run = RunTable(store=store, product="first", max_age_ms=10_000, realtime=True)
    settings = Config(run=run, engine=EngineTable(backend="onnxruntime", precision="fp32"), product=products)
    moments, rng = Moments(), random.Random(0)
    options = RunOptions(settings, on_event=moments.event)
    inspector = Inspector(None, camera, options)
    changeover = inspector.changeover
    assert changeover is not None
    changeover.on_standing.append(moments.stands)
    line = threading.Thread(target=inspector.run)
    line.start()
    try:
        time.sleep(1.0)
        for number in range(changes):
            moments.ask(names[(number + 1) % 2])
            changeover.select(names[(number + 1) % 2], "the benchmark")
            if not moments.judged.wait(PATIENCE_S):
                raise SystemExit("no verdict came after a change: are the frames faster than the engines?")
            time.sleep(rng.uniform(0.1, 0.4))
    finally:
        inspector.loop.stop()
        line.join()
        inspector.close()
    judged = sum(worker.account().judged for worker in inspector.loop.workers)
    fps = judged / inspector.loop.elapsed_s
    return {
        "changes": changes,
        "fps": round(fps, 2),
        "inference_ms": inspector.loop.latencies.percentile(50),
        "acknowledge_ms": _percentiles(moments.acknowledge_ms),
        "acknowledge_frames": _percentiles([spent * fps / 1000.0 for spent in moments.acknowledge_ms]),
        "first_verdict_ms": _percentiles(moments.verdict_ms),
    }


def _percentiles(values: list[float]) -> dict[str, float]:
    return {f"p{percent}": round(float(np.percentile(values, percent)), 2) for percent in (50, 90, 100)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs=2, type=Path)
    parser.add_argument("--changes", type=int, default=50)
    parser.add_argument("--camera", default="synthetic://line?frames=1000000&seed=1&fps=10")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options.bundles, options.changes, options.camera, Path(folder) / "line.sqlite")
    print(json.dumps(found, indent=2))
    if options.json is not None:
        options.json.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
