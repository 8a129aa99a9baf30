"""Triggers from this process and from a socket; those of a PLC are tested with the guard."""

from __future__ import annotations

import io
import os
import socket
import time
from pathlib import Path

import pytest

from edge_ad.errors import BadInput
from edge_ad.inspection.part_tracking import Calls
from edge_ad.inspection.triggers import TriggerAddress, open_trigger, parse_trigger
from edge_ad.utils.text import part_id
from tests.fixtures.loopback import until


@pytest.mark.parametrize(
    ("text", "outputs", "address"),
    [
        ("software", [], TriggerAddress("software")),
        ("camera", [], TriggerAddress("camera")),
        ("software:/run/x", [], TriggerAddress("software", "/run/x")),
        ("modbus", ["modbus://plc"], TriggerAddress("modbus")),
        ("modbus", ["modbus-server://0.0.0.0"], TriggerAddress("modbus")),
        ("gpio", ["gpio:///dev/gpiochip0?pass=1&trigger=2"], TriggerAddress("gpio")),
        ("s7", ["s7://plc/DB10"], TriggerAddress("s7")),
        ("enip", ["enip://plc/EdgeAD"], TriggerAddress("enip")),
    ],
)
def test_addresses(text: str, outputs: list[str], address: TriggerAddress) -> None:
    assert parse_trigger(text, outputs) == address


@pytest.mark.parametrize(
    ("text", "outputs"),
    [
        ("", []),
        ("mqtt", []),
        ("software:", []),
        ("modbus", []),
        ("modbus", ["gpio:///dev/gpiochip0?pass=1"]),
        ("modbus:x", ["modbus://plc"]),
        ("s7", ["modbus://plc"]),
        ("s7:x", ["s7://plc/DB10"]),
        ("enip", []),
        ("gpio", ["gpio:///dev/gpiochip0?pass=1"]),
    ],
)
def test_refused(text: str, outputs: list[str]) -> None:
    with pytest.raises(BadInput, match="--trigger"):
        parse_trigger(text, outputs)


def test_a_socket_calls_for_parts_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "trigger"
    calls = Calls()
    queue, other = calls.subscribe(), calls.subscribe()
    for _ in range(2):  # the second one finds the socket of the first
        trigger = open_trigger(TriggerAddress("software", str(path)), calls)
        assert trigger is not None
        before, count = time.monotonic(), len(queue)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"A-17\n", str(path))
            sender.sendto(b"", str(path))
        assert until(lambda expected=count + 2: len(queue) == expected)
        assert queue[-2].part == "A-17"
        assert before <= queue[-1].at <= time.monotonic()
        trigger.close()
        assert not path.exists()
    assert [call.part for call in queue] == ["A-17", "2", "A-17", "4"]
    assert list(queue) == list(other)


def test_lines_call_for_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("one\n\ntwo\n"))
    calls = Calls()
    queue = calls.subscribe()
    open_trigger(TriggerAddress("software"), calls)
    assert until(lambda: len(queue) == 3)
    assert [call.part for call in queue] == ["one", "2", "two"]


def test_a_socket_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="name another path"):
        open_trigger(TriggerAddress("software", str(tmp_path / "no" / "folder")), Calls())
    (tmp_path / "file").write_text("keep me")
    with pytest.raises(BadInput):
        open_trigger(TriggerAddress("software", str(tmp_path / "file")), Calls())
    assert (tmp_path / "file").read_text() == "keep me"


@pytest.mark.parametrize(
    ("text", "clean"), [("a b\n", "a b"), ("\x1b[31mred", "[31mred"), ("x" * 99, "x" * 64), ("", "")]
)
def test_ids_are_printable_and_short(text: str, clean: str) -> None:
    assert part_id(text) == clean


def test_only_a_socket_of_an_ended_run_is_replaced(tmp_path: Path) -> None:
    """A pipe, a device or another program's socket in its place was taken away."""

    def opened(path: Path) -> None:
        trigger = open_trigger(TriggerAddress("software", str(path)), Calls())
        assert trigger is not None
        trigger.close()

    pipe, kept, link = tmp_path / "pipe", tmp_path / "kept", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(kept))
        for path in (pipe, kept, link):
            with pytest.raises(BadInput, match="name another path"):
                opened(path)
            assert path.exists()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"still mine", str(kept))
        assert other.recv(100) == b"still mine"
    opened(kept)  # nobody reads it any more
    assert not kept.exists()
