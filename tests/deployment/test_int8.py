"""INT8 from calibration to the gate: what the bundle carries, what is built, and what is refused with exit code 4."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from calibration.cpu import weight_limit
from calibration.placement import DIALECTS
from edge_ad.bundle import Bundle, Quantisation, open_bundle, write_bundle
from edge_ad.cli.app import main
from edge_ad.cli.build_engine import describe
from edge_ad.config import EngineTable
from edge_ad.data.images import Image
from edge_ad.deployment.build import build
from edge_ad.deployment.derive import check_compiles, derive, typed_graphs
from edge_ad.deployment.gate import measure_gate
from edge_ad.deployment.int8 import derive_int8, measuring_backend, recipe_of
from edge_ad.deployment.precision_search import PartialPipeline
from edge_ad.engines import engine_store
from edge_ad.engines.onnxruntime import OrtBackend
from edge_ad.engines.pipeline import Pipeline
from edge_ad.errors import BadInput
from tests.fixtures.calibrated import make_calibrated
from tests.fixtures.tiny_bundle import make_tiny_bundle, tiny_image
from tests.fixtures.tiny_graphs import CHANNELS, CODES, MASKS, Builder

WEIGHT = (0.1, 0.1, 0.4, 0.0, 0.4)  # without the global branch, whose two small convolutions are all that is 8-bit
GLOBAL = (0.0, 0.0, 0.0, 1.0, 0.0)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_calibrated(tmp_path_factory.mktemp("int8") / "tiny.edgead", weight=WEIGHT, proof=12)


def rewritten(path: Path, source: Bundle, **changes: Any) -> Bundle:
    """Return a bundle like ``source`` with other quantisation."""
    assert source.quantisation is not None
    write_bundle(path, replace(source.contents(), quantisation=replace(source.quantisation, **changes)))
    return open_bundle(path)


def test_what_a_calibrated_bundle_carries(calibrated: Path) -> None:
    bundle = open_bundle(calibrated)
    held = bundle.quantisation
    assert held is not None
    assert set(held.ranges) == set(bundle.graphs) - {"fusion"}
    assert held.ranges["teacher"]["images"] == 16
    assert held.ranges["teacher"]["method"] == "mse"
    assert held.ranges["teacher"]["graph_sha256"] == bundle.graph_sha256("teacher")
    assert set(held.plan["graphs"]) == set(held.ranges)
    assert held.proof.shape == (12, *bundle.image_size, 3)
    copy = bundle.contents()
    assert copy.quantisation is held


def test_int8_is_accepted_and_becomes_current(calibrated: Path) -> None:
    bundle = open_bundle(calibrated)
    report = build(bundle, "int8", threads=1)
    assert report.refusal is None
    assert report.gate is not None
    assert report.gate.losses["proof"].images == 12 * 6
    assert [row.branch for row in report.gate.losses["proof"].rows] == [*bundle.statistics.active, "score"]
    assert report.precisions["fusion"] == "fp32"
    assert report.precisions["lavit"] == "int8"
    assert engine_store.current(bundle) == engine_store.Current("onnxruntime", "int8")
    with Pipeline(bundle, precision="int8", threads=1) as small, Pipeline(bundle, threads=1) as full:
        a, b = (pipeline.infer(tiny_image(1)) for pipeline in (small, full))
        assert a.score == pytest.approx(b.score, abs=0.1)
        assert (a.raw != b.raw).any()
    json.dumps(report.to_json(), allow_nan=False)
    assert report.weight_bits == (8 if weight_limit() == 127 else 7)


def test_the_owner_reads_what_this_processor_lacks(calibrated: Path) -> None:
    report = replace(build(open_bundle(calibrated), "int8", threads=1), latency_ms={"fp32": 4.0, "int8": 3.0})
    assert replace(report, weight_bits=8).notes == ()
    assert "7 bits" in replace(report, weight_bits=7).notes[0]
    message = replace(report, weight_bits=8, latency_ms={"fp32": 3.0, "int8": 4.0})
    assert "int8 is no faster than fp32 on this processor (4.00 against 3.00 ms a frame)" in message.notes[0]
    assert message.to_json()["notes"] == list(message.notes)
    assert any(line == f"note: {message.notes[0]}" for line in describe(message))
    assert replace(message, backend="tensorrt").notes == ()  # its FP32 reference ran on the CPU


@pytest.mark.parametrize("lost", ["avx512_vnni", "asimddp"])
def test_an_engine_of_a_processor_with_other_kernels_is_refused(
    calibrated: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """Virtual machines of one name differ: weights of 8 bits would saturate where VNNI is masked."""
    here = {"system": "Linux", "architecture": "x86_64", "processor": "AMD EPYC", "instructions": f"avx2 {lost}"}
    bundle = open_bundle(calibrated)
    monkeypatch.setattr("edge_ad.engines.onnxruntime.machine", lambda: here)
    build(bundle, "int8", threads=1)
    Pipeline(bundle, precision="int8", threads=1).close()
    monkeypatch.setattr("edge_ad.engines.onnxruntime.machine", lambda: {**here, "instructions": "avx2"})
    with pytest.raises(BadInput, match=r"was made for machine .* rebuild with `edge-ad build-engine --int8`"):
        Pipeline(bundle, precision="int8", threads=1)


def test_ranges_times_a_tenth_are_refused(tmp_path: Path) -> None:
    """The gate names the worst nodes and writes the plan that passes; building with that plan then succeeds."""
    source = open_bundle(make_calibrated(tmp_path / "source.edgead", weight=GLOBAL, proof=12))
    assert source.quantisation is not None
    ranges = json.loads(json.dumps(source.quantisation.ranges))
    for graph in ranges.values():
        for held in graph["tensors"].values():
            held["low"] *= 0.1
            held["high"] *= 0.1
    bundle = rewritten(tmp_path / "broken.edgead", source, ranges=ranges)
    report = build(bundle, "int8", threads=1)
    assert report.refusal is not None
    assert report.folder is None
    assert "worst are efficientad: /efficientad/Conv_" in report.refusal
    plan = Path(f"{bundle.path}.engines/plan-cpu.json")
    assert f"--int8 --plan {plan}" in report.refusal
    assert build(bundle, "int8", threads=1, settings=EngineTable(plan=plan)).refusal is None


def streaming_lavit() -> bytes:
    """A small ``lavit`` with a residual stream that has one channel 1,000 times as large as the rest, then LayerNorm."""
    b = Builder("lavit")
    rng = np.random.default_rng(5)
    cells = 16
    outlier = np.zeros(CHANNELS)
    outlier[3] = 1000.0
    flat = b.op("Reshape", "tokens", b.const([CHANNELS, cells], np.int64))
    seen = b.op("MatMul", b.op("Sub", b.const(1.0), "masks"), b.op("Transpose", flat, perm=[1, 0]))
    stream = b.op("Add", seen, b.const(outlier), out="stream")
    inner = b.op("MatMul", stream, b.const(rng.normal(0, 0.001, (CHANNELS, CHANNELS))))
    stream = b.op("Add", stream, inner, out="stream_2")
    normal = b.op("LayerNormalization", stream, b.const(np.full(CHANNELS, 300.0)), b.const(np.zeros(CHANNELS)), axis=-1)
    wide = rng.normal(0.0, 0.3, (CHANNELS, 4 * CODES))
    others = [channel for channel in range(CHANNELS) if channel != 3]
    wide[3] = 0.0
    wide[others] -= wide[others].mean(axis=0)  # what LayerNorm takes from all channels alike must not matter
    logits = b.op("MatMul", normal, b.const(wide))
    index = b.const(np.arange(CODES).reshape(1, 1, 1, CODES), np.int32)
    hits = b.op("Equal", b.op("Unsqueeze", "codes", b.const([3], np.int64)), index)
    one_hot = b.op("Squeeze", b.op("Cast", hits, to=onnx.TensorProto.FLOAT), b.const([0], np.int64))
    share = b.op("Mul", b.op("Einsum", "masks", one_hot, equation="rc,lck->rlk"), b.const(1 / 8))
    guess = b.op("Softmax", b.op("Reshape", logits, b.const([MASKS, 4, CODES], np.int64)), axis=-1)
    error = b.op("ReduceSum", b.op("Abs", b.op("Sub", share, guess)), b.const([1, 2], np.int64), keepdims=0)
    b.op("ReduceMean", error, b.const([0], np.int64), keepdims=1, out="raw_logic")
    row = b.op("MatMul", b.op("Unsqueeze", error, b.const([0], np.int64)), "masks")
    b.op("Reshape", row, b.const([1, 1, 4, 4], np.int64), out="map_logic")
    inputs = [("tokens", "f32", (1, CHANNELS, 4, 4)), ("codes", "i32", (1, 4, cells)), ("masks", "f32", (MASKS, cells))]
    return b.build(inputs, [("raw_logic", "f32", (1,)), ("map_logic", "f32", (1, 1, 4, 4))])


def test_a_quantised_residual_stream_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Q/DQ on residual Adds and LayerNorm inputs, which the placement never writes: the gate sees what it does."""
    from tests.calibration.test_outside import insert_pair
    from tests.fixtures import tiny_bundle

    graphs = tiny_bundle.tiny_graphs
    monkeypatch.setattr(
        tiny_bundle, "tiny_graphs", lambda *given, **named: {**graphs(*given, **named), "lavit": streaming_lavit()}
    )
    path = make_calibrated(tmp_path / "stream.edgead", weight=(0.0, 1.0, 0.0, 0.0, 0.0), proof=16)
    bundle = open_bundle(path)
    model = onnx.load_model_from_string(bundle.graph("lavit"))
    for name in ("stream", "stream_2"):
        insert_pair(model, name, recipe_of(bundle).ranges["lavit"].tensors[name].magnitude / 127)
    broken = {"lavit": model.SerializeToString()}
    with (
        Pipeline(bundle, threads=1) as reference,
        Pipeline(bundle, backend=measuring_backend(broken.values(), 1), graphs=broken) as candidate,
    ):
        refused = measure_gate(candidate, reference, bundle).refused
    assert refused is not None
    proper = derive_int8(bundle, recipe_of(bundle), "tensorrt")
    before, after = (onnx.load_model_from_string(data).graph for data in (bundle.graph("lavit"), proper["lavit"]))
    adds = {node.output[0]: list(node.input) for node in before.node if node.op_type in ("Add", "LayerNormalization")}
    assert {node.output[0]: list(node.input) for node in after.node if node.output[0] in adds} == adds


def test_a_bundle_that_was_never_calibrated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_tiny_bundle(tmp_path / "old.edgead")
    assert open_bundle(path).quantisation is None
    assert main(["build-engine", str(path), "--int8"]) == 2
    message = capsys.readouterr().err
    assert "run `edge-ad calibrate" in message
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"plan": {"graphs": {}}}, "must be a plan of schema 1"),
        ({"plan": {"schema": 1, "graphs": {"teacher": {"graph_sha256": "0", "keep": {}}}}}, "is another graph"),
        ({"plan": {"schema": 1, "graphs": {"teacher": {}}}}, "graph_sha256 and keep"),
        ({"plan": {"schema": 1, "graphs": {}, "corrections": {"cpu": {"teacher": {"a": ["x"]}}}}}, "finite numbers"),
        ({"plan": {"schema": 1, "graphs": {}, "corrections": {"cpu": 3}}}, "finite numbers"),
        ({"ranges": {"teacher": {"schema": 1}}}, "hash of a graph"),
    ],
)
def test_a_damaged_plan(calibrated: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        recipe_of(rewritten(tmp_path / "b.edgead", open_bundle(calibrated), **change))


def test_an_edited_plan_that_names_an_unknown_node(calibrated: Path, tmp_path: Path) -> None:
    bundle = open_bundle(calibrated)
    assert bundle.quantisation is not None
    plan = json.loads(json.dumps(bundle.quantisation.plan))
    plan["graphs"]["lavit"]["keep"] = {"cpu": ["/lavit/Nose"]}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(BadInput, match="no node '/lavit/Nose'"):
        build(bundle, "int8", threads=1, settings=EngineTable(plan=tmp_path / "plan.json"))
    plan["graphs"]["lavit"]["keep"] = {"cpu": ["*"]}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    assert "lavit" not in derive_int8(bundle, recipe_of(bundle, tmp_path / "plan.json"), "cpu")
    with pytest.raises(BadInput, match="cannot read the plan"):
        recipe_of(bundle, tmp_path / "absent.json")


@pytest.mark.parametrize("value", [{"proof": np.zeros((0, 64, 64, 3), np.uint8)}, {"ranges": {"nose": {}}}])
def test_a_bundle_is_not_written_with_broken_quantisation(
    calibrated: Path, tmp_path: Path, value: dict[str, Any]
) -> None:
    with pytest.raises(BadInput, match="run `edge-ad calibrate` again"):
        rewritten(tmp_path / "b.edgead", open_bundle(calibrated), **value)


def test_parts_of_calibration_come_together(calibrated: Path, tmp_path: Path) -> None:
    assert isinstance(open_bundle(calibrated).quantisation, Quantisation)
    from edge_ad.bundle import contents

    held = json.loads(json.dumps(open_bundle(calibrated).manifest))
    del held["members"]["ranges.json"]
    with pytest.raises(BadInput, match="does not list 'ranges.json'"):
        contents.check_manifest(held, "b")


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "typings"), [("fp32", 1), ("fp16", 2), ("int8", 2)])
def test_every_graph_compiles_in_both_typings(calibrated: Path, precision: str, typings: int) -> None:
    bundle = open_bundle(calibrated)
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is made for x86-64 alone")
    sizes = check_compiles(bundle, precision)
    assert len(sizes) == typings * len(bundle.graphs)
    assert all(size > 5_000 for size in sizes.values())


def test_graphs_for_tensorrt_are_typed_as_the_build_is(calibrated: Path) -> None:
    bundle = open_bundle(calibrated)
    for precision, strong, half in (
        ("fp16", False, False),
        ("fp16", True, True),
        ("int8", True, True),
        ("int8", False, False),
    ):
        graphs = typed_graphs(bundle, precision, strong)
        assert set(graphs) == set(bundle.graphs)
        kinds = {
            tensor.data_type
            for held in graphs.values()
            for tensor in onnx.load_model_from_string(held.data).graph.initializer
        }
        assert (onnx.TensorProto.FLOAT16 in kinds) is half
        quantised = any(b"QuantizeLinear" in held.data for held in graphs.values())
        assert quantised is (precision == "int8")


def test_fp16_of_a_calibrated_bundle(calibrated: Path) -> None:
    assert set(derive(open_bundle(calibrated), "fp16")) == set(open_bundle(calibrated).graphs) - {"fusion"}


def images(count: int) -> list[Image]:
    return [tiny_image(number, blob=number % 2 == 1) for number in range(count)]


def test_only_what_follows_a_change_runs_again(calibrated: Path) -> None:
    bundle = open_bundle(calibrated)
    changed = derive_int8(bundle, recipe_of(bundle), "cpu")
    with Pipeline(bundle, threads=1) as full, Pipeline(bundle, threads=1, graphs=changed) as small:
        staged = PartialPipeline(full, images(5))
        np.testing.assert_array_equal(staged.reference, np.stack([full.infer(image).raw for image in images(5)]))
        wanted = np.stack([small.infer(image).raw for image in images(5)])
        np.testing.assert_allclose(staged.raw(changed), wanted, rtol=1e-6)
        np.testing.assert_array_equal(staged.raw({}), staged.reference)
        held = staged.raw({"teacher": bundle.graph("teacher")}, hold=("lavit",))
        np.testing.assert_allclose(held, staged.reference, rtol=1e-6)
        assert set(staged.feeds("lavit", 2)[1]) == {"tokens", "codes", "masks"}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_graphs_of_each_target_are_measured_in_its_arithmetic(calibrated: Path, dialect: str) -> None:
    """Those for TensorRT as they are written, those for the CPU in its kernels; to the bit, so nothing else was run."""
    bundle = open_bundle(calibrated)
    graphs = derive_int8(bundle, recipe_of(bundle), dialect)
    backend = measuring_backend(graphs.values(), 1)
    assert backend.as_written == (dialect == "tensorrt")
    assert not measuring_backend([], 1).as_written
    with (
        Pipeline(bundle, threads=1) as full,
        Pipeline(bundle, backend=OrtBackend(1, as_written=dialect == "tensorrt"), graphs=graphs) as alone,
        Pipeline(bundle, backend=OrtBackend(1, as_written=dialect != "tensorrt"), graphs=graphs) as other,
    ):
        result = PartialPipeline(full, images(4)).raw(graphs)
        wanted, otherwise = (np.stack([one.infer(image).raw for image in images(4)]) for one in (alone, other))
    np.testing.assert_array_equal(result, wanted)
    assert (result != otherwise).any()
