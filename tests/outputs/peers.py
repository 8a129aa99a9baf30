"""Real Modbus peers for the tests: a PLC that reads and one that is written to, both by pymodbus."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import Any

from pymodbus.client import ModbusTcpClient
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from tests.fixtures.loopback import free_port, until


class ReadingPlc:
    """A PLC that polls a Modbus server and can tell when it first saw something."""

    def __init__(self, port: int) -> None:
        self.client = ModbusTcpClient("127.0.0.1", port=port, timeout=2)
        assert until(self.client.connect)

    def bits(self) -> list[bool]:
        answer = self.client.read_discrete_inputs(0, count=8)
        assert not answer.isError(), answer
        return list(answer.bits[:8])

    def passed(self) -> bool:
        return self.bits()[0]

    def registers(self, address: int = 0, count: int = 24) -> list[int]:
        answer = self.client.read_holding_registers(address, count=count)
        assert not answer.isError(), answer
        return list(answer.registers)

    def close(self) -> None:
        self.client.close()


class WrittenPlc:
    """A PLC as a server: ``size`` registers and ``coil_count`` coils (as many) that others write, in a thread with its own
    event loop.
    """

    def __init__(
        self, port: int | None = None, coils: dict[int, bool] | None = None, size: int = 64, coil_count: int | None = None
    ) -> None:
        self.size = size
        self.port = port or free_port()
        self._first = [bool((coils or {}).get(address)) for address in range(coil_count or size)]
        self.changes: list[tuple[float, list[bool]]] = []
        self.asked = 0
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._started.wait(10)

    def bits(self) -> list[bool]:
        return self._get(1, 0, 8)

    def registers(self) -> list[int]:
        return self._get(3, 0, 24)

    def set_coil(self, address: int, value: bool) -> None:
        asyncio.run_coroutine_threadsafe(self._server.async_setValues(1, 5, address, [value]), self._loop).result(5)

    def set_registers(self, address: int, values: list[int]) -> None:
        asyncio.run_coroutine_threadsafe(self._server.async_setValues(1, 16, address, values), self._loop).result(5)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._server.shutdown(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _get(self, function: int, address: int, count: int) -> list[Any]:
        got = self._server.async_getValues(1, function, address, count)
        return list(asyncio.run_coroutine_threadsafe(got, self._loop).result(5))

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)

        async def start() -> None:
            coils = [SimData(0, values=self._first, datatype=DataType.BITS)]
            registers = [SimData(0, count=self.size, values=0, datatype=DataType.REGISTERS)]
            device = SimDevice(1, simdata=(coils, coils, registers, registers), action=self._note)
            self._server = ModbusTcpServer(device, address=("127.0.0.1", self.port))
            await self._server.serve_forever(background=True)
            self._started.set()

        self._loop.create_task(start())
        self._loop.run_forever()

    async def _note(self, function: int, start: int, address: int, count: int, current: list[int], values: Any) -> None:
        self.asked += function == 1
        if function == 15 and values is not None:
            self.changes.append((time.monotonic(), [bool(value) for value in values[:8]]))


def is_open(port: int) -> bool:
    """Whether somebody listens on a port of this machine."""
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


class OpcUaChooser:
    """An OPC UA client of a line that chooses its product, and reads how products stand."""

    def __init__(self, port: int) -> None:
        from asyncua.sync import Client

        assert until(lambda: is_open(port), 120)  # its nodes take seconds to make
        self._client = Client(f"opc.tcp://127.0.0.1:{port}", timeout=20)
        self._client.connect()
        self._space = self._client.get_namespace_index("urn:edge-ad:inspection")

    def read(self, name: str) -> str:
        """Return what a node of the product shows."""
        return str(self._node(name).read_value())

    def ask(self, name: str) -> None:
        """Ask for a product."""
        self._node("Requested").write_value(name)

    def close(self) -> None:
        """Hang up."""
        self._client.disconnect()

    def _node(self, name: str) -> Any:
        return self._client.get_node(f"ns={self._space};s=Product.{name}")
