"""A station with several products: nothing is judged by the wrong one, whoever asks for a change and whenever."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_ad.bundle import open_bundle
from edge_ad.config import Config, EngineTable, ProductTable, RunTable
from edge_ad.errors import BadInput
from edge_ad.events import Event
from edge_ad.inspection.inspector import Inspector, RunOptions
from edge_ad.inspection.products import ProductStatus
from edge_ad.outputs.signals import PRODUCT_ADDRESS, PRODUCT_STATES
from edge_ad.store.next_run import Choice
from edge_ad.web.link import open_web
from tests.camera.pictures import write_image
from tests.fixtures.loopback import free_port, until
from tests.fixtures.mosquitto import Mosquitto
from tests.fixtures.tiny_bundle import make_tiny_bundle, tiny_image
from tests.outputs.peers import OpcUaChooser, ReadingPlc, WrittenPlc
from tests.outputs.plcs import KINDS, plc_of, uri_of

pytestmark = pytest.mark.any_version

NAMES = ("cap-red", "cap-blue", "cap-green")
CAMERA = "synthetic://line?frames=100000&seed=1&fps=50"


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundles of three products, and images of parts."""
    folder = tmp_path_factory.mktemp("products")
    make_bundles(folder)
    (folder / "parts").mkdir()
    for number in range(40):
        write_image(folder / "parts" / f"{number:03d}.png", tiny_image(2000 + number))
    return folder


def make_bundles(folder: Path) -> None:
    """Write the bundles of the three products."""
    for seed, name in enumerate(NAMES):
        make_tiny_bundle(folder / f"{name}.edgead", seed)


def hashes_of(station: Path) -> dict[str, str]:
    """Return the sha256 of the bundle of each product."""
    return {name: open_bundle(station / f"{name}.edgead").sha256 for name in NAMES}


def settings(station: Path, tables: dict[str, dict[str, Any]] | None = None, **run: Any) -> Config:
    """Return a station with products whose codes are 1, 2 and 3."""
    more = tables or {}
    products = {
        name: ProductTable(**{"bundle": station / f"{name}.edgead", "code": code, **more.get(name, {})})
        for code, name in enumerate(NAMES, start=1)
    }
    engine = EngineTable(precision="fp32", backend="onnxruntime")
    return Config(run=RunTable(**{"max_age_ms": 60_000, **run}), engine=engine, product=products)


class Line:
    """A run in a thread over endless images; ``log`` gets events, and how products stood, in their order."""

    def __init__(self, station: Path, config: Config, camera: str = CAMERA, log: Any = None) -> None:
        self.log: Any = [] if log is None else log
        dashboard = None if config.run.web is None else open_web
        self.inspector = Inspector(None, camera, RunOptions(config, on_event=self.log.append, dashboard=dashboard))
        assert self.inspector.changeover is not None
        self.changeover = self.inspector.changeover
        self.log.append(self.changeover.standing)
        self.changeover.on_standing.append(self.log.append)
        self.hashes = hashes_of(station)

    def events(self) -> list[Event]:
        return [one for one in list(self.log) if isinstance(one, Event)]

    def judged(self, product: str) -> bool:
        """Wait until a part was judged as this product."""
        seen = len(self.log)
        return until(lambda: any(isinstance(one, Event) and one.product == product for one in list(self.log)[seen:]), 60)


@contextlib.contextmanager
def running(station: Path, config: Config, **more: Any) -> Iterator[Line]:
    line = Line(station, config, **more)
    thread = threading.Thread(target=line.inspector.run)
    thread.start()
    try:
        yield line
    finally:
        line.inspector.loop.stop()
        thread.join(60)
        line.inspector.close()


class Order:
    """Looks at events and at how products stand as they come, and keeps counts alone, for what a log keeps looks like a leak.

    Between a request and its acknowledge there is only NONE; every verdict is of the product that stands, and of its bundle.
    """

    def __init__(self, hashes: dict[str, str]) -> None:
        self.hashes = hashes
        self.events = self.judged = 0
        self.wrong: list[str] = []
        self._standing: str | None = None
        self._lock = threading.Lock()

    def append(self, one: Event | ProductStatus | str) -> None:
        """Take in what comes next; a text is the name of a product that was asked for."""
        with self._lock:
            if isinstance(one, Event):
                self._check(one)
            elif isinstance(one, str):
                self._standing = None if one != self._standing else self._standing
            else:
                self._standing = one.product if one.state == "active" else None

    def _check(self, event: Event) -> None:
        self.events += 1
        if event.verdict == "NONE":
            return
        self.judged += 1
        if event.product is None or event.product != self._standing or event.bundle != self.hashes[event.product]:
            self.wrong.append(f"{self._standing} stands: {event}")


def check_order(log: list[Any], hashes: dict[str, str]) -> None:
    order = Order(hashes)
    for one in log:
        order.append(one)
    assert order.wrong == []


def test_no_verdict_is_of_the_wrong_product_whenever_a_change_is_asked_for(station: Path, tmp_path: Path) -> None:
    rng = random.Random(4)
    with running(station, settings(station, product="cap-red", store=tmp_path / "line.sqlite")) as line:
        for _ in range(15):
            name = rng.choice(NAMES)
            line.changeover.select(name, "the test")
            line.log.append(name)
            time.sleep(rng.choice((0.0, 0.01, 0.1)))
        line.changeover.select("cap-blue", "the test")
        assert line.judged("cap-blue")
        assert line.changeover.state()["products"][1]["state"] == "active"
    check_order(line.log, line.hashes)
    assert {event.product for event in line.events()} >= {"cap-blue"}
    with running(station, settings(station, product="cap-red", store=tmp_path / "line.sqlite")) as line:
        assert line.changeover.standing.product == "cap-blue"  # the choice survives a restart


def test_a_request_waits_until_the_verdict_before_it_is_out(station: Path) -> None:
    with running(station, settings(station, product="cap-red")) as line:
        assert line.judged("cap-red")
        with line.changeover.reporting:  # as the loop does while observers have a verdict
            asking = threading.Thread(target=line.changeover.select, args=("cap-blue", "the test"))
            asking.start()
            asking.join(0.2)
            assert asking.is_alive()
            assert line.changeover.reason() is None
        asking.join(60)
        assert line.judged("cap-blue")


def test_an_unknown_code_is_a_fault_that_names_it_until_a_known_one_comes(station: Path) -> None:
    with running(station, settings(station, product="cap-red")) as line:
        assert line.judged("cap-red")
        line.changeover.select_code(9, number=1)
        assert until(lambda: line.changeover.standing.state == "fault", 60)
        assert line.changeover.standing.number == 1
        line.log.append("fault")
        assert until(lambda: line.events()[-1].verdict == "NONE" and "code 9" in (line.events()[-1].reason or ""), 60)
        assert "codes are 1 (cap-red), 2 (cap-blue), 3 (cap-green)" in (line.events()[-1].reason or "")
        line.changeover.select_code(2, number=2)
        assert line.judged("cap-blue")
        assert line.changeover.standing.number == 2
    check_order(line.log, line.hashes)


def test_a_bundle_that_fails_leaves_the_others(station: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.edgead"
    broken.write_bytes((station / "cap-red.edgead").read_bytes()[:-300])
    config = settings(station, {"cap-red": {"bundle": broken}}, product="cap-blue")
    with running(station, config) as line:
        assert line.judged("cap-blue")
        with pytest.raises(BadInput, match=r"product cap-red cannot be judged: .*broken\.edgead"):
            line.changeover.select("cap-red", "the test")
        line.log.append("fault")
        assert until(lambda: (line.events()[-1].reason or "").startswith("product: cap-red: "), 60)
        assert [row["state"] for row in line.changeover.state()["products"]] == ["fault", "ready", "ready"]
        line.changeover.select("cap-green", "the test")
        assert line.judged("cap-green")
    check_order(line.log, line.hashes)


def test_what_memory_does_not_suffice_for_is_parked_and_loaded_when_it_is_asked_for(
    station: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_ad.inspection.products._graphs_mb", lambda *arguments: 5.0)
    with caplog.at_level("INFO"), running(station, settings(station, product="cap-red", memory_budget_mb=1)) as line:
        states = {row["name"]: row["state"] for row in line.changeover.rows()}
        assert states == {"cap-red": "active", "cap-blue": "parked", "cap-green": "parked"}
        line.changeover.select("cap-green", "the test")
        assert line.judged("cap-green")
        assert until(lambda: [row["state"] for row in line.changeover.rows()] == ["parked", "parked", "active"], 60)
    assert "to load what was parked" in caplog.text
    check_order(line.log, line.hashes)


def test_thresholds_and_alarm_rule_are_those_of_the_product(station: Path) -> None:
    tables = {"cap-blue": {"warn_above": -1e6, "ng_above": -1e6, "alarm": {"raise_parts": "2/3"}}}
    with running(station, settings(station, tables, product="cap-red")) as line:
        line.changeover.select("cap-blue", "the test")
        assert line.judged("cap-blue")
        assert line.inspector.wiring.alarm_manager._rule.raise_parts == "2/3"
        line.changeover.select("cap-red", "the test")
        assert line.judged("cap-red")
        assert line.inspector.wiring.alarm_manager._rule.raise_parts == "1/1"
    assert {event.verdict for event in line.events() if event.product == "cap-blue"} == {"NG"}


def test_a_plc_chooses_by_a_register_and_sees_no_pass_before_its_acknowledge(station: Path, tmp_path: Path) -> None:
    tables = {name: {"warn_above": 1e6, "ng_above": 1e6} for name in NAMES}
    run: dict[str, Any] = {"alarm": ["modbus-server://127.0.0.1:0"], "hold_ms": 60_000.0, "store": tmp_path / "line.sqlite"}
    config = settings(station, tables, product="cap-red", **run)
    with running(station, config) as line:
        assert line.inspector.wiring.guard is not None
        (port,) = line.inspector.wiring.guard.ports.values()
        plc = ReadingPlc(port)
        assert until(plc.passed, 60)
        for code in (2, 3, 1):
            plc.client.write_register(PRODUCT_ADDRESS, code)
            while True:  # pass and the code that stands, in one look
                seen = plc.registers(0, 8)
                word, active, state = seen[0], seen[5], seen[6]
                if active == code:
                    break
                assert (word & 1, active, state) == (0, 0, PRODUCT_STATES["changing"])
            assert until(plc.passed, 60)
        plc.client.write_register(PRODUCT_ADDRESS, 9)
        assert until(lambda: plc.registers(5, 2) == [0, PRODUCT_STATES["fault"]], 60)
        assert not plc.passed()
        plc.client.write_register(PRODUCT_ADDRESS, 2)
        assert until(plc.passed, 60)
        assert plc.registers(5, 2) == [2, PRODUCT_STATES["active"]]
        plc.close()
    check_order(line.log, line.hashes)


@pytest.mark.parametrize("kind", ["modbus", *KINDS])
def test_a_plc_that_is_written_to_chooses_by_its_register(station: Path, tmp_path: Path, kind: str) -> None:
    with contextlib.ExitStack() as stack:
        if kind == "modbus":
            written = WrittenPlc()
            stack.callback(written.close)
            uri, words = f"modbus://127.0.0.1:{written.port}", written.registers
            put: Callable[[int, list[int]], None] = written.set_registers
        else:
            pytest.importorskip({"s7": "snap7", "enip": "pylogix"}[kind])
            plc = stack.enter_context(plc_of(kind))
            uri, words = uri_of(kind, plc.port), lambda: list(plc.words())
            put = lambda at, values: plc.put(at, tuple(values))  # noqa: E731
        with running(station, settings(station, product="cap-red", alarm=[uri], store=tmp_path / "line.sqlite")) as line:
            assert until(lambda: words()[5:7] == [1, PRODUCT_STATES["active"]], 60)
            put(PRODUCT_ADDRESS, [3])
            assert line.judged("cap-green")
            assert until(lambda: words()[5:7] == [3, PRODUCT_STATES["active"]], 60)
            put(PRODUCT_ADDRESS, [8])
            assert until(lambda: words()[5:7] == [0, PRODUCT_STATES["fault"]], 60)
        assert "code 8" in str(line.changeover.standing.reason)


def test_a_message_chooses_a_product_and_the_topic_reports_the_state(
    station: Path, mosquitto: Callable[..., Mosquitto]
) -> None:
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion

    broker = mosquitto()
    messages: list[dict[str, Any]] = []
    client = Client(CallbackAPIVersion.VERSION2)
    client.on_message = lambda _, data, message: messages.append(json.loads(message.payload))
    client.connect("127.0.0.1", broker.port)
    client.subscribe("line/7/state", qos=1)
    client.loop_start()

    def stands(name: str) -> bool:
        return until(lambda: (messages[-1]["product"], messages[-1]["state"]) == (name, "active"), 60)

    with running(station, settings(station, product="cap-red", commands=f"mqtt://{broker.address}/line/7")) as line:
        assert until(lambda: messages and messages[-1]["product"] == "cap-red", 60)
        for payload, name in (("cap-blue", "cap-blue"), ('{"product": "cap-green"}', "cap-green")):
            client.publish("line/7", payload, qos=1)
            assert line.judged(name)
            assert stands(name)
            assert messages[-1]["bundle"] == line.hashes[name]
        client.publish("line/7", "", qos=1)  # how a retained message is cleared
        client.publish("line/7", "cap-black", qos=1)
        assert until(lambda: messages[-1]["state"] == "fault", 60)
        assert "MQTT asks for 'cap-black', which no product is called" in messages[-1]["reason"]
        assert [one for one in messages if one["state"] == "fault"] == [messages[-1]]
    assert until(lambda: messages[-1]["reason"] == "product: the run has ended")
    assert (messages[-1]["state"], messages[-1]["product"], messages[-1]["bundle"]) == ("none", None, None)
    client.loop_stop()
    check_order(line.log, line.hashes)


def test_an_opc_ua_client_chooses_by_a_node_and_reads_the_acknowledge(station: Path, tmp_path: Path) -> None:
    port = free_port()
    run: dict[str, Any] = {"alarm": [f"opcua://127.0.0.1:{port}?products=choose"], "store": tmp_path / "line.sqlite"}
    with running(station, settings(station, product="cap-red", **run)) as line:
        client = OpcUaChooser(port)
        assert until(lambda: client.read("Active") == "cap-red", 60)
        for name in ("cap-blue", "cap-green", "cap-blue"):
            client.ask(name)
            assert until(lambda name=name: client.read("Active") == name, 60)  # type: ignore[misc]
            assert client.read("State") == "active"
            assert client.read("Bundle") == line.hashes[name]
            assert line.judged(name)
        client.ask("cap-black")
        assert until(lambda: client.read("State") == "fault", 60)
        assert "OPC UA asks for 'cap-black', which no product is called" in client.read("Reason")
        assert client.read("Active") == ""
        assert until(lambda: client.read("Requested") == "", 60)
        client.close()
    check_order(line.log, line.hashes)


def by_part(station: Path, socket_path: Path) -> Config:
    matches = {"cap-red": "^AR", "cap-blue": "^AB", "cap-green": "^A.*G$"}
    tables = {name: {"match": match} for name, match in matches.items()}
    return settings(station, tables, trigger=f"software:{socket_path}", trigger_deadline_ms=60_000, part_frames=1)


def test_the_id_of_a_part_chooses_its_product(station: Path, tmp_path: Path) -> None:
    path = tmp_path / "calls"
    called = ["AB1", "AR2", "AB3", "AR4-G", "ZZ5", "ABG", "A6G", "AR7"]
    with running(station, by_part(station, path)) as line, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as calls:
        calls.connect(str(path))
        for count, part in enumerate(called, start=1):  # a frame after the next call is none of the call before
            calls.send(part.encode())
            assert until(lambda count=count: len(line.events()) == count, 60)  # type: ignore[misc]
        with pytest.raises(BadInput, match="the part id chooses the product here"):
            line.changeover.select("cap-red", "the test")
    events = {str(event.part): event for event in line.events()}
    assert {part: events[part].product for part in called} == {
        "AB1": "cap-blue", "AR2": "cap-red", "AB3": "cap-blue", "AR4-G": None, "ZZ5": None, "ABG": None, "A6G": "cap-green",
        "AR7": "cap-red",
    }  # fmt: skip
    assert events["AR4-G"].reason == "product: part 'AR4-G' matches cap-red and cap-green: narrow their match"
    assert (events["ZZ5"].reason or "").startswith("product: part 'ZZ5' matches no product")
    assert all(event.bundle == line.hashes[event.product] for event in line.events() if event.product is not None)


def test_parts_of_a_product_at_fault_and_parts_without_an_id_are_judged_as_no_other(station: Path, tmp_path: Path) -> None:
    damaged, path = tmp_path / "damaged.edgead", tmp_path / "calls"
    damaged.write_bytes(b"no bundle")
    tables = {"cap-red": {"match": "^A|2"}, "cap-blue": {"match": "^AB", "bundle": damaged}, "cap-green": {"match": "^G"}}
    config = settings(station, tables, trigger=f"software:{path}", trigger_deadline_ms=60_000, part_frames=1)
    with running(station, config) as line, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as calls:
        calls.connect(str(path))
        for count, part in enumerate(("AR1", "", "AB1"), start=1):  # the second would be called 2
            calls.send(part.encode())
            assert until(lambda count=count: len(line.events()) == count, 60)  # type: ignore[misc]
    reasons = [(event.part, event.product, event.reason or "") for event in line.events()]
    assert reasons[0][:2] == ("AR1", "cap-red")
    assert reasons[1] == ("", None, "product: a part was called for without an id, which chooses the product")
    assert reasons[2] == ("AB1", None, "product: part 'AB1' matches cap-red and cap-blue: narrow their match")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda station: settings(station, product="cap-black"), "there is no product 'cap-black'; there are cap-red, cap-blue"),
        (lambda station: settings(station, {"cap-red": {"bundle": "gone.edgead"}}), "cap-red: there is no bundle gone.edgead"),
        (lambda station: settings(station, {"cap-red": {"match": "A"}}), "product cap-blue has no match, and cap-red has one"),
        (lambda station: settings(station, {name: {"match": name} for name in NAMES}), "has a match, which needs part ids"),
        (lambda station: settings(station, {"cap-blue": {"roi": "1,2"}}), "product cap-blue: roi is '1,2'"),
        (lambda station: settings(station, {"cap-blue": {"presence": "learned"}}), "product cap-blue: presence = learned needs"),
    ],
)
def test_products_that_cannot_be_judged_are_refused_at_the_start(
    station: Path, change: Callable[[Path], Config], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        Inspector(None, str(station / "parts"), RunOptions(change(station)))


def test_a_bundle_beside_products_is_refused(station: Path) -> None:
    with pytest.raises(BadInput, match=r"names products \(cap-red, cap-blue, cap-green\): leave the bundle .* out"):
        Inspector(station / "cap-red.edgead", str(station / "parts"), RunOptions(settings(station)))


def test_a_choice_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    path = tmp_path / "line.product.json"
    choice = Choice(path)
    assert choice.read() is None
    choice.write("cap-red")
    assert Choice(path).read() == "cap-red"
    for text in ("", "[]", '{"product": 7}', "{"):
        path.write_text(text)
        assert Choice(path).read() is None


def test_a_run_that_ended_in_a_change_begins_with_none_and_not_with_the_first(station: Path, tmp_path: Path) -> None:
    choice = Choice(tmp_path / "line.product.json")
    assert choice.begins_with("cap-red") == "cap-red"
    choice.write("cap-blue")
    choice.write(None)  # as a change begins
    config = settings(station, product="cap-red", store=tmp_path / "line.sqlite")
    with contextlib.closing(Inspector(None, str(station / "parts"), RunOptions(config))) as inspector:
        assert inspector.changeover is not None
        assert inspector.changeover.standing.product is None
        assert inspector.changeover.reason() == "product: none is chosen"
