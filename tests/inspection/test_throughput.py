"""What the line judges a second beside the engines alone, on the miniature engines; times are not judged here."""

from __future__ import annotations

from concurrent.futures import Future

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_ad.bundle import Bundle
from edge_ad.engines.pipeline import Inference, Pipeline
from edge_ad.engines.streams import Streams
from edge_ad.inspection import throughput
from edge_ad.inspection.throughput import Minute, measure_streams, measure_throughput, soak


def test_every_picture_is_judged_and_the_share_is_that_of_the_turns(
    tiny_bundle: Bundle, tiny_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    cameras = []
    run = throughput._loop

    def watched(bundle: Bundle, camera: throughput._Willing) -> float:
        cameras.append(camera)
        return run(bundle, camera)

    monkeypatch.setattr(throughput, "_loop", watched)
    found = measure_throughput(tiny_bundle, tiny_pipeline, frames=27)
    assert [len(camera.latencies) for camera in cameras] == [3] * 9
    assert found.loop_fps > 0
    assert found.share > 0
    assert set(found.to_json()) == {"engines_fps", "loop_fps", "share"}


def test_a_soak_tells_every_piece(tiny_bundle: Bundle, tiny_pipeline: Pipeline) -> None:
    told: list[Minute] = []
    found = soak(tiny_bundle, tiny_pipeline, 0.6 / 60, lambda: {"temperature": "41 C"}, told.append, piece_s=0.25)
    assert found == told
    assert len(found) >= 2
    assert [one.second for one in found] == sorted(one.second for one in found)
    for one in found:
        value = one.to_json()
        assert list(value) == ["second", "fps", "end_to_end_ms", "device"]
        assert one.fps > 0
        assert one.end_to_end["p50"] <= one.end_to_end["max"]
        assert one.device == {"temperature": "41 C"}


def test_the_share_is_frames_over_seconds_of_all_turns() -> None:
    # Turns of 10 frames: 1 s and 2 s for the engines, 1 s and 4 s for the loop.
    found = throughput._throughput([10.0, 5.0], [10.0, 2.5])
    assert (found.engines_fps, found.loop_fps, found.share) == (6.667, 4.0, 0.6)


def test_streams_judge_as_many_pictures_as_asked(tiny_bundle: Bundle, tiny_pipeline: Pipeline) -> None:
    judged = []

    class Counting(Streams):
        def submit(self, image: NDArray[np.uint8]) -> Future[Inference]:
            judged.append(image.shape)
            return super().submit(image)

    streams = Counting([tiny_pipeline])
    found = measure_streams(tiny_bundle, streams, frames=18)
    streams.close()
    assert len(judged) == 2 * 18
    assert found.share > 0
