"""The OPC UA server against an asyncua client."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from asyncua import Client, ua
from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256
from asyncua.ua.uaerrors import BadUserAccessDenied

from edge_ad.errors import BadInput
from edge_ad.events import Event
from edge_ad.outputs.opcua import EVENT_FIELDS, NAMESPACE, NODES, OpcUaServer
from tests.fixtures.loopback import free_port
from tests.outputs.events import event

RESULT = "ResultManagement.Result"


@pytest.fixture(scope="module")
def server() -> Iterator[OpcUaServer]:
    made = OpcUaServer(f"opcua://127.0.0.1:{free_port()}")
    made.open()
    yield made
    made.close()


def address(server: OpcUaServer) -> str:
    return server.name.replace("opcua", "opc.tcp")


@contextlib.asynccontextmanager
async def reading(server: OpcUaServer) -> AsyncIterator[tuple[Client, int]]:
    async with Client(address(server), timeout=20) as client:
        yield client, await client.get_namespace_index(NAMESPACE)


async def values(server: OpcUaServer) -> dict[str, Any]:
    async with reading(server) as (client, space):
        return {path: await client.get_node(ua.NodeId(path, space)).read_value() for path in NODES}


def test_every_node_shows_the_last_result(server: OpcUaServer) -> None:
    for one in (event(1), event(2, "WARN"), event(3, "NG", part="A-3", score=7.5)):
        server.deliver(Event.message(one))
    result = asyncio.run(values(server))
    last = event(3, "NG", part="A-3", score=7.5)
    assert result[f"{RESULT}.ResultId"] == last.id
    assert result[f"{RESULT}.PartId"] == "A-3"
    assert result[f"{RESULT}.ResultState"] == 1
    assert result[f"{RESULT}.CreationTime"] == datetime.datetime.fromtimestamp(last.time, datetime.timezone.utc)
    assert json.loads(result[f"{RESULT}.ResultContent"]) == json.loads(Event.message(last))
    assert (result[f"{RESULT}.Verdict"], result[f"{RESULT}.Passed"]) == ("NG", False)
    assert (result[f"{RESULT}.Score"], result[f"{RESULT}.ProcessingTime"]) == (7.5, 12.5)
    assert result["VisionStateMachine.CurrentState"] == "Operational"
    assert [result[f"Counters.{name}"] for name in ("OK", "WARN", "NG", "NONE")] == [1, 1, 1, 0]
    server.deliver(Event.message(event(4, "NONE", part=None, frame=None, score=None, z={}, latency_ms=None, reason="camera")))
    result = asyncio.run(values(server))
    assert result["VisionStateMachine.CurrentState"] == "Error"
    assert (result[f"{RESULT}.ResultState"], result[f"{RESULT}.PartId"], result[f"{RESULT}.Reason"]) == (4, "", "camera")
    assert result[f"{RESULT}.Score"] != result[f"{RESULT}.Score"]  # not a number


def test_the_nodes_are_found_by_browsing(server: OpcUaServer) -> None:
    async def browse() -> list[str]:
        async with reading(server) as (client, space):
            path = [f"{space}:VisionSystem", f"{space}:ResultManagement", f"{space}:Result"]
            result = await client.nodes.objects.get_child(path)
            return [(await child.read_browse_name()).Name for child in await result.get_children()]

    assert set(asyncio.run(browse())) == {path.rpartition(".")[2] for path in NODES if path.startswith(RESULT)}


def test_every_result_is_an_event(server: OpcUaServer) -> None:
    class Handler:
        def __init__(self) -> None:
            self.got: list[Any] = []

        def event_notification(self, found: Any) -> None:
            self.got.append(found)

    async def listen() -> list[Any]:
        handler = Handler()
        async with reading(server) as (client, space):
            kind = await client.nodes.base_event_type.get_child(f"{space}:ResultReadyEventType")
            subscription = await client.create_subscription(20, handler)
            await subscription.subscribe_events(ua.NodeId("VisionSystem", space), kind)
            for one in (event(7, "NG"), event(8)):
                await asyncio.to_thread(server.deliver, Event.message(one))
            for _ in range(1000):
                if len(handler.got) == 2:
                    break
                await asyncio.sleep(0.01)
        return handler.got

    first, second = asyncio.run(listen())
    assert [getattr(first, name) for name in EVENT_FIELDS] == [event(7).id, "7", "NG", 1.25, Event.message(event(7, "NG"))]
    assert (first.Severity, first.Message.Text) == (900, "NG 7 logic: z 4.0")
    assert (second.PartId, second.Severity) == ("8", 100)


def test_nobody_can_change_anything(server: OpcUaServer) -> None:
    async def attempt(user: str | None) -> list[type[Exception]]:
        client = Client(address(server), timeout=20)
        if user:
            client.set_user(user)
            client.set_password("x")
        errors = []
        async with client:
            space = await client.get_namespace_index(NAMESPACE)
            node = client.get_node(ua.NodeId(f"{RESULT}.Passed", space))
            for action in (
                node.write_value(True),
                node.set_writable(),
                client.nodes.objects.add_variable(space, "more", 1),
                client.delete_nodes([node]),
            ):
                try:
                    await action
                except ua.UaError as error:
                    errors.append(type(error))
        return errors

    errors = asyncio.run(attempt(None))
    assert len(errors) >= 3
    assert BadUserAccessDenied in errors
    assert asyncio.run(values(server))[f"{RESULT}.Verdict"]
    with pytest.raises(ua.UaError):
        asyncio.run(attempt("admin"))


def test_products_are_shown_to_everybody_and_chosen_only_where_the_address_allows_it(server: OpcUaServer) -> None:
    server.show_product('{"state": "active", "product": "cap-red", "bundle": "5f1c", "reason": null}')

    async def attempt() -> tuple[Any, ...]:
        async with reading(server) as (client, space):
            names = ("Requested", "Active", "State", "Bundle")
            nodes = {name: client.get_node(ua.NodeId(f"Product.{name}", space)) for name in names}
            with pytest.raises(BadUserAccessDenied):
                await nodes["Requested"].write_value("cap-blue")
            while await nodes["Active"].read_value() != "cap-red":
                await asyncio.sleep(0.01)
            return tuple([await node.read_value() for node in nodes.values()])

    assert asyncio.run(attempt()) == ("", "cap-red", "active", "5f1c")
    with pytest.raises(BadInput, match="no address to listen on"):
        OpcUaServer("opcua://127.0.0.1?products=all")


def test_an_address_in_use_is_an_error_to_try_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = OpcUaServer(f"opcua://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(OSError, match="in use"):
            server.open()
    with pytest.raises(ConnectionError):
        server.deliver(Event.message(event(2)))
    server.close()


def test_with_a_certificate_every_connection_is_encrypted(tmp_path: Path) -> None:
    for name in ("server", "client"):
        make_certificate(tmp_path, name)
    with pytest.raises(BadInput, match="cannot be used"):
        OpcUaServer(f"opcua://127.0.0.1?cert={__file__}&key={__file__}")
    server = OpcUaServer(
        f"opcua://127.0.0.1:{free_port()}?cert={tmp_path / 'server.pem'}&key={tmp_path / 'server_key.pem'}"
    )
    server.open()
    server.deliver(Event.message(event(5)))

    async def read(encrypted: bool) -> str:
        client = Client(address(server), timeout=20)
        client.application_uri = "urn:edge-ad:inspection"
        if encrypted:
            files = [str(tmp_path / name) for name in ("client.pem", "client_key.pem")]
            await client.set_security(
                SecurityPolicyBasic256Sha256, *files, server_certificate=str(tmp_path / "server.pem")
            )
        async with client:
            space = await client.get_namespace_index(NAMESPACE)
            return str(await client.get_node(ua.NodeId(f"{RESULT}.PartId", space)).read_value())

    assert asyncio.run(read(encrypted=True)) == "5"
    with pytest.raises(Exception, match=r"."):
        asyncio.run(read(encrypted=False))
    server.close()
    with socket.create_server(("127.0.0.1", int(server.name.rpartition(":")[2]))):
        pass  # the address is free again


def make_certificate(folder: Path, name: str) -> None:
    names = "subjectAltName=URI:urn:edge-ad:inspection,IP:127.0.0.1"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
    words += ["-addext", names, "-keyout", str(folder / f"{name}_key.pem"), "-out", str(folder / f"{name}.pem")]
    subprocess.run(words, check=True, capture_output=True)
