"""S7 and EtherNet/IP outputs in the commands: run, outputs list, outputs reject, and mistakes."""

from __future__ import annotations

import importlib.util
import threading
from pathlib import Path
from typing import Any

import pytest

from edge_ad.cli.app import main
from edge_ad.outputs.signals import OutputSignals
from tests.fixtures.loopback import free_port, until
from tests.fixtures.tiny_bundle import make_tiny_bundle
from tests.outputs.plcs import KINDS, plc_of, uri_of

pytest.importorskip("snap7")
pytest.importorskip("pylogix")
RUN = ["run", "--camera", "synthetic://line?frames=6&fps=50", "--backend", "onnxruntime", "--precision", "fp32"]
both = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def station(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_tiny_bundle(tmp_path / "runs" / "tiny.edgead")
    return tmp_path


@both
def test_a_run_writes_its_verdicts_and_leaves_a_reject(kind: str, station: Path) -> None:
    numbers: set[int] = set()
    with plc_of(kind) as plc:
        over = threading.Event()
        looking = threading.Thread(target=lambda: until(lambda: numbers.add(plc.words()[2]) or over.is_set(), 60))
        looking.start()
        assert main([*RUN, "--realtime", "--output", uri_of(kind, plc.port), "--require-alarms"]) == 0
        assert until(lambda: plc.words()[0] & 0b11 == 0b10)
        over.set()
        looking.join()
    assert max(numbers) > 0


@both
def test_a_required_plc_that_is_away_refuses_the_start(
    kind: str, station: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("edge_ad.inspection.assembly.PROVE_S", 3.0)
    assert main([*RUN, "--output", uri_of(kind, free_port()), "--require-alarms"]) == 3
    assert "it cannot be reached" in capsys.readouterr().err


@both
def test_a_reject_is_shown_and_the_list_states_how_the_plc_stands(
    kind: str, station: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with plc_of(kind) as plc:
        uri = uri_of(kind, plc.port)
        plc.put(0, (0b101,))
        assert main(["outputs", "reject", "--alarm", uri]) == 0
        assert plc.words()[:24] == OutputSignals().registers()
        assert main(["outputs", "list", "--alarm", uri]) == 0
        assert capsys.readouterr().out.splitlines()[-1].endswith("  answers")
        assert main(["outputs", "list", "--alarm", f"{uri}1"]) == 0  # DB101, EdgeAD1
        assert "refuses to read" in capsys.readouterr().out
        assert main(["outputs", "reject", "--alarm", f"{uri}1"]) == 3
        assert "no reject could be shown on" in capsys.readouterr().err
    assert main(["outputs", "list", "--alarm", uri]) == 0
    assert "cannot be reached" in capsys.readouterr().out


@both
def test_a_package_that_is_missing_is_named_with_its_extra(
    kind: str, station: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.util.find_spec

    def missing(name: str, *arguments: Any) -> Any:
        return None if name in ("snap7", "pylogix") else real(name, *arguments)

    monkeypatch.setattr("importlib.util.find_spec", missing)
    uri = uri_of(kind, 1)
    assert main([*RUN, "--alarm", uri]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "pip install 'edge-ad[plc]'" in message
    assert main(["outputs", "list", "--alarm", uri]) == 0
    assert "needs the package" in capsys.readouterr().out
    assert main(["outputs", "reject", "--alarm", uri]) in (2, 3)
    assert "pip install 'edge-ad[plc]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("s7://plc", "names no data block: write s7://HOST/DB10"),
        ("s7://plc/DB10?base=7", "an even base"),
        ("s7://plc/DB10?speed=1", "allowed settings are base, rack, slot"),
        ("s7://plc/DB10?rack=x", "rack must be a whole number"),
        ("enip://plc/tag[3]", "names no tag: write enip://HOST/EdgeAD"),
        ("enip://[::1]/EdgeAD", "IPv4"),
        ("enip://me:s3cret@plc/EdgeAD", "has an @"),
    ],
)
def test_mistakes_are_reported_in_a_sentence(
    uri: str, words: str, station: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*RUN, "--output", uri]) == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1
    assert "s3cret" not in message


@both
def test_a_trigger_needs_its_output(kind: str, station: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--trigger", kind, "--output", "stdout:"]) == 2
    assert f"--trigger {kind} needs the PLC as --alarm {kind}://HOST/" in capsys.readouterr().err
