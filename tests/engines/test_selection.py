"""Which engine runs: never a silent fall-back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_ad.bundle import Bundle, open_bundle
from edge_ad.deployment.build import build
from edge_ad.engines.engine_store import Current, engines_folder
from edge_ad.engines.selection import choose, open_pipeline
from edge_ad.errors import BadInput
from edge_ad.utils.board import is_jetson
from tests.fixtures.tiny_bundle import make_tiny_bundle, tiny_image


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return open_bundle(make_tiny_bundle(tmp_path / "tiny.edgead"))


@pytest.fixture
def jetson(tmp_path: Path) -> Path:
    (tmp_path / "jetson" / "etc").mkdir(parents=True)
    (tmp_path / "jetson" / "etc" / "nv_tegra_release").write_text("# R36 (release), REVISION: 4.3")
    return tmp_path / "jetson"


@pytest.mark.usefixtures("stderr_log")
def test_without_an_engine_fp32_runs_and_reports_it(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    with open_pipeline(bundle) as pipeline:
        assert (pipeline.backend.name, pipeline.precision) == ("onnxruntime", "fp32")
        pipeline.infer(tiny_image(0))
    message = capsys.readouterr()
    assert message.out == ""
    assert "running onnxruntime fp32" in message.err


@pytest.mark.usefixtures("stderr_log")
def test_the_current_engine_runs_in_silence(bundle: Bundle, capsys: pytest.CaptureFixture[str], jetson: Path) -> None:
    build(bundle, "fp16", threads=1)
    with open_pipeline(bundle) as pipeline:
        assert pipeline.precision == "fp16"
    assert choose(bundle, None, None, jetson) == Current("onnxruntime", "fp16")
    assert choose(bundle, None, "fp32") == Current("onnxruntime", "fp32")
    assert choose(bundle, "onnxruntime", None) == Current("onnxruntime", "fp16")
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("stderr_log")
def test_what_is_asked_for_is_what_runs(bundle: Bundle, jetson: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert choose(bundle, "onnxruntime", "fp32", jetson) == Current("onnxruntime", "fp32")
    assert capsys.readouterr().err == ""
    with pytest.raises(BadInput, match="no fp16 engine for onnxruntime: run `edge-ad build-engine --fp16`"):
        open_pipeline(bundle, precision="fp16")


def test_on_a_jetson_without_an_engine_the_advice_is_to_build_one(bundle: Bundle, jetson: Path) -> None:
    with pytest.raises(BadInput, match="no engine for this Jetson: run `edge-ad build-engine --fp16`"):
        choose(bundle, None, None, jetson)
    with pytest.raises(BadInput, match="no engine for this Jetson"):
        choose(bundle, None, "fp32", jetson)


@pytest.mark.parametrize(
    ("model", "jetson"),
    [
        ("NVIDIA Jetson Orin Nano Developer Kit\0", True),
        ("NVIDIA Orin NX Developer Kit\0", True),
        ("Raspberry Pi 5 Model B Rev 1.0\0", False),
        (None, False),
    ],
)
def test_jetson_by_device_tree(tmp_path: Path, model: str | None, jetson: bool) -> None:
    if model is not None:
        (tmp_path / "proc" / "device-tree").mkdir(parents=True)
        (tmp_path / "proc" / "device-tree" / "model").write_text(model)
    assert is_jetson(tmp_path) is jetson


@pytest.mark.parametrize(
    ("backend", "precision", "message"),
    [
        (None, "fp8", "'fp8' is unknown; allowed are fp32, fp16, int8"),
        ("tensorrt", None, r"pip install 'edge-ad\[gpu\]'"),
        ("tensorrt", "fp16", r"pip install 'edge-ad\[gpu\]'"),
        ("openvino", None, "'openvino' is unknown; allowed are onnxruntime and tensorrt"),
    ],
)
def test_what_this_version_lacks(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, backend: str | None, precision: str | None, message: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # a machine where tensorrt is not installed
    with pytest.raises(BadInput, match=message):
        choose(bundle, backend, precision)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"schema": 1}', '{"schema": 9, "backend": "onnxruntime", "precision": "fp16"}']
)
def test_a_damaged_choice_means_rebuild(bundle: Bundle, text: str) -> None:
    engines_folder(bundle.path).mkdir()
    (engines_folder(bundle.path) / "current.json").write_text(text)
    with pytest.raises(BadInput, match="rebuild with `edge-ad build-engine --fp16`"):
        choose(bundle, None, None)


def test_a_choice_that_names_an_unknown_engine(bundle: Bundle) -> None:
    build(bundle, "fp16", threads=1)
    path = engines_folder(bundle.path) / "current.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"precision": "fp8"}))
    with pytest.raises(BadInput):
        open_pipeline(bundle)
