"""The guard as a process, fed by a process that is stopped, killed or hangs; a pymodbus peer watches the wire."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymodbus.exceptions import ModbusException

from edge_ad.errors import BadInput, DeviceFault
from edge_ad.outputs.guard_client import GuardClient
from edge_ad.outputs.guard_state import Message
from tests.fixtures.loopback import free_port, until
from tests.outputs.peers import ReadingPlc, WrittenPlc

pytestmark = pytest.mark.any_version

ROOT = Path(__file__).parents[2]
HOLD_MS = 200.0
SLACK_S = 2.0  # a loaded machine; the soak tool measures the exact time


class Feeder:
    """The feeding process with its first word."""

    def __init__(self, uri: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.outputs.feeder", uri, str(HOLD_MS)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.first = self.read()

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        return dict(json.loads(self.process.stdout.readline()))

    def stop(self, how: str) -> None:
        assert self.process.stdin is not None
        if how == "hang":
            self.process.stdin.write("hang\n")
            self.process.stdin.flush()
        else:
            self.process.send_signal(signal.SIGSTOP if how == "STOP" else signal.SIGKILL)


@contextlib.contextmanager
def feeding(uri: str) -> Iterator[Feeder]:
    feeder = Feeder(uri)
    try:
        yield feeder
    finally:
        feeder.process.kill()
        feeder.process.communicate()


@pytest.mark.parametrize("how", ["STOP", "KILL", "hang"])
def test_a_reading_plc_sees_a_reject_however_the_inspector_stops(how: str) -> None:
    with feeding("modbus-server://127.0.0.1:0") as feeder:
        plc = ReadingPlc(feeder.first["port"])
        assert until(plc.passed)
        started = time.monotonic()
        feeder.stop(how)
        assert until(lambda: not plc.passed(), HOLD_MS / 1000 + SLACK_S)
        assert plc.bits()[:4] == [False, True, False, False]
        assert time.monotonic() - started < HOLD_MS / 1000 + SLACK_S
        if how == "STOP":
            feeder.process.send_signal(signal.SIGCONT)
            assert until(plc.passed)  # and good again with the next verdict
        plc.close()


@pytest.mark.parametrize("how", ["STOP", "KILL", "hang"])
def test_a_written_plc_is_told_a_reject_however_the_inspector_stops(how: str) -> None:
    plc = WrittenPlc()
    with feeding(f"modbus://127.0.0.1:{plc.port}") as feeder:
        assert until(lambda: plc.bits()[0])
        feeder.stop(how)
        assert until(lambda: not plc.bits()[0], HOLD_MS / 1000 + SLACK_S)
        assert plc.bits()[1]
    plc.close()


def test_a_dead_guard_is_replaced_and_a_plc_can_connect_again() -> None:
    with feeding(f"modbus-server://127.0.0.1:{free_port()}") as feeder:
        ReadingPlc(feeder.first["port"]).close()
        os.kill(feeder.first["guard"], signal.SIGKILL)

        def passes_again() -> bool:
            plc = ReadingPlc(feeder.first["port"])
            with contextlib.suppress(ConnectionError, ModbusException):  # it may still be the dying one
                return plc.passed()
            return False

        assert until(passes_again)


def test_requests_of_the_plc_reach_the_inspector() -> None:
    with feeding("modbus-server://127.0.0.1:0") as feeder:
        plc = ReadingPlc(feeder.first["port"])
        plc.client.write_coil(17, True)
        plc.client.write_coil(16, True)
        told = [feeder.read(), feeder.read()]
        plc.close()
    assert [(record["kind"], record.get("part"), record.get("number")) for record in told] == [
        ("trigger", "", None),
        ("acknowledge", None, 0),
    ]


@pytest.mark.parametrize(("trigger", "called"), [("modbus", 1), ("gpio", 0), ("s7", 0), ("", 1)])
def test_a_call_counts_only_where_parts_are_called_for(trigger: str, called: int) -> None:
    """Without a trigger the inspector is told, for what it is worth."""
    told: list[dict[str, Any]] = []
    with serving(told, trigger) as port:
        plc = ReadingPlc(port)
        plc.client.write_coil(17, True)
        plc.client.write_coil(16, True)
        assert until(lambda: any(record["kind"] == "acknowledge" for record in told))
        plc.close()
    assert sum(record["kind"] == "trigger" for record in told) == called


@contextlib.contextmanager
def serving(told: list[dict[str, Any]], trigger: str) -> Iterator[int]:
    link = GuardClient(["modbus-server://127.0.0.1:0"], HOLD_MS, 1, told.append, calls=bool(trigger), trigger=trigger)
    yield next(iter(link.ports.values()))
    link.close()


def test_the_guard_loads_nothing_heavy() -> None:
    code = (
        "import sys, edge_ad.outputs.guard, edge_ad.outputs.modbus_server, edge_ad.outputs.modbus_client;"
        "print([name for name in ('numpy', 'cv2', 'pydantic', 'typer', 'pymodbus') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_outputs_that_cannot_be_opened_are_told() -> None:
    with pytest.raises(BadInput, match="--alarm"):
        GuardClient(["mqtt://x"], HOLD_MS, 1, lambda record: None)
    with pytest.raises(DeviceFault, match="cannot be opened"):
        GuardClient(["modbus-server://203.0.113.1:0"], HOLD_MS, 1, lambda record: None)
    with pytest.raises(DeviceFault, match="gpiochip99"):
        GuardClient(["gpio:///dev/gpiochip99?pass=1"], HOLD_MS, 1, lambda record: None)


def test_a_closed_link_rejects_at_once() -> None:
    plc = WrittenPlc()
    link = GuardClient([f"modbus://127.0.0.1:{plc.port}"], 60_000.0, 1, lambda record: None)
    link.send(Message("verdict", time.monotonic(), 0, "OK", True, "1"))
    assert until(lambda: plc.bits()[0])
    link.close()
    assert until(lambda: plc.bits()[:2] == [False, True], SLACK_S)
    plc.close()
