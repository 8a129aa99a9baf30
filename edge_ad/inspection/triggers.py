"""What can call for a part: this process, a socket, an MQTT broker, or a PLC through the output guard."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TextIO

from edge_ad.errors import BadInput
from edge_ad.inspection.mqtt_trigger import MqttTrigger
from edge_ad.inspection.parting import Calls
from edge_ad.outputs.broker import PORTS, Broker, parse_broker
from edge_ad.redaction import redact_uri

ALLOWED = (
    "software (a part id a line on standard input), software:SOCKET, mqtt://BROKER/TOPIC, modbus or gpio (through "
    "--alarm), or camera (a hardware trigger: every frame is a part)"
)
LONGEST_ID = 64


class Trigger(Protocol):
    """Calls for parts until it is closed."""

    def close(self) -> None:
        """Call no more."""


@dataclass(frozen=True)
class TriggerAddress:
    """A checked trigger: its kind, the socket of a software trigger ('' is standard input), the broker of an MQTT one."""

    kind: Literal["software", "mqtt", "modbus", "gpio", "camera"]
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
    if kind == "gpio" and not colon:
        if not any(uri.startswith("gpio:") and "trigger=" in uri for uri in outputs):
            raise BadInput("--trigger gpio needs a line for it: --alarm 'gpio:///dev/gpiochip0?pass=17&trigger=5'")
        return TriggerAddress("gpio")
    raise BadInput(f"--trigger {redact_uri(text)!r} is no trigger here; allowed are {ALLOWED}")


def open_trigger(address: TriggerAddress, calls: Calls) -> Trigger | None:
    """Start a software or MQTT trigger; the others come through the guard or the camera and need nothing here."""
    if address.broker is not None:
        return MqttTrigger(address.broker, lambda text: calls.put(clean_id(text), time.monotonic()))
    if address.kind != "software":
        return None
    if not address.path:
        return LineTrigger(sys.stdin, calls.put)
    return SocketTrigger(address.path, calls.put)


Put = Callable[[str, float], None]


class LineTrigger:
    """Every line of a stream is the id of a part, called for when it is read; an empty line gets a number as id."""

    def __init__(self, stream: TextIO, put: Put) -> None:
        self._stream = stream
        self._put = put
        self._closed = False
        # A daemon: reading a terminal cannot be interrupted.
        threading.Thread(target=self._run, name="trigger", daemon=True).start()

    def close(self) -> None:
        """Call no more."""
        self._closed = True

    def _run(self) -> None:
        with contextlib.suppress(ValueError, OSError):
            for line in self._stream:
                if self._closed:
                    return
                self._put(clean_id(line), time.monotonic())


class SocketTrigger:
    """Every datagram to a Unix socket is the id of a part; BadInput when the socket cannot be made."""

    def __init__(self, path: str, put: Put) -> None:
        self._path = path
        self._put = put
        self._closed = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            if os.path.exists(path) and not os.path.isfile(path):
                os.unlink(path)  # left behind by an earlier run
            self._socket.bind(path)
        except OSError as error:
            raise BadInput(f"--trigger software:{path}: {error.strerror or error}; name another path") from error
        self._thread = threading.Thread(target=self._run, name="trigger", daemon=True)
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
        with contextlib.suppress(OSError):
            while True:
                data = self._socket.recv(256)
                if self._closed:
                    return
                self._put(clean_id(data.decode("utf-8", "replace")), time.monotonic())


def clean_id(text: str) -> str:
    """Return a part id without control characters and of at most 64 characters."""
    return "".join(char for char in text if char.isprintable()).strip()[:LONGEST_ID]
