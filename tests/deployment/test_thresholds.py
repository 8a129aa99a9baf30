"""Thresholds set by hand: only they change, the parent stays, and the engine serves the child."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from edge_ad.bundle import open_bundle
from edge_ad.deployment.rethreshold import rethreshold
from edge_ad.engines import engine_store
from edge_ad.engines.backends import open_backend
from edge_ad.engines.selection import open_pipeline
from edge_ad.errors import BadInput
from tests.fixtures.tiny_bundle import make_tiny_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_tiny_bundle(tmp_path / "tray.edgead")


def test_only_the_thresholds_change(bundle: Path) -> None:
    parent, before = open_bundle(bundle), bundle.read_bytes()
    child = open_bundle(rethreshold(bundle, 3.0, 5.0, "lot 7 is rough", by="anna"))
    assert bundle.read_bytes() == before
    assert child.path.name == "tray-thresholds.edgead"
    assert child.parent == parent.sha256
    assert (child.thresholds.warn, child.thresholds.ng) == (3.0, 5.0)
    assert (child.thresholds.goods, child.thresholds.goods_ng) == (0, 0)
    assert "no rate of normal images is promised" in child.thresholds.describe()
    assert all(child.graph_sha256(name) == parent.graph_sha256(name) for name in parent.graphs)
    in_float = parent.statistics.arrays()
    assert all(np.array_equal(value, in_float[name]) for name, value in child.statistics.arrays().items())
    change = child.report["rethreshold"][0]
    assert (change["by"], change["reason"], change["to"]) == ("anna", "lot 7 is rough", {"warn": 3.0, "ng": 5.0})
    assert change["from"] == {"warn": parent.thresholds.warn, "ng": parent.thresholds.ng}


def test_a_child_is_changed_in_place_and_keeps_its_history_and_parent(bundle: Path) -> None:
    first = rethreshold(bundle, 3.0, 5.0)
    second = rethreshold(first, 4.0, 6.0)
    third = rethreshold(bundle, 1.0, 2.0)  # from the parent again: the same child
    assert first == second == third
    assert len(list(bundle.parent.glob("*.edgead"))) == 2
    child = open_bundle(second)
    assert child.parent == open_bundle(bundle).sha256
    assert child.thresholds.ng == 2.0


def test_a_file_of_that_name_that_is_no_child_is_left_alone(bundle: Path) -> None:
    other = make_tiny_bundle(bundle.with_name("tray-thresholds.edgead"), seed=5)
    before = other.read_bytes()
    assert rethreshold(bundle, 3.0, 5.0).name == "tray-thresholds-2.edgead"
    assert other.read_bytes() == before


@pytest.mark.parametrize(("warn", "ng"), [(2.0, 1.0), (math.nan, 1.0), (1.0, math.inf)])
def test_wrong_thresholds_write_nothing(bundle: Path, warn: float, ng: float) -> None:
    with pytest.raises(BadInput):
        rethreshold(bundle, warn, ng)
    assert list(bundle.parent.glob("*thresholds*")) == []


def test_the_engine_serves_the_child_and_its_next_change(bundle: Path) -> None:
    parent = open_bundle(bundle)
    graphs = {name: parent.graph(name) for name in parent.graphs}
    engine_store.store(parent, open_backend("onnxruntime", 1), "fp16", graphs)
    engine_store.make_current(parent, "onnxruntime", "fp16")
    place = bundle
    for warn in (3.0, 3.5):
        place = rethreshold(place, warn, 5.0)
        child = open_bundle(place)
        with open_pipeline(child) as pipeline:
            assert pipeline.precision == "fp16"
            assert math.isfinite(pipeline.infer(child.golden.images[0]).score)
