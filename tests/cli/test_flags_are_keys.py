"""Every lasting flag is also a key of edge-ad.toml, and a flag wins over its key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from edge_ad import config
from edge_ad.cli.app import COMMANDS, app, main
from edge_ad.config import Config, model_of
from tests.fixtures.tiny_bundle import make_tiny_bundle

# What one call asks for and no station would write down; the precision flags are the key engine.precision.
OF_ONE_CALL = {"--json", "--help", "--fp16", "--fp32", "--int8", "--each", "--part", "--data", "--review"}
OF_ONE_CALL |= {"--replace", "--keep-old", "--yes"}  # a decision about one lot
OF_ONE_CALL |= {"--verbose", "--quiet", "--log-format"}  # they hold while the file is read, too
OUT_OF_ONE_CALL = {"recalibrate"}
KEYED = ["capture", "train", "evaluate", "recalibrate", "calibrate", "build-engine", "run", "benchmark", "distill-teacher"]


def flags(command: str) -> dict[str, str]:
    """Return the long flags of a command with the names of their parameters."""
    parameters = typer.main.get_command(app).get_command(None, command).params  # type: ignore[attr-defined]
    return {name: parameter.name for parameter in parameters for name in parameter.opts if name.startswith("--")}


@pytest.mark.parametrize("command", KEYED)
def test_every_lasting_flag_is_a_key(command: str) -> None:
    tables = [model for model, named in map(model_of, Config.model_fields) if not named]
    keys = {key for table in tables for key in table.model_fields}
    exempt = OF_ONE_CALL | ({"--out"} if command in OUT_OF_ONE_CALL else set())
    missing = {flag: name for flag, name in flags(command).items() if flag not in exempt and name not in keys}
    assert not missing


@pytest.mark.parametrize(("arguments", "frames"), [([], 3), (["--frames", "2"], 2)])
def test_a_flag_wins_over_its_key(
    arguments: list[str], frames: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bundle = make_tiny_bundle(tmp_path / "runs" / "tiny.edgead")
    Path("edge-ad.toml").write_text('[benchmark]\nframes = 3\n[engine]\nprecision = "fp32"\nbackend = "onnxruntime"\n')
    assert main(["benchmark", str(bundle), "--json", "benchmark.json", *arguments]) == 0
    assert json.loads(Path("benchmark.json").read_text())["frames"] == frames


@pytest.mark.parametrize("command", [name for name, *_ in COMMANDS if name != "init"])
def test_a_fault_in_the_file_stops_every_command(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("edge-ad.toml").write_text("[run]\ncamra = 0\n")
    assert main([command]) == 2
    assert "did you mean 'camera'?" in capsys.readouterr().err


def test_the_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("edge-ad.toml").write_text("[run]\nroi = '0,0,8,8'\n")
    calls: list[str] = []
    parse = config.parse_config
    monkeypatch.setattr(config, "parse_config", lambda text, name: calls.append(name) or parse(text, name))  # type: ignore[func-returns-value]
    assert main(["outputs", "list"]) == 0
    assert main(["capture"]) == 2  # no camera
    assert main(["evaluate"]) == 2  # no test set
    assert calls == ["edge-ad.toml"] * 3
