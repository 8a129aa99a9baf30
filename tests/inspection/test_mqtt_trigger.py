"""Parts called for over MQTT: addresses, and a real broker that refuses, dies, hangs and comes back."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from edge_ad.errors import BadInput
from edge_ad.inspection import triggers as mqtt_trigger
from edge_ad.inspection.part_tracking import Call, Calls
from edge_ad.inspection.triggers import Trigger, open_trigger, parse_trigger
from edge_ad.outputs.mqtt import PASSWORD, USER
from tests.fixtures.loopback import free_port, until
from tests.fixtures.mosquitto import Mosquitto

TOPIC = "line/7/part"
Start = Callable[..., Mosquitto]


@pytest.mark.parametrize(
    ("uri", "host", "port", "topic"),
    [
        ("mqtt://broker/line/7", "broker", 1883, "line/7"),
        ("mqtt://10.0.0.5:1999/a%20b/", "10.0.0.5", 1999, "a b"),
        ("mqtt://[::1]/t", "::1", 1883, "t"),
        ("mqtts://broker/t", "broker", 8883, "t"),
    ],
)
def test_addresses(uri: str, host: str, port: int, topic: str) -> None:
    broker = parse_trigger(uri, []).broker
    assert broker is not None
    assert (broker.host, broker.port, broker.topic, broker.tls) == (host, port, topic, uri.startswith("mqtts"))


@pytest.mark.parametrize(
    "uri",
    [
        "mqtt://broker",
        "mqtt://broker/",
        "mqtt:///t",
        "mqtt:broker/t",
        "mqtt://broker:0x/t",
        "mqtt://broker/line/+",
        "mqtt://broker/line/#",
        "mqtt://broker/t?ca=x",
        "mqtts://broker/t?ca=/no/such/file",
        "mqtts://broker/t?insecure=1",
        "mqtt://me:Zqgeheim@broker/t",
    ],
)
def test_refused_without_telling_credentials(uri: str) -> None:
    with pytest.raises(BadInput, match="--trigger mqtt") as caught:
        parse_trigger(uri, [])
    assert "Zq" not in str(caught.value)


class Plc:
    """What calls for parts: an MQTT client of its own."""

    def __init__(self, broker: Mosquitto, **login: str) -> None:
        self._client = Client(CallbackAPIVersion.VERSION2)
        if login:
            self._client.username_pw_set(**login)
        if broker.ca.exists():
            self._client.tls_set(str(broker.ca))
        self._client.connect(*broker.address.split(":")[:1], port=broker.port)
        self._client.loop_start()

    def call(self, part: bytes, retain: bool = False) -> None:
        self._client.publish(TOPIC, part, qos=1, retain=retain).wait_for_publish(10)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def opened() -> Iterator[Callable[[str], Sequence[Call]]]:
    """Opens triggers, each with the queue of its calls."""
    triggers: list[Trigger] = []

    def start(uri: str) -> Sequence[Call]:
        calls = Calls()
        queue = calls.subscribe()
        trigger = open_trigger(parse_trigger(uri, []), calls)
        assert trigger is not None
        triggers.append(trigger)
        return queue

    yield start
    for trigger in triggers:
        trigger.close()


def subscribed(broker: Mosquitto, times: int = 1) -> bool:
    return until(lambda: broker.log().count(f"{TOPIC} (QoS 1)") >= times)


def test_every_message_calls_for_a_part(mosquitto: Start, opened: Callable[[str], Sequence[Call]]) -> None:
    broker = mosquitto()
    plc = Plc(broker)
    plc.call(b"left over from yesterday", retain=True)
    queue = opened(f"mqtt://{broker.address}/{TOPIC}")
    assert subscribed(broker)
    before = time.monotonic()
    for part in (b"A-17", b"", b"\xff\x07B", b"x" * 100):
        plc.call(part)
    assert until(lambda: len(queue) == 4)
    assert [call.part for call in queue] == ["A-17", "2", "\\xffB", "x" * 64]
    assert all(before <= call.at <= time.monotonic() for call in queue)
    plc.close()


@pytest.mark.usefixtures("stderr_log")
def test_a_broker_with_tls_and_passwords(
    mosquitto: Start,
    opened: Callable[[str], Sequence[Call]],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    broker = mosquitto(users={"line": "Zq/geheim"}, tls=True)
    monkeypatch.setenv(USER, "line")
    monkeypatch.setenv(PASSWORD, "Zq/geheim")
    queue = opened(f"mqtts://{broker.address}/{TOPIC}?ca={broker.ca}")
    assert subscribed(broker)
    plc = Plc(broker, username="line", password="Zq/geheim")
    plc.call(b"1")
    assert until(lambda: len(queue) == 1)
    plc.close()
    monkeypatch.setenv(PASSWORD, "Zqwrong")
    opened(f"mqtts://{broker.address}/{TOPIC}?ca={broker.ca}")
    message = wait_told(capfd, "refuses the connection")
    opened(f"mqtts://{broker.address}/{TOPIC}")  # an authority that nobody here knows
    message += wait_told(capfd, "cannot be reached")
    assert "Zq" not in message


@pytest.mark.usefixtures("stderr_log")
@pytest.mark.slow
def test_a_broker_that_is_away_dies_or_hangs_is_reported_and_comes_back(
    mosquitto: Start,
    opened: Callable[[str], Sequence[Call]],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(mqtt_trigger, "KEEP_ALIVE_S", 1)
    monkeypatch.setattr(mqtt_trigger, "RETRY_S", (1, 1))
    broker = mosquitto()
    broker.kill()
    queue = opened(f"mqtt://{broker.address}/{TOPIC}")
    message = wait_told(capfd, "cannot be reached")
    broker.start()
    message += wait_told(capfd, "is back")
    broker.kill()
    message += wait_told(capfd, "was lost")
    broker.start()
    message += wait_told(capfd, "is back")
    broker.freeze()
    message += wait_told(capfd, "was lost")
    broker.thaw()
    message += wait_told(capfd, "is back")
    plc = Plc(broker)
    plc.call(b"after all that")
    assert until(lambda: [call.part for call in queue] == ["after all that"])
    plc.close()
    assert message.count("was lost") == 2


@pytest.mark.usefixtures("stderr_log")
def test_closing_never_waits_for_a_broker(capfd: pytest.CaptureFixture[str]) -> None:
    trigger = open_trigger(parse_trigger(f"mqtt://127.0.0.1:{free_port()}/t", []), Calls())
    assert trigger is not None
    wait_told(capfd, "cannot be reached")
    began = time.monotonic()
    trigger.close()
    assert time.monotonic() - began < 2.0 or os.getloadavg()[0] > 4


def wait_told(capfd: pytest.CaptureFixture[str], words: str) -> str:
    """Wait until stderr has these words; return all that it has got since the last time."""
    parts: list[str] = []
    assert until(lambda: parts.append(capfd.readouterr().err) or words in "".join(parts)), "".join(parts)
    return "".join(parts)
