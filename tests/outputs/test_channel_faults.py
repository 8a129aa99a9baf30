"""An exception that nobody foresaw, raised in every output channel in turn: it is told and counted, and nothing passes by it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_ad.cli.app import main
from edge_ad.outputs.channels import FAST, parse_output
from edge_ad.outputs.delivery import BUILT_IN
from edge_ad.outputs.guard import Guard
from edge_ad.outputs.guard_state import GuardState
from edge_ad.outputs.jsonlines import JsonLines
from edge_ad.outputs.modbus_client import ModbusClient
from edge_ad.outputs.mqtt import MqttOutput
from edge_ad.outputs.opcua import OpcUaServer
from edge_ad.outputs.plc_map import make_plc
from edge_ad.outputs.plc_writer import Inbox, PlcWriter
from edge_ad.outputs.signals import ChannelHealth, Choose, OutputSignals
from edge_ad.outputs.webhook import Webhook
from edge_ad.store.reader import EventFilter, Reader
from tests.fixtures.loopback import free_port, until
from tests.fixtures.tiny_bundle import make_tiny_bundle
from tests.outputs.peers import ReadingPlc, WrittenPlc
from tests.outputs.plcs import KINDS, plc_of, uri_of

pytestmark = pytest.mark.any_version

ROOT = Path(__file__).parents[2]
CAMERA = "synthetic://line?size=64&frames=60&seed=1&fps=20"
RUN = ["run", "t.edgead", "--realtime", "--store", "s.sqlite", "--backend", "onnxruntime", "--precision", "fp32"]
PASSED = OutputSignals(passed=True, fault=False)

# What takes events, and the methods in which it may break.
SLOW: tuple[tuple[str, type, tuple[str, ...]], ...] = (
    ("file:out.jsonl", JsonLines, ("open", "deliver_all")),
    ("stdout:", JsonLines, ("open", "deliver_all")),
    ("mqtt://127.0.0.1:{port}/line", MqttOutput, ("open",)),
    ("mqtts://127.0.0.1:{port}/line", MqttOutput, ("open",)),
    ("http://127.0.0.1:{port}/events", Webhook, ("open", "deliver")),
    ("https://127.0.0.1:{port}/events", Webhook, ("open", "deliver")),
    ("opcua://127.0.0.1:{port}", OpcUaServer, ("open", "deliver")),
)
FAST_URIS = (
    "modbus://127.0.0.1:1", "modbus-server://127.0.0.1:0", "gpio:///dev/gpiochip0?pass=17", "gpio://jetson?pass=29",
    "s7://127.0.0.1:1/DB10", "enip://127.0.0.1:1/EdgeAD",
)  # fmt: skip


def breaking(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, times: int) -> None:
    """Let a method raise the first ``times`` times it is called."""
    real, left = getattr(owner, name), [times]

    def broken(*arguments: Any) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            raise RuntimeError("injected")
        return real(*arguments)

    monkeypatch.setattr(owner, name, broken)


@pytest.fixture
def station(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_tiny_bundle(tmp_path / "t.edgead")
    return tmp_path


def test_every_channel_has_a_fault_injected() -> None:
    assert {uri.split(":")[0] for uri, *_ in SLOW} == set(BUILT_IN)
    assert {uri.split(":")[0] for uri in FAST_URIS} == set(FAST)


@pytest.mark.parametrize(("uri", "owner", "name"), [(uri, owner, name) for uri, owner, names in SLOW for name in names])
def test_a_channel_that_keeps_breaking_is_reported_once_and_counted(
    uri: str,
    owner: type,
    name: str,
    station: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if owner is OpcUaServer:
        pytest.importorskip("asyncua")
    breaking(monkeypatch, owner, name, 10_000)
    camera = CAMERA if owner is OpcUaServer else CAMERA.replace("frames=60", "frames=24")  # its server opens in seconds
    assert main([*RUN, "--camera", camera, "--alarm", uri.format(port=free_port())]) == 0
    shown = capfd.readouterr()
    assert shown.err.count("RuntimeError: injected; events wait and are tried again") == 1
    rows = [line for line in (shown.out + shown.err).splitlines() if line.startswith("output ") and "at the end" in line]
    assert len(rows) == 1
    assert rows[0].endswith("fault, does not work at the end: RuntimeError: injected")
    assert "Traceback" not in shown.err


@pytest.mark.parametrize(("uri", "owner"), [(uri, owner) for uri, owner, _ in SLOW])
def test_a_required_channel_that_breaks_refuses_the_start(
    uri: str, owner: type, station: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    if owner is OpcUaServer:
        pytest.importorskip("asyncua")
    breaking(monkeypatch, owner, "open", 10_000)
    monkeypatch.setattr("edge_ad.inspection.assembly.PROVE_S", 0.2)
    assert main([*RUN, "--camera", CAMERA, "--require-alarms", "--alarm", uri.format(port=free_port())]) == 3
    assert "an output does not work within 0.2 s" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["open", "deliver_all"])
def test_a_channel_that_broke_once_misses_no_event(
    name: str, station: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    breaking(monkeypatch, JsonLines, name, 1)
    assert main([*RUN, "--camera", CAMERA, "--alarm", "file:out.jsonl"]) == 0
    shown = capfd.readouterr()
    assert "output file:out.jsonl delivers again" in shown.err
    assert "output file:out.jsonl: 1 fault, works again" in shown.out
    delivered = {json.loads(line)["id"] for line in (station / "out.jsonl").read_text().splitlines()}
    reader = Reader(station / "s.sqlite")
    assert delivered == {event.id for event in reader.every(EventFilter(), 1000)}
    reader.close()


def test_events_that_a_receiver_has_not_confirmed_at_the_end_are_reported(
    station: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One that takes connections and answers nothing is no fault for 10 s, and shorter runs ended without a word."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}/events"
        assert main([*RUN, "--camera", CAMERA.replace("frames=60", "frames=10"), "--alarm", uri]) == 0
    reader = Reader(station / "s.sqlite")
    stored = sum(1 for _ in reader.every(EventFilter(), 1000))
    reader.close()
    assert f"{stored} events wait for {uri.rpartition('/')[0]}" in capfd.readouterr().err


@pytest.mark.parametrize("uri", FAST_URIS)
def test_a_channel_of_the_guard_that_breaks_is_reported_once_and_keeps_no_other_from_rejecting(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_ad.outputs.signals.SETTLE_S", 0.0)
    messages: list[dict[str, Any]] = []
    addresses = [parse_output(uri), parse_output("modbus-server://127.0.0.1:5020")]
    guard = Guard(GuardState(1.0, 1), addresses, messages.append, call_later=lambda seconds, act: None)
    shown: list[OutputSignals] = []
    monkeypatch.setattr(guard._channels[0], "show", raising)
    monkeypatch.setattr(guard._channels[1], "show", shown.append)
    for _ in range(5):
        guard.refresh()
    assert [record["fault"] for record in messages if record.get("fault")] == ["RuntimeError: injected"]
    assert len(shown) == 5
    assert not any(signals.passed for signals in shown)


def test_a_plc_that_writes_its_registers_in_every_cycle_takes_no_pass_back_and_asks_once() -> None:
    messages: list[dict[str, Any]] = []
    state, clock = GuardState(60.0, 1), itertools.count(1.0, 0.01)
    addresses = [parse_output("modbus-server://127.0.0.1:5020")]
    guard = Guard(state, addresses, messages.append, clock=lambda: next(clock), call_later=lambda seconds, act: None)
    guard.take({"kind": "product", "code": 1, "state": "active", "number": 0})
    guard.take({"kind": "verdict", "at": 1.0, "verdict": "OK", "passed": True})
    guard._request(Choose(1), False)
    assert state.signals(next(clock)).passed, "it is judged already"
    for _ in range(3):
        guard._request(Choose(2), False)
    assert not state.signals(next(clock)).passed
    numbers = {record["number"] for record in messages if record["kind"] == "product"}
    assert len(numbers) == 1, "each number begins a change anew"
    guard.take({"kind": "product", "code": 2, "state": "active", "number": numbers.pop()})
    assert not state.changing
    guard._request(Choose(1), False)
    assert state.changing


def raising(*arguments: object) -> Any:
    raise RuntimeError("injected")


def written(host: str, port: int, act: Callable[[ModbusClient], None] = lambda channel: None) -> list[str | None]:
    """Return the faults that a Modbus client tells in three seconds, or until it works again."""
    messages: list[str | None] = []

    async def run() -> None:
        channel = ModbusClient(host, port, 1, 0, on_request=lambda request: None, stats=ChannelHealth(messages.append))
        await channel.open()
        act(channel)
        for _ in range(60):
            await asyncio.sleep(0.05)
            if messages and messages[-1] is None:
                break
        await channel.close()

    asyncio.run(run())
    return messages


def test_a_host_that_is_no_name_is_reported() -> None:
    """The lookup raised what nobody took, the task of the channel was gone, and nothing said so."""
    message = written("a" * 70 + ".example", 502)
    assert len(message) == 1
    assert "it cannot be reached" in str(message[0])


def test_a_plc_that_is_not_understood_is_reported_and_written_to_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_ad.outputs.signals.SETTLE_S", 0.0)
    breaking(monkeypatch, ModbusClient, "_write", 1)
    plc = WrittenPlc()
    message = written("127.0.0.1", plc.port, lambda channel: channel.show(PASSED))
    plc.close()
    assert "injected" in str(message[0])
    assert message[-1] is None


@pytest.mark.parametrize("name", ["open", "read", "write"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_library_of_a_plc_that_breaks_is_reported_and_the_plc_is_written_to_again(
    kind: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("snap7")
    pytest.importorskip("pylogix")
    messages: list[dict[str, Any]] = []
    out, pipe = os.pipe()
    with plc_of(kind) as plc:
        client = make_plc(parse_output(uri_of(kind, plc.port)))
        breaking(monkeypatch, type(client), name, 1)
        thread = threading.Thread(target=PlcWriter(client, Inbox(out), messages.append).run, daemon=True)
        thread.start()
        words = PASSED.registers()

        def fed() -> bool:
            message = {"number": 1, "at": time.monotonic(), "words": words, "taken": _requests(messages)}
            os.write(pipe, f"{json.dumps(message)}\n{{torn\n".encode())
            time.sleep(0.02)
            return plc.words()[:24] == words

        assert until(fed)
        os.close(pipe)
        thread.join(10)
        assert not thread.is_alive()
        assert plc.words()[:24] == OutputSignals().registers()
    os.close(out)
    assert next(record["text"] for record in messages if record["kind"] == "failed").endswith("(injected)")


def _requests(told: list[dict[str, Any]]) -> int:
    return max((record.get("count", 0) for record in told), default=0)


SPOILT = """
import sys
from pathlib import Path
from edge_ad.outputs import guard
real = guard.GuardState.signals
def signals(self, now):
    if Path(sys.argv[1]).exists():
        raise {error}("injected")
    return real(self, now)
guard.GuardState.signals = signals
guard.main()
"""


@pytest.mark.parametrize("messages", [False, True])
@pytest.mark.parametrize("error", ["RuntimeError", "ValueError"])
def test_a_guard_that_cannot_compute_its_lines_ends_instead_of_leaving_a_pass(
    error: str, messages: bool, tmp_path: Path
) -> None:
    """By a broken timer, or by the message that came first: connections are cut, and the run starts another guard."""
    port, spoil = free_port(), tmp_path / "spoil"
    process = subprocess.Popen(
        [sys.executable, "-c", SPOILT.format(error=error), str(spoil)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None

    def send(**record: object) -> None:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(record).encode() + b"\n")
            process.stdin.flush()

    with process:
        send(outputs=[f"modbus-server://127.0.0.1:{port}"], hold_ms=60_000, cameras=1)
        assert json.loads(process.stdout.readline())["kind"] == "open"
        plc = ReadingPlc(port)
        send(kind="verdict", at=time.monotonic(), camera=0, verdict="OK", passed=True, part="1")
        assert until(plc.passed)
        spoil.write_text("")
        if messages:
            send(kind="ping", number=1)
        assert until(lambda: process.poll() is not None)
        plc.close()
        assert process.returncode == 1
        assert b"injected" in process.stdout.read()
    with pytest.raises(OSError, match="refused"), socket.create_connection(("127.0.0.1", port), 5):
        pass


def test_a_library_of_pins_that_fails_in_its_own_way_leaves_no_line_energised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge_ad.outputs.gpio import Gpio
    from tests.outputs.board import STANDIN, Board

    board = Board(tmp_path / "board")
    monkeypatch.setenv("STANDIN_GPIO", board.environment["STANDIN_GPIO"])
    monkeypatch.syspath_prepend(str(STANDIN))
    for module in [name for name in sys.modules if name.split(".")[0] == "gpiod"]:
        monkeypatch.delitem(sys.modules, module)
    messages: list[str | None] = []

    async def cycle() -> None:
        channel = Gpio("/dev/gpiochip0", {"pass": 17}, lambda request: None, ChannelHealth(messages.append))
        await channel.open()
        channel.show(PASSED)
        assert board.level(17)
        monkeypatch.setattr(channel._outputs, "set_values", raising)
        channel.show(OutputSignals())
        assert not board.level(17)
        await channel.close()

    asyncio.run(cycle())
    board.close()
    assert messages[-1] == "RuntimeError: injected: the lines are let go"


def test_whatever_breaks_in_the_loop_ends_the_run_loudly_and_the_outputs_reject(
    station: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge_ad.inspection.observers import DriftObserver

    plc = WrittenPlc()
    seen: list[list[bool]] = []

    def broken(*arguments: object) -> None:
        assert until(lambda: plc.bits()[3])  # ready: the outputs are driven
        seen.append(plc.bits())
        raise RuntimeError("injected")

    monkeypatch.setattr(DriftObserver, "on_result", broken)
    with pytest.raises(RuntimeError, match="injected"):
        main([*RUN, "--camera", CAMERA, "--alarm", f"modbus://127.0.0.1:{plc.port}"])
    assert seen
    assert until(lambda: plc.bits()[:2] == [False, True])
    plc.close()
