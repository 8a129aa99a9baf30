"""Cameras share the engines fairly: three at different rates on one set of engines that cannot serve them all."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from edge_ad.bundle import Bundle, open_bundle
from edge_ad.engines.pipeline import Inference, Pipeline
from edge_ad.inspection.judge import Judge
from edge_ad.inspection.loop import Loop
from edge_ad.inspection.throughput import Still
from tests.fixtures.tiny_bundle import make_tiny_bundle, tiny_image
from tests.inspection.line import settings_of


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
        result = self._pipeline.infer(image)
        time.sleep(max(0.0, end - time.monotonic()))
        return result


def fair_shares(capacity: float, demands: Sequence[float]) -> list[float]:
    """Return the max-min fair shares of a capacity."""
    shares = [0.0] * len(demands)
    open_indices = set(range(len(demands)))
    left = capacity
    while open_indices:
        equal = left / len(open_indices)
        modest = [index for index in open_indices if demands[index] <= equal]
        for index in modest or open_indices:
            shares[index] = min(demands[index], equal)
        left -= sum(shares[index] for index in modest)
        open_indices = open_indices.difference(modest) if modest else set()
    return shares


def measure(bundle: Bundle, seconds: float, rates: Sequence[float], engine_s: float) -> list[float]:
    """Run cameras at ``rates`` frames a second for so long; return what each got as a part of its fair share."""
    with Pipeline(bundle, threads=1) as pipeline:
        sources = []
        for number, rate in enumerate(rates):
            source = Still([tiny_image(10 * number + index) for index in range(5)], 10**9, rate)
            source.name = f"camera {number}"
            sources.append(source)
        judge = Judge(Slowed(pipeline, engine_s), bundle.thresholds, bundle.statistics.weight, 60_000.0)
        loop = Loop(judge, sources, [], settings_of(max_age_ms=60_000.0))
        threading.Timer(seconds, loop.stop).start()
        loop.run()
    counters = [station.counters for station in loop.workers]
    shares = fair_shares(float(sum(one.judged for one in counters)), [float(one.captured) for one in counters])
    return [one.judged / share for one, share in zip(counters, shares, strict=True)]


@pytest.mark.slow
def test_every_camera_gets_its_max_min_fair_share(tmp_path: Path) -> None:
    bundle = open_bundle(make_tiny_bundle(tmp_path / "tiny.edgead"))
    assert min(measure(bundle, 5.0, (50.0, 20.0, 4.0), 0.03)) >= 0.8


@pytest.mark.parametrize(
    ("capacity", "demands", "shares"),
    [
        (30.0, [50.0, 20.0, 4.0], [13.0, 13.0, 4.0]),
        (30.0, [50.0, 12.0, 4.0], [14.0, 12.0, 4.0]),
        (90.0, [50.0, 20.0, 4.0], [50.0, 20.0, 4.0]),
        (9.0, [50.0, 20.0, 40.0], [3.0, 3.0, 3.0]),
    ],
)
def test_fair_shares(capacity: float, demands: Sequence[float], shares: list[float]) -> None:
    assert fair_shares(capacity, demands) == pytest.approx(shares)
