"""The cost model: products and bytes by hand, and one short run on a bundle that was calibrated."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from calibration.collect import collect
from calibration.graph_view import GraphView
from calibration.quantise import quantise
from edge_ad.bundle import open_bundle
from tests.calibration.nets import Net, feeds
from tests.fixtures.calibrated import make_calibrated
from tests.tools.loading import load_tool


@pytest.fixture(scope="module")
def roofline() -> ModuleType:
    return load_tool("benchmarks/roofline")


def small() -> bytes:
    """A convolution 3 x 3 of 8 channels, a product of its 16 x 16 cells with themselves, and an Einsum of the same size."""
    net = Net()
    cells = net.op("Reshape", net.conv("x", 8, 8, out="conv"), net.const([1, 8, 256], np.int64))
    net.op("MatMul", net.op("Transpose", cells, perm=[0, 2, 1]), cells, out="product")
    net.op("Einsum", cells, cells, equation="bcn,bcm->bnm", out="einsum")
    return net.model([1, 8, 16, 16], {"product": [1, 256, 256], "einsum": [1, 256, 256]})


def test_products_and_bytes_are_those_by_hand(roofline: ModuleType) -> None:
    """A Reshape moves nothing; the Transpose does."""
    cost = roofline.cost_of(GraphView(small()))
    convolution, square, cells = 256 * 8 * 8 * 9, 256 * 256, 8 * 256
    assert cost.fp32 * 1e9 == pytest.approx(convolution + 2 * 8 * square)
    assert cost.int8 == 0
    floats = (cells + 8 * 8 * 9 + 8 + cells) + 2 * cells + 2 * (2 * cells + square)
    assert cost.mb * 1e6 == pytest.approx(4 * floats)


def test_products_of_8_bit_numbers_are_counted_apart(roofline: ModuleType) -> None:
    """The convolution has a weight; the products of two computed tensors stay FP32."""
    ranges = collect(small(), feeds(8, 4), threads=1)
    cost = roofline.cost_of(GraphView(quantise(small(), ranges, "cpu")))
    assert cost.int8 * 1e9 == pytest.approx(256 * 8 * 8 * 9)
    assert cost.fp32 * 1e9 == pytest.approx(2 * 8 * 256 * 256)


@pytest.mark.parametrize(
    ("products", "moved", "share", "bound"),
    [(8.0, 1.0, 0.8, "products"), (1.0, 6.0, 0.6, "bytes"), (2.0, 2.0, 0.2, "many small nodes")],
)
def test_what_bounds_a_graph_of_ten_milliseconds(
    roofline: ModuleType, products: float, moved: float, share: float, bound: str
) -> None:
    row = roofline.Row("g", "fp32", roofline.Cost(1.0, 0.0, 1.0), 10.0, products, moved)
    assert (row.share, row.bound) == (pytest.approx(share), bound)


def test_a_run_measures_each_graph_in_each_of_its_precisions(
    roofline: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, written = make_calibrated(tmp_path / "a.edgead"), tmp_path / "roofline.json"
    monkeypatch.setattr(roofline, "SIDE", 64)
    monkeypatch.setattr(roofline, "LARGE", roofline.CACHED)
    monkeypatch.setattr(sys, "argv", ["roofline.py", str(bundle), "--turns", "2", "--json", str(written)])
    assert roofline.main() == 0
    result = json.loads(written.read_text())
    assert min(result["peaks"].values()) > 0
    measured = {(row["graph"], row["precision"]) for row in result["graphs"]}
    assert {graph for graph, precision in measured if precision == "fp32"} == set(open_bundle(bundle).graphs)
    assert ("lavit", "int8") in measured
    assert "| lavit | INT8 |" in capsys.readouterr().out


def test_the_page_has_a_place_for_the_table(roofline: ModuleType) -> None:
    before, after = map(roofline.PAGE.read_text(encoding="utf-8").find, roofline.MARKS)
    assert 0 < before < after
