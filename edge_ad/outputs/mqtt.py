"""Events over MQTT 3.1.1, quality of service 1: a letter is delivered when the broker has acknowledged it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from edge_ad.errors import require
from edge_ad.outputs.broker import parse_broker

if TYPE_CHECKING:
    from paho.mqtt.client import Client, MQTTMessageInfo

KEEP_ALIVE_S = 15
CONNECT_S = 5.0
ACKNOWLEDGE_S = 10.0
CLOSE_S = 0.3


class MqttOutput:
    """Publishes every event on PREFIX/event, the last one retained on PREFIX/state, and online or offline on PREFIX/status.

    The last will says offline when this process dies. User and password come from the environment.
    """

    spooled = True

    def __init__(self, uri: str) -> None:
        self._broker = parse_broker(uri)
        require("paho.mqtt.client", extra="line", needed_by="--alarm mqtt://")
        self._context = self._broker.trust()
        self._client: Client | None = None
        self._changed = threading.Condition()
        self._connected = False
        self._trouble = ""
        self._acknowledged: set[int] = set()  # numbers of messages; they come before `publish` knows of them
        self.name = self._broker.name

    def open(self) -> None:
        """Connect and wait for the broker's word; OSError when it cannot be reached or refuses."""
        self._connected, self._trouble = False, ""
        self._client = client = self._make_client()
        try:
            client.connect(self._broker.host, self._broker.port, KEEP_ALIVE_S)
            client.loop_start()
            self._wait(lambda: self._connected, CONNECT_S, "no answer to the connection")
        except BaseException:
            self._drop_client()
            raise

    def deliver(self, line: str) -> None:
        """Publish one event and wait for its acknowledgement."""
        self.deliver_all([line])

    def deliver_all(self, lines: Sequence[str]) -> None:
        """Publish events in order and wait until all are acknowledged; OSError otherwise."""
        client = self._client
        if client is None or not self._connected:
            raise ConnectionError(self._trouble or "the connection is lost")
        self._acknowledged.clear()
        sent = {client.publish(f"{self._broker.topic}/event", line, qos=1).mid for line in lines}
        sent.add(client.publish(f"{self._broker.topic}/state", lines[-1], qos=1, retain=True).mid)
        self._wait(lambda: sent <= self._acknowledged, ACKNOWLEDGE_S, "no acknowledgement")

    def close(self) -> None:
        """Say offline, which the last will does not say after a goodbye, and hang up."""
        client = self._client
        if client is not None and self._connected:
            with contextlib.suppress(ValueError, RuntimeError):
                self._status(client, "offline").wait_for_publish(CLOSE_S)
        self._drop_client()

    def _make_client(self) -> Client:
        client = self._broker.client(self._context, self._client_id())
        client.will_set(f"{self._broker.topic}/status", "offline", qos=1, retain=True)
        client.connect_timeout = CONNECT_S
        client.reconnect_delay_set(1, 30)  # while there is nothing to deliver, paho itself comes back
        client.max_inflight_messages_set(100)
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_publish = self._on_publish
        return client

    def _client_id(self) -> str:
        """The same after a restart, so that the broker ends the old session, with its will, before the new one."""
        text = f"{os.uname().nodename}/{self._broker.topic}"
        return f"edge-ad-{hashlib.sha256(text.encode()).hexdigest()[:14]}"

    def _status(self, client: Client, text: str) -> MQTTMessageInfo:
        return client.publish(f"{self._broker.topic}/status", text, qos=1, retain=True)

    def _on_connect(self, client: Client, data: Any, flags: Any, code: Any, properties: Any) -> None:
        if not code.is_failure:
            self._status(client, "online")
        with self._changed:
            self._connected = not code.is_failure
            self._trouble = f"the broker refuses the connection: {str(code).lower()}" if code.is_failure else ""
            self._changed.notify_all()

    def _on_disconnect(self, client: Client, data: Any, flags: Any, code: Any, properties: Any) -> None:
        with self._changed:
            self._connected = False
            self._trouble = self._trouble or f"the connection is lost ({str(code).lower()})"
            self._changed.notify_all()

    def _on_publish(self, client: Client, data: Any, number: int, code: Any, properties: Any) -> None:
        with self._changed:
            self._acknowledged.add(number)
            self._changed.notify_all()

    def _wait(self, condition: Callable[[], bool], seconds: float, told: str) -> None:
        """Wait in the thread of the output for what the thread of the client brings."""
        with self._changed:
            came = self._changed.wait_for(lambda: self._trouble or condition(), seconds)
        if self._trouble:
            raise ConnectionError(self._trouble)
        if not came:
            raise TimeoutError(f"{told} within {seconds:g} s")

    def _drop_client(self) -> None:
        """End a client for good: what it still holds must not be sent behind our back."""
        client, self._client = self._client, None
        self._connected = False
        if client is not None:
            client.on_connect = client.on_disconnect = client.on_publish = None
            client.disconnect()
            client.loop_stop()
