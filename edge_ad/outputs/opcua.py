"""An OPC UA server that shows the last result: names after OPC 40100-1 (machine vision) where they fit.

Read-only, but for the node by which a client chooses the product, where the address allows that.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import threading
import urllib.parse
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edge_ad.errors import BadInput, require
from edge_ad.events import VERDICTS
from edge_ad.outputs.channels import bracketed, check_port, first_missing, settings_of
from edge_ad.utils.supervision import SupervisedThread
from edge_ad.utils.text import redact_uri

NAMESPACE = "urn:edge-ad:inspection"
WRITTEN = "opcua://ADDRESS:4840, with ?cert=FILE&key=FILE to encrypt and products=choose to let clients choose the product"
PORT = 4840
OPEN_S = 120.0  # building the standard nodes takes seconds on a small computer
SHOW_S = 5.0
CLOSE_S = 0.8
COMPLETED, FAILED = 1, 4  # ResultStateDataType
SEVERITY = {"OK": 100, "WARN": 500, "NONE": 800, "NG": 900}

# Path below VisionSystem: (OPC UA type, value before the first result).
NODES: dict[str, tuple[str, Any]] = {
    "VisionStateMachine.CurrentState": ("String", "Ready"),
    "ResultManagement.Result.ResultId": ("String", ""),
    "ResultManagement.Result.PartId": ("String", ""),
    "ResultManagement.Result.ResultState": ("Int32", 0),
    "ResultManagement.Result.CreationTime": ("DateTime", datetime(1970, 1, 1, tzinfo=timezone.utc)),
    "ResultManagement.Result.ResultContent": ("String", ""),
    "ResultManagement.Result.Verdict": ("String", ""),
    "ResultManagement.Result.Passed": ("Boolean", False),
    "ResultManagement.Result.Score": ("Double", float("nan")),
    "ResultManagement.Result.Reason": ("String", ""),
    "ResultManagement.Result.Camera": ("String", ""),
    "ResultManagement.Result.ProcessingTime": ("Double", float("nan")),
    **{f"Counters.{verdict}": ("UInt32", 0) for verdict in VERDICTS},
    "Product.Requested": ("String", ""),
    "Product.Active": ("String", ""),
    "Product.State": ("String", ""),
    "Product.Bundle": ("String", ""),
    "Product.Reason": ("String", ""),
}
REQUESTED = "Product.Requested"
POLL_MS = 20
MAX_REQUEST = 80
EVENT_FIELDS = ("ResultId", "PartId", "Verdict", "Score", "ResultContent")


@dataclass(frozen=True)
class Endpoint:
    """A checked address; ``cert`` and ``key`` are PEM or DER files, '' for a server without encryption. ``chooses``: clients may
    choose the product.
    """

    host: str
    port: int
    cert: str
    key: str
    chooses: bool = False


def parse_endpoint(uri: str) -> Endpoint:
    """Check a URI as in ``WRITTEN``; BadInput for anything else."""
    prefix = f"--alarm {redact_uri(uri, ('cert', 'key'))!r}"
    try:
        parts = urllib.parse.urlsplit(uri)
        port = PORT if parts.port is None else parts.port
        files = settings_of(parts.query)
    except ValueError as error:  # whose words repeat parts of the address
        raise BadInput(f"{prefix} has no valid port or settings; write {WRITTEN}") from error
    products = files.pop("products", None)
    wrong = set(files) not in (set(), {"cert", "key"}) or products not in (None, "choose")
    if not parts.hostname or parts.path.strip("/") or "@" in parts.netloc or wrong:
        raise BadInput(f"{prefix} is no address to listen on; write {WRITTEN}")
    missing = first_missing(files.values())
    if missing is not None:
        raise BadInput(f"{prefix}: there is no file {missing}; name the certificate and the key of this server")
    return Endpoint(parts.hostname, port, files.get("cert", ""), files.get("key", ""), products is not None)


class OpcUaServer:
    """Shows a state, not a history: after a fault the latest results count. Event loop and server in a thread of its
    own.

    Anybody who reaches the port may read; nobody may write but ``Product.Requested``, where the address allows that: then
    ``on_choice`` is called with the name, and ``show_product`` tells how products stand. With a certificate every connection
    must be signed or encrypted (Basic256Sha256); which clients are trusted is left to the network.
    """

    spooled = False

    def __init__(self, uri: str) -> None:
        require("asyncua", extra="line", needed_by="--alarm opcua://")
        self._endpoint = parse_endpoint(uri)
        if self._endpoint.cert:
            self._check_files()
        self.name = f"opcua://{bracketed(self._endpoint.host)}:{self._endpoint.port}"
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: Any = None
        self._ended = threading.Event()  # the thread has ended by itself
        self._task: concurrent.futures.Future[None] | None = None
        self._nodes: dict[str, Any] = {}
        self._event: Any = None
        self._counts = dict.fromkeys(VERDICTS, 0)
        self._product: dict[str, Any] = {}
        self.on_choice: Callable[[str], None] = lambda name: None

    def open(self) -> None:
        """Listen; OSError when the address is in use."""
        # Asked first, because it costs nothing; the nodes cost seconds.
        check_port(self._endpoint.host, self._endpoint.port)
        self._ended.clear()
        self._loop = loop = asyncio.new_event_loop()
        SupervisedThread(self.name, lambda: self._serve(loop), restart=False, on_fault=self._broke).start()
        try:
            self._do(self._start, OPEN_S)
        except BaseException:
            self.close()
            raise

    def deliver(self, line: str) -> None:
        """Show one event."""
        event = json.loads(line)
        self._do(lambda: self._show(event, line), SHOW_S)

    def show_product(self, message: str) -> None:
        """Show how products stand: JSON with state, product, bundle and reason; from any thread, waits for nothing."""
        self._product, loop = json.loads(message), self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # it ends; the next one shows it when it opens
                loop.call_soon_threadsafe(lambda: loop.create_task(self._show_product()))

    def close(self) -> None:
        """Stop listening and end the thread."""
        loop, self._loop = self._loop, None
        server, self._server = self._server, None
        if loop is None:
            return
        if server is not None:
            with contextlib.suppress(Exception):
                asyncio.run_coroutine_threadsafe(server.stop(), loop).result(CLOSE_S)
        loop.call_soon_threadsafe(loop.stop)

    def _do(self, work: Callable[[], Coroutine[Any, Any, None]], seconds: float) -> None:
        loop = self._loop
        if loop is None:
            raise ConnectionError("the server does not run")
        task: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._task = task
        with contextlib.suppress(RuntimeError):  # the loop is closed: nothing will happen
            # Made in the thread of the loop: one that has ended leaves no coroutine that nobody awaits.
            loop.call_soon_threadsafe(lambda: _follow(loop.create_task(work()), task))
        if self._ended.is_set():  # its thread ended meanwhile
            task.cancel()
        try:
            task.result(seconds)
        except concurrent.futures.CancelledError as error:
            raise ConnectionError("the server's thread ended") from error
        except concurrent.futures.TimeoutError as error:  # before Python 3.11 not the built-in one
            task.cancel()
            raise TimeoutError(f"the server did not answer within {seconds:g} s") from error

    def _broke(self, error: BaseException) -> None:
        """Let what is under way, and the next delivery, fail at once: then the output is opened again."""
        self._loop = None
        self._ended.set()
        if self._task is not None:
            self._task.cancel()

    @staticmethod
    def _serve(loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        loop.run_forever()
        pending = asyncio.all_tasks(loop)
        for task in pending:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        loop.close()

    async def _start(self) -> None:
        from asyncua import ua
        from asyncua.server.server import Server

        server = Server()
        await server.init()
        server.allow_remote_admin(False)
        await server.set_application_uri(NAMESPACE)
        server.set_server_name("edge-ad")
        server.product_uri = NAMESPACE
        server.set_endpoint(self.name.replace("opcua://", "opc.tcp://"))
        if self._endpoint.cert:
            await self._identify(server)
            policies = ua.SecurityPolicyType
            server.set_security_policy([policies.Basic256Sha256_SignAndEncrypt, policies.Basic256Sha256_Sign])
        else:
            server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        server.set_identity_tokens([ua.AnonymousIdentityToken])
        await self._build(server, ua)
        await server.start()
        self._server = server
        await self._show_product()
        if self._endpoint.chooses:
            subscription = await server.create_subscription(POLL_MS, self)
            await subscription.subscribe_data_change(self._nodes[REQUESTED])

    def datachange_notification(self, node: Any, value: Any, data: Any) -> None:
        """A client has written the name of a product; called by asyncua."""
        if isinstance(value, str) and value and self._loop is not None:
            self._loop.create_task(self._choose(value[: MAX_REQUEST + 1]))

    async def _choose(self, name: str) -> None:
        """Ask for a product, elsewhere, since that may wait for a verdict; then empty the node, so that it can be asked again."""
        await asyncio.to_thread(self.on_choice, name)
        await self._write({REQUESTED: ""})

    async def _show_product(self) -> None:
        state = self._product
        if self._server is not None and state:
            shown = {"Active": state["product"] if state["state"] == "active" else "", "State": state["state"]}
            shown |= {"Bundle": state["bundle"] or "", "Reason": state["reason"] or ""}
            # The acknowledge comes last: who reads it reads all that belongs to it.
            await self._write({f"Product.{name}": shown[name] for name in ("Bundle", "Reason", "State", "Active")})

    async def _write(self, values: Mapping[str, Any]) -> None:
        from asyncua import ua

        for path, value in values.items():
            kind = ua.VariantType[NODES[path][0]]
            await self._server.write_attribute_value(self._nodes[path].nodeid, ua.DataValue(ua.Variant(value, kind)))

    async def _identify(self, server: Any) -> None:
        """Load certificate and key, in PEM or DER whatever the names of the files say."""
        for load, name in (
            (server.load_certificate, self._endpoint.cert),
            (server.load_private_key, self._endpoint.key),
        ):
            content = Path(name).read_bytes()
            await load(content, format="pem" if content.startswith(b"-----") else "der")

    def _check_files(self) -> None:
        from asyncua.server.server import Server

        try:
            asyncio.run(self._identify(Server()))
        except (OSError, ValueError) as error:
            message = f"{self._endpoint.cert} or {self._endpoint.key} cannot be used: {str(error)[:120]}"
            raise BadInput(
                f"--alarm opcua: {message}; name a certificate and a key without password, PEM or DER"
            ) from error

    async def _build(self, server: Any, ua: Any) -> None:
        """Make the nodes of ``NODES`` and the type of the event."""
        space = await server.register_namespace(NAMESPACE)
        folders = {"": await server.nodes.objects.add_object(ua.NodeId("VisionSystem", space), f"{space}:VisionSystem")}
        for path, (kind, value) in NODES.items():
            parent = ""
            for name in path.split(".")[:-1]:
                child = f"{parent}.{name}".strip(".")
                if child not in folders:
                    folders[child] = await folders[parent].add_object(ua.NodeId(child, space), f"{space}:{name}")
                parent = child
            name = path.rpartition(".")[2]
            variant = ua.Variant(value, ua.VariantType[kind])
            self._nodes[path] = await folders[parent].add_variable(ua.NodeId(path, space), f"{space}:{name}", variant)
        if self._endpoint.chooses:
            await self._nodes[REQUESTED].set_writable()
        kinds = {path.rpartition(".")[2]: ua.VariantType[kind] for path, (kind, _) in NODES.items()}
        fields = [(name, kinds[name]) for name in EVENT_FIELDS]
        event_type = await server.create_custom_event_type(space, "ResultReadyEventType", properties=fields)
        self._event = await server.get_event_generator(event_type, folders[""].nodeid)

    async def _show(self, event: Mapping[str, Any], line: str) -> None:
        values = self._values(event, line)
        await self._write(values)
        shown = self._event.event
        for name in EVENT_FIELDS:
            setattr(shown, name, values[f"ResultManagement.Result.{name}"])
        shown.Severity = SEVERITY[event["verdict"]]
        text = f"{event['verdict']} {event['part'] or ''} {event['reason'] or ''}"
        await self._event.trigger(message=" ".join(text.split()))
        self._counts[event["verdict"]] += 1

    def _values(self, event: Mapping[str, Any], line: str) -> dict[str, Any]:
        """Return what every node shows with this event."""
        verdict = event["verdict"]
        result = {
            "ResultId": event["id"],
            "PartId": event["part"] or "",
            "ResultState": FAILED if verdict == "NONE" else COMPLETED,
            "CreationTime": datetime.fromisoformat(event["time"].replace("Z", "+00:00")),
            "ResultContent": line,
            "Verdict": verdict,
            "Passed": verdict == "OK",
            "Score": float("nan") if event["score"] is None else float(event["score"]),
            "Reason": event["reason"] or "",
            "Camera": event["camera"],
            "ProcessingTime": float("nan") if event["latency_ms"] is None else float(event["latency_ms"]),
        }
        counts = {name: count + (name == verdict) for name, count in self._counts.items()}
        return {
            "VisionStateMachine.CurrentState": "Error" if verdict == "NONE" else "Operational",
            **{f"ResultManagement.Result.{name}": value for name, value in result.items()},
            **{f"Counters.{name}": count for name, count in counts.items()},
        }


def _follow(task: asyncio.Task[None], done: concurrent.futures.Future[None]) -> None:
    """Give ``done`` the outcome of a task, and cancel the task with it."""

    def ended(task: asyncio.Task[None]) -> None:
        if task.cancelled():
            done.cancel()
        elif not done.cancelled():
            error = task.exception()
            done.set_result(None) if error is None else done.set_exception(error)

    task.add_done_callback(ended)
    loop = task.get_loop()

    def cancelled(done: concurrent.futures.Future[None]) -> None:
        if done.cancelled():
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(task.cancel)

    done.add_done_callback(cancelled)
