"""A receiver of MQTT events that notes what arrives, and whether it is what was committed."""

from __future__ import annotations

import contextlib
import itertools
import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from tests.fixtures.loopback import until
from tests.fixtures.mosquitto import Mosquitto


class Arrivals:
    """Ids of events in the order of their arrival. The broker keeps what comes while this client is away."""

    def __init__(self, broker: Mosquitto, prefix: str) -> None:
        self.ids: list[str] = []
        self._client = client = Client(CallbackAPIVersion.VERSION2, client_id="arrivals", clean_session=False)
        self._subscribed = False
        client.on_connect = lambda *_: client.subscribe(f"{prefix}/event", qos=1)
        client.on_subscribe = self._ready
        client.on_message = self._take
        client.reconnect_delay_set(1, 1)
        client.connect("127.0.0.1", broker.port)
        client.loop_start()
        assert until(lambda: self._subscribed)

    def come_back(self) -> None:
        """Connect again now, after the broker was away."""
        with contextlib.suppress(OSError):
            self._client.reconnect()

    def close(self) -> None:
        """Listen no more."""
        self._client.disconnect()
        self._client.loop_stop()

    def _ready(self, *_: Any) -> None:
        self._subscribed = True

    def _take(self, client: Client, data: Any, message: MQTTMessage) -> None:
        self.ids.append(json.loads(message.payload)["id"])


@dataclass(frozen=True)
class Account:
    """What became of committed events; a good one has nothing lost, strange or out of order."""

    committed: int
    arrived: int
    repeated: int
    lost: int
    strange: int
    out_of_order: int
    dropped: int

    @property
    def good(self) -> bool:
        """Whether every event arrived, in order."""
        return self.committed > 0 and not (self.lost or self.strange or self.out_of_order or self.dropped)


def account(store: Path, arrived: list[str]) -> Account:
    """Compare what arrived with the record; an event's place is that of its first arrival."""
    with contextlib.closing(sqlite3.connect(store)) as connection:
        committed = [one for (one,) in connection.execute("SELECT id FROM event ORDER BY sequence")]
        query = "SELECT coalesce(sum(dropped_OK + dropped_WARN + dropped_NONE + dropped_NG + refused), 0) FROM outlet"
        (dropped,) = connection.execute(query).fetchone()
    places = {one: place for place, one in enumerate(committed)}
    first = [places[one] for one in dict.fromkeys(arrived) if one in places]
    return Account(
        committed=len(committed),
        arrived=len(first),
        repeated=len(arrived) - len(set(arrived)),
        lost=len(committed) - len(first),
        strange=len(set(arrived) - set(places)),
        out_of_order=sum(later < earlier for earlier, later in itertools.pairwise(first)),
        dropped=int(dropped),
    )


def waiting(store: Path) -> int:
    """Return how many letters wait in a store."""
    with contextlib.closing(sqlite3.connect(store, timeout=20)) as connection:
        return int(connection.execute("SELECT count(*) FROM outbox").fetchone()[0])


def settled(store: Path) -> int:
    """Return how many events of a store wait no more."""
    with contextlib.closing(sqlite3.connect(store, timeout=20)) as connection:
        query = "SELECT (SELECT count(*) FROM event) - (SELECT count(*) FROM outbox)"
        return int(connection.execute(query).fetchone()[0])
