"""The log: its lines as text and as JSON, its levels, what never stands in it, and a stderr that is gone."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
from typing import Any

import pytest

from edge_ad.utils.logs import log_arguments, log_handler, log_to_stderr

LOG = logging.getLogger("edge_ad.somewhere")
OTHER = logging.getLogger("another_package")
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


def records(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_text_has_time_level_and_the_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with log_to_stderr():
        LOG.warning("no images are kept: %s", "disk full")
    assert re.fullmatch(rf"{TIME} WARNING no images are kept: disk full\n", capsys.readouterr().err)


def test_json_has_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with log_to_stderr(log_format="json"):
        LOG.info("first\nsecond")
    lines = capsys.readouterr().err.splitlines()
    (record,) = map(json.loads, lines)
    assert re.fullmatch(TIME, record.pop("time"))
    assert record == {"level": "INFO", "logger": "edge_ad.somewhere", "message": "first\nsecond"}


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_time_is_that_of_the_record_in_utc(log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    record = LOG.makeRecord(LOG.name, logging.INFO, "", 0, "x", (), None)
    record.created = 951_782_400.25  # 2000-02-29: 11016 days after 1970
    with log_to_stderr(log_format=log_format):
        LOG.handle(record)
    assert "2000-02-29T00:00:00.250Z" in capsys.readouterr().err


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_exception_comes_with_its_traceback(log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    with log_to_stderr(log_format=log_format):
        try:
            raise ValueError("rtsp://me:pw@host is away\nsecond")
        except ValueError:
            LOG.exception("it failed")
    text = capsys.readouterr().err
    assert "Traceback (most recent call last):" in text
    assert "ValueError: rtsp://***@host is away" in text
    assert "pw" not in text
    if log_format == "json":
        (record,) = records(text)
        assert record["exception"].endswith("ValueError: rtsp://***@host is away\nsecond")
        assert record["message"] == "it failed"


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("DEBUG", ["debug", "info", "warning", "error", "other warning"]),
        ("INFO", ["info", "warning", "error", "other warning"]),
        ("WARNING", ["warning", "error", "other warning"]),
    ],
)
def test_a_level_hides_what_is_below_it(level: str, shown: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with log_to_stderr(level, "json"):
        for name in ("debug", "info", "warning", "error"):
            getattr(LOG, name)(name)
        OTHER.info("other info")
        OTHER.warning("other warning")
    assert [record["message"] for record in records(capsys.readouterr().err)] == shown


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize(
    ("message", "in_text", "in_json"),
    [
        ("mqtt://me:pw@broker is away", "mqtt://***@broker is away", "mqtt://***@broker is away"),
        ("password=pw", "password=***", "password=***"),
        ("part \udce4", r"part \xe4", r"part \xe4"),
        ("\ud800", r"\ud800", r"\ud800"),
        ("a\x1b[2Jb\nc", r"a\x1b[2Jb\x0ac", "a\\x1b[2Jb\nc"),
        ("100 %", "100 %", "100 %"),
        ("零", "零", "零"),
        ("", "", ""),
    ],
)
def test_whatever_a_message_holds_it_is_one_line_without_secrets(
    log_format: str, message: str, in_text: str, in_json: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(raw, encoding="utf-8"))  # strict: no surrogate passes
    with log_to_stderr(log_format=log_format):
        LOG.warning(message)
        OTHER.warning("%s", message)
    lines = raw.getvalue().decode().split("\n")
    assert len(lines) == 3
    for line in lines[:2]:
        if log_format == "json":
            assert json.loads(line)["message"] == in_json
        else:
            assert line.split(" WARNING ")[1] == in_text


def test_json_needs_no_encoding_but_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(raw, encoding="ascii", errors="backslashreplace"))
    with log_to_stderr(log_format="json"):
        LOG.warning("零 ä")
    assert json.loads(raw.getvalue())["message"] == "零 ä"


@pytest.mark.parametrize("fault", [BrokenPipeError(), OSError(28, "No space left on device"), ValueError("closed file")])
def test_a_stderr_that_cannot_be_written_ends_nothing(fault: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise fault

    monkeypatch.setattr(sys, "stderr", Broken())
    with log_to_stderr():
        LOG.error("lost")
        monkeypatch.setattr(sys, "stderr", None)
        LOG.error("lost as well")


@pytest.mark.parametrize(("message", "arguments"), [("%d parts", ("many",)), ("%s parts", (1, 2)), ("%(count)s", ({"a": 1},))])
def test_a_fault_in_a_message_ends_nothing(
    message: str, arguments: tuple[Any, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    record = LOG.makeRecord(LOG.name, logging.ERROR, "", 0, message, arguments, None)
    with log_to_stderr():
        handler = log_handler()
        assert handler is not None
        handler.handle(record)  # not through the logger: the handler of pytest raises
    assert "--- Logging error ---" in capsys.readouterr().err


def test_a_live_line_on_a_terminal_is_cleared_first(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with log_to_stderr():
        LOG.warning("x")
    assert screen.getvalue().startswith("\r\x1b[K2")


def test_the_set_up_ends_with_its_block() -> None:
    before = (list(logging.getLogger().handlers), LOG.getEffectiveLevel())
    with log_to_stderr("DEBUG", "json"):
        assert log_arguments() == ("DEBUG", "json")
    assert (list(logging.getLogger().handlers), LOG.getEffectiveLevel()) == before
    assert log_arguments() == ("WARNING", "text")


def test_a_program_that_sets_up_nothing_sees_warnings() -> None:
    code = """
import logging, edge_ad.inspection.inspector
log = logging.getLogger("edge_ad.somewhere")
log.info("hidden")
log.warning("seen")
assert not logging.getLogger().handlers
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "seen\n"
