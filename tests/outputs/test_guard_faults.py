"""Faults of wires and of the guard itself, as processes: failing pins, hung and killed guards, full pipes, silent peers."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymodbus.exceptions import ModbusException

from edge_ad.outputs.guard_client import GuardClient
from edge_ad.outputs.guard_state import Message
from edge_ad.outputs.modbus_server import MAX_CLIENTS
from tests.fixtures.loopback import free_port, until
from tests.outputs.board import CHIP, Board
from tests.outputs.peers import ReadingPlc, WrittenPlc
from tests.outputs.test_guard import HOLD_MS, ROOT, SLACK_S, feeding

pytestmark = pytest.mark.any_version

FOR_EVER_MS = 60_000.0


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    made = Board(tmp_path / "board")
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    yield made
    made.close()


@contextlib.contextmanager
def linked(uri: str, hold_ms: float = FOR_EVER_MS, **options: Any) -> Iterator[tuple[GuardClient, list[dict[str, Any]]]]:
    told: list[dict[str, Any]] = []
    link = GuardClient([uri], hold_ms, 1, told.append, **options)
    try:
        yield link, told
    finally:
        link.close()


def verdict(passed: bool, part: str = "1", call: float | None = None) -> Message:
    return Message("verdict", time.monotonic(), 0, "OK" if passed else "NG", passed, part, call)


def test_one_failed_write_does_not_leave_a_pin_energised(board: Board) -> None:
    with linked(f"{CHIP}?pass=17&heartbeat=22") as (link, told):
        link.send(verdict(True))
        assert until(lambda: board.level(17))
        board.fail("set")
        link.send(verdict(False))
        assert until(lambda: not board.level(17), SLACK_S)
        assert until(lambda: any(r["kind"] == "channel" and r["fault"] for r in told))
        link.send(verdict(True))
        assert until(lambda: board.level(17))  # and it works again
        assert until(lambda: told[-1] == {"kind": "channel", "name": "gpio:///dev/gpiochip0", "fault": None})
    assert until(lambda: not board.level(17))


def test_a_pin_that_is_changed_by_something_else_is_set_right_again(board: Board) -> None:
    with linked(f"{CHIP}?pass=17") as (link, _):
        link.send(verdict(False))
        board.force(17, True)
        assert until(lambda: not board.level(17), SLACK_S)


def rests(port: int) -> bool:
    """Whether a new connection is answered, and by no pass; one that the dying guard still took is cut with it."""
    plc = ReadingPlc(port)
    try:
        assert not plc.passed()
    except (ConnectionError, ModbusException):
        return False
    finally:
        plc.close()
    return True


@pytest.mark.parametrize("uri", ["gpio", "modbus-server"])
def test_a_guard_that_hangs_is_replaced_and_what_it_held_falls(uri: str, board: Board) -> None:
    port = free_port()
    address = f"{CHIP}?pass=17" if uri == "gpio" else f"modbus-server://127.0.0.1:{port}"
    with linked(address) as (link, _):
        link.send(verdict(True))
        plc = ReadingPlc(port) if uri == "modbus-server" else None
        assert until(lambda: plc.passed() if plc else board.level(17))
        first = link.pid
        os.kill(first, signal.SIGSTOP)  # and the inspector has nothing to say
        assert until(
            lambda: link.pid != first, 10
        )  # before that the hung one still takes connections, which die with it
        assert link.restarts == 1
        assert until(lambda: not board.level(17))
        if plc:
            with pytest.raises((ConnectionError, ModbusException, AssertionError)):
                plc.passed()  # the kernel has cut the connection
            assert until(lambda: rests(port))
            plc.close()


def test_a_guard_that_is_killed_is_replaced_before_the_next_message(board: Board) -> None:
    with linked(f"{CHIP}?pass=17") as (link, _):
        link.send(verdict(True))
        assert until(lambda: board.level(17))
        os.kill(link.pid, signal.SIGKILL)
        assert until(lambda: link.restarts == 1)
        assert until(lambda: not board.level(17))
        link.send(verdict(True))
        assert until(lambda: board.level(17))


def test_an_inspector_that_was_stopped_for_a_while_does_not_take_its_guard_for_hung() -> None:
    with feeding("modbus-server://127.0.0.1:0") as feeder:
        plc = ReadingPlc(feeder.first["port"])
        assert until(plc.passed)
        feeder.process.send_signal(signal.SIGSTOP)
        time.sleep(2.5)
        feeder.process.send_signal(signal.SIGCONT)
        assert until(plc.passed)
        time.sleep(1.5)
        assert plc.passed()  # the same connection: the guard was not replaced
        plc.close()


def test_a_flood_of_requests_while_the_inspector_is_stopped_does_not_hold_a_pass() -> None:
    with feeding("modbus-server://127.0.0.1:0") as feeder:
        plc = ReadingPlc(feeder.first["port"])
        assert until(plc.passed)
        feeder.process.send_signal(signal.SIGSTOP)
        for number in range(4000):  # more than 64 KiB of records for a pipe that nobody reads
            plc.client.write_coil(17, number % 2 == 0)
        assert until(lambda: not plc.passed(), HOLD_MS / 1000 + SLACK_S)
        plc.close()


def test_answers_that_nobody_reads_do_not_hold_a_pass() -> None:
    with feeding("modbus-server://127.0.0.1:0") as feeder:
        plc = ReadingPlc(feeder.first["port"])
        rude = socket.create_connection(("127.0.0.1", feeder.first["port"]), timeout=5)
        rude.setblocking(False)
        request = bytes.fromhex("000100000006010300000018")  # 24 registers
        with contextlib.suppress(BlockingIOError):
            while True:
                rude.send(request * 500)
        assert until(plc.passed)
        feeder.process.send_signal(signal.SIGSTOP)
        assert until(lambda: not plc.passed(), HOLD_MS / 1000 + SLACK_S)
        rude.close()
        plc.close()


def test_a_stopped_guard_answers_no_old_pass_when_it_goes_on(board: Board) -> None:
    with feeding("modbus-server://127.0.0.1:0") as feeder:
        plc = ReadingPlc(feeder.first["port"])
        assert until(plc.passed)
        feeder.process.send_signal(signal.SIGSTOP)  # so that nobody replaces the guard
        os.kill(feeder.first["guard"], signal.SIGSTOP)
        request = bytes.fromhex("000100000006010200000008")
        plc.client.socket.sendall(request)
        time.sleep(HOLD_MS / 1000 + 0.3)
        os.kill(feeder.first["guard"], signal.SIGCONT)
        plc.client.socket.settimeout(20)
        assert plc.client.socket.recv(100)[9] & 1 == 0
        plc.close()


def test_silent_connections_do_not_lock_the_plc_out() -> None:
    port = free_port()
    with linked(f"modbus-server://127.0.0.1:{port}"):
        plc = ReadingPlc(port)
        silent = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(3 * MAX_CLIENTS)]
        plc.close()
        again = ReadingPlc(port)
        assert again.bits()[1]
        for one in silent:
            one.close()
        again.close()


def test_a_plc_that_polls_keeps_its_connection_while_silent_ones_come_and_go() -> None:
    port = free_port()
    with linked(f"modbus-server://127.0.0.1:{port}"):
        plc = ReadingPlc(port)
        silent = []
        for _ in range(3 * MAX_CLIENTS):
            silent.append(socket.create_connection(("127.0.0.1", port), timeout=5))
            assert plc.client.connected
            plc.bits()
        for one in silent:
            one.close()
        plc.close()


def test_the_end_with_a_plc_connected_writes_no_traceback() -> None:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "edge_ad.outputs.guard"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(f'{{"outputs": ["modbus-server://127.0.0.1:{port}"], "hold_ms": 500, "cameras": 1}}\n')
    process.stdin.flush()
    plc = ReadingPlc(port)
    plc.bits()
    _, errors = process.communicate(timeout=30)
    plc.close()
    assert errors == ""
    assert process.returncode == 0


def test_an_edge_from_before_a_reconnect_is_no_new_call_and_takes_the_pass_back() -> None:
    port = free_port()
    plc = WrittenPlc(port)
    with linked(f"modbus://127.0.0.1:{port}", calls=True, trigger="modbus") as (link, told):
        assert until(lambda: plc.asked >= 3)
        plc.set_coil(17, True)
        assert until(lambda: any(record["kind"] == "trigger" for record in told))
        call = next(record["at"] for record in told if record["kind"] == "trigger")
        plc.close()
        plc = WrittenPlc(port, coils={17: True})
        assert until(lambda: plc.asked >= 3)
        link.send(verdict(True, call=call))
        asked = plc.asked
        assert until(lambda: plc.asked >= asked + 3)
        assert not plc.bits()[0]
        assert sum(record["kind"] == "trigger" for record in told) == 1
    plc.close()


@pytest.mark.parametrize(
    ("query", "size", "words"),
    [
        ("?base=40001", 64, "refuses to take coils 40001 to 40008 of unit 1.*no such address"),
        ("", None, "cannot be reached"),
    ],
)
def test_a_plc_that_does_not_take_what_is_written_is_told_once(query: str, size: int | None, words: str) -> None:
    import re

    port = free_port()
    plc = WrittenPlc(port) if size else None
    with linked(f"modbus://127.0.0.1:{port}{query}") as (link, told):
        assert until(lambda: any(record["kind"] == "channel" for record in told))
        time.sleep(1.0)
        faults = [record["fault"] for record in told if record["kind"] == "channel"]
        late = [fault for fault in faults if "no answer within" in fault]  # of a busy machine: another fault, told too
        assert 1 <= len(faults) - len(late) <= 1 + len(late)
        assert all(re.search(words, fault) for fault in faults if fault not in late)
        [state] = link.states()
        assert (state.proven, state.faults) == (False, 1)
        assert state.fault in faults
        if plc is None:
            plc = WrittenPlc(port)
            assert until(lambda: link.states()[0].fault is None)
            assert link.states()[0].proven
    if plc:
        plc.close()


def test_coils_that_somebody_else_writes_are_told() -> None:
    plc = WrittenPlc()
    with linked(f"modbus://127.0.0.1:{plc.port}") as (link, _):
        assert until(lambda: link.states()[0].proven)

        def shows_the_fault() -> bool:
            plc.set_coil(0, True)
            return "somebody else writes there" in (link.states()[0].fault or "")

        assert until(shows_the_fault)
    plc.close()
