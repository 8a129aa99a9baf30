"""An exception that nobody foresaw, raised in every thread of a run in turn: the run tells it and ends with exit code 3."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_ad.camera.synthetic import SyntheticLine
from edge_ad.cli.app import main
from edge_ad.inspection import triggers
from edge_ad.inspection.evidence import Evidence
from edge_ad.inspection.reload import Reloader
from edge_ad.inspection.triggers import MqttTrigger
from edge_ad.outputs.dispatcher import DeliveryWorker
from edge_ad.outputs.guard_client import GuardClient
from edge_ad.outputs.opcua import OpcUaServer
from edge_ad.store import Store
from edge_ad.store.maintenance import MaintenanceThread
from edge_ad.store.reader import EventFilter, Reader
from edge_ad.web.link import WebLink
from edge_ad.web.panel import DashboardFeed
from tests.fixtures.loopback import free_port
from tests.fixtures.tiny_bundle import make_tiny_bundle

FRAMES = 40
CAMERA = f"synthetic://line?frames={FRAMES}&seed=1&fps=20"
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
    ("web", DashboardFeed, "release", ["--web", "127.0.0.1:0"]),
    ("web-listen", WebLink, "_listen", ["--web", "127.0.0.1:0"]),
    ("guard", GuardClient, "_listen", ["--alarm", "modbus-server://127.0.0.1:{port}"]),
    ("trigger", triggers, "part_id", ["--trigger", "software"]),
    ("trigger", MqttTrigger, "_run", ["--trigger", "mqtt://127.0.0.1:{port}/t"]),
)


@pytest.mark.parametrize(("thread", "owner", "name", "arguments"), THREADS, ids=lambda value: str(value)[:24])
def test_one_exception_is_told_and_counted_and_the_run_goes_on(
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
        monkeypatch.setattr("edge_ad.inspection.inspector.reload_thresholds", _raise)
    else:
        breaking(monkeypatch, owner, name)
    port = free_port()
    assert main([*RUN, "--camera", CAMERA, *(text.format(port=port) for text in arguments)]) == 3
    told = capfd.readouterr()
    assert "RuntimeError: injected" in told.err
    assert re.search(rf" ERROR (fault of )?the thread {thread}", told.err)
    assert "Traceback (most recent call last):" in told.err  # in the log, where it says what broke
    assert "captured" in told.out  # the run went on to its end
    assert told.err.splitlines()[-1].startswith("error: ")
    assert "not stored" not in told.err  # nothing is missing in the record


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
    camera = "synthetic://line?frames=100000&seed=1&fps=20"
    arguments = [text.format(port=free_port()) for text in arguments]
    assert main([*RUN, "--camera", camera, *arguments, "--max-frames", "2000"]) == 3
    told = capfd.readouterr().err
    assert f" ERROR the thread {thread} ended" in told
    assert "nothing may pass, so start the run again" in told.splitlines()[-1]


def test_a_camera_that_breaks_in_its_thread_ends_the_run(
    station: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    breaking(monkeypatch, SyntheticLine, "read", times=1000)
    assert main([*RUN, "--camera", CAMERA]) == 3
    told = capfd.readouterr().err
    assert "the source broke (RuntimeError: injected)" in told
    assert "Traceback" not in told


def test_a_server_whose_thread_ends_is_opened_again(
    station: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("asyncua")
    breaking(monkeypatch, OpcUaServer, "_serve")
    main([*RUN, "--camera", "synthetic://line?frames=120&seed=1&fps=20", "--alarm", f"opcua://127.0.0.1:{free_port()}"])
    told = capfd.readouterr().err
    assert "events wait and are tried again" in told
    assert "delivers again" in told


def test_an_event_that_cannot_be_stored_holds_up_no_other(
    station: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from edge_ad.events import Event
    from edge_ad.store.rows import row_of

    def spoilt_row(event: Event) -> tuple[Any, ...]:
        return (event.id, "cam \udce4", *row_of(event)[2:]) if event.frame == 7 else row_of(event)

    monkeypatch.setattr("edge_ad.store.store.row_of", spoilt_row)
    run = [argument for argument in RUN if argument != "--realtime"]  # every frame is judged, however slow the machine
    assert main([*run, "--camera", CAMERA, "--alarm", "file:out.jsonl"]) == 3
    told = capfd.readouterr().err
    assert "UnicodeEncodeError" in told
    assert "1 events were not stored" in told
    reader = Reader(station / "s.sqlite")
    frames = sorted(event.frame or 0 for event in reader.every(EventFilter(), 1000))
    reader.close()
    assert frames == [number for number in range(FRAMES) if number != 7]


def test_health_and_metrics_show_a_thread_that_stays_away(
    station: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("edge_ad.utils.supervision.RESTART_PAUSE_S", 0.01)
    breaking(monkeypatch, Evidence, "_write", times=1000)
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
                if status == 503 and "evidence" in text:
                    seen["sick"], seen["metrics"] = text, ask("/metrics")[1]
            time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    # Dark frames: every NONE has images, so the thread has work.
    camera = "synthetic://line?frames=400&seed=1&fps=20&black=0-400"
    assert main([*RUN, "--camera", camera, "--web", f"127.0.0.1:{port}"]) == 3
    watcher.join()
    assert "it stays away" in seen["sick"], capfd.readouterr().err
    assert 'edge_ad_thread_faults_total{thread="evidence"} 6.0' in seen["metrics"]
    assert "edge_ad_thread_down 1.0" in seen["metrics"]
