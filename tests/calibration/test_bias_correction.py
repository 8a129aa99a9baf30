"""Bias corrections: the mean of every channel comes back, for the plan they were measured with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from calibration import bias_correction
from calibration.bias_correction import corrections
from calibration.collect import collect
from calibration.quantise import output_key, quantise
from tests.calibration.nets import SIDE, Array, Net, cnn, feeds, run


def shift(data: bytes, pictures: list[dict[str, Array]]) -> float:
    """Return the mean absolute shift of the channels of "mixed"."""
    pairs = [(run(cnn(), feed, ["mixed"])[0], run(data, feed, ["mixed"])[0]) for feed in pictures]
    return float(np.abs(np.mean([b - a for a, b in pairs], axis=(0, 1, 3, 4))).mean())


@pytest.mark.parametrize("dialect", ["tensorrt", "cpu"])
@pytest.mark.parametrize("keep", [(), ("n_stem", "n_branch1")])
def test_means_come_back(dialect: str, keep: tuple[str, ...]) -> None:
    """With 5-bit weights everything shifts; on unseen images two thirds of it or more are taken back."""
    ranges = collect(cnn(), feeds(8, 16), threads=1)
    held = corrections(cnn(), ranges, feeds(8, 16), dialect, keep=keep, weight_limit=15, threads=1)
    unseen = feeds(8, 16, seed=7)
    plain = quantise(cnn(), ranges, dialect, keep, weight_limit=15, correct_bias=False)
    corrected = quantise(cnn(), ranges, dialect, keep, weight_limit=15, corrections=held)
    assert set(keep).isdisjoint(held)
    assert len([key for key in held if not key.startswith("output:")]) == 8 - len(keep)
    assert shift(corrected, unseen) < 0.34 * shift(plain, unseen)


def alike(count: int) -> list[dict[str, Array]]:
    """Return images of one part: the same content, a tenth of it noise."""
    rng = np.random.default_rng(3)
    part = rng.normal(size=(1, 8, SIDE, SIDE))
    return [{"x": (part + 0.1 * rng.normal(size=part.shape)).astype(np.float32)} for _ in range(count)]


def test_a_vector_of_features_comes_back_number_by_number() -> None:
    """Images of one part look alike, so rounding shifts every place in its own way: a number a channel cannot undo that."""
    net = Net()
    mixed = net.op("Relu", net.conv(net.op("Relu", net.conv("x", 8, 16)), 16, 16), out="mixed")
    cells = net.op("AveragePool", mixed, kernel_shape=[4, 4], strides=[4, 4])
    net.op("Flatten", cells, out="vector")
    model = net.model([1, 8, SIDE, SIDE], {"vector": [1, 256]})
    seen, unseen = alike(16), alike(64)[16:]
    ranges = collect(model, seen, threads=1)
    held = corrections(model, ranges, seen, "cpu", weight_limit=15, threads=1)

    def left(data: bytes) -> float:
        pairs = [(run(model, feed, ["vector"])[0], run(data, feed, ["vector"])[0]) for feed in unseen]
        return float(np.abs(np.mean([b - a for a, b in pairs], axis=0)).mean())

    biases = {key: value for key, value in held.items() if key != output_key("vector")}
    assert len(held[output_key("vector")]) == 256
    by_channel, by_feature = (
        left(quantise(model, ranges, "cpu", weight_limit=15, corrections=table)) for table in (biases, held)
    )
    assert by_feature < 0.4 * by_channel


def test_measures_a_layer_on_what_leads_to_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three convolutions in a row and a long tail behind them: what lies behind a layer is not run for it."""
    net = Net()
    value = "x"
    for _ in range(3):
        value = net.op("Relu", net.conv(value, 8, 8))
    for _ in range(9):
        value = net.op("Sigmoid", value)
    net.op("Tanh", value, out="end")
    model = net.model([1, 8, SIDE, SIDE], {"end": [1, 8, SIDE, SIDE]})
    counts: list[tuple[int, int]] = []
    opened = bias_correction.open_session

    def count(part: ModelProto, threads: int | None) -> Any:
        kinds = [node.op_type for node in part.graph.node]
        counts.append((kinds.count("Conv"), kinds.count("Sigmoid")))
        return opened(part, threads)

    monkeypatch.setattr(bias_correction, "open_session", count)
    pictures = feeds(8, 2)
    assert len(corrections(model, collect(model, pictures, threads=1), pictures, threads=1)) == 3
    assert counts == [(3, 0), (1, 0), (2, 0), (3, 0)]  # the FP32 graph, then the rounded one layer after layer
