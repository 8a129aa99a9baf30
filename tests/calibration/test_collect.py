"""Ranges: what they hold, that they pass through JSON, and that memory does not grow with the number of images."""

from __future__ import annotations

import gc
import json
import tracemalloc
from collections.abc import Iterator

import numpy as np
import onnx
import pytest

from calibration.collect import Collector, collect
from calibration.ranges import METHODS, Ranges, TensorRange, graph_hash
from tests.calibration.nets import Array, cnn, feeds, run, vit


def test_what_was_seen() -> None:
    """Ends and channel means of an inner tensor agree with a second session that shows it whole."""
    model = onnx.load_model_from_string(cnn())
    model.graph.output.append(onnx.helper.make_tensor_value_info("sum1_act", onnx.TensorProto.FLOAT, None))
    pictures = feeds(8, 5)
    shown = np.concatenate([run(model.SerializeToString(), feed, ["sum1_act"])[0] for feed in pictures])
    ranges = collect(cnn(), pictures, "minmax", threads=1)
    held = ranges.tensors["sum1_act"]
    assert (held.minimum, held.maximum) == (pytest.approx(shown.min()), pytest.approx(shown.max(), rel=1e-5))
    assert (held.low, held.high) == (0.0, held.maximum)
    np.testing.assert_allclose(held.mean, shown.mean(axis=(0, 2, 3)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(held.peak, np.abs(shown).max(axis=(0, 2, 3)), rtol=1e-5)
    assert (ranges.method, ranges.images, ranges.graph_sha256) == ("minmax", 5, graph_hash(cnn()))


def test_tensors_that_stay_in_floating_point_have_their_ends() -> None:
    """FP16 is guarded by the ends of every tensor, also of the outlier in a transformer's stream."""
    ranges = collect(vit(outlier=5000.0), feeds(3, 3), threads=1)
    assert ranges.tensors["stream"].magnitude == pytest.approx(5000.0, rel=0.01)
    assert ranges.tensors["stream"].mean == ()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_lies_within_what_was_seen(method: str) -> None:
    for held in collect(cnn(), feeds(8, 4), method, threads=1).tensors.values():
        assert held.low <= 0.0 <= held.high
        assert held.bound <= held.magnitude * (1 + 1e-6)


def test_outputs_pass_through() -> None:
    collector = Collector(cnn(), threads=1)
    feed = feeds(8, 1)[0]
    result = collector.update(feed)
    assert collector.inputs == ["x"]
    for name, value in zip(("p", "mixed"), run(cnn(), feed, ["p", "mixed"]), strict=True):
        np.testing.assert_allclose(result[name], value, atol=1e-5)


def test_json() -> None:
    ranges = collect(cnn(), feeds(8, 3), threads=1)
    again = Ranges.from_json(json.loads(json.dumps(ranges.to_json(), allow_nan=False)))
    assert again.graph_sha256 == ranges.graph_sha256
    assert again.tensors.keys() == ranges.tensors.keys()
    assert again.tensors["sum1_act"].high == pytest.approx(ranges.tensors["sum1_act"].high, rel=1e-6)
    assert Ranges.from_json(again.to_json()) == again


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"method": "guess"},
        {"images": 0},
        {"images": True},
        {"graph_sha256": None},
        {"tensors": []},
        {"tensors": {"a": {"low": 1.0, "high": 2.0, "minimum": 0.0, "maximum": 2.0}}},
        {"tensors": {"a": {"low": 0.0, "high": "2", "minimum": 0.0, "maximum": 2.0}}},
        {"tensors": {"a": {"low": 0.0, "high": float("nan"), "minimum": 0.0, "maximum": 2.0}}},
        {"tensors": {"a": {"low": 0.0, "high": 2.0, "minimum": 0.0, "maximum": 2.0, "mean": [None]}}},
        {"tensors": {"a": {"low": 0.0, "high": 2.0, "minimum": 0.0, "maximum": 2.0, "more": 1}}},
        {"tensors": {"a": None}},
    ],
)
def test_json_that_is_no_ranges(change: dict[str, object]) -> None:
    held = Ranges("0" * 64, "mse", 3, {"a": TensorRange(0.0, 2.0, 0.0, 2.0)}).to_json()
    with pytest.raises(ValueError):
        Ranges.from_json({**held, **change})


def test_refusals() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        collect(cnn(), [])
    bad = feeds(8, 1)[0]
    bad["x"][0, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="finite numbers"):
        collect(cnn(), [bad], threads=1)
    old = onnx.load_model_from_string(cnn())
    old.opset_import[0].version = 11
    with pytest.raises((ValueError, onnx.shape_inference.InferenceError, onnx.checker.ValidationError)):
        Collector(old.SerializeToString())


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_pictures() -> None:
    """2,000 images take no more memory than 50, in Python's own account (the runtime keeps nothing between runs)."""
    pictures = feeds(8, 8)

    def stream(count: int) -> Iterator[dict[str, Array]]:
        for number in range(count):
            if number % 25 == 0:
                gc.collect()  # onnxruntime leaves a few hundred bytes a run to the collector
            yield pictures[number % 8]

    collect(cnn(), stream(50), "minmax", threads=1)  # imports and caches
    peaks = []
    for count in (50, 2000):
        gc.collect()
        tracemalloc.start()
        assert collect(cnn(), stream(count), "minmax", threads=1).images == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] <= 1.1 * peaks[0]
