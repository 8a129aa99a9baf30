"""An exception that nobody foresaw, raised in every thread of a run in turn: the run tells it and ends with exit code 3."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest

from edge_ad.camera.http import HttpDriver
from edge_ad.camera.synthetic import SyntheticLine
from edge_ad.cli.app import main
from edge_ad.engines.pipeline import Pipeline
from edge_ad.errors import DeviceFault
from edge_ad.fleet import state_channel
from edge_ad.fleet.agent import FleetAgent
from edge_ad.fleet.signing import make_key
from edge_ad.inspection import triggers
from edge_ad.inspection.bundle_swap import REPLACE, BundleReplacement, replace_bundle
from edge_ad.inspection.evidence import Evidence
from edge_ad.inspection.observers import Reloader
from edge_ad.inspection.requests import ControlSocket, Request
from edge_ad.inspection.triggers import MqttTrigger, SocketTrigger
from edge_ad.outputs.dispatcher import DeliveryWorker
from edge_ad.outputs.guard_client import GuardClient
from edge_ad.outputs.opcua import OpcUaServer
from edge_ad.store import Store
from edge_ad.store.next_run import Choice
from edge_ad.store.reader import EventFilter, Reader
from edge_ad.store.retention import MaintenanceThread
from edge_ad.utils import locks
from edge_ad.web import link
from edge_ad.web.dashboard_feed import DashboardFeed
from edge_ad.web.link import WebLink
from edge_ad.web.schemas import write_message
from tests.camera.test_http import Server, part
from tests.fixtures.loopback import free_port, until
from tests.fixtures.tiny_bundle import make_tiny_bundle, tiny_image
from tests.inspection.test_products import NAMES, running, settings

pytestmark = pytest.mark.any_version

PACKAGE = Path(locks.__file__).parents[1]
FRAMES = 40
LINE = "synthetic://line?size=64&seed=1&fps=20&frames="
CAMERA = f"{LINE}{FRAMES}"
RUN = ["run", "t.edgead", "--realtime", "--store", "s.sqlite", "--backend", "onnxruntime", "--precision", "fp32"]


class Pipe(io.BytesIO):
    """Standard input on which a part is called for every tenth of a second, until the test ends."""

    def __init__(self) -> None:
        super().__init__()
        self.over = threading.Event()
        self.count = 0

    def readline(self, size: int | None = -1, /) -> bytes:
        if self.over.wait(0.1):
            return b""
        self.count += 1
        return f"P{self.count}\n".encode()


@pytest.fixture
def station(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    make_tiny_bundle(tmp_path / "t.edgead")
    pipe = Pipe()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(pipe))
    yield tmp_path
    pipe.over.set()


def breaking(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, times: int = 1) -> None:
    """Let a function raise what nobody foresaw, the first ``times`` times it is called."""
    real, left = getattr(owner, name), [times]

    def broken(*arguments: Any, **named: Any) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            raise RuntimeError("injected")
        return real(*arguments, **named)

    static = isinstance(owner.__dict__[name], staticmethod)
    monkeypatch.setattr(owner, name, staticmethod(broken) if static else broken)


def asking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the thresholds reloaded at the start of the run."""
    real = Reloader.__init__

    def made(self: Reloader, *arguments: Any, **named: Any) -> None:
        real(self, *arguments, **named)
        self.ask()

    monkeypatch.setattr(Reloader, "__init__", made)


# The thread, where the exception is raised, what the run is given besides, and what makes the thread begin.
THREADS: tuple[tuple[str, Any, str, list[str]], ...] = (
    ("store", Store, "_follow", []),
    ("store", Store, "_usable", []),
    ("keeper", MaintenanceThread, "_round", []),
    ("evidence", Evidence, "_write", []),
    ("output file:", DeliveryWorker, "_over", ["--alarm", "file:out.jsonl"]),
    ("reload", Reloader, "_load", []),
    ("control", ControlSocket, "_run", []),
    ("web", DashboardFeed, "release", ["--web", "127.0.0.1:0"]),
    ("web-listen", WebLink, "_listen", ["--web", "127.0.0.1:0"]),
    ("guard", GuardClient, "_listen", ["--alarm", "modbus-server://127.0.0.1:{port}"]),
    ("trigger", triggers, "part_id", ["--trigger", "software"]),
    ("trigger", MqttTrigger, "_run", ["--trigger", "mqtt://127.0.0.1:{port}/t"]),
    ("trigger", SocketTrigger, "_run", ["--trigger", "software:trigger.sock"]),
    ("guard watch", GuardClient, "_watch", ["--alarm", "modbus-server://127.0.0.1:{port}"]),
)

# Every file that makes a thread, and what raises in it: a thread that is new fails here until it has a row.
COVERED = {
    "camera/live.py": "test_a_driver_that_breaks_in_its_thread_is_opened_again",
    "camera/mailbox.py": "test_a_camera_that_breaks_in_its_thread_ends_the_run",
    "fleet/agent.py": "test_a_thread_of_the_fleet_that_breaks_is_reported_and_the_line_goes_on",
    "fleet/state_channel.py": "test_a_thread_of_the_fleet_that_breaks_is_reported_and_the_line_goes_on",
    "inspection/bundle_swap.py": "test_a_replacement_that_breaks_in_its_thread_fails_and_the_next_one_works",
    "inspection/changeover.py": "test_a_change_that_breaks_in_its_thread_is_a_fault_and_the_next_one_works",
    "inspection/evidence.py": "THREADS",
    "inspection/observers.py": "THREADS",
    "inspection/requests.py": "THREADS",
    "inspection/triggers.py": "THREADS",
    "outputs/dispatcher.py": "THREADS",
    "outputs/guard_client.py": "THREADS",
    "outputs/opcua.py": "test_a_server_whose_thread_ends_is_opened_again",
    "outputs/targets.py": "test_a_thread_beside_the_run_is_reported",
    "store/retention.py": "THREADS",
    "store/store.py": "THREADS",
    "utils/locks.py": "test_a_thread_beside_the_run_is_reported",
    "web/link.py": "THREADS",
    "web/serve.py": "test_a_dashboard_whose_thread_breaks_is_started_again",
}


def test_every_thread_of_the_product_has_a_fault_injected() -> None:
    making = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if "SupervisedThread(" in path.read_text() and path.name != "supervision.py"
    }
    assert making == set(COVERED)
    assert {name for name in COVERED.values() if name != "THREADS"} <= set(globals())


def test_a_change_that_breaks_in_its_thread_is_a_fault_and_the_next_one_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in NAMES:
        make_tiny_bundle(tmp_path / f"{name}.edgead")
    with running(tmp_path, settings(tmp_path, product="cap-red")) as line:
        breaking(monkeypatch, Choice, "write")
        line.changeover.select("cap-blue", "the test")
        assert until(lambda: "RuntimeError: injected" in str(line.changeover.standing.reason), 60)
        line.changeover.select("cap-blue", "the test")
        assert line.judged("cap-blue")


def test_a_replacement_that_breaks_in_its_thread_fails_and_the_next_one_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, name in enumerate(NAMES):
        make_tiny_bundle(tmp_path / f"{name}.edgead", seed)
    config = settings(tmp_path, product="cap-red", store=tmp_path / "line.sqlite")
    values = {"product": "cap-red", "bundle": str(tmp_path / "cap-blue.edgead")}
    with running(tmp_path, config) as line:
        breaking(monkeypatch, BundleReplacement, "_replace")
        with pytest.raises(DeviceFault, match="RuntimeError: injected; the one before goes on"):
            replace_bundle(config, tmp_path / "line.sqlite", Request(REPLACE, "anna", "command", values))
        assert until(lambda: "bundle" not in str(line.inspector.faults.fault), 60)
        assert "is judged by now" in replace_bundle(config, tmp_path / "line.sqlite", Request(REPLACE, "anna", "command", values))


@pytest.mark.parametrize(("thread", "owner", "name", "arguments"), THREADS, ids=lambda value: str(value)[:24])
def test_one_exception_is_reported_and_counted_and_the_run_goes_on(
    thread: str,
    owner: Any,
    name: str,
    arguments: list[str],
    station: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if name == "_load":
        asking(monkeypatch)
        monkeypatch.setattr("edge_ad.inspection.products.reload_thresholds", _raise)
    else:
        breaking(monkeypatch, owner, name)
    port = free_port()
    assert main([*RUN, "--camera", CAMERA, *(text.format(port=port) for text in arguments)]) == 3
    message = capfd.readouterr()
    assert "RuntimeError: injected" in message.err
    assert re.search(rf" ERROR (fault of )?the thread {thread}", message.err)
    assert "Traceback (most recent call last):" in message.err  # in the log, where it says what broke
    last = message.err.strip().splitlines()[-1]  # how often, in the words that end the run
    assert re.search(rf"error: .*the thread {thread}.*(had 1 unforeseen fault and went on|it stays away)", last), last
    assert "captured" in message.out  # the run went on to its end
    assert message.err.splitlines()[-1].startswith("error: ")
    assert "not stored" not in message.err  # nothing is missing in the record


@pytest.mark.parametrize(
    ("thread", "owner", "name"), [("fleet", state_channel, "newest_file"), ("fleet-agent", FleetAgent, "_run")]
)
def test_a_thread_of_the_fleet_that_breaks_is_reported_and_the_line_goes_on(
    thread: str, owner: Any, name: str, station: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("cryptography", reason="edge-ad[fleet] is not installed")
    key = str(make_key(station / "anna.key").public)
    (station / "share").mkdir()
    Path("edge-ad.toml").write_text(f'[fleet]\ntrusted_keys = ["{key}"]\nbroker = "share"\nbundles = "share"\nstation = "a"\n')
    breaking(monkeypatch, owner, name)
    assert main([*RUN, "--camera", CAMERA]) == 3
    message = capfd.readouterr()
    assert re.search(rf" ERROR (fault of )?the thread {thread} ", message.err)
    assert "RuntimeError: injected" in message.err
    assert "captured" in message.out  # the run went on to its end


def _raise(*arguments: Any) -> Any:
    raise RuntimeError("injected")


# Threads that the run cannot do without: nothing may pass that would not be recorded, nor be called for in vain.
ESSENTIAL = tuple(row for row in THREADS if row[0] in ("store", "guard", "trigger"))


@pytest.mark.parametrize(("thread", "owner", "name", "arguments"), ESSENTIAL, ids=lambda value: str(value)[:24])
def test_an_essential_thread_that_keeps_ending_ends_the_run(
    thread: str,
    owner: Any,
    name: str,
    arguments: list[str],
    station: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("edge_ad.utils.supervision.RESTART_PAUSE_S", 0.01)
    if name == "_listen":  # the guard's outputs must open first
        real, calls = GuardClient._listen, []

        def broken(self: GuardClient, process: Any, opened: Any) -> None:
            if not calls:
                calls.append(process)
                record = json.loads(process.stdout.readline())
                opened.done(record)
            raise RuntimeError("injected")

        assert real is not broken
        monkeypatch.setattr(owner, name, broken)
    else:
        breaking(monkeypatch, owner, name, times=1000)
    camera = f"{LINE}100000"
    arguments = [text.format(port=free_port()) for text in arguments]
    assert main([*RUN, "--camera", camera, *arguments, "--max-frames", "2000"]) == 3
    message = capfd.readouterr().err
    assert f" ERROR the thread {thread} ended" in message
    assert "nothing may pass, so start the run again" in message.splitlines()[-1]


def test_a_driver_that_breaks_in_its_thread_is_opened_again(
    station: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    images = [cv2.imencode(".jpg", cv2.resize(tiny_image(number), (128, 128)))[1].tobytes() for number in range(60)]
    with contextlib.closing(Server()) as server:
        server.body = b"".join(map(part, images))
        server.hang = True
        breaking(monkeypatch, HttpDriver, "grab")
        assert main([*RUN, "--camera", server.url, "--max-frames", "3", "--events", "e.jsonl"]) == 0
    capfd.readouterr()
    events = [json.loads(line) for line in (station / "e.jsonl").read_text().splitlines()]
    assert any("the driver broke (RuntimeError)" in (event["reason"] or "") for event in events), events
    assert sum(event["frame"] is not None for event in events) == 3  # and judged again


@pytest.mark.parametrize(
    ("owner", "name", "address", "thread"),
    [
        (socket, "getaddrinfo", "modbus://localhost:{port}", "look up"),
        (locks, "_answer", "modbus://127.0.0.1:{port}", "lock modbus 127.0.0.1 {port}"),
    ],
)
def test_a_thread_beside_the_run_is_reported(
    owner: Any,
    name: str,
    address: str,
    thread: str,
    station: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """They serve other runs, and names: what they do not do costs this run nothing, so it is no fault of it."""
    breaking(monkeypatch, owner, name)
    port = free_port()
    assert main([*RUN, "--camera", CAMERA, "--alarm", address.format(port=port)]) == 0
    message = capfd.readouterr().err
    assert f"the thread {thread.format(port=port)}" in message
    assert "ended (RuntimeError: injected" in message


def test_a_dashboard_whose_thread_breaks_is_started_again(
    station: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    real, states = write_message, []

    def spoilt(stream: Any, record: dict[str, Any], *blobs: Any) -> None:
        states.append(record["kind"])
        if states.count("state") == 1 and record["kind"] == "state":
            stream.write(b"{no message\n")
        real(stream, record, *blobs)
        if states.count("hello") == 2:
            os.kill(os.getpid(), signal.SIGINT)  # all has been seen: the run may end

    monkeypatch.setattr(link, "write_message", spoilt)
    with contextlib.suppress(KeyboardInterrupt):
        main([*RUN, "--camera", f"{LINE}400", "--web", "127.0.0.1:0"])
    message = capfd.readouterr().err
    assert "the thread feed ended (JSONDecodeError" in message
    assert "the dashboard ended and is started again" in message
    assert states.count("hello") == 2


def test_a_fault_beside_other_cameras_in_a_thread_of_the_engines_ends_the_run(
    station: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    real, calls = Pipeline.infer, []

    def broken(self: Pipeline, image: Any) -> Any:
        calls.append(threading.current_thread().name)
        if len(calls) > 20 and calls[-1].startswith("stream"):
            raise RuntimeError("injected")
        return real(self, image)

    monkeypatch.setattr(Pipeline, "infer", broken)
    cameras = ["--camera", CAMERA, "--camera", CAMERA.replace("seed=1", "seed=2")]
    assert main([*RUN, *cameras, "--streams", "2", "--events", "e.jsonl"]) == 3
    message = capfd.readouterr().err
    assert "the engine failed on frame" in message
    assert "injected" in message
    last = json.loads((station / "e.jsonl").read_text().splitlines()[-1])
    assert (last["verdict"], last["reason"].split(":")[0]) == ("NONE", "engine")


def test_a_camera_that_breaks_in_its_thread_ends_the_run(
    station: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    breaking(monkeypatch, SyntheticLine, "read", times=1000)
    assert main([*RUN, "--camera", CAMERA]) == 3
    message = capfd.readouterr().err
    assert "the source broke (RuntimeError: injected)" in message
    assert "Traceback" not in message


def test_a_server_whose_thread_ends_is_opened_again(
    station: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("asyncua")
    breaking(monkeypatch, OpcUaServer, "_serve")
    main([*RUN, "--camera", "synthetic://line?frames=120&seed=1&fps=20", "--alarm", f"opcua://127.0.0.1:{free_port()}"])
    message = capfd.readouterr().err
    assert "events wait and are tried again" in message
    assert "delivers again" in message


def test_an_event_that_cannot_be_stored_holds_up_no_other(
    station: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from edge_ad.events import Event
    from edge_ad.store.schema import row_of

    def spoilt_row(event: Event) -> tuple[Any, ...]:
        return (event.id, "cam \udce4", *row_of(event)[2:]) if event.frame == 7 else row_of(event)

    monkeypatch.setattr("edge_ad.store.store.row_of", spoilt_row)
    run = [argument for argument in RUN if argument != "--realtime"]  # every frame is judged, however slow the machine
    assert main([*run, "--camera", CAMERA, "--alarm", "file:out.jsonl"]) == 3
    message = capfd.readouterr().err
    assert "UnicodeEncodeError" in message
    assert "1 events were not stored" in message
    reader = Reader(station / "s.sqlite")
    frames = sorted(event.frame or 0 for event in reader.every(EventFilter(), 1000))
    reader.close()
    assert frames == [number for number in range(FRAMES) if number != 7]


@pytest.mark.parametrize(
    ("thread", "owner", "name", "arguments", "faults"),
    [
        ("evidence", Evidence, "_write", [], 6),
        ("keeper", MaintenanceThread, "_round", [], 6),
        ("output file:out.jsonl", DeliveryWorker, "_over", ["--alarm", "file:out.jsonl"], 6),
        ("reload", Reloader, "_load", [], 1),
    ],
)
def test_health_and_metrics_show_a_thread_that_stays_away(
    thread: str,
    owner: Any,
    name: str,
    arguments: list[str],
    faults: int,
    station: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("edge_ad.utils.supervision.RESTART_PAUSE_S", 0.01)
    if name == "_load":
        asking(monkeypatch)
        monkeypatch.setattr("edge_ad.inspection.products.reload_thresholds", _raise)
    else:
        breaking(monkeypatch, owner, name, times=1000)
    port, seen = free_port(), {}

    def ask(path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        with contextlib.closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def watch() -> None:
        ends = time.monotonic() + 60
        while time.monotonic() < ends and "sick" not in seen:
            with contextlib.suppress(OSError, http.client.HTTPException):
                status, text = ask("/healthz")
                if status == 503 and f"the thread {thread} ended" in text and "it stays away" in text:
                    seen["sick"], seen["metrics"] = text, ask("/metrics")[1]
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)  # the run has shown what it had to

    watcher = threading.Thread(target=watch)
    watcher.start()
    # Dark frames: every NONE has images, so the thread has work.
    camera = "synthetic://line?frames=4000&seed=1&fps=20&black=0-4000"
    assert main([*RUN, "--camera", camera, "--web", f"127.0.0.1:{port}", *arguments]) == 3
    watcher.join()
    assert "sick" in seen, capfd.readouterr().err
    assert f'edge_ad_thread_faults_total{{thread="{thread}"}} {faults}.0' in seen["metrics"]
    assert "edge_ad_thread_down 1.0" in seen["metrics"]
