"""Both Modbus channels against pymodbus, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from edge_ad.outputs.modbus_client import ModbusClient
from edge_ad.outputs.modbus_server import ModbusServer
from edge_ad.outputs.signals import Acknowledge, Edges, Order, OutputSignals, Request, Trigger, text_registers
from tests.fixtures.loopback import free_port, until
from tests.outputs.peers import ReadingPlc, WrittenPlc

GOOD = OutputSignals(passed=True, fault=False, result_valid=True, ready=True, verdict="OK", sequence=3, part="A7")


@contextlib.contextmanager
def running(make: Callable[[], Any]) -> Iterator[tuple[Any, Callable[[OutputSignals], None]]]:
    """Run a channel in an event loop of its own; give the channel and a function that shows lines."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> Any:
        channel = make()
        await channel.open()
        return channel

    channel = asyncio.run_coroutine_threadsafe(start(), loop).result(20)

    def show(lines: OutputSignals) -> None:
        done = threading.Event()
        loop.call_soon_threadsafe(lambda: (channel.show(lines), done.set()))
        assert done.wait(5)

    try:
        yield channel, show
    finally:
        asyncio.run_coroutine_threadsafe(channel.close(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)


def test_a_plc_reads_the_lines_by_every_function() -> None:
    with running(lambda: ModbusServer("127.0.0.1", 0, lambda request: None)) as (server, show):
        plc = ReadingPlc(server.port)
        assert plc.bits() == list(OutputSignals().bits())
        show(GOOD)
        assert plc.bits() == list(GOOD.bits())
        assert plc.client.read_coils(0, count=8).bits == list(GOOD.bits())
        assert plc.registers() == list(GOOD.registers())
        assert plc.client.read_input_registers(0, count=24).registers == list(GOOD.registers())
        plc.close()


def test_a_plc_acknowledges_and_triggers_once_an_edge() -> None:
    results: list[Request] = []
    with running(lambda: ModbusServer("127.0.0.1", 0, results.append)) as (server, show):
        plc = ReadingPlc(server.port)
        show(OutputSignals(alarm_number=9))
        plc.client.write_registers(32, list(text_registers("tray 12", 16)))
        for value in (True, True, False, True):
            assert not plc.client.write_coil(17, value).isError()
        assert not plc.client.write_coils(16, [True, True]).isError()
        plc.close()
    assert results == [Trigger("tray 12"), Trigger("tray 12"), Acknowledge(9)]


def test_the_lines_cannot_be_written_and_strange_requests_get_an_exception() -> None:
    with running(lambda: ModbusServer("127.0.0.1", 0, lambda request: None)) as (server, _):
        plc = ReadingPlc(server.port)
        for answer in (
            plc.client.write_coil(0, True),
            plc.client.write_coils(12, [True] * 8),
            plc.client.write_register(0, 1),
            plc.client.read_coils(30, count=8),
            plc.client.read_holding_registers(40, count=20),
        ):
            assert answer.isError()
            assert answer.exception_code == 2
        assert plc.client.read_exception_status().exception_code == 1
        assert plc.bits() == list(OutputSignals().bits())
        plc.close()


def test_rubbish_ends_one_connection_and_nothing_else() -> None:
    with running(lambda: ModbusServer("127.0.0.1", 0, lambda request: None)) as (server, _):
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as rude:
            rude.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert rude.recv(100) == b""
        plc = ReadingPlc(server.port)
        assert plc.bits() == list(OutputSignals().bits())
        plc.close()


def test_the_client_writes_into_a_plc_and_comes_back_to_it() -> None:
    plc = WrittenPlc()
    with running(lambda: ModbusClient("127.0.0.1", plc.port, 1, 0, on_request=lambda request: None)) as (client, show):
        assert until(lambda: plc.bits() == list(OutputSignals().bits()) and plc.registers()[0] != 0)
        show(GOOD)
        assert until(lambda: plc.bits() == list(GOOD.bits()) and plc.registers() == list(GOOD.registers()))
        plc.close()
        assert until(lambda: client.failures >= 1)
        assert client.connections == 1


def test_the_client_finds_a_plc_that_starts_later() -> None:
    port = free_port()
    with running(lambda: ModbusClient("127.0.0.1", port, 1, 0, on_request=lambda request: None)) as (client, show):
        show(GOOD)
        with running(lambda: ModbusServer("127.0.0.1", port, lambda request: None)):
            assert until(lambda: client.connections >= 1)


def test_the_client_reads_what_the_plc_asks() -> None:
    results: list[Request] = []
    plc = WrittenPlc()
    with running(lambda: ModbusClient("127.0.0.1", plc.port, 1, 0, on_request=results.append)) as (_, show):
        show(OutputSignals(alarm_number=4))
        assert until(lambda: plc.asked >= 3)
        plc.set_registers(32, list(text_registers("B2", 16)))
        plc.set_coil(17, True)
        assert until(lambda: results == [Trigger("B2")])
        plc.set_coil(16, True)
        assert until(lambda: results == [Trigger("B2"), Acknowledge(4)])
    plc.close()


@pytest.mark.parametrize(
    ("looks", "results"),
    [
        ([(1, 1)], []),  # set before we came: old
        ([(0, 0), (1, 0)], [Acknowledge(5)]),
        ([(0, 0), (0, 1), (0, 1)], [Trigger("")]),
        ([(0, 1), (0, 0), (1, 1)], [Acknowledge(5), Trigger("")]),
        ([(0, 0, 1, 1)], []),
        ([(0, 0, 0, 0), (0, 1, 1, 0), (0, 0, 1, 0)], [Order("pause"), Trigger("")]),
        ([(0, 0, 1, 0), (0, 1, 0, 1)], [Trigger(""), Order("resume")]),
        ([(0, 0, 0, 0), (0, 0, 1, 1)], [Order("pause")]),  # both at once: paused
        ([(0, 0, 1, 0), (0, 0, 1, 1)], []),  # no resume while the PLC asks for a pause
    ],
)
def test_requests_are_edges(looks: list[tuple[int, ...]], results: list[Request]) -> None:
    edges = Edges()
    assert [request for look in looks for request in edges.look(look, [], 5)] == results


def test_a_plc_set_up_before_there_was_a_pause_is_heard_as_before() -> None:
    results: list[Request] = []
    plc = WrittenPlc(coils={}, coil_count=18)
    with running(lambda: ModbusClient("127.0.0.1", plc.port, 1, 0, on_request=results.append)) as (_, show):
        show(OutputSignals(alarm_number=4))
        assert until(lambda: plc.asked >= 3)
        plc.set_coil(16, True)
        assert until(lambda: results == [Acknowledge(4)])
    plc.close()


def test_a_call_whose_connection_was_cut_does_not_hide_the_next_one() -> None:
    results: list[Request] = []
    with running(lambda: ModbusServer("127.0.0.1", 0, results.append)) as (server, _):
        plc = ReadingPlc(server.port)
        plc.client.write_coil(17, True)
        plc.close()  # before it could take the bit back
        assert until(lambda: server.connected == 0)
        plc = ReadingPlc(server.port)
        plc.client.write_coil(17, True)
        plc.close()
    assert results == [Trigger(""), Trigger("")]


def test_another_id_is_another_call_though_the_bit_stayed_up() -> None:
    results: list[Request] = []
    with running(lambda: ModbusServer("127.0.0.1", 0, results.append)) as (server, _):
        plc = ReadingPlc(server.port)
        for part in ("7", "7", "8"):
            plc.client.write_registers(32, list(text_registers(part, 16)))
            plc.client.write_coil(17, True)
        plc.close()
    assert results == [Trigger("7"), Trigger("8")]
