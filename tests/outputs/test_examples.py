"""The examples of docs/outputs.md run as they stand there, with other ports."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from pathlib import Path

from edge_ad.events import Event
from edge_ad.outputs.guard_client import GuardClient
from edge_ad.outputs.guard_state import Message
from edge_ad.outputs.opcua import OpcUaServer
from edge_ad.outputs.webhook import Webhook
from tests.fixtures.loopback import free_port, listens, until
from tests.outputs.events import event, lines

PAGE = (Path(__file__).parents[2] / "docs" / "outputs.md").read_text()


def example(heading: str, **changes: str) -> str:
    """Return the first Python block below a heading, with some words replaced."""
    text = PAGE[PAGE.index(f"\n{heading}\n") :]
    result = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert result is not None
    code = result[1]
    for old, new in changes.items():
        old = old.removeprefix("_")
        assert old in code
        code = code.replace(old, new)
    return code


def start(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-u", "-c", code], stdout=subprocess.PIPE, text=True)


def test_a_plc_waits_for_a_pass() -> None:
    port = free_port()
    link = GuardClient([f"modbus-server://127.0.0.1:{port}"], 10_000.0, 1, lambda record: None)
    process = start(example("### Modbus map", _5020=str(port)))
    link.send(Message("busy", time.monotonic()))
    assert process.communicate(timeout=60)[0] == "reject\n"
    process = start(example("### Modbus map", _5020=str(port), **{"0.2 ": "60 "}))
    while process.poll() is None:
        link.send(Message("verdict", time.monotonic(), 0, "OK", True, "7"))
        time.sleep(0.05)
    assert process.communicate()[0] == "let it go\n"
    link.close()


def test_a_receiver_prints_each_event_once() -> None:
    port = free_port()
    process = start(example("## Webhook", _8080=str(port)))
    assert until(lambda: listens(port), 60)
    hook = Webhook(f"http://127.0.0.1:{port}/events")
    for line in [*lines(2), lines(1)[0]]:
        hook.deliver(line)
    hook.close()
    process.terminate()
    assert [row.split()[1:3] for row in process.communicate()[0].splitlines()] == [["0", "OK"], ["1", "OK"]]


def test_a_client_reads_the_last_result() -> None:
    port = free_port()
    server = OpcUaServer(f"opcua://127.0.0.1:{port}")
    server.open()
    server.deliver(Event.message(event(5, "NG")))
    message = start(example("## OPC UA", _4840=str(port))).communicate(timeout=120)[0]
    server.close()
    assert message.splitlines()[:2] == ["PartId 5", "Verdict NG"]


def test_an_output_of_another_package() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as syslog:
        syslog.bind(("127.0.0.1", 0))
        syslog.settimeout(20)
        names: dict[str, type] = {}
        exec(example("## An output of your own", _514=str(syslog.getsockname()[1])), names)
        output = names["Syslog"]("syslog://127.0.0.1")
        output.open()
        output.deliver(lines(1)[0])
        output.close()
        assert lines(1)[0].encode() in syslog.recv(65536)
