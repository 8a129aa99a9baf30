"""A verdict that comes too late for its part, played by PLCs against the real guard: the next part must not go with it."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_ad.outputs.guard_client import GuardClient
from edge_ad.outputs.guard_state import Message
from edge_ad.outputs.signals import registers_text, text_registers
from tests.fixtures.loopback import free_port, until
from tests.outputs.board import CHIP, Board
from tests.outputs.peers import ReadingPlc, WrittenPlc

pytestmark = pytest.mark.any_version

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "plc.md").read_text()
LATE_S = 0.465
SOON_S = 0.05
PARTS = 24


def program() -> Callable[[Any, str], bool]:
    """Return ``good`` of the PLC program in the page."""
    result = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert result is not None
    names: dict[str, Any] = {}
    exec(result[1][: result[1].index("plc = ModbusTcpClient")], names)
    good: Callable[[Any, str], bool] = names["good"]
    return good


class Inspector:
    """Answers each call with the truth about its part, some calls late; odd numbers are bad."""

    def __init__(self, uri: str, trigger: str, latency: Callable[[int], float]) -> None:
        self._latency = latency
        self._count = 0
        self.link = GuardClient([uri], 5000.0, 1, self._heard, calls=True, trigger=trigger)
        self._alive = threading.Event()
        threading.Thread(target=self._live, daemon=True).start()

    def close(self) -> None:
        self._alive.set()
        self.link.close()

    def _live(self) -> None:
        while not self._alive.wait(0.05):
            self.link.send(Message("held", time.monotonic()))

    def _heard(self, record: dict[str, Any]) -> None:
        if record["kind"] == "trigger":
            number = int(record["part"] or self._count)
            self._count += 1
            timer = threading.Timer(self._latency(number), self._answer, (number, record))
            timer.daemon = True
            timer.start()

    def _answer(self, number: int, record: dict[str, Any]) -> None:
        word = "NG" if number % 2 else "OK"
        self.link.send(Message("verdict", time.monotonic(), 0, word, word == "OK", str(number), record["at"]))


def mixed(number: int) -> float:
    return random.Random(number).choice([SOON_S, LATE_S])


@pytest.fixture(params=[lambda number: LATE_S, mixed], ids=["all late", "mixed"])
def latency(request: pytest.FixtureRequest) -> Callable[[int], float]:
    chosen: Callable[[int], float] = request.param
    return chosen


def test_the_program_of_the_page_lets_no_bad_part_go(latency: Callable[[int], float]) -> None:
    port, good = free_port(), program()
    inspector = Inspector(f"modbus-server://127.0.0.1:{port}", "modbus", latency)
    plc = ReadingPlc(port)
    let_go = [number for number in range(PARTS) if good(plc.client, str(number))]
    plc.close()
    inspector.close()
    assert [number for number in let_go if number % 2] == []
    # On a slow machine a verdict in time may be late; one that is late is never in time.
    assert not [number for number in let_go if latency(number) == LATE_S]


def test_bits_alone_tell_no_late_verdict_once_the_call_is_confirmed() -> None:
    port = free_port()
    inspector = Inspector(f"modbus-server://127.0.0.1:{port}", "modbus", lambda number: LATE_S)
    plc = ReadingPlc(port)
    wrong = 0
    for number in range(12):
        plc.client.write_registers(32, list(text_registers(str(number), 16)))
        plc.client.write_coil(17, True)
        called = time.monotonic()
        while time.monotonic() < called + 0.3:
            wrong += plc.passed() and time.monotonic() < called + LATE_S
        plc.client.write_coil(17, False)
    plc.close()
    inspector.close()
    assert wrong == 0


def test_a_written_plc_sees_no_pass_with_the_id_of_another_part() -> None:
    plc = WrittenPlc()
    inspector = Inspector(f"modbus://127.0.0.1:{plc.port}", "modbus", mixed)
    let_go = []
    for number in range(PARTS):
        plc.set_registers(32, list(text_registers(str(number), 16)))
        plc.set_coil(17, True)
        closes = time.monotonic() + 0.3
        while time.monotonic() < closes:
            registers = plc.registers()
            if registers_text(registers[8:24]) == str(number) and registers[0] & 0b101 == 0b101:
                let_go.append(number)
                break
            time.sleep(0.002)
        plc.set_coil(17, False)
        time.sleep(0.15)
    inspector.close()
    plc.close()
    assert [number for number in let_go if number % 2] == []
    assert not [number for number in let_go if mixed(number) == LATE_S]


def test_a_strobe_rises_for_the_part_whose_trigger_is_up_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board(tmp_path / "board")
    for name, value in board.environment.items():
        monkeypatch.setenv(name, value)
    inspector = Inspector(f"{CHIP}?pass=17&strobe=18&trigger=4", "gpio", mixed)
    assert until(lambda: not board.level(17))
    let_go = []
    for number in range(PARTS):
        board.edge(4)
        closes = time.monotonic() + 0.3
        while not board.level(18) and time.monotonic() < closes:
            time.sleep(0.002)
        if board.level(18) and board.level(17):
            let_go.append(number)
        board.edge(4, rising=False)
        assert until(lambda: not board.level(18))
        time.sleep(0.05)
    inspector.close()
    assert [number for number in let_go if number % 2] == []
    assert let_go
    board.close()


def test_a_software_call_takes_back_what_stands() -> None:
    plc = WrittenPlc()
    link = GuardClient([f"modbus://127.0.0.1:{plc.port}"], 60_000.0, 1, lambda record: None, calls=True)

    def verdict(call: float | None) -> None:
        link.send(Message("verdict", time.monotonic(), 0, "OK", True, "1", call))

    verdict(None)
    link.called(7.0)
    verdict(7.0)
    assert until(lambda: plc.bits()[0])
    link.called(8.0)
    assert until(lambda: not plc.bits()[0])
    verdict(7.0)
    asked = plc.asked
    assert until(lambda: plc.asked >= asked + 3)
    assert not plc.bits()[0]
    verdict(8.0)
    assert until(lambda: plc.bits()[0])
    link.close()
    plc.close()
