"""How long a change from one product to another takes while a line runs, and the exchange of a bundle: from request to acknowledge.

`python tools/benchmarks/change_product.py A.edgead B.edgead [--replace] [--camera URI] [--changes 50] [--json FILE]`. Both are
loaded; frames of the camera (default: the synthetic line at 10 frames a second; a folder of images comes as fast as it is judged)
are judged by whichever is chosen, and requests come at random moments. With ``--replace`` it is one product whose bundle is
replaced by the other one (`edge-ad product replace`): the proof of the new engines, beside which the old ones go on judging, and
then the exchange, in which verdicts are NONE.

Prints percentiles in milliseconds and in frame times, and the time to the first verdict of the new product or bundle: of a frame
captured after the acknowledge. The frame time of each change is the median of the last ``PAIRED`` frames before it, so that what
else the machine does at that time counts on both sides.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edge_ad.bundle import open_bundle
from edge_ad.config import Config, EngineTable, ProductTable, RunTable
from edge_ad.events import Event
from edge_ad.inspection.bundle_swap import REPLACE, STATE
from edge_ad.inspection.changeover import Changeover, ProductStatus
from edge_ad.inspection.inspector import Inspector, RunOptions
from edge_ad.inspection.requests import Request
from edge_ad.utils.board import machine

PATIENCE_S = 120.0
PAIRED = 8  # frames


class Moments:
    """When what was asked for came into force and first judged, in milliseconds and in frame times of just before."""

    def __init__(self, hashes: dict[str, str]) -> None:
        self._hashes = hashes
        self._wanted = ""
        self._asked_at = self._frame_s = 0.0
        self._acknowledged = True
        self._seen: deque[float] = deque(maxlen=PAIRED + 1)
        self.judged = threading.Event()
        self.rows: dict[str, list[float]] = {"acknowledge_ms": [], "acknowledge_frames": [], "first_verdict_ms": []}

    def ask(self, name: str, at: float | None = None) -> None:
        """Begin to measure, ``at`` monotonic seconds."""
        intervals = np.diff(list(self._seen))
        self._frame_s = float(np.median(intervals)) if len(intervals) else 0.0
        self._wanted, self._asked_at, self._acknowledged = name, at or time.monotonic(), False
        self.judged.clear()

    def stands(self, standing: ProductStatus) -> None:
        """Take in how products stand."""
        if standing.state == "active" and standing.product == self._wanted:
            self.acknowledge()

    def acknowledge(self) -> None:
        """What was asked for is in force."""
        if self._acknowledged:
            return
        self._acknowledged = True
        spent = time.monotonic() - self._asked_at
        self.rows["acknowledge_ms"].append(1000.0 * spent)
        if self._frame_s:
            self.rows["acknowledge_frames"].append(spent / self._frame_s)

    def event(self, event: Event) -> None:
        """Take in an event."""
        if event.verdict == "NONE":
            return
        self._seen.append(time.monotonic())
        if event.bundle == self._hashes[self._wanted or next(iter(self._hashes))] and self._wanted and not self.judged.is_set():
            self.rows["first_verdict_ms"].append(1000.0 * (time.monotonic() - self._asked_at))
            self.judged.set()

    def forget_gap(self) -> None:
        """Take no interval across a change for a frame time."""
        self._seen.clear()


Ask = Callable[[str], None]


def by_name(inspector: Inspector, moments: Moments) -> Ask:
    """Return what chooses a product."""
    changeover = inspector.changeover
    assert changeover is not None
    changeover.on_standing.append(moments.stands)

    def ask(name: str) -> None:
        moments.ask(name)
        changeover.select(name, "the benchmark")

    return ask


def by_bundle(inspector: Inspector, moments: Moments, bundles: dict[str, Path], proofs: list[float]) -> Ask:
    """Return what replaces the bundle of the one product; ``proofs`` gets the seconds of each."""
    gate: Changeover = inspector._gate
    swap = gate.swap
    wanted = [""]

    def measured(one: Any) -> None:
        moments.ask(wanted[0])
        swap(one)
        moments.acknowledge()

    gate.swap = measured  # type: ignore[method-assign]

    def state() -> dict[str, Any]:
        return dict(json.loads(inspector.wiring.requests.submit(Request(STATE, "", "command"))))

    def ask(name: str) -> None:
        wanted[0], began = name, time.monotonic()
        inspector.wiring.requests.submit(Request(REPLACE, "benchmark", "command", {"bundle": str(bundles[name].resolve())}))
        while state()["state"] == "working":
            time.sleep(0.02)
        if state()["state"] != "done":
            raise SystemExit(f"the bundle was not replaced: {state()['error']}")
        proofs.append(time.monotonic() - began)

    return ask


def measure(bundles: list[Path], changes: int, camera: str, store: Path, *, replaces: bool) -> dict[str, Any]:
    """Change ``changes`` times between two bundles and return the figures."""
    paths = dict(zip(("first", "second"), bundles, strict=True))
    products = {} if replaces else {name: ProductTable(bundle=path) for name, path in paths.items()}
    run = RunTable(store=store, product=None if replaces else "first", max_age_ms=10_000, realtime=True)
    settings = Config(run=run, engine=EngineTable(backend="onnxruntime", precision="fp32"), product=products)
    moments, rng = Moments({name: open_bundle(path).sha256 for name, path in paths.items()}), random.Random(0)
    inspector = Inspector(bundles[0] if replaces else None, camera, RunOptions(settings, on_event=moments.event))
    proofs: list[float] = []
    ask = by_bundle(inspector, moments, paths, proofs) if replaces else by_name(inspector, moments)
    line = threading.Thread(target=inspector.run)
    line.start()
    try:
        for number in range(changes):
            moments.forget_gap()
            ends = time.monotonic() + PATIENCE_S
            while len(moments._seen) <= PAIRED // 2 and time.monotonic() < ends:
                time.sleep(0.02)
            time.sleep(rng.uniform(0.0, 0.4))
            ask(list(paths)[(number + 1) % 2])
            if not moments.judged.wait(PATIENCE_S):
                raise SystemExit("no verdict came after a change: are the frames faster than the engines?")
    finally:
        inspector.loop.stop()
        line.join()
        inspector.close()
    judged = sum(worker.account().judged for worker in inspector.loop.workers)
    return {
        "changes": changes,
        "processor": machine()["processor"],
        "fps": round(judged / inspector.loop.elapsed_s, 2),
        "inference_ms": inspector.loop.latencies.percentile(50),
        **{name: _percentiles(values) for name, values in moments.rows.items()},
        **({"with_proof_s": _percentiles(proofs)} if proofs else {}),
    }


def _percentiles(values: list[float]) -> dict[str, float]:
    return {f"p{percent}": round(float(np.percentile(values, percent)), 2) for percent in (50, 90, 100)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs=2, type=Path)
    parser.add_argument("--replace", action="store_true")
    parser.add_argument("--changes", type=int, default=50)
    parser.add_argument("--camera", default="synthetic://line?frames=1000000&seed=1&fps=10")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "line.sqlite"
        result = measure(options.bundles, options.changes, options.camera, store, replaces=options.replace)
    print(json.dumps(result, indent=2))
    if options.json is not None:
        options.json.write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
