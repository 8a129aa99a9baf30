"""What a slow output is (MQTT, OPC UA, a webhook, a file, or one of another package), and the state of any output."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from edge_ad.errors import BadInput, DeviceFault
from edge_ad.outputs.channels import ALLOWED, FAST
from edge_ad.utils.text import redact_uri

GROUP = "edge_ad.outputs"
BUILT_IN = {
    "mqtt": "edge_ad.outputs.mqtt:MqttOutput",
    "mqtts": "edge_ad.outputs.mqtt:MqttOutput",
    "http": "edge_ad.outputs.webhook:Webhook",
    "https": "edge_ad.outputs.webhook:Webhook",
    "opcua": "edge_ad.outputs.opcua:OpcUaServer",
    "stdout": "edge_ad.outputs.jsonlines:JsonLines",
    "file": "edge_ad.outputs.jsonlines:JsonLines",
}


class Output(Protocol):
    """Takes events, one JSON object a line (see ``Event.message``), in a thread of its own; every method may block.

    Methods are called by one thread, ``open`` before the first ``deliver`` and again after a ``close``. Anything but
    ``Refused`` and ``NotNow`` that they raise means: close, wait (0.5 s and more, 30 s at most), open, deliver again.
    """

    @property
    def name(self) -> str:
        """The address for people and the key of the backlog: stable from run to run, and without any secret."""

    @property
    def spooled(self) -> bool:
        """Whether every event must arrive. False shows a state: after a fault only the latest events are delivered."""

    def open(self) -> None:
        """Connect."""

    def deliver(self, line: str) -> None:
        """Deliver one event; return only when the receiver has confirmed it."""

    def close(self) -> None:
        """Let go; also after a fault, and never for longer than a second."""


@runtime_checkable
class Pipelined(Protocol):
    """An output that confirms many events at once."""

    def deliver_all(self, lines: Sequence[str]) -> None:
        """Deliver in order; return when all are confirmed. On a fault all of them are delivered again."""


@runtime_checkable
class ProductChooser(Protocol):
    """An output whose receiver may choose the product of a station that has several."""

    on_choice: Callable[[str], None]

    def show_product(self, message: str) -> None:
        """Show how products stand, JSON with state, product, bundle and reason; returns at once."""


class Refused(Exception):
    """The receiver is well and will never take this event: it is set aside, counted and told."""


class NotNow(Exception):
    """The receiver asks for a pause of ``seconds``."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"it asks for a pause of {seconds:g} s")
        self.seconds = seconds


Factory = Callable[[str], Output]


def is_fast(uri: str) -> bool:
    """Whether the output guard drives this output, straight from memory."""
    return scheme_of(uri) in FAST


def scheme_of(uri: str) -> str:
    """Return what stands before the first colon, in small letters; '' where that is no scheme."""
    match = re.match(r"\s*([A-Za-z][A-Za-z0-9+.-]*):", uri)
    return match.group(1).lower() if match else ""


def make_output(uri: str) -> Output:
    """Return the output of a URI, not opened yet; BadInput for one that no output takes.

    Schemes that are not built in come from entry points of the group ``edge_ad.outputs``: the name is the scheme, the
    object is called with the URI and returns an Output.
    """
    scheme = scheme_of(uri)
    if scheme in BUILT_IN:
        module, _, attribute = BUILT_IN[scheme].partition(":")
        built_in: Factory = getattr(importlib.import_module(module), attribute)
        return built_in(uri.strip())
    entries = {entry.name: entry for entry in importlib.metadata.entry_points(group=GROUP)}
    if scheme not in entries:
        others = f"; installed packages add {', '.join(f'{name}:' for name in sorted(entries))}" if entries else ""
        raise BadInput(f"--alarm {redact_uri(uri)!r} is no output; allowed are {ALLOWED}{others}")
    try:
        factory: Factory = entries[scheme].load()
    except Exception as error:  # whatever another package does when it is imported
        raise BadInput(
            f"--alarm {scheme}: the package that brings it cannot be loaded ({type(error).__name__}: {error}): install it again"
        ) from error
    return factory(uri.strip())


@dataclass(frozen=True)
class ChannelState:
    """The state of one output in this run.

    ``proven``: it has worked once. ``fault`` says why it does not work now, ``faults`` counts how often that began.
    ``since`` is the second (since 1970 UTC) from which on it works, or does not; None before either is known.
    """

    name: str
    proven: bool = False
    fault: str | None = None
    faults: int = 0
    since: float | None = None

    @property
    def up(self) -> bool:
        """Whether it works now."""
        return self.proven and self.fault is None

    def after(self, fault: str | None, now: float) -> ChannelState:
        """Return the state at second ``now``, when the output failed with ``fault`` or (None) worked."""
        began = fault is not None and self.fault is None
        changed = began or (fault is None and not self.up)
        return replace(
            self,
            proven=self.proven or fault is None,
            fault=fault,
            faults=self.faults + began,
            since=now if changed else self.since,
        )


def wait_until_up(states: Callable[[], Sequence[ChannelState]], seconds: float, silent: str) -> None:
    """Wait until every output works; DeviceFault names those that do not in time, without a fault as ``silent``."""
    deadline = time.monotonic() + seconds
    while waiting := [state for state in states() if not state.up]:
        if time.monotonic() > deadline:
            message = "; ".join(f"{state.name}: {state.fault or silent}" for state in waiting)
            raise DeviceFault(f"an output does not work within {seconds:g} s: {message}; mend it, or drop --require-alarms")
        time.sleep(0.02)
