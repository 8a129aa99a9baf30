"""How desired and reported states travel: retained messages of an MQTT broker, or files of a shared folder.

| topic | file | who writes | what |
|---|---|---|---|
| TOPIC/GROUP/desired | GROUP/desired/000001.json | an engineer | the newest desired state, signed, retained |
| TOPIC/GROUP/station/NAME/reported | GROUP/reported/NAME.json | the station | its reported state, retained |
| TOPIC/GROUP/station/NAME/online | | the station; its last will | online or offline, retained |
"""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edge_ad.config import FleetTable
from edge_ad.errors import EdgeAdError
from edge_ad.fleet.desired_state import Reported, read_reported
from edge_ad.fleet.signing import MAX_TEXT
from edge_ad.fleet.store_access import Away, FolderStore
from edge_ad.inspection.triggers import MqttTrigger
from edge_ad.outputs.mqtt import PORTS, Broker, parse_broker
from edge_ad.utils.files import atomic_write
from edge_ad.utils.supervision import SupervisedThread, ThreadFaults

if TYPE_CHECKING:
    from paho.mqtt.client import Client, MQTTMessage

_log = logging.getLogger(__name__)

TOPIC = "edge-ad-fleet"
POLL_S = 1.0
ANSWER_S = 10.0
REFRESH_S = 5.0
READ_S = 3.0  # until the broker has brought what is retained; a user who may not mark the end of that waits so long
_FILE = re.compile(r"(\d{6,10})\.json")

Heard = Callable[[bytes], None]
OnFault = Callable[[str], None]


def is_broker(where: str) -> bool:
    """Whether states go through an MQTT broker, not a folder."""
    return where.partition(":")[0] in PORTS


def where_states_are(table: FleetTable) -> str | None:
    """Return the broker of the fleet, else the folder of bundles where it is one; None where there is neither."""
    if table.broker is not None:
        return table.broker
    return table.bundles if table.bundles is not None and "://" not in table.bundles else None


def broker_of(where: str) -> Broker:
    """Return the broker at an address; BadInput for one that is none."""
    return parse_broker(where, "--broker", topic=TOPIC)


class StationChannel(Protocol):
    """A station's end: hears desired states until it is closed, and tells the reported one."""

    def report(self, text: str) -> None:
        """Tell the reported state, now or when the way is open again."""

    def close(self) -> None:
        """Hear no more."""


class MqttStation(MqttTrigger):
    """The station's end of a broker; ``on_fault`` hears why the broker is away, and '' when it is back."""

    what, lost, essential = "fleet", "the bundle in force goes on, and nothing is asked for until it is back", False
    keep_alive_s = 30  # a station under load must not seem to be away

    def __init__(
        self, broker: Broker, group: str, station: str, *, heard: Heard, on_fault: OnFault, faults: ThreadFaults | None = None
    ) -> None:
        self._own = f"{broker.topic}/{group}/station/{station}"
        self._on_fault = on_fault
        self._report_lock = threading.Lock()
        self._text: str | None = None
        super().__init__(replace(broker, topic=f"{broker.topic}/{group}/desired"), heard, faults)

    def report(self, text: str) -> None:
        """Publish the reported state, retained; a broker that is away gets it when it is back."""
        with self._report_lock:
            self._text = text
            if self._client.is_connected():
                self._client.publish(f"{self._own}/reported", text, qos=1, retain=True)

    def close(self) -> None:
        """Say offline, which the last will does not say after a goodbye."""
        if self._client.is_connected():
            with contextlib.suppress(ValueError, RuntimeError):
                self._client.publish(f"{self._own}/online", "offline", qos=1, retain=True).wait_for_publish(0.3)
        super().close()

    def _configure(self, client: Client) -> None:
        client.will_set(f"{self._own}/online", "offline", qos=1, retain=True)

    def _subscribed(self, client: Client, data: Any, number: int, codes: Any, properties: Any) -> None:
        super()._subscribed(client, data, number, codes, properties)
        if self._reported:
            return
        client.publish(f"{self._own}/online", "online", qos=1, retain=True)
        self._on_fault("")
        if self._text is not None:
            self.report(self._text)

    def _message(self, client: Client, data: Any, message: MQTTMessage) -> None:
        if not self._closed and message.payload:
            with self._faults.caught(self.what):
                self._heard(bytes(message.payload))

    def _fault(self, why: str) -> None:
        super()._fault(why)
        if not self._closed:
            self._on_fault(f"the broker {self._broker.host}:{self._broker.port}: {why}")


class FolderStation:
    """The station's end of a shared folder, which it looks into once a second."""

    def __init__(
        self, folder: Path, group: str, station: str, *, heard: Heard, on_fault: OnFault, faults: ThreadFaults | None = None
    ) -> None:
        self._folder = folder / group
        self._station = station
        self._heard = heard
        self._on_fault = on_fault
        self._closed = threading.Event()
        self._text: str | None = None
        self._written: str | None = None
        self._fault = ""
        self._thread = SupervisedThread("fleet", self._run, faults)
        self._thread.start()

    def report(self, text: str) -> None:
        """Keep the reported state for the next look."""
        self._text = text

    def close(self) -> None:
        """Look no more, after the last report."""
        self._closed.set()
        self._thread.join(2.0)

    def _run(self) -> None:
        known = ""
        while True:
            last = self._closed.is_set()
            try:
                name, text = newest_file(self._folder / "desired")
                if text is not None and name != known:
                    known = name
                    self._heard(text)
                if self._text != self._written:
                    text_now = self._text
                    atomic_write(self._folder / "reported" / f"{self._station}.json", str(text_now))
                    self._written = text_now
                self._tell("")
            except (OSError, EdgeAdError) as error:
                self._tell(f"the folder {self._folder}: {getattr(error, 'strerror', None) or error}")
            if last:
                return
            self._closed.wait(POLL_S)

    def _tell(self, fault: str) -> None:
        if fault != self._fault:
            self._fault = fault
            if fault:
                _log.error("fleet fault: %s; the bundle in force goes on", fault)
            self._on_fault(fault)


def newest_file(folder: Path) -> tuple[str, bytes | None]:
    """Return name and bytes of the desired state with the highest sequence; None as bytes where there is none."""
    if not folder.parent.parent.is_dir():
        raise FileNotFoundError(2, "it is not there: mount it")
    names = [path.name for path in folder.iterdir() if _FILE.fullmatch(path.name)] if folder.is_dir() else []
    if not names:
        return "", None
    name = max(names, key=lambda one: int(one.partition(".")[0]))
    with (folder / name).open("rb") as stream:
        return name, stream.read(MAX_TEXT + 1)


def open_station(
    where: str, group: str, station: str, *, heard: Heard, on_fault: OnFault, faults: ThreadFaults | None = None
) -> StationChannel:
    """Open a station's end of a broker or of a folder; BadInput for an address that is neither."""
    if is_broker(where):
        return MqttStation(broker_of(where), group, station, heard=heard, on_fault=on_fault, faults=faults)
    return FolderStation(Path(where).expanduser(), group, station, heard=heard, on_fault=on_fault, faults=faults)


@dataclass
class Seen:
    """One station as the channel shows it: what it reported, and whether it is there (None where that cannot be told)."""

    reported: Reported
    online: bool | None = None


@dataclass
class GroupState:
    """What stands in a group: the newest desired state as its signed text, None without one, and stations by name."""

    desired: str | None = None
    stations: dict[str, Seen] = field(default_factory=dict)


class GroupChannel(Protocol):
    """An engineer's end: reads a group and publishes desired states, one for each sequence."""

    def read(self) -> GroupState:
        """Return what stands now."""

    def publish(self, text: str, sequence: int) -> str:
        """Publish a desired state; return the one that stands with this sequence: another's, where that came first."""


SequenceOf = Callable[[str], int]


@contextlib.contextmanager
def open_group(where: str, group: str, sequence_of: SequenceOf) -> Iterator[GroupChannel]:
    """Open an engineer's end; Away where the broker or the folder cannot be reached.

    ``sequence_of`` gives the sequence of a desired state that is trusted, 0 for any other text: that takes no place.
    """
    if not is_broker(where):
        yield FolderGroup(Path(where).expanduser(), group)
        return
    with contextlib.closing(MqttGroup(broker_of(where), group, sequence_of)) as channel:
        yield channel


class FolderGroup:
    """A group as files: a desired state is written once, so a second one of its sequence finds it taken."""

    def __init__(self, folder: Path, group: str) -> None:
        if not folder.is_dir():
            raise Away(f"the folder {folder} is not there: mount it, or make it")
        self._folder, self._group = folder, group

    def read(self) -> GroupState:
        """Read all files."""
        state = GroupState()
        try:
            text = newest_file(self._folder / self._group / "desired")[1]
            state.desired = None if text is None else text.decode("utf-8", "replace")
            for path in sorted((self._folder / self._group / "reported").glob("*.json")):
                reported = read_reported(path.read_bytes()[: MAX_TEXT + 1])
                if reported is not None:
                    state.stations[path.stem] = Seen(reported)
        except OSError as error:
            raise Away(f"the folder {self._folder} cannot be read: {error.strerror}") from error
        return state

    def publish(self, text: str, sequence: int) -> str:
        """Create the file of the sequence."""
        name = f"{self._group}/desired/{sequence:06d}.json"
        store = FolderStore(self._folder)
        if store.create(name, text.encode()):
            return text
        return (store.read(name) or b"").decode("utf-8", "replace")


class MqttGroup:
    """A group at a broker. The broker brings all desired states to all in one order: of two with one sequence the first
    stands, and whoever sees a second one publishes the first again.
    """

    def __init__(self, broker: Broker, group: str, sequence_of: SequenceOf) -> None:
        self._topic = f"{broker.topic}/{group}"
        self._sequence_of = sequence_of
        self._name = broker.name
        self._changed = threading.Condition()
        self._state = GroupState()
        self._order: list[tuple[int, str]] = []
        self._kept: tuple[int, str] | None = None
        self._marker = f"{self._topic}/marker/{secrets.token_hex(8)}"
        self._complete = False
        self._asked_at = time.monotonic()
        self._trouble = ""
        self._client = client = broker.client(broker.trust(), f"edge-ad-fleet-{secrets.token_hex(6)}")
        client.on_connect, client.on_message = self._on_connect, self._on_message
        client.on_subscribe = lambda client, data, number, codes, properties: client.publish(self._marker, b"1", qos=1)
        client.connect_timeout = ANSWER_S
        try:
            client.connect(broker.host, broker.port, 30)
        except (OSError, ValueError) as error:
            raise Away(f"the broker {self._name} cannot be reached: {error}") from error
        client.loop_start()
        self._await(lambda: self._complete or bool(self._trouble), READ_S)
        if self._trouble:
            self.close()
            raise Away(f"the broker {self._name} refuses: {self._trouble}")

    def close(self) -> None:
        """Hang up."""
        self._client.disconnect()
        self._client.loop_stop()

    def read(self) -> GroupState:
        """Return what has come so far: everything that is retained, and what was told since.

        Now and then all that is retained is asked for again: a broker drops messages of many stations for one who is slow.
        """
        now = time.monotonic()
        if now - self._asked_at > REFRESH_S:
            self._asked_at = now
            self._client.subscribe(f"{self._topic}/#", qos=1)
        with self._changed:
            return GroupState(self._state.desired, dict(self._state.stations))

    def publish(self, text: str, sequence: int) -> str:
        """Publish, retained, and wait until it comes back among all others."""
        with self._changed:
            standing = next((one for number, one in self._order if number >= sequence), None)
        if standing is not None:
            return standing
        self._client.publish(f"{self._topic}/desired", text, qos=1, retain=True)
        if not self._await(lambda: any(one == text for _, one in self._order), ANSWER_S):
            raise Away(f"the broker {self._name} does not take the desired state: may this user write {self._topic}/desired?")
        with self._changed:
            first = next(one for number, one in self._order if number >= sequence or one == text)
            self._kept = (sequence, first)
            newest = self._order[-1]
        if newest[1] != first and newest[0] == sequence:
            self._client.publish(f"{self._topic}/desired", first, qos=1, retain=True).wait_for_publish(ANSWER_S)
        return first

    def _on_connect(self, client: Client, data: Any, flags: Any, code: Any, properties: Any) -> None:
        if code.is_failure:
            with self._changed:
                self._trouble = str(code).lower()
                self._changed.notify_all()
            return
        self._order.clear()
        client.subscribe(f"{self._topic}/#", qos=1)

    def _on_message(self, client: Client, data: Any, message: MQTTMessage) -> None:
        again: str | None = None
        with self._changed:
            tail = message.topic.removeprefix(f"{self._topic}/")
            if message.topic == self._marker:
                self._complete = True
            elif tail == "desired" and message.payload and len(message.payload) <= MAX_TEXT:
                again = self._take_desired(message.payload.decode("utf-8", "replace"))
            elif match := re.fullmatch(r"station/([^/]{1,64})/(reported|online)", tail):
                self._take_station(match[1], match[2], bytes(message.payload))
            self._changed.notify_all()
        if again is not None:
            client.publish(f"{self._topic}/desired", again, qos=1, retain=True)

    def _take_desired(self, text: str) -> str | None:
        """Keep a desired state; return what must be published again because a second one of its sequence took its place."""
        number = self._sequence_of(text)
        seen = any(one == text for _, one in self._order)
        if not seen:
            self._order.append((number, text))
        self._state.desired = text
        retained = self._kept
        return retained[1] if retained is not None and retained[0] == number and retained[1] != text and not seen else None

    def _take_station(self, name: str, what: str, payload: bytes) -> None:
        seen = self._state.stations.get(name)
        if what == "online":
            self._state.stations[name] = replace(seen, online=payload == b"online") if seen else Seen(
                Reported(station=name, group="", reason="has reported nothing yet"), payload == b"online"
            )
        elif not payload:
            self._state.stations.pop(name, None)  # taken away by an engineer
        elif (reported := read_reported(payload)) is not None:
            self._state.stations[name] = Seen(reported, seen.online if seen else None)

    def _await(self, condition: Callable[[], bool], seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(condition, seconds)
