"""MQTT against a real broker: passwords, TLS, last will, what is retained, and brokers that stop, hang and come back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from edge_ad.errors import BadInput
from edge_ad.outputs import mqtt as mqtt_module
from edge_ad.outputs.mqtt import PASSWORD, USER, MqttOutput
from tests.fixtures.loopback import until
from tests.fixtures.mosquitto import Mosquitto
from tests.outputs.events import frames, lines

Brokers = Callable[..., Mosquitto]


class Listener:
    """A client that writes down what it is sent: (topic, payload, retained)."""

    def __init__(self, broker: Mosquitto, user: tuple[str, str] | None = None) -> None:
        self.got: list[tuple[str, str, bool]] = []
        self._ready = threading.Event()
        self.client = client = Client(CallbackAPIVersion.VERSION2)
        if user:
            client.username_pw_set(*user)
        if broker.ca.exists():
            client.tls_set(str(broker.ca))
        client.reconnect_delay_set(1, 1)
        client.on_message = self._take
        client.on_connect = lambda *_: client.subscribe("hall/line/#", qos=1)
        client.on_subscribe = lambda *_: self._ready.set()
        client.connect("127.0.0.1", broker.port)
        client.loop_start()
        assert self._ready.wait(20)

    def on(self, topic: str) -> list[str]:
        return [text for where, text, _ in self.got if where == f"hall/line/{topic}"]

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def _take(self, client: Client, data: Any, message: MQTTMessage) -> None:
        self.got.append((message.topic, message.payload.decode(), message.retain))


@pytest.fixture
def output(request: pytest.FixtureRequest) -> Iterator[Callable[[Mosquitto], MqttOutput]]:
    made: list[MqttOutput] = []

    def make(broker: Mosquitto) -> MqttOutput:
        tls = broker.ca.exists()
        uri = f"mqtts://{broker.address}/hall/line?ca={broker.ca}" if tls else f"mqtt://{broker.address}/hall/line"
        made.append(MqttOutput(uri))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_events_and_the_state_with_password_and_tls(
    mosquitto: Brokers, output: Callable[[Mosquitto], MqttOutput], monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = mosquitto(users={"line": "pass word", "mes": "m"}, tls=True)
    monkeypatch.setenv(USER, "line")
    monkeypatch.setenv(PASSWORD, "pass word")
    listener = Listener(broker, ("mes", "m"))
    one = output(broker)
    one.open()
    one.deliver(lines(1)[0])
    one.deliver_all(lines(40))
    assert until(lambda: len(listener.on("event")) == 41)
    assert frames(listener.on("event")) == [0, *range(40)]
    late = Listener(broker, ("mes", "m"))  # whoever comes late hears the state alone
    assert until(lambda: len(late.got) == 2)
    assert sorted(late.got) == [("hall/line/state", lines(40)[39], True), ("hall/line/status", "online", True)]
    one.close()
    assert until(lambda: late.on("status") == ["online", "offline"])
    assert "pass word" not in one.name
    listener.close()
    late.close()


def test_the_last_will_is_published_when_the_process_dies(
    mosquitto: Brokers, output: Callable[[Mosquitto], MqttOutput]
) -> None:
    broker = mosquitto()
    listener = Listener(broker)
    one = output(broker)
    one.open()
    assert until(lambda: listener.on("status") == ["online"])
    client, one._client = one._client, None
    assert client is not None
    assert client.socket() is not None
    client.on_disconnect = client.on_connect = None
    client.reconnect_delay_set(100, 100)
    client.socket().close()  # type: ignore[union-attr]  # as the kernel does for a killed process
    assert until(lambda: listener.on("status") == ["online", "offline"])
    again = output(broker)
    again.open()
    assert until(lambda: listener.on("status") == ["online", "offline", "online"])
    listener.close()


@pytest.mark.parametrize(
    ("user", "password", "message"), [("line", "wrong", "not authori[sz]ed"), (None, None, "not authori[sz]ed")]
)
def test_a_broker_that_refuses_is_an_error_to_try_again(
    user: str | None,
    password: str | None,
    message: str,
    mosquitto: Brokers,
    output: Callable[[Mosquitto], MqttOutput],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broker = mosquitto(users={"line": "right"})
    monkeypatch.delenv(USER, raising=False)
    if user and password:
        monkeypatch.setenv(USER, user)
        monkeypatch.setenv(PASSWORD, password)
    with pytest.raises(ConnectionError, match=message) as error:
        output(broker).open()
    assert "wrong" not in str(error.value)


def test_a_certificate_of_somebody_else_is_refused(mosquitto: Brokers, tmp_path: Path) -> None:
    broker = mosquitto(tls=True)  # its authority is not among those of the system
    with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
        MqttOutput(f"mqtts://{broker.address}/x").open()
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("no certificate")
    with pytest.raises(BadInput, match="TLS"):
        MqttOutput(f"mqtts://{broker.address}/x?ca={rubbish}")


def test_a_broker_that_is_away_or_goes_away_is_an_error_and_opening_again_helps(
    mosquitto: Brokers, output: Callable[[Mosquitto], MqttOutput]
) -> None:
    broker = mosquitto()
    one = output(broker)
    one.open()
    broker.kill()
    assert until(lambda: not one._connected)
    with pytest.raises(ConnectionError, match="lost"):
        one.deliver_all(lines(5))
    one.close()
    with pytest.raises(OSError, match=r"."):
        one.open()
    broker.start()
    listener = Listener(broker)
    one.open()
    one.deliver_all(lines(5))
    assert until(lambda: len(listener.on("event")) == 5)
    listener.close()


def test_a_broker_that_hangs_is_a_timeout(
    mosquitto: Brokers, output: Callable[[Mosquitto], MqttOutput], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt_module, "ACKNOWLEDGE_S", 0.3)
    broker = mosquitto()
    one = output(broker)
    one.open()
    broker.freeze()
    with pytest.raises(TimeoutError, match="no acknowledgement"):
        one.deliver(lines(1)[0])
    one.close()
    broker.thaw()


def test_it_comes_back_by_itself_while_there_is_nothing_to_deliver(
    mosquitto: Brokers, output: Callable[[Mosquitto], MqttOutput]
) -> None:
    broker = mosquitto()
    one = output(broker)
    one.open()
    broker.stop()
    assert until(lambda: not one._connected)
    broker.start()
    listener = Listener(broker)
    assert until(lambda: listener.on("status")[-1:] == ["online"])
    one.deliver(lines(1)[0])
    listener.close()
