"""`edge-ad run` with slow outputs, and `edge-ad outputs`."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from edge_ad.cli.app import main
from edge_ad.events import schema
from edge_ad.inspection.inspector import RunOptions, inspect
from tests.fixtures.loopback import free_port
from tests.fixtures.tiny_bundle import make_tiny_bundle
from tests.inspection.line import settings_of
from tests.outputs.events import frames

RUN = ["run", "--camera", "synthetic://line?frames=6&fps=50", "--backend", "onnxruntime", "--precision", "fp32"]


@pytest.fixture
def station(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_tiny_bundle(tmp_path / "runs" / "tiny.edgead")
    return tmp_path


def test_lines_on_standard_output_and_in_a_file_and_a_broker_that_is_away(
    station: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    away = f"mqtt://127.0.0.1:{free_port()}/line"
    outputs = f'alarm = ["stdout:", "file:out.jsonl", "{away}"]\n'
    (station / "edge-ad.toml").write_text(f"[run]\n{outputs}")
    assert main([*RUN, "--events", "events.jsonl"]) == 0
    message = capfd.readouterr()
    events = (station / "events.jsonl").read_text().splitlines()
    assert frames(events) == list(range(6))
    for delivered in (message.out.splitlines(), (station / "out.jsonl").read_text().splitlines()):
        assert [json.loads(text) for text in delivered] == [{"schema": 1, **json.loads(text)} for text in events]
    assert "captured" in message.err  # the table goes where the lines do not
    assert f"output {away}: ConnectionRefusedError" in message.err

    assert main(["outputs", "list"]) == 0
    rows = {row.split()[0]: row.split()[1:] for row in capfd.readouterr().out.splitlines()}
    assert rows[away] == ["6", "0", "0", "0"]
    assert rows["file:out.jsonl"] == ["0", "6", "0", "0"]

    (station / "edge-ad.toml").write_text('[run]\nalarm = ["modbus://plc", "opcua://0.0.0.0"]\n')
    assert main(["outputs", "list"]) == 0
    listed = capfd.readouterr().out
    assert "modbus://plc" in listed
    assert "the latest, not kept" in listed
    assert listed.count("not set now") == 3
    assert main(["outputs", "drop", away]) == 0
    assert "6 events are given up" in capfd.readouterr().out
    assert main(["outputs", "retry", away]) == 0
    assert "0 events wait again" in capfd.readouterr().out
    with sqlite3.connect(station / "runs" / "line.sqlite") as connection:
        assert connection.execute("SELECT count(*) FROM event").fetchone() == (6,)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["outputs", "explode"], "unknown action 'explode'"),
        (["outputs", "drop"], "no such output"),
        (["outputs", "drop", "mqtt://nobody"], "no output is known"),
        (["outputs", "list", "--alarm", "amqp://x"], "no output; allowed are"),
        (["outputs", "reject", "--alarm", "mqtt://me:s3cret@host"], "EDGE_AD_MQTT_USER"),
        ([*RUN, "--alarm", "https://me:s3cret@host/x"], "EDGE_AD_WEBHOOK_TOKEN"),
        ([*RUN, "--alarm", "stdout:", "--alarm", "stdout:"], "named twice"),
    ],
)
def test_mistakes_are_reported(words: list[str], message: str, station: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    result = capsys.readouterr().err
    assert message in result
    assert "s3cret" not in result


def test_nothing_is_set_and_the_schema(station: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["outputs", "list"]) == 0
    assert "none; allowed are modbus://" in capsys.readouterr().out
    assert main(["outputs", "schema"]) == 0
    assert json.loads(capsys.readouterr().out) == schema()
    assert not (station / "runs" / "line.sqlite").exists()


def test_an_output_brings_a_store(station: Path) -> None:
    options = RunOptions(settings_of(alarm=["file:events.jsonl"]))
    inspect(station / "runs" / "tiny.edgead", "synthetic://line?frames=1", options)
    assert (station / "runs" / "line.sqlite").exists()
    assert len((station / "events.jsonl").read_text().splitlines()) == 1
