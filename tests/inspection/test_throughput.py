"""What the line judges a second beside the engines alone, on the miniature engines; times are not judged here."""

from __future__ import annotations

import pytest

from edge_ad.bundle import Bundle
from edge_ad.engines.pipeline import Pipeline
from edge_ad.inspection import throughput
from edge_ad.inspection.throughput import Minute, measure_throughput, soak


def test_every_picture_is_judged_and_the_share_is_that_of_the_turns(
    tiny_bundle: Bundle, tiny_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    cameras = []
    run = throughput._loop

    def watched(bundle: Bundle, camera: throughput._Willing) -> float:
        cameras.append(camera)
        return run(bundle, camera)

    monkeypatch.setattr(throughput, "_loop", watched)
    found = measure_throughput(tiny_bundle, tiny_pipeline, frames=20)
    assert [len(camera.latencies) for camera in cameras] == [4] * 5
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
