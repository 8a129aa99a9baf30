"""What can call for a part: this process, a socket, an MQTT broker, or a PLC through the output guard.

Calls for parts over MQTT: the payload of every message to a topic is the id of a part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edge_ad.outputs.mqtt import Broker
from edge_ad.utils.supervision import SupervisedThread, ThreadFaults

if TYPE_CHECKING:
    from paho.mqtt.client import Client, MQTTMessage
import contextlib
import logging
import os
import socket
import stat
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Literal, Protocol

from edge_ad.errors import BadInput
from edge_ad.inspection.part_tracking import Calls
from edge_ad.outputs.mqtt import PORTS, parse_broker
from edge_ad.utils.text import part_id, redact_uri

_log = logging.getLogger(__name__)

KEEP_ALIVE_S = 5
RETRY_S = (1, 5)
CONNECT_S = 3.0

Heard = Callable[[bytes], None]


class MqttTrigger:
    """Calls ``heard`` with the payload of each message, and connects again by itself, after 1, 2, 4 and 5 s.

    A broker that is away is logged, once, and so is its return. What was published meanwhile, and messages that
    the broker has retained, call for nothing: their parts are gone.
    """

    what, lost, essential = "trigger", "no part is called for until it is back", True
    keep_alive_s = KEEP_ALIVE_S

    def __init__(self, broker: Broker, heard: Heard, faults: ThreadFaults | None = None) -> None:
        self._broker = broker
        self._heard = heard
        self._faults = faults or ThreadFaults()
        self._reported: set[str] = set()
        self._closed = False
        self._client = client = broker.client(broker.trust())
        self._configure(client)
        client.connect_timeout = CONNECT_S
        client.reconnect_delay_set(*RETRY_S)
        client.on_connect, client.on_subscribe = self._connected, self._subscribed
        client.on_disconnect, client.on_connect_fail = self._disconnected, self._unreachable
        client.on_message = self._message
        client.connect_async(broker.host, broker.port, self.keep_alive_s)
        # A daemon: looking up a name, or connecting, cannot be interrupted.
        self._thread = SupervisedThread(self.what, self._run, self._faults, essential=self.essential)
        self._thread.start()

    def _configure(self, client: Client) -> None:
        """Set what must be set before a client connects."""

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
        elif self._reported:
            _log.info("%s: %s is back", self.what, self._broker.name)
            self._reported.clear()

    def _disconnected(self, client: Client, data: Any, flags: Any, code: Any, properties: Any) -> None:
        if not self._reported:
            self._fault("the connection was lost")

    def _unreachable(self, client: Client, data: Any) -> None:
        self._fault("it cannot be reached")

    def _message(self, client: Client, data: Any, message: MQTTMessage) -> None:
        if not message.retain and not self._closed:
            with self._faults.caught(self.what):
                self._heard(bytes(message.payload))

    def _fault(self, why: str) -> None:
        """Log why no part is called for, each reason once until the broker is back."""
        if why in self._reported or self._closed:
            return
        self._reported.add(why)
        _log.error("%s fault: %s: %s; %s", self.what, self._broker.name, why, self.lost)


class MqttCommands(MqttTrigger):
    """Calls ``heard`` with each message of a topic of commands, and tells what stands at that topic with ``/state``.

    What stands is retained there, and told again to a broker that was away. At the end, and by the broker when this process dies,
    ``ended`` stands there.
    """

    what, lost, essential = "commands", "no command comes from there until it is back", False

    def __init__(self, broker: Broker, heard: Heard, faults: ThreadFaults | None = None, *, ended: str = "") -> None:
        self._state: str | None = None
        self._ended = ended
        super().__init__(broker, heard, faults)
        # Leave writing to the client's own thread: two that write can swap messages, and the last one is retained.
        self._client.on_socket_register_write = lambda client, data, link: None

    def _configure(self, client: Client) -> None:
        client.will_set(f"{self._broker.topic}/state", self._ended, qos=1, retain=True)

    def close(self) -> None:
        """Tell that nothing stands any more, and say goodbye to the broker."""
        self.publish_state(self._ended)
        super().close()

    def publish_state(self, message: str) -> None:
        """Publish what stands now, from any thread; waits for nothing."""
        self._state = message
        if self._client.is_connected():
            self._client.publish(f"{self._broker.topic}/state", message, qos=1, retain=True)

    def _subscribed(self, client: Client, data: Any, number: int, codes: Any, properties: Any) -> None:
        super()._subscribed(client, data, number, codes, properties)
        if self._state is not None:
            self.publish_state(self._state)


ALLOWED = (
    "software (a part id a line on standard input), software:SOCKET, mqtt://BROKER/TOPIC, modbus, s7, enip or gpio (through "
    "--alarm), or camera (a hardware trigger: every frame is a part)"
)
MAX_LINE = 4096
THROUGH_OUTPUTS = ("modbus", "s7", "enip", "gpio")  # kinds that come through the output guard


class Trigger(Protocol):
    """Calls for parts until it is closed."""

    def close(self) -> None:
        """Call no more."""


@dataclass(frozen=True)
class TriggerAddress:
    """A checked trigger: its kind, the socket of a software trigger ('' is standard input), the broker of an MQTT one.
    """

    kind: Literal["software", "mqtt", "modbus", "s7", "enip", "gpio", "camera"]
    path: str = ""
    broker: Broker | None = None


def parse_trigger(text: str, outputs: Sequence[str]) -> TriggerAddress:
    """Check a trigger against the outputs it comes through; BadInput for anything that cannot be."""
    kind, colon, path = text.strip().partition(":")
    if kind == "software" and bool(colon) == bool(path):
        return TriggerAddress("software", path)
    if kind in PORTS and colon:
        return TriggerAddress("mqtt", broker=parse_broker(text.strip(), "--trigger", topic=""))
    if kind == "camera" and not colon:
        return TriggerAddress("camera")
    if kind == "modbus" and not colon:
        if not any(uri.startswith(("modbus:", "modbus-server:")) for uri in outputs):
            raise BadInput("--trigger modbus needs the PLC as --alarm modbus://HOST or --alarm modbus-server://ADDRESS")
        return TriggerAddress("modbus")
    if kind in ("s7", "enip") and not colon:
        if not any(uri.startswith(f"{kind}:") for uri in outputs):
            example = "s7://HOST/DB10" if kind == "s7" else "enip://HOST/EdgeAD"
            raise BadInput(f"--trigger {kind} needs the PLC as --alarm {example}")
        return TriggerAddress("s7" if kind == "s7" else "enip")
    if kind == "gpio" and not colon:
        if not any(uri.startswith("gpio:") and "trigger=" in uri for uri in outputs):
            raise BadInput("--trigger gpio needs a line for it: --alarm 'gpio:///dev/gpiochip0?pass=17&trigger=5'")
        return TriggerAddress("gpio")
    raise BadInput(f"--trigger {redact_uri(text)!r} is no trigger here; allowed are {ALLOWED}")


def open_trigger(address: TriggerAddress, calls: Calls, faults: ThreadFaults | None = None) -> Trigger | None:
    """Start a software or MQTT trigger; the others come through the guard or the camera and need nothing here."""
    if address.broker is not None:
        return MqttTrigger(address.broker, lambda sent: calls.put(part_id(sent), time.monotonic()), faults)
    if address.kind != "software":
        return None
    if not address.path:
        return LineTrigger(getattr(sys.stdin, "buffer", sys.stdin), calls.put, faults)
    return SocketTrigger(address.path, calls.put, faults)


Put = Callable[[str, float], None]


class LineTrigger:
    """Every line of a stream is the id of a part, called for when it is read; an empty line gets a number as id.

    Lines are bytes, so that one that is no UTF-8 is an id like any other. The end of the stream is told: no part is
    called for any more.
    """

    def __init__(self, stream: IO[bytes] | IO[str], put: Put, faults: ThreadFaults | None = None) -> None:
        self._stream = stream
        self._put = put
        self._closed = False
        SupervisedThread("trigger", self._run, faults, essential=True).start()

    def close(self) -> None:
        """Call no more."""
        self._closed = True

    def _run(self) -> None:
        try:
            whole = True
            while line := self._stream.readline(MAX_LINE):
                if self._closed:
                    return
                if whole:  # the rest of an endless line is no part
                    self._put(part_id(line), time.monotonic())
                whole = line[-1:] in (b"\n", "\n")
        except (ValueError, OSError):  # the stream was closed with the program
            if not self._closed and not self._stream.closed:
                raise
        if not self._closed:
            _log.warning("trigger: standard input has ended; no more parts are called for")


def _is_left_behind(path: str) -> bool:
    """Whether ``path`` is a socket of an ended run: nothing else may be taken away, nor one that somebody reads."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asking:
            asking.connect(path)
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


class SocketTrigger:
    """Every datagram to a Unix socket is the id of a part; BadInput when the socket cannot be made."""

    def __init__(self, path: str, put: Put, faults: ThreadFaults | None = None) -> None:
        self._path = path
        self._put = put
        self._closed = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            if _is_left_behind(path):
                os.unlink(path)
            self._socket.bind(path)
        except OSError as error:
            raise BadInput(f"--trigger software:{path}: {error.strerror or error}; name another path") from error
        self._thread = SupervisedThread("trigger", self._run, faults, essential=True)
        self._thread.start()

    def close(self) -> None:
        """Call no more and take the socket away."""
        self._closed = True  # a socket that is shut down reads as an endless row of empty datagrams
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        with contextlib.suppress(OSError):
            os.unlink(self._path)

    def _run(self) -> None:
        try:
            while True:
                data = self._socket.recv(MAX_LINE)
                if self._closed:
                    return
                self._put(part_id(data), time.monotonic())
        except OSError:
            if not self._closed:
                raise
