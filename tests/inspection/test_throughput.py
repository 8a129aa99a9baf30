"""What the line judges a second beside the engines alone, on the miniature engines; times are not judged here."""

from __future__ import annotations

import time
from concurrent.futures import Future
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_ad.bundle import Bundle
from edge_ad.engines.pipeline import Inference, Pipeline
from edge_ad.engines.selection import Streams
from edge_ad.inspection import throughput
from edge_ad.inspection.locating import Locating
from edge_ad.inspection.throughput import Minute, measure_streams, measure_throughput, soak


def test_every_picture_is_judged_and_the_share_is_that_of_the_turns(
    tiny_bundle: Bundle, tiny_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    cameras = []
    run = throughput._loop

    def watched(bundle: Bundle, locating: Locating, camera: throughput._Willing) -> float:
        cameras.append(camera)
        return run(bundle, locating, camera)

    monkeypatch.setattr(throughput, "_loop", watched)
    result = measure_throughput(tiny_bundle, tiny_pipeline, frames=45)
    assert [len(camera.latencies) for camera in cameras] == [15] * 3
    assert result.loop_fps > 0
    assert result.share > 0
    assert set(result.to_json()) == {"engines_fps", "loop_fps", "share"}


def test_a_soak_reports_every_piece(tiny_bundle: Bundle, tiny_pipeline: Pipeline) -> None:
    messages: list[Minute] = []
    device = {"temperature": "41 C"}
    result = soak(tiny_bundle, tiny_pipeline, 0.6 / 60, device=lambda: device, report=messages.append, piece_s=0.25)
    assert result == messages
    assert len(result) >= 2
    assert [one.second for one in result] == sorted(one.second for one in result)
    for one in result:
        value = one.to_json()
        assert list(value) == ["second", "fps", "end_to_end_ms", "device"]
        assert one.fps > 0
        assert one.end_to_end["p50"] <= one.end_to_end["max"]
        assert one.device == {"temperature": "41 C"}


def test_a_burst_of_other_work_strikes_neither_side() -> None:
    # Half as fast for a turn, and a burst beside one loop alone.
    result = throughput._throughput([10.0, 5.0, 10.0, 10.0], [9.0, 4.6, 1.0, 9.8])
    assert (result.engines_fps, result.loop_fps, result.share) == (10.0, 6.8, 0.91)


@pytest.mark.parametrize(("frames", "turns"), [(450, [15] * 30), (31, [15, 15]), (8, [8]), (1, [2])])
def test_turns(frames: int, turns: list[int]) -> None:
    assert throughput._turns(frames) == turns


def test_the_loop_counts_from_its_first_verdict_to_its_last(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([50.0, 50.5, 51.5, 52.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(times))
    clock, judged = throughput._Clock(), SimpleNamespace(inference=1)
    assert clock.fps == 0.0
    for one in (judged, SimpleNamespace(inference=None), judged, judged, judged):
        clock.on_result(one, None)  # type: ignore[arg-type]
    assert clock.fps == 1.5


def test_streams_judge_as_many_pictures_as_asked(tiny_bundle: Bundle, tiny_pipeline: Pipeline) -> None:
    judged = []

    class Counting(Streams):
        def submit(self, image: NDArray[np.uint8]) -> Future[Inference]:
            judged.append(image.shape)
            return super().submit(image)

    streams = Counting([tiny_pipeline])
    result = measure_streams(tiny_bundle, streams, frames=30)
    streams.close()
    assert len(judged) == 2 * 30
    assert result.share > 0
