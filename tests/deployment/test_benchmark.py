"""The figures of the benchmark: arithmetic by hand, and one short run for real."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_ad.bundle import Bundle, open_bundle
from edge_ad.deployment.derive import derive
from edge_ad.engines.benchmark import benchmark, camera_frames, peak_rss_mb, quantiles, slower
from edge_ad.engines.pipeline import Pipeline
from edge_ad.errors import BadInput
from tests.fixtures.located_bundle import make_located_bundle


def test_quantiles_by_hand() -> None:
    """Of 0, 1, ... 100 every percentile is its own number; of one value all are that value."""
    assert quantiles([float(100 - value) for value in range(101)]) == {"p50": 50, "p90": 90, "p99": 99, "max": 100}
    assert quantiles([1.23456]) == {"p50": 1.235, "p90": 1.235, "p99": 1.235, "max": 1.235}


def test_memory_is_read_from_the_kernel(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmHWM:\t  250000 kB\nVmRSS:\t  100 kB\n")
    assert peak_rss_mb(status) == pytest.approx(256.0)
    assert peak_rss_mb(tmp_path / "absent") > 10


def test_a_run(tiny_bundle: Bundle) -> None:
    in_loop: list[Pipeline] = []

    def loop(pipeline: Pipeline) -> dict[str, float]:
        in_loop.append(pipeline)
        return {"p50": 1.0, "p90": 1.0, "p99": 2.0, "max": 2.0}

    report = benchmark(tiny_bundle, lambda: Pipeline(tiny_bundle, threads=1), frames=20, in_loop=loop)
    assert len(in_loop) == 1
    value = report.to_json()
    assert list(value) == [
        "backend",
        "precision",
        "preset",
        "frames",
        "warm_up",
        "threads",
        "engine_ms",
        "end_to_end_ms",
        "stages_ms",
        "rss_mb",
        "first_verdict_s",
        "loop_overhead_ms",
        "beside_fp32_ms_p50",
        "notes",
    ]
    assert (value["backend"], value["precision"]) == ("onnxruntime", "fp32")
    assert (value["preset"], value["frames"]) == ("fast", 20)
    assert (value["warm_up"], value["threads"]) == (10, 1)
    graphs = ["teacher", "efficientad", "tokenizer", "lavit", "fusion"]
    assert list(value["stages_ms"]) == ["resize", "upload", *graphs, "download", "verdict"]
    for times in (
        value["engine_ms"],
        value["end_to_end_ms"],
        value["loop_overhead_ms"],
        *value["stages_ms"].values(),
    ):
        assert list(times) == ["p50", "p90", "p99", "max"]
        assert 0 <= times["p50"] <= times["p90"] <= times["p99"] <= times["max"]
    # a frame from the camera includes the resize, so the slowest of them took at least as long as the slowest engine
    assert value["end_to_end_ms"]["max"] >= value["engine_ms"]["max"] > 0
    assert 10 < value["rss_mb"] < 5000
    assert value["first_verdict_s"] >= 0
    assert (value["beside_fp32_ms_p50"], value["notes"]) == (None, [])


def test_locating_is_a_stage_of_the_frame(tmp_path: Path) -> None:
    """The golden cut-outs are drawn back into camera images, in which the part is located and cut out again."""
    bundle = open_bundle(make_located_bundle(tmp_path / "key.edgead"))
    frames, geometry = camera_frames(bundle)
    assert geometry is bundle.geometry
    assert {frame.shape for frame in frames} == {(240, 320, 3)}
    value = benchmark(bundle, lambda: Pipeline(bundle, threads=1), frames=3, warm_up=1).to_json()
    assert list(value["stages_ms"])[:3] == ["locate", "cut out", "upload"]
    assert value["end_to_end_ms"]["max"] >= value["stages_ms"]["locate"]["max"] > 0
    spent = sum(times["max"] for name, times in value["stages_ms"].items() if name not in ("locate", "cut out", "verdict"))
    assert value["engine_ms"]["max"] <= spent + 0.01


def test_another_precision_is_timed_beside_fp32(tiny_bundle: Bundle) -> None:
    graphs = derive(tiny_bundle, "fp16")
    open_fp16 = lambda: Pipeline(tiny_bundle, precision="fp16", threads=1, graphs=graphs)  # noqa: E731
    value = benchmark(tiny_bundle, open_fp16, frames=2).to_json()
    beside = value["beside_fp32_ms_p50"]
    assert list(beside) == ["fp16", "fp32"]
    assert min(beside.values()) > 0
    assert bool(value["notes"]) == (beside["fp16"] >= beside["fp32"])


@pytest.mark.parametrize(
    ("precision", "own", "full", "message"),
    [("int8", 9.0, 10.0, False), ("int8", 10.0, 10.0, True), ("fp16", 12.0, 10.0, True), ("fp32", 10.0, 10.0, False)],
)
def test_a_precision_that_gains_no_time_is_reported(precision: str, own: float, full: float, message: bool) -> None:
    wanted = [f"{precision} is no faster than fp32 on this processor ({own:.2f} against {full:.2f} ms a frame)"]
    assert [text.split(":")[0] for text in slower(precision, own, full)] == wanted * message


def test_no_frames(tiny_bundle: Bundle) -> None:
    with pytest.raises(BadInput, match="--frames is 0"):
        benchmark(tiny_bundle, lambda: Pipeline(tiny_bundle, threads=1), frames=0)
