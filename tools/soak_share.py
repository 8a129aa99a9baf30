"""Do cameras share the engines fairly? Three cameras at different rates on one engine set that cannot serve them all.

`python tools/soak_share.py --json FILE [--resume] [--seconds 60]`. The fair share is max-min: nobody gets more than it
asks for, and what is left is divided equally.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_ad.bundle import open_bundle
from edge_ad.engines.pipeline import Inference, Pipeline
from edge_ad.inspection.judge import Judge
from edge_ad.inspection.loop import Loop
from edge_ad.inspection.overhead import Still
from edge_ad.inspection.settings import LoopSettings
from tools.trial import begin

LEAST = 0.9


class Slowed:
    """Engines that take ``seconds`` a frame, so that three cameras are too many for them."""

    def __init__(self, pipeline: Pipeline, seconds: float) -> None:
        self._pipeline = pipeline
        self._seconds = seconds
        self.image_size = pipeline.image_size
        self.branches = pipeline.branches

    def infer(self, image: Any) -> Inference:
        """Return the scores, not before the time is over."""
        end = time.monotonic() + self._seconds
        found = self._pipeline.infer(image)
        time.sleep(max(0.0, end - time.monotonic()))
        return found


def fair_shares(capacity: float, demands: Sequence[float]) -> list[float]:
    """Return the max-min fair shares of a capacity."""
    shares = [0.0] * len(demands)
    open_places = set(range(len(demands)))
    left = capacity
    while open_places:
        equal = left / len(open_places)
        modest = [place for place in open_places if demands[place] <= equal]
        for place in modest or open_places:
            shares[place] = min(demands[place], equal)
        left -= sum(shares[place] for place in modest)
        open_places = open_places.difference(modest) if modest else set()
    return shares


def measure(seconds: float, rates: Sequence[float], engine_s: float) -> dict[str, Any]:
    """Run cameras at ``rates`` frames a second for so long; return what each got of its fair share."""
    from tests.fixtures.tiny_bundle import make_tiny_bundle, tiny_image

    with tempfile.TemporaryDirectory() as folder:
        bundle = open_bundle(make_tiny_bundle(Path(folder) / "tiny.edgead"))
        with Pipeline(bundle, threads=1) as pipeline:
            settings = LoopSettings(max_age_ms=60_000.0)
            sources = []
            for number, rate in enumerate(rates):
                pictures = [tiny_image(10 * number + place) for place in range(5)]
                source = Still(pictures, 10**9, rate)
                source.name = f"camera {number}"
                sources.append(source)
            judge = Judge(Slowed(pipeline, engine_s), bundle.thresholds, bundle.statistics.weight, 60_000.0)
            loop = Loop(judge, sources, [], settings)
            threading.Timer(seconds, loop.stop).start()
            loop.run()
    counters = [station.counters for station in loop.stations]
    demands = [float(one.captured) for one in counters]
    shares = fair_shares(float(sum(one.judged for one in counters)), demands)
    return {
        "rates": list(rates),
        "captured": demands,
        "judged": [one.judged for one in counters],
        "share": [round(one.judged / share, 4) for one, share in zip(counters, shares, strict=True)],
    }


def main() -> int:
    """Run the trial; 1 when a camera got less than 90 % of its fair share."""
    record = begin(str(__doc__), {}, seconds=60.0)
    if not record.complete:
        record.finish(measure(record.values["seconds"], (50.0, 20.0, 4.0), 0.025))
    return int(min(record.values["summary"]["share"]) < LEAST)


if __name__ == "__main__":
    sys.exit(main())
