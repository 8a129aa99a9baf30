"""Events over MQTT 3.1.1, quality of service 1: a letter is delivered when the broker has acknowledged it.

The address of an MQTT broker, with user, password and TLS: the same for outputs and for triggers.
"""

from __future__ import annotations

import os
import ssl
import urllib.parse
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_ad.errors import BadInput, require
from edge_ad.outputs.channels import bracketed, first_missing, settings_of
from edge_ad.utils.text import redact_uri

if TYPE_CHECKING:
    from paho.mqtt.client import Client
import contextlib
import hashlib
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paho.mqtt.client import Client, MQTTMessageInfo


WRITTEN = "mqtt://HOST:1883/TOPIC or mqtts://HOST:8883/TOPIC?ca=FILE&cert=FILE&key=FILE"
USER, PASSWORD = "EDGE_AD_MQTT_USER", "EDGE_AD_MQTT_PASSWORD"
PORTS = {"mqtt": 1883, "mqtts": 8883}


@dataclass(frozen=True)
class Broker:
    """A checked address with a topic; ``files`` are those of TLS, by ca, cert and key, ``flag`` is where it was given.
    """

    host: str
    port: int
    topic: str
    tls: bool
    files: dict[str, str]
    flag: str

    @property
    def name(self) -> str:
        """The address without files."""
        return f"{'mqtts' if self.tls else 'mqtt'}://{bracketed(self.host)}:{self.port}/{self.topic}"

    def trust(self) -> ssl.SSLContext | None:
        """Return what TLS needs, None without it; BadInput for a file that cannot be used."""
        if not self.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.files.get("ca"))
            if "ca" in self.files:
                # An authority made as mosquitto's manual says lacks extensions that Python 3.13 has begun to ask for.
                context.verify_flags &= ~ssl.VERIFY_X509_STRICT
            if "cert" in self.files:
                context.load_cert_chain(self.files["cert"], self.files.get("key"))
        except OSError as error:
            raise BadInput(f"{self.flag} {self.host}: a file of TLS cannot be used: {error}; name PEM files") from error
        return context

    def client(self, context: ssl.SSLContext | None, client_id: str = "") -> Client:
        """Return a client that is not connected, with user and password from the environment."""
        require("paho.mqtt.client", extra="line", needed_by=f"{self.flag} mqtt://")
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        client = Client(CallbackAPIVersion.VERSION2, client_id=client_id)
        if user := os.environ.get(USER):
            client.username_pw_set(user, os.environ.get(PASSWORD))
        if context is not None:
            client.tls_set_context(context)
        return client


def parse_broker(uri: str, flag: str = "--alarm", topic: str = "edge-ad") -> Broker:
    """Check a URI as in ``WRITTEN``, ``topic`` where it has none; BadInput for anything else, and for one with a
    password.
    """
    prefix = f"{flag} {redact_uri(uri, ('ca', 'cert', 'key'))}"
    if "@" in uri.partition("?")[0]:
        raise BadInput(
            f"{prefix}: a user or password does not belong in an address, which lists and logs show; set {USER} and "
            f"{PASSWORD} in the environment"
        )
    try:
        parts = urllib.parse.urlsplit(uri)
        port = parts.port or PORTS[parts.scheme]
        files = settings_of(parts.query)
    except (ValueError, KeyError) as error:  # whose words repeat parts of the address
        raise BadInput(f"{prefix} is no broker with a valid port and settings; write {WRITTEN}") from error
    tls, topic = parts.scheme == "mqtts", urllib.parse.unquote(parts.path).strip("/") or topic
    wild = "#" in uri or set("+#\0") & set(topic)
    if not parts.hostname or not topic or wild or set(files) - ({"ca", "cert", "key"} if tls else set()):
        raise BadInput(f"{prefix} is no broker with a topic: write {WRITTEN}, without wildcards")
    missing = first_missing(files.values())
    if missing is not None or ("key" in files and "cert" not in files):
        what = f"there is no file {missing}" if missing is not None else "key= needs cert="
        raise BadInput(f"{prefix}: {what}; name PEM files")
    return Broker(parts.hostname, port, topic, tls, files, flag)


KEEP_ALIVE_S = 15
CONNECT_S = 5.0
ACKNOWLEDGE_S = 10.0
CLOSE_S = 0.3


class MqttOutput:
    """Publishes every event on PREFIX/event, the last one retained on PREFIX/state, and online or offline on
    PREFIX/status.

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

    def _wait(self, condition: Callable[[], bool], seconds: float, prefix: str) -> None:
        """Wait in the thread of the output for what the thread of the client brings."""
        with self._changed:
            came = self._changed.wait_for(lambda: self._trouble or condition(), seconds)
        if self._trouble:
            raise ConnectionError(self._trouble)
        if not came:
            raise TimeoutError(f"{prefix} within {seconds:g} s")

    def _drop_client(self) -> None:
        """End a client for good: what it still holds must not be sent behind our back."""
        client, self._client = self._client, None
        self._connected = False
        if client is not None:
            client.on_connect = client.on_disconnect = client.on_publish = None
            client.disconnect()
            client.loop_stop()
