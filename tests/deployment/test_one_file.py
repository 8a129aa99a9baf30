"""One ONNX file of a bundle gives what the pipeline gives, says what it is, and is refused where it does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from edge_ad.bundle import Bundle, open_bundle, write_bundle
from edge_ad.bundle.graphs import GRAPHS, graphs_of
from edge_ad.cli.app import main
from edge_ad.deployment import one_file
from edge_ad.deployment.calibrate import CalibrateOptions, with_quantisation
from edge_ad.deployment.derive import derive
from edge_ad.deployment.one_file import OUTPUTS, VERDICTS, OneFile, write_one_file
from edge_ad.engines import engine_store
from edge_ad.engines.backends import open_backend
from edge_ad.engines.pipeline import Pipeline
from edge_ad.errors import GateRefused
from edge_ad.scoring import BRANCHES, Thresholds
from tests.fixtures import memory_bundle
from tests.fixtures.located_bundle import VIEW, make_located_bundle
from tests.fixtures.tiny_bundle import WEIGHT, make_tiny_bundle, tiny_contents, tiny_image

# Images that took part in nothing before, from normal to far off: all three verdicts are among them.
IMAGES = [tiny_image(9000 + number, blob=number > 3) for number in range(8)]
NAMES = BRANCHES[: len(WEIGHT)]
Run = Callable[[NDArray[np.uint8]], dict[str, NDArray[Any]]]


def opened(path: Path) -> Run:
    """Return what runs a file with plain ONNX Runtime."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda image: dict(zip(OUTPUTS, session.run(list(OUTPUTS), {"image": image[None]}), strict=True))


def check_same(bundle: Bundle, written: OneFile, precision: str = "fp32") -> None:
    run = opened(written.path)
    with Pipeline(bundle, precision=precision) as pipeline:
        for image in IMAGES:
            given, wanted = run(image), pipeline.infer(image)
            scale = np.abs(wanted.z).max()
            np.testing.assert_allclose(given["z"], wanted.z, atol=1e-5 * scale)
            np.testing.assert_allclose(given["score"], [wanted.score], atol=1e-5 * scale)
            np.testing.assert_allclose(given["map"][0, 0], wanted.map, atol=1e-5 * np.abs(wanted.map).max())
            assert VERDICTS[given["verdict"][0]] == bundle.thresholds.verdict(wanted.score)


def test_all_outputs_are_those_of_the_pipeline(tiny_bundle: Bundle, tmp_path: Path) -> None:
    written = write_one_file(tiny_bundle, tmp_path / "part.onnx")
    check_same(tiny_bundle, written)
    run = opened(written.path)
    results = [run(image) for image in IMAGES]
    assert {int(result["verdict"][0]) for result in results} >= {0, 2}
    shapes = {name: (value.shape, value.dtype.name) for name, value in results[0].items()}
    branches = len(tiny_bundle.statistics.branches)
    assert shapes == {"score": ((1,), "float32"), "verdict": ((1,), "int32"), "map": ((1, 1, 256, 256), "float32"),
                      "z": ((branches,), "float32")}


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_lower_precisions_are_those_of_the_engine(precision: str, tmp_path: Path) -> None:
    learned = np.stack([tiny_image(6000 + number) for number in range(8)])
    contents = with_quantisation(
        tiny_contents(), tmp_path / "scratch.edgead", learned, learned, options=CalibrateOptions(search=False), report=print
    )
    write_bundle(tmp_path / "part.edgead", contents)
    bundle = open_bundle(tmp_path / "part.edgead")
    derived = derive(bundle, precision)
    assert derived
    graphs = {name: derived.get(name) or bundle.graph(name) for name in bundle.graphs}
    engine_store.store(bundle, open_backend("onnxruntime"), precision, graphs)
    written = write_one_file(bundle, tmp_path / "part.onnx", precision)
    check_same(bundle, written, precision)
    kinds = {node.op_type for node in onnx.load(written.path).graph.node}
    types = {tensor.data_type for tensor in onnx.load(written.path).graph.initializer}
    assert ("DequantizeLinear" in kinds) == (precision == "int8")  # 8-bit weights were not folded back
    assert (onnx.TensorProto.FLOAT16 in types) == (precision == "fp16")


@pytest.mark.parametrize("preset", ["fast", "paper"])
@pytest.mark.parametrize("dropped", [("logic",), ("structure", "logic"), ("local", "global"), ("composition",)])
def test_branches_of_weight_0_are_left_out(preset: str, dropped: tuple[str, ...], tmp_path: Path) -> None:
    kept = [name for name in NAMES if name not in dropped]
    weight = tuple(1 / len(kept) if name in kept else 0.0 for name in NAMES)
    bundle = open_bundle(make_tiny_bundle(tmp_path / "part.edgead", preset=preset, weight=weight))
    written = write_one_file(bundle, tmp_path / "part.onnx")
    check_same(bundle, written)
    wanted = set[str]().union(*map(graphs_of, kept)).intersection(bundle.graphs)
    assert list(written.graphs) == [name for name in GRAPHS if name in wanted]
    prefixes = {node.name.split("/")[0] for node in onnx.load(written.path).graph.node}
    assert prefixes == {*wanted, "verdict"}


@pytest.mark.parametrize("weight", [memory_bundle.WEIGHT, (0.2, 0.0, 0.4, 0.2, 0.2, 0.0)])
def test_the_memory_goes_along_where_it_has_a_weight(weight: tuple[float, ...], tmp_path: Path) -> None:
    bundle = open_bundle(memory_bundle.make_memory_bundle(tmp_path / "part.edgead", weight=weight))
    written = write_one_file(bundle, tmp_path / "part.onnx")
    check_same(bundle, written)
    assert ("memory" in written.graphs) == (weight[5] > 0)
    assert opened(written.path)(IMAGES[0])["z"].shape == (6,)


def test_nothing_is_computed_that_no_output_needs(tmp_path: Path) -> None:
    weight = tuple(float(name == "composition") for name in NAMES)
    bundle = open_bundle(make_tiny_bundle(tmp_path / "part.edgead", weight=weight))
    graph = onnx.load(write_one_file(bundle, tmp_path / "part.onnx").path).graph
    used = {name for node in graph.node for name in node.input}.union(OUTPUTS)
    assert all(used.intersection(node.output) for node in graph.node)
    assert {tensor.name for tensor in graph.initializer} <= used
    assert "tokens" not in used


def from_score_to_verdict(path: Path) -> bytes:
    """Return the last nodes of a file as a model of their own, whose input is the score."""
    model = onnx.load(path)
    nodes = [node for node in model.graph.node if node.name.startswith("verdict/")]
    constants = [tensor for tensor in model.graph.initializer if tensor.name.startswith("verdict/")]
    score, verdict = (next(entry for entry in model.graph.output if entry.name == name) for name in ("score", "verdict"))
    graph = onnx.helper.make_graph(nodes, "verdict", [score], [verdict], constants)
    part = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return bytes(part.SerializeToString())


# 0.1 as a 32-bit number lies above 0.1, and 0.7 below 0.7.
@pytest.mark.parametrize("warn", [0.1, 0.7, -0.1, -0.7, 0.0, 2.0])
def test_verdicts_of_scores_around_thresholds_are_those_of_the_bundle(warn: float, tmp_path: Path) -> None:
    thresholds = Thresholds(warn=warn, ng=warn + 1.0)
    write_bundle(tmp_path / "part.edgead", replace(tiny_contents(), thresholds=thresholds))
    written = write_one_file(open_bundle(tmp_path / "part.edgead"), tmp_path / "part.onnx")
    session = onnxruntime.InferenceSession(from_score_to_verdict(written.path), providers=["CPUExecutionProvider"])
    for threshold in (thresholds.warn, thresholds.ng):
        near = np.float32(threshold)
        for score in (np.nextafter(near, np.float32(-9)), near, np.nextafter(near, np.float32(9))):
            (verdict,) = session.run(None, {"score": score[None]})
            assert VERDICTS[verdict[0]] == thresholds.verdict(float(score)), float(score)
    for score in (np.nan, np.inf, -np.inf):  # the bundle's thresholds call these a fault: no part may pass
        assert session.run(None, {"score": np.array([score], np.float32)})[0].tolist() == [2]


def test_the_file_states_what_it_is(tiny_bundle: Bundle, tmp_path: Path) -> None:
    model = onnx.load(write_one_file(tiny_bundle, tmp_path / "part.onnx").path)
    texts = {prop.key.removeprefix("edge_ad."): prop.value for prop in model.metadata_props}
    assert texts["bundle_sha256"] == tiny_bundle.sha256
    assert texts["precision"] == "fp32"
    assert json.loads(texts["verdicts"]) == ["OK", "WARN", "NG"]
    assert json.loads(texts["branches"]) == tiny_bundle.manifest["branches"]
    assert json.loads(texts["thresholds"]) == {"warn": tiny_bundle.thresholds.warn, "ng": tiny_bundle.thresholds.ng}
    geometry = json.loads(texts["geometry"])
    assert (geometry["method"], geometry["input_size"], geometry["locates"]) == ("square", [64, 64], False)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    assert [entry.name for entry in model.graph.input] == ["image"]
    assert [entry.name for entry in model.graph.output] == list(OUTPUTS)


def test_a_bundle_that_locates_states_that_the_program_must(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_located_bundle(tmp_path / "part.edgead")
    assert main(["export", str(path), "--onnx", str(tmp_path / "part.onnx")]) == 0
    assert "the program must cut it out upright" in capsys.readouterr().out
    model = onnx.load(tmp_path / "part.onnx")
    geometry = next(json.loads(prop.value) for prop in model.metadata_props if prop.key == "edge_ad.geometry")
    assert (geometry["method"], geometry["locates"], geometry["image_size"]) == ("foreground", True, list(VIEW))
    assert geometry["locator"]["kind"] == "foreground"


def test_a_file_that_differs_is_refused_and_not_written(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = one_file.bound_constants

    def wrong(*arguments: Any) -> dict[str, Any]:
        constants = right(*arguments)
        return constants | {"mean": constants["mean"] + np.float32(0.01)}

    monkeypatch.setattr(one_file, "bound_constants", wrong)
    with pytest.raises(GateRefused, match=r"'score' of the file differs from the pipeline's by .* nothing was written"):
        write_one_file(tiny_bundle, tmp_path / "part.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["part.edgead"], "--onnx"),
        (["part.edgead", "--onnx", "part.txt"], "part.txt must end in .onnx"),
        (["part.edgead", "--onnx", "folder.onnx"], "it is a folder; name a file"),
        (["part.edgead", "--onnx", "part.edgead"], "part.edgead must end in .onnx"),
        (["none.edgead", "--onnx", "part.onnx"], "cannot read the bundle none.edgead"),
        (["--onnx", "part.onnx"], "no bundle (*.edgead) under"),
        (["part.edgead", "--onnx", "part.onnx", "--precision", "fp8"], "fp8"),
        (["part.edgead", "--onnx", "part.onnx", "--precision", "int8"], "`edge-ad build-engine --int8`; a file is made of"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_tiny_bundle(Path("part.edgead"))
    Path("folder.onnx").mkdir()
    assert main(["export", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not Path("part.onnx").exists()


def test_the_command_states_what_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_tiny_bundle(Path("runs/part.edgead"))
    Path("out.onnx").write_text("an older file")
    assert main(["export", "--onnx", "out.onnx"]) == 0
    printed = capsys.readouterr().out
    assert "out.onnx: fp32" in printed
    assert "image: uint8 [1, 64, 64, 3] RGB" in printed
    assert opened(Path("out.onnx"))(IMAGES[0])["score"].shape == (1,)
