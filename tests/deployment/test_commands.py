"""`edge-ad build-engine` and `edge-ad benchmark` from the outside: exit codes, tables, JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_ad import __version__
from edge_ad.cli.app import main
from tests.fixtures.tiny_bundle import make_tiny_bundle


@pytest.fixture
def station(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with one trained bundle under runs/."""
    make_tiny_bundle(tmp_path / "runs" / "first" / "tiny.edgead")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_build_then_benchmark_without_further_arguments(station: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build-engine", "--fp16", "--json", "parity.json"]) == 0
    printed = capsys.readouterr().out
    for branch in ("structure", "logic", "local", "global", "composition", "score"):
        assert f"\n{branch} " in printed
    for word in ("verdict flips: 0", "latency p50", "accepted"):
        assert word in printed
    report = json.loads((station / "parity.json").read_text())
    assert report["accepted"] is True
    assert (report["backend"], report["precision"]) == ("onnxruntime", "fp16")
    assert set(report["error_z"]) == {"structure", "logic", "local", "global", "composition", "score"}
    assert report["verdict_flips"] == 0
    assert set(report["latency_ms_p50"]) == {"fp32", "fp16"}

    assert main(["benchmark", "--frames", "5", "--warm-up", "1", "--soak", "0.005", "--json", "times.json"]) == 0
    message = capsys.readouterr()
    assert message.err == ""
    assert "end to end" in message.out
    times = json.loads((station / "times.json").read_text())
    assert (times["backend"], times["precision"], times["frames"], times["warm_up"]) == ("onnxruntime", "fp16", 5, 1)
    assert "that the engines alone allow" in message.out
    assert times["throughput"]["share"] > 0
    assert set(times["device"]) == {"board", "power mode", "clocks", "temperature", "throttling"}
    assert times["soak"][0]["device"] == times["device"]
    assert times["machine"]["edge_ad"] == __version__
    assert len(times["bundle"]["sha256"]) == 64
    assert {"board", "jetpack", "l4t", "processor", "cores", "memory_bytes", "kernel"} <= set(times["machine"])


def test_a_refused_engine_ends_with_4(station: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_tiny_bundle(station / "overflow.edgead", gain=1e6)
    assert main(["build-engine", "overflow.edgead", "--fp16", "--json", "parity.json"]) == 4
    message = capsys.readouterr()
    assert "beyond tolerance" in message.out
    assert message.err.startswith("error: ")
    assert message.err.count("\n") == 1
    assert "change teacher from fp16 to fp32" in message.err
    report = json.loads((station / "parity.json").read_text())
    assert (report["accepted"], report["engine"]) == (False, None)
    assert "teacher" in report["refusal"]
    assert not (station / "overflow.edgead.engines").exists()
    assert main(["build-engine", "overflow.edgead", "--fp16", "--keep-fp32", "teacher"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build-engine"], "no precision was given: add --fp16 (recommended), --int8 or --fp32"),
        (["build-engine", "--fp16", "--fp32"], "--fp16 and --fp32 exclude each other"),
        (["build-engine", "--int8"], "holds no INT8 ranges: run `edge-ad calibrate"),
        (["build-engine", "--fp16", "--backend", "abacus"], "--backend is 'abacus'"),
        (["build-engine", "--fp16", "--keep-fp32", "nose"], "'nose' is not a graph of"),
        (["build-engine", "absent.edgead", "--fp16"], "absent.edgead"),
        (["benchmark", "--precision", "fp16"], "no fp16 engine for onnxruntime: run `edge-ad build-engine --fp16`"),
        (["benchmark", "--precision", "int8"], "no int8 engine for onnxruntime: run `edge-ad build-engine --int8`"),
        (["benchmark", "--precision", "fp8"], "--precision is 'fp8'"),
        (["benchmark", "--frames", "0"], "--frames"),
    ],
)
def test_bad_input_ends_with_2(
    station: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


def test_the_precision_of_the_settings_is_the_default(station: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (station / "edge-ad.toml").write_text('[engine]\nprecision = "fp32"\n')
    assert main(["build-engine"]) == 0
    assert "onnxruntime fp32" in capsys.readouterr().out
    (station / "edge-ad.toml").write_text('[engine]\nprecision = "int8"\n')
    assert main(["benchmark"]) == 2
