"""Calls for parts over MQTT: the payload of every message to a topic is the id of a part."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edge_ad.outputs.broker import Broker
from edge_ad.supervision import SupervisedThread, ThreadFaults, tell

if TYPE_CHECKING:
    from paho.mqtt.client import Client, MQTTMessage

KEEP_ALIVE_S = 5
RETRY_S = (1, 5)
CONNECT_S = 3.0

Heard = Callable[[bytes], None]


class MqttTrigger:
    """Calls ``heard`` with the payload of each message, and connects again by itself, after 1, 2, 4 and 5 s.

    A broker that is away is told on stderr, once, and so is its return. What was published meanwhile, and messages that
    the broker has retained, call for nothing: their parts are gone.
    """

    def __init__(self, broker: Broker, heard: Heard, faults: ThreadFaults | None = None) -> None:
        self._broker = broker
        self._heard = heard
        self._faults = faults or ThreadFaults()
        self._told: set[str] = set()
        self._closed = False
        self._client = client = broker.client(broker.trust())
        client.connect_timeout = CONNECT_S
        client.reconnect_delay_set(*RETRY_S)
        client.on_connect, client.on_subscribe = self._connected, self._subscribed
        client.on_disconnect, client.on_connect_fail = self._disconnected, self._unreachable
        client.on_message = self._message
        client.connect_async(broker.host, broker.port, KEEP_ALIVE_S)
        # A daemon: looking up a name, or connecting, cannot be interrupted.
        self._thread = SupervisedThread("trigger", self._run, self._faults, essential=True)
        self._thread.start()

    def close(self) -> None:
        """Call no more and say goodbye to the broker."""
        self._closed = True
        self._client.disconnect()
        self._thread.join(0.5)

    def _run(self) -> None:
        try:
            self._client.loop_forever(retry_first_connection=True)
        except (OSError, ValueError):  # a socket that is closed under it
            if not self._closed:
                raise

    def _connected(self, client: Client, data: Any, flags: Any, code: Any, properties: Any) -> None:
        if code.is_failure:
            self._fault(f"it refuses the connection: {str(code).lower()}")
        else:
            client.subscribe(self._broker.topic, qos=1)

    def _subscribed(self, client: Client, data: Any, number: int, codes: Any, properties: Any) -> None:
        if any(code.is_failure for code in codes):
            self._fault(f"it does not let us read the topic {self._broker.topic}")
        elif self._told:
            tell(f"trigger: {self._broker.name} is back")
            self._told.clear()

    def _disconnected(self, client: Client, data: Any, flags: Any, code: Any, properties: Any) -> None:
        if not self._told:
            self._fault("the connection was lost")

    def _unreachable(self, client: Client, data: Any) -> None:
        self._fault("it cannot be reached")

    def _message(self, client: Client, data: Any, message: MQTTMessage) -> None:
        if not message.retain and not self._closed:
            with self._faults.caught("trigger"):
                self._heard(bytes(message.payload))

    def _fault(self, why: str) -> None:
        """Tell why no part is called for, each reason once until the broker is back."""
        if why in self._told or self._closed:
            return
        self._told.add(why)
        tell(f"trigger fault: {self._broker.name}: {why}; no part is called for until it is back")
