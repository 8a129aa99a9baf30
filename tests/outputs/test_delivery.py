"""Which output a URI is, and one that another package brings."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_ad.errors import BadInput
from edge_ad.outputs.delivery import BUILT_IN, Output, Pipelined, is_fast, make_output, scheme_of
from edge_ad.outputs.webhook import Webhook


@pytest.mark.parametrize(
    ("uri", "scheme", "fast"),
    [
        ("modbus://plc", "modbus", True),
        ("modbus-server://0.0.0.0", "modbus-server", True),
        ("GPIO://jetson?pass=7", "gpio", True),
        ("mqtt://host/x", "mqtt", False),
        (" https://host", "https", False),
        ("stdout:", "stdout", False),
        ("file:a.jsonl", "file", False),
        ("plain text", "", False),
        ("//host", "", False),
    ],
)
def test_schemes(uri: str, scheme: str, fast: bool) -> None:
    assert (scheme_of(uri), is_fast(uri)) == (scheme, fast)


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("mqtt://broker", "mqtt://broker:1883/edge-ad"),
        ("mqtt://broker:1884/hall%202/line/", "mqtt://broker:1884/hall 2/line"),
        ("mqtts://[::1]/x", "mqtts://[::1]:8883/x"),
        ("http://host/events", "http://host/events"),
        ("https://host:8443/a?b=c", "https://host:8443/a#4e31b6"),
        (
            "https://hooks.example/services/T000/B000/abcdefghijklmnopqrst",
            "https://hooks.example/services/T000/B000/***#ff0a1b",
        ),
        ("opcua://0.0.0.0", "opcua://0.0.0.0:4840"),
        ("opcua://[::]:4841", "opcua://[::]:4841"),
        ("stdout:", "stdout:"),
        ("file:out/events.jsonl", "file:out/events.jsonl"),
        ("file:///var/log/events.jsonl", "file:/var/log/events.jsonl"),
    ],
)
def test_names_are_stable_and_hold_no_secret(uri: str, name: str) -> None:
    output: Output = make_output(uri)
    assert output.name.partition("#")[0] == name.partition("#")[0]
    assert make_output(uri).name == output.name
    assert ("#" in output.name) == ("#" in name)


def test_addresses_that_differ_in_what_is_hidden_are_different_outputs() -> None:
    assert Webhook("https://h/a?token=one").name != Webhook("https://h/a?token=two").name


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "broker",
        "amqp://broker",
        "mqtt://",
        "mqtt:///x",
        "mqtt://broker:99999/x",
        "mqtt://broker/a/+/b",
        "mqtt://broker/#",
        "mqtt://broker/x?ca=/etc/passwd",
        "mqtts://broker/x?ca=/nowhere/ca.pem",
        "mqtts://broker/x?key=/etc/passwd",
        "mqtts://broker/x?psk=1",
        "mqtts://broker/x?ca",
        "http://",
        "https:///path",
        "https://host:0x50/",
        "https://host/a#b",
        "https://host/a b",
        "opcua://",
        "opcua://host/path",
        "opcua://host?cert=/etc/passwd",
        "opcua://host?cert=/nowhere&key=/nowhere",
        "opcua://host:99999",
        "stdout:x",
        "file:",
        "file:/",
    ],
)
def test_wrong_addresses_are_reported_in_a_sentence(uri: str) -> None:
    with pytest.raises(BadInput, match="--alarm"):
        make_output(uri)


@pytest.mark.parametrize("scheme", [*sorted(set(BUILT_IN) - {"stdout", "file"}), "amqp"])
@pytest.mark.parametrize(
    "rest",
    [
        "//Zqme:Zqpw@host:1/x",
        "//Zqme@host",
        "Zqme:Zqpw@host",
        "//Zqme:Zq/pw@host/x",  # the port would be Zq
        "//Zqme:Zq?pw@host/x",
        "//host:99999/x?token=Zqpw",
    ],
)
def test_a_user_or_password_in_an_address_is_refused_and_not_repeated(scheme: str, rest: str) -> None:
    with pytest.raises(BadInput, match="--alarm") as error:
        make_output(f"{scheme}:{rest}")
    assert "Zq" not in str(error.value)


def test_a_refused_webhook_reports_no_more_than_its_host() -> None:
    with pytest.raises(BadInput, match=r"--alarm https://hooks.example/\*\*\* is no web address") as error:
        make_output("https://hooks.example/services/Zq#x")
    assert "Zq" not in str(error.value)


@given(st.sampled_from(sorted(BUILT_IN)), st.text(max_size=30))
def test_any_text_is_an_output_or_bad_input(scheme: str, text: str) -> None:
    for uri in (f"{scheme}:{text}", f"{scheme}://{text}", f"{scheme}://h/{text}", f"{scheme}://h?{text}"):
        try:
            output = make_output(uri)
        except BadInput:
            continue
        assert isinstance(output.name, str)


def install(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a package with an entry point where an installer would."""
    (folder / "shift_light.py").write_text(textwrap.dedent(body))
    info = folder / "shift_light-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shift-light\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[edge_ad.outputs]\nshift-light = shift_light:ShiftLight\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "shift_light", raising=False)


def test_another_package_brings_an_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = """
    from pathlib import Path

    class ShiftLight:
        spooled = True

        def __init__(self, uri):
            self.name = uri

        def open(self):
            pass

        def deliver(self, line):
            with Path(self.name.partition(":")[2]).open("a") as stream:
                stream.write(line + "\\n")

        def close(self):
            pass
    """
    install(tmp_path, body, monkeypatch)
    output = make_output(f"shift-light:{tmp_path}/lamp")
    assert not isinstance(output, Pipelined)
    output.open()
    output.deliver("{}")
    output.close()
    assert (tmp_path / "lamp").read_text() == "{}\n"
    with pytest.raises(BadInput, match="installed packages add shift-light:"):
        make_output("amqp://host")


def test_a_package_that_cannot_be_loaded_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "raise RuntimeError('no lamp')", monkeypatch)
    with pytest.raises(BadInput, match="shift-light.*RuntimeError: no lamp"):
        make_output("shift-light:x")
