"""--verbose, --quiet and --log-format: before the command and after `run`."""

from __future__ import annotations

import json
import logging
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from edge_ad.cli import app as app_module
from edge_ad.cli.app import main
from tests.fixtures.tiny_bundle import make_tiny_bundle

pytestmark = pytest.mark.any_version

RUN = ["run", "tiny.edgead", "--camera", "synthetic://line?frames=3&seed=1"]
NO_ENGINE = "no finished engine of tiny.edgead fits: running onnxruntime fp32; `edge-ad build-engine --fp16` makes one"


@pytest.fixture
def station(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_tiny_bundle(tmp_path / "tiny.edgead")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("before", "after", "levels"),
    [
        ([], [], {"INFO", "WARNING"}),
        (["--quiet"], [], {"WARNING"}),
        ([], ["--quiet"], {"WARNING"}),
        (["--verbose"], [], {"DEBUG", "INFO", "WARNING"}),
        ([], ["--verbose"], {"DEBUG", "INFO", "WARNING"}),
        (["--quiet"], ["--verbose"], {"DEBUG", "INFO", "WARNING"}),
    ],
)
def test_levels_of_a_run(
    before: list[str], after: list[str], levels: set[str], station: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The cascade says from where on it acts (INFO), and without an engine the run says what judges (WARNING).
    assert main([*before, "--log-format", "json", *RUN, "--cascade", "0.2", *after]) == 0
    printed = capsys.readouterr()
    records = [json.loads(line) for line in printed.err.splitlines()]
    assert {record["level"] for record in records} == levels
    assert [record["message"] for record in records if record["level"] == "WARNING"] == [NO_ENGINE]
    assert "captured" in printed.out  # the result is no record


@pytest.mark.parametrize("format_first", [False, True])
def test_format_before_and_after_the_command(
    format_first: bool, station: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    option = ["--log-format", "json"]
    assert main([*option, *RUN] if format_first else [*RUN, *option]) == 0
    (record,) = map(json.loads, capsys.readouterr().err.splitlines())
    assert (record["logger"], record["message"]) == ("edge_ad.engines.selection", NO_ENGINE)


def test_text_is_the_default(station: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(RUN) == 0
    assert re.fullmatch(rf"\S+Z WARNING {re.escape(NO_ENGINE)}\n", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--verbose", "--quiet", "info"], "--verbose and --quiet exclude each other: leave one out"),
        (["--log-format", "xml", "info"], "--log-format is 'xml': choose one of text, json"),
        ([*RUN, "--log-format", "xml"], "--log-format is 'xml': choose one of text, json"),
    ],
)
def test_rejects_options_that_do_not_fit(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err == f"error: {words}\n"


def failing(error: Exception) -> typer.Typer:
    single = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)

    @single.callback(invoke_without_command=True)
    def command(log_format: app_module.LogFormat = None) -> None:
        app_module.set_log_options(False, False, log_format)
        raise error

    return single


@pytest.mark.parametrize(
    ("error", "code", "record"),
    [
        (app_module.BadInput("no\nbundle"), 2, {"level": "ERROR", "message": "no bundle"}),
        (ZeroDivisionError("a bug"), 1, {"level": "CRITICAL", "message": "the program failed"}),
    ],
)
def test_the_end_of_a_service_is_a_record_too(
    error: Exception,
    code: int,
    record: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(app_module, "app", failing(error))
    assert main(["--log-format", "json"]) == code
    (found,) = map(json.loads, capsys.readouterr().err.splitlines())
    assert found.items() >= record.items()
    assert ("exception" in found) == (code == 1)


def test_a_command_leaves_no_handler_behind(station: Path) -> None:
    before = list(logging.getLogger().handlers)
    assert main(["--verbose", "info", "tiny.edgead"]) == 0
    assert logging.getLogger().handlers == before
    assert logging.getLogger("edge_ad").level == logging.NOTSET


@pytest.mark.parametrize("stderr", ["2>&-", "2>/dev/full"])
def test_a_stderr_that_is_closed_or_full_ends_no_run(stderr: str, station: Path) -> None:
    command = shlex.join([sys.executable, "-m", "edge_ad", "--verbose", *RUN])
    done = subprocess.run(["sh", "-c", f"exec {command} {stderr}"], stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0
    assert "captured" in done.stdout
