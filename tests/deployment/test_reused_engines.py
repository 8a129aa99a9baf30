"""A recalibrated bundle runs its parent's engines after a new proof; whatever does not fit is left, with a reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_ad.bundle import Bundle, open_bundle, write_bundle
from edge_ad.cli.app import main
from edge_ad.deployment.build import build, reuse_engine
from edge_ad.engines import engine_store
from edge_ad.engines.selection import open_pipeline
from tests.fixtures.fake_gpu import fake_gpu
from tests.fixtures.tiny_bundle import make_tiny_bundle, tiny_image


@pytest.fixture
def parent(tmp_path: Path) -> Bundle:
    bundle = open_bundle(make_tiny_bundle(tmp_path / "tiny.edgead"))
    build(bundle, "fp16", threads=1)
    return bundle


def child_of(parent: Bundle, std: float = 1.0, **changes: Any) -> Bundle:
    """Return a child whose deviations are ``std`` times those of its parent."""
    statistics = replace(parent.statistics, mean=parent.statistics.mean * 1.01, std=parent.statistics.std * std)
    contents = replace(parent.contents(), parent=parent.sha256, statistics=statistics, **changes)
    path = parent.path.with_name("child.edgead")
    write_bundle(path, contents)
    return open_bundle(path)


def test_the_parents_engine_runs_the_child(parent: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    child = child_of(parent)
    assert reuse_engine(parent.path, child) == "engine: onnxruntime fp16 of the parent, proven again on 6 golden images"
    assert engine_store.current(child) == engine_store.Current("onnxruntime", "fp16")
    with open_pipeline(child) as pipeline, open_pipeline(parent) as before:
        assert pipeline.precision == "fp16"
        assert pipeline.infer(tiny_image(1)).score != before.infer(tiny_image(1)).score
    assert capsys.readouterr().err == ""


def test_the_proof_is_made_in_the_childs_units(parent: Bundle) -> None:
    """With a thousandth of the deviation, what FP16 rounds is beyond the tolerance."""
    child = child_of(parent, std=1e-3)
    message = reuse_engine(parent.path, child)
    assert message is not None
    assert "too far from the reference in the new scores); run `edge-ad build-engine`" in message
    assert not engine_store.engines_folder(child.path).exists()


def test_other_graphs_are_another_engine(parent: Bundle, tmp_path: Path) -> None:
    other = open_bundle(make_tiny_bundle(tmp_path / "other.edgead", seed=1))
    message = reuse_engine(parent.path, other)
    assert message is not None
    assert "was not made from the graph 'teacher'" in message
    assert not engine_store.engines_folder(other.path).exists()


def test_a_parent_without_an_engine(tmp_path: Path) -> None:
    parent = open_bundle(make_tiny_bundle(tmp_path / "tiny.edgead"))
    assert reuse_engine(parent.path, child_of(parent)) is None


def test_a_damaged_engine_is_not_taken_over(parent: Bundle) -> None:
    path = engine_store.engine_folder(parent.path, "onnxruntime", "fp16") / "lavit.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    child = child_of(parent)
    message = reuse_engine(parent.path, child)
    assert message is not None
    assert "is not the file that build-engine wrote" in message
    assert not engine_store.engines_folder(child.path).exists()


def test_engines_of_tensorrt(parent: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child's engine is loaded as it is; nothing is compiled."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with fake_gpu(monkeypatch) as gpu:
        build(parent, "fp16", "tensorrt", threads=1)
        trt = gpu.trt
        trt.built.clear()
        child = child_of(parent)
        assert reuse_engine(parent.path, child) == "engine: tensorrt fp16 of the parent, proven again on 6 golden images"
        assert not trt.built
        assert engine_store.current(child) == engine_store.Current("tensorrt", "fp16")


def test_the_command(parent: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "goods").mkdir()
    for number in range(30):
        image = tiny_image(7000 + number, size=(96, 80))
        assert cv2.imwrite(str(tmp_path / "goods" / f"{number}.png"), np.ascontiguousarray(image[:, :, ::-1]))
    assert main(["recalibrate", str(parent.path), str(tmp_path / "goods")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-2] == "engine: onnxruntime fp16 of the parent, proven again on 6 golden images"
    assert engine_store.current(open_bundle(printed[-1])) == engine_store.Current("onnxruntime", "fp16")
