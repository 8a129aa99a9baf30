"""A second run beside the first: refused, with its holder, unless it drives nothing; and what a run asks of its outputs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_ad.cli.app import main
from tests.fixtures.loopback import free_port, until
from tests.fixtures.tiny_bundle import make_tiny_bundle
from tests.outputs.peers import ReadingPlc, WrittenPlc

pytestmark = pytest.mark.any_version

ROOT = Path(__file__).parents[2]
ENDLESS = "synthetic://line?fps=20"


@pytest.fixture
def station(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_tiny_bundle(tmp_path / "runs" / "tiny.edgead")
    return tmp_path


def settings(station: Path, alarm: str, store: str = "line.sqlite") -> None:
    (station / "edge-ad.toml").write_text(
        f'[run]\nalarm = ["{alarm}"]\nstore = "{store}"\nevents = "e.jsonl"\n'
        '[engine]\nbackend = "onnxruntime"\nprecision = "fp32"\n'
    )


@pytest.fixture
def first(station: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A run of the station, with the port that its PLC reads."""
    port = free_port()
    settings(station, f"modbus-server://127.0.0.1:{port}")
    process = subprocess.Popen(
        [sys.executable, "-m", "edge_ad", "run", "--camera", ENDLESS],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert until(lambda: (station / "e.jsonl").exists() and (station / "e.jsonl").read_text(), 120)
    yield process, port
    process.kill()
    process.communicate()


def test_a_second_run_in_the_folder_is_refused_and_names_the_first(
    first: tuple[subprocess.Popen[str], int], station: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process, port = first
    assert main(["run", "--camera", "synthetic://line?frames=2"]) == 2
    message = capsys.readouterr().err
    assert "the store line.sqlite is in use by" in message
    assert f"process {process.pid} on" in message
    assert str(station) in message
    settings(station, f"modbus-server://127.0.0.1:{port}", store="other.sqlite")
    assert main(["run", "--camera", "synthetic://line?frames=2"]) == 2
    message = capsys.readouterr().err
    assert f"modbus-server://127.0.0.1:{port} is in use by process {process.pid} on" in message


def test_a_trial_beside_a_run_writes_nothing_of_the_station(
    first: tuple[subprocess.Popen[str], int], station: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--no-outputs", "--camera", "synthetic://line?frames=3&seed=9", "--events", "trial.jsonl"]) == 0
    assert len((station / "trial.jsonl").read_text().splitlines()) == 3
    assert '"frame":0' in (station / "trial.jsonl").read_text()
    plc = ReadingPlc(first[1])
    assert plc.bits()[3]  # the first one goes on
    plc.close()
    assert main(["run", "--no-outputs", "--camera", ENDLESS, "--alarm", "stdout:"]) == 2
    assert "exclude each other" in capsys.readouterr().err


@pytest.mark.parametrize(("base", "code"), [(0, 0), (40001, 3)])
def test_required_alarms_must_work_before_the_start(
    base: int, code: int, station: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("edge_ad.inspection.assembly.PROVE_S", 3.0)
    plc = WrittenPlc()
    settings(station, f"modbus://127.0.0.1:{plc.port}?base={base}")
    assert main(["run", "--camera", "synthetic://line?frames=2", "--require-alarms"]) == code
    message = capsys.readouterr().err
    assert ("refuses to take coils 40001 to 40008" in message) == bool(code)
    plc.close()


@pytest.mark.parametrize(("base", "code"), [(0, 0), (40001, 3)])
def test_a_reject_that_was_not_taken_is_reported(
    base: int, code: int, station: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plc = WrittenPlc(coils={0: True})
    assert main(["outputs", "reject", "--alarm", f"modbus://127.0.0.1:{plc.port}?base={base}"]) == code
    assert plc.bits()[:2] == ([True, False] if code else [False, True])
    assert ("no reject could be shown on modbus://127.0.0.1" in capsys.readouterr().err) == bool(code)
    plc.close()


def test_a_reject_on_a_plc_that_is_away_is_reported(station: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["outputs", "reject", "--alarm", f"modbus://127.0.0.1:{free_port()}"]) == 3
    assert "cannot be reached" in capsys.readouterr().err


@pytest.mark.parametrize(("base", "words"), [(0, "answers"), (40001, "no such address")])
def test_the_list_states_whether_a_plc_answers(
    base: int, words: str, station: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plc = WrittenPlc()
    assert main(["outputs", "list", "--alarm", f"modbus://127.0.0.1:{plc.port}?base={base}"]) == 0
    assert words in capsys.readouterr().out
    plc.close()
    assert main(["outputs", "list", "--alarm", f"modbus://127.0.0.1:{plc.port}"]) == 0
    assert "cannot be reached" in capsys.readouterr().out
