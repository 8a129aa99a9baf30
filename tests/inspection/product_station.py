"""A station with three products in a process of its own that may be killed, and everybody who may choose one of them.

`python -m tests.inspection.product_station FOLDER RUN` is that process: ``RUN`` is its [run] as JSON, with ``match`` beside it
where part ids choose. It writes how products stand to its standard output, a line each time, and answers a line of its standard
input by what it has seen so far.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from edge_ad.events import Event
from edge_ad.inspection.requests import Request, ask_run
from edge_ad.outputs.signals import PRODUCT_ADDRESS
from edge_ad.utils.board import PAGE_SIZE
from tests.fixtures.loopback import free_port, until
from tests.fixtures.mosquitto import Mosquitto
from tests.inspection.test_products import NAMES, Line, Order, hashes_of, settings
from tests.outputs.peers import OpcUaChooser, ReadingPlc, is_open
from tests.web.running import ask

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120.0
ROUTES = ("name", "message", "register", "node", "page")


class Station:
    """The process, from its first line on; ``lines`` are all that it has written."""

    def __init__(self, folder: Path, run: dict[str, Any]) -> None:
        self.folder, self.run = folder, run
        self.lines: list[str] = []
        command = [sys.executable, "-m", "tests.inspection.product_station", str(folder), json.dumps(run)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, env=environment, **pipes)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.wait(lambda: self.lines)

    def wait(self, condition: Any) -> None:
        """Wait until the condition holds; AssertionError where the process ends first or it takes too long."""
        assert until(lambda: condition() or self.process.poll() is not None, PATIENCE_S), self.lines[-5:]
        assert condition(), f"the station ended by itself: {self.lines[-5:]}"

    def standing(self) -> str:
        """Return how products stand: a state and a name."""
        return next(line for line in reversed(self.lines) if not line.startswith(("seen", "judged")))

    def acknowledged(self) -> str | None:
        """Return the product that was acknowledged last."""
        return next((line.split()[1] for line in reversed(self.lines) if line.startswith("active ")), None)

    def look(self) -> dict[str, Any]:
        """Return what the process has seen so far, with what it and its dashboard hold in MiB."""
        before = len(self.lines)
        assert self.process.stdin is not None
        self.process.stdin.write("look\n")
        self.process.stdin.flush()
        self.wait(lambda: any(line.startswith("seen ") for line in self.lines[before:]))
        seen = next(line for line in reversed(self.lines) if line.startswith("seen "))
        return dict(json.loads(seen.removeprefix("seen "))) | {"memory_mb": _resident_mb(self.process.pid)}

    def kill(self) -> None:
        """Kill it, and take in what it had written."""
        self.process.kill()
        self.process.wait()
        self._reader.join(PATIENCE_S)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.endswith("\n"):  # the last one may be cut off
                self.lines.append(line.rstrip())


class Choosers:
    """Who may choose at a station by its [run]: a PLC, a client of OPC UA, one of MQTT, a command, and the dashboard, with a
    browser or without.
    """

    def __init__(self, station: Station, page: Any = None) -> None:
        self._station, self._page = station, page
        self._ports = {uri.partition(":")[0]: _port(uri) for uri in station.run.get("alarm", ())}
        self._close = contextlib.ExitStack()
        self.passes = 0  # that the PLC saw between its own request and the acknowledge
        if "modbus-server" in self._ports:
            self._plc = ReadingPlc(self._ports["modbus-server"])
            self._close.callback(self._plc.close)
        if "opcua" in self._ports:
            self._opcua = OpcUaChooser(self._ports["opcua"])
            self._close.push(_quietly(self._opcua.close))
        if "commands" in station.run:
            self._client = _client(station.run["commands"])
            self._close.callback(self._client.loop_stop)
        if "web" in station.run:
            self._ports["web"] = _port(station.run["web"])
            assert until(lambda: is_open(self._ports["web"]), PATIENCE_S)
        if page is not None:
            page.goto(f"http://127.0.0.1:{self._ports['web']}/")

    def close(self) -> None:
        """Hang up."""
        self._close.close()

    def ask(self, route: str, name: str) -> None:
        """Ask for a product, and do not wait for it."""
        if route == "name":
            ask_run(Path(self._station.run["store"]), Request("product", "anna", "command", {"name": name}))
        elif route == "message":
            self._client.publish("line/7", name, qos=1)
        elif route == "register":
            self._plc.client.write_register(PRODUCT_ADDRESS, NAMES.index(name) + 1)
        elif route == "node":
            self._opcua.ask(name)
        elif self._page is None:
            assert ask(self._ports["web"], "/api/product", {"name": name}).status == 200
        else:
            self._page.wait_for_selector("#product:not([disabled])")
            self._page.select_option("#product", name)

    def wait(self, route: str, name: str) -> None:
        """Wait for the acknowledge where the one who asked sees it, and until the station says the same."""
        if route == "register":
            code, ends = NAMES.index(name) + 1, time.monotonic() + PATIENCE_S
            while (seen := self._plc.registers(0, 8))[5] != code:
                self.passes += seen[0] & 1
                assert time.monotonic() < ends, seen
        elif route == "node":
            assert until(lambda: self._opcua.read("Active") == name, PATIENCE_S), self._opcua.read("State")
        self._station.wait(lambda: self._station.standing() == f"active {name}")


def run_settings(store: Path, routes: Sequence[str], broker: Mosquitto) -> dict[str, Any]:
    """Return the [run] of a station that takes requests by these routes."""
    run: dict[str, Any] = {"store": str(store), "product": NAMES[0]}
    alarm = {"register": f"modbus-server://127.0.0.1:{free_port()}", "node": f"opcua://127.0.0.1:{free_port()}?products=choose"}
    run["alarm"] = [uri for route, uri in alarm.items() if route in routes]
    run |= {"commands": f"mqtt://{broker.address}/line/7"} if "message" in routes else {}
    return run | ({"web": f"127.0.0.1:{free_port()}"} if "page" in routes else {})


def _port(address: str) -> int:
    return int(address.partition("?")[0].rpartition(":")[2])


def _client(topic: str) -> Any:
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion

    client = Client(CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", _port(topic.rpartition("/line/")[0]))
    client.loop_start()
    return client


def _quietly(close: Callable[[], None]) -> Callable[..., None]:
    """Return what hangs up even where the other side is gone."""

    def closing(*_: object) -> None:
        with contextlib.suppress(Exception):
            close()

    return closing


@contextlib.contextmanager
def station_of(folder: Path, run: dict[str, Any]) -> Iterator[Station]:
    """Run a station until the context ends."""
    station = Station(folder, run)
    try:
        yield station
    finally:
        station.kill()


def _resident_mb(pid: int) -> float:
    """Return what a process and the dashboard that it has started hold, in MiB."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    pages = sum(int(Path(f"/proc/{one}/statm").read_text().split()[1]) for one in (pid, *children))
    return round(pages * PAGE_SIZE / 2**20, 1)


def _write(text: str) -> None:
    """Write a line whole, whatever other threads write."""
    print(f"{text}\n", end="", flush=True)


class _Shown(Order):
    """Writes what was judged to the standard output too."""

    def append(self, one: Any) -> None:
        super().append(one)
        if isinstance(one, Event):
            _write(f"judged {one.part} {one.product} {one.verdict}")


def _main(folder: Path, run: dict[str, Any]) -> None:
    matches = run.pop("match", None)
    tables = {name: {"warn_above": 1e6, "ng_above": 1e6, **({"match": matches[name]} if matches else {})} for name in NAMES}
    order = (_Shown if matches else Order)(hashes_of(folder))
    line = Line(folder, settings(folder, tables, **run), log=order)
    line.changeover.on_standing.append(lambda one: _write(f"{one.state} {one.product}"))
    running = threading.Thread(target=line.inspector.run)
    running.start()
    _write(f"{line.changeover.standing.state} {line.changeover.standing.product}")
    for _ in sys.stdin:
        seen = {"events": order.events, "judged": order.judged, "wrong": order.wrong[:3], "changes": line.changeover.changes}
        _write(f"seen {json.dumps(seen)}")
    line.inspector.loop.stop()
    running.join()
    line.inspector.close()


if __name__ == "__main__":
    _main(Path(sys.argv[1]), json.loads(sys.argv[2]))
