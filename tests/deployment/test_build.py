"""Engines are derived, proven on golden images and only then current; a graph that FP16 breaks is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_ad.bundle import Bundle, open_bundle, write_bundle
from edge_ad.config import EngineTable
from edge_ad.deployment.build import build
from edge_ad.deployment.derive import derive
from edge_ad.engines import engine_store, parity
from edge_ad.engines.onnxruntime import OrtBackend
from edge_ad.engines.parity import compare
from edge_ad.engines.pipeline import Pipeline
from edge_ad.errors import BadInput
from tests.fixtures.tiny_bundle import make_tiny_bundle, tiny_contents, tiny_image

OVERFLOW = 1e6  # the gain that takes the teacher out of the range of FP16


def bundle_with(path: Path, **changes: Any) -> Bundle:
    return open_bundle(make_tiny_bundle(path / "tiny.edgead", **changes))


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return bundle_with(tmp_path)


@pytest.mark.parametrize("preset", ["fast", "paper"])
def test_fp16_is_accepted_and_becomes_current(tmp_path: Path, preset: str) -> None:
    bundle = bundle_with(tmp_path, preset=preset)
    report = build(bundle, "fp16", threads=1)
    assert report.refusal is None
    assert report.parity.accepted
    assert report.parity.flips == 0
    assert [row.branch for row in report.parity.rows] == [*bundle.statistics.active, "score"]
    assert 0 < report.parity.badness <= 1
    assert report.precisions == {name: "fp32" if name == "fusion" else "fp16" for name in bundle.graphs}
    assert set(report.latency_ms) == {"fp32", "fp16"}
    assert engine_store.current(bundle) == engine_store.Current("onnxruntime", "fp16")
    with Pipeline(bundle, precision="fp16", threads=1) as half, Pipeline(bundle, threads=1) as full:
        for image in (tiny_image(1), tiny_image(2, blob=True)):
            a, b = half.infer(image), full.infer(image)
            assert a.score == pytest.approx(b.score, abs=0.05 + 0.01 * abs(b.score))
            assert (a.raw != b.raw).any()


def test_the_files_beside_the_bundle(bundle: Bundle) -> None:
    build(bundle, "fp16", threads=1)
    folder = Path(f"{bundle.path}.engines")
    current = json.loads((folder / "current.json").read_text())
    assert (current["backend"], current["precision"], current["bundle"]) == ("onnxruntime", "fp16", bundle.sha256)
    assert set(current["files"]) == {f"{name}.onnx" for name in bundle.graphs}
    names = {path.name for path in (folder / "onnxruntime-fp16").iterdir()}
    assert names == {*current["files"], "signature.json"}
    assert {path.name for path in folder.iterdir()} == {"current.json", "onnxruntime-fp16"}
    build(bundle, "fp16", threads=1)
    assert {path.name for path in folder.iterdir()} == {"current.json", "onnxruntime-fp16"}


def test_fp32_runs_the_graphs_of_the_bundle(bundle: Bundle) -> None:
    report = build(bundle, "fp32", threads=1)
    assert report.refusal is None
    assert report.parity.badness < 0.2
    assert engine_store.current(bundle) == engine_store.Current("onnxruntime", "fp32")
    assert [path.name for path in Path(f"{bundle.path}.engines/onnxruntime-fp32").iterdir()] == ["signature.json"]


def test_a_graph_that_fp16_breaks_is_refused_by_name(tmp_path: Path) -> None:
    bundle = bundle_with(tmp_path, gain=OVERFLOW)
    report = build(bundle, "fp16", threads=1)
    assert report.refusal is not None
    assert "change teacher from fp16 to fp32" in report.refusal
    assert "--fp16 --keep-fp32 teacher`" in report.refusal
    assert report.folder is None
    assert not Path(f"{bundle.path}.engines").exists()
    followed = build(bundle, "fp16", settings=EngineTable(keep_fp32=["teacher"]), threads=1)
    assert followed.refusal is None
    assert followed.precisions["teacher"] == "fp32"


def test_a_refusal_leaves_the_current_engine(tmp_path: Path) -> None:
    bundle = bundle_with(tmp_path, gain=OVERFLOW)
    assert build(bundle, "fp32", threads=1).refusal is None
    assert build(bundle, "fp16", threads=1).refusal is not None
    assert engine_store.current(bundle) == engine_store.Current("onnxruntime", "fp32")


def test_the_pass_that_is_at_fault_is_the_one_named(tmp_path: Path) -> None:
    """In paper only the tokens' pass feeds the structure branch; maps come from the first pass."""
    bundle = bundle_with(tmp_path, preset="paper", gain=OVERFLOW, weight=(1.0, 0.0, 0.0, 0.0, 0.0))
    report = build(bundle, "fp16", threads=1)
    assert report.refusal is not None
    assert "--keep-fp32 teacher_tokens`" in report.refusal


def test_golden_scores_that_no_precision_reaches(tmp_path: Path) -> None:
    contents = tiny_contents()
    contents.golden.raw[0, 0] += 10 * contents.statistics.std[0]
    write_bundle(tmp_path / "b.edgead", contents)
    report = build(open_bundle(tmp_path / "b.edgead"), "fp16", threads=1)
    assert report.refusal is not None
    assert "even with every graph in fp32" in report.refusal


def test_errors_are_reported_in_units_of_z(tmp_path: Path) -> None:
    """Off by 0.04 standard deviations is an error of 0.04 z; times the weight of 0.3 it is 24 % of the tolerance."""
    contents = tiny_contents()
    images = contents.golden.images[:1]
    raw = contents.golden.raw[:1].copy()
    raw[0, 2] += 0.04 * contents.statistics.std[2]
    write_bundle(tmp_path / "b.edgead", replace(contents, golden=replace(contents.golden, images=images, raw=raw)))
    bundle = open_bundle(tmp_path / "b.edgead")
    with Pipeline(bundle, threads=1) as pipeline:
        result = compare(pipeline, bundle)
    rows = {row.branch: row for row in result.rows}
    assert rows["local"].error_z == pytest.approx(0.04, abs=2e-3)
    assert rows["local"].share == pytest.approx(0.24, abs=0.02)
    assert rows["score"].error_z == pytest.approx(0.04 * 0.3, abs=2e-3)
    assert rows["score"].share == pytest.approx(0.24, abs=0.04)
    assert result.accepted


@pytest.mark.parametrize(("distance", "far"), [(0.01, 0), (0.2, 1)])
def test_verdict_flips(tmp_path: Path, distance: float, far: int) -> None:
    """Only the reference is moved over the threshold; near to it a flip is forgiven, far from it not."""
    contents = tiny_contents()
    golden = replace(contents.golden, images=contents.golden.images[:1], raw=contents.golden.raw[:1].copy())
    write_bundle(tmp_path / "a.edgead", replace(contents, golden=golden))
    bundle = open_bundle(tmp_path / "a.edgead")
    with Pipeline(bundle, threads=1) as pipeline:
        score = pipeline.infer(golden.images[0]).score
    warn = score + 0.005
    golden.raw[0, 2] += (0.005 + distance) * contents.statistics.std[2] / contents.statistics.weight[2]
    thresholds = replace(contents.thresholds, warn=warn, ng=warn + 5)
    write_bundle(tmp_path / "b.edgead", replace(contents, golden=golden, thresholds=thresholds))
    moved = open_bundle(tmp_path / "b.edgead")
    with Pipeline(moved, threads=1) as pipeline:
        result = compare(pipeline, moved)
    assert (result.flips, result.far_flips) == (1, far)
    assert not far or not result.accepted


def test_derive_leaves_the_fusion_alone(bundle: Bundle) -> None:
    assert derive(bundle, "fp32") == {}
    assert set(derive(bundle, "fp16", ["lavit"])) == set(bundle.graphs) - {"fusion", "lavit"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int8"}, "holds no INT8 ranges: run `edge-ad calibrate"),
        ({"precision": "fp8"}, "precision 'fp8' is unknown; allowed are fp32, fp16, int8"),
        ({"precision": "fp16", "backend": "tpu"}, "backend 'tpu' is unknown; allowed are onnxruntime and tensorrt"),
        ({"precision": "fp16", "settings": EngineTable(keep_fp32=["head"])}, "--keep-fp32 'head' is not a graph"),
    ],
)
def test_bad_input(bundle: Bundle, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        build(bundle, **options)


def _flip_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("teacher.onnx", _flip_byte),
        ("teacher.onnx", lambda path: path.write_bytes(path.read_bytes()[:-1])),
        ("lavit.onnx", Path.unlink),
        ("signature.json", lambda path: path.write_text("{")),
        ("signature.json", lambda path: path.write_text("[]")),
        ("signature.json", lambda path: path.write_bytes(b"\xff\xfe")),
    ],
)
def test_damaged_engine_files_are_refused(bundle: Bundle, name: str, damage: Callable[[Path], object]) -> None:
    build(bundle, "fp16", threads=1)
    damage(Path(f"{bundle.path}.engines/onnxruntime-fp16") / name)
    with pytest.raises(BadInput, match="rebuild with `edge-ad build-engine --fp16`"):
        Pipeline(bundle, precision="fp16", threads=1)


def test_an_engine_of_another_bundle_is_refused(bundle: Bundle) -> None:
    build(bundle, "fp16", threads=1)
    changed = open_bundle(make_tiny_bundle(bundle.path, seed=1))
    with pytest.raises(BadInput, match=r"another bundle.*rebuild"):
        engine_store.current(changed)
    with pytest.raises(BadInput, match=r"not made from the graph 'teacher'.*rebuild"):
        engine_store.load(changed, OrtBackend(1), "fp16", ["teacher"])


def test_a_folder_that_cannot_be_written(bundle: Bundle) -> None:
    Path(f"{bundle.path}.engines").write_text("a file is in the way")
    with pytest.raises(BadInput, match="cannot write"):
        build(bundle, "fp16", threads=1)


@pytest.mark.parametrize(
    ("value", "reference", "weight", "error", "share"),
    [
        (1.05, 1.0, 1.0, 0.05, 1.0),
        (1.05, 1.0, 0.5, 0.05, 0.5),
        (1.2, 1.0, 0.1, 0.2, 1.0),  # a small weight allows four times as much, not more
        (101.0, 100.0, 1.0, 1.0, 1.0),  # far from the normal images: 1 % of z
        (-8.04, -8.0, 1.0, 0.04, 0.5),
        (np.nan, 1.0, 1.0, np.inf, np.inf),
        (np.inf, 1.0, 0.5, np.inf, np.inf),
    ],
)
def test_what_is_allowed(value: float, reference: float, weight: float, error: float, share: float) -> None:
    row = parity._row("local", np.array([1.0, value]), np.array([1.0, reference]), weight)
    assert row.error_z == pytest.approx(error)
    assert row.share == pytest.approx(share)
