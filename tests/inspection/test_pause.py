"""A pause: what the outputs of a real run show to a real PLC, what is recorded, and that only a resume ends it."""

from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_ad.camera.frames import Frame, SourceKind
from edge_ad.cli.app import main
from edge_ad.config import AlarmTable
from edge_ad.errors import BadInput, DeviceFault
from edge_ad.inspection.alarm_manager import AlarmManager
from edge_ad.inspection.observers import EventCallback
from edge_ad.inspection.part_tracking import Judgeable
from edge_ad.inspection.pause import Pause
from edge_ad.inspection.requests import ControlSocket, Request, Requests, ask_run, control_path
from edge_ad.store.actions import Action, ActionLog, actions_path
from edge_ad.utils.supervision import ThreadFaults
from tests.camera.pictures import noise
from tests.fixtures.loopback import free_port, until
from tests.fixtures.tiny_bundle import make_tiny_bundle
from tests.inspection.line import Arithmetic, Script, check_account, make_loop
from tests.outputs.peers import ReadingPlc, WrittenPlc
from tests.web.running import Line, line

pytestmark = pytest.mark.any_version

PASS, FAULT, VALID, READY, BUSY = range(5)
PAUSE_COIL, RESUME_COIL = 18, 19


def asked(kind: str, by: str = "anna", reason: str = "lens", origin: str = "command") -> Request:
    return Request(kind, by, origin, {"reason": reason})  # type: ignore[arg-type]


@contextlib.contextmanager
def station(folder: Path, written: WrittenPlc) -> Iterator[tuple[Line, ReadingPlc]]:
    """A run with a PLC that reads and one that is written to."""
    port = free_port()
    outputs = ["--alarm", f"modbus-server://127.0.0.1:{port}", "--alarm", f"modbus://127.0.0.1:{written.port}"]
    with line(folder, folder / "tiny.edgead", *outputs) as run:
        plc = ReadingPlc(port)
        try:
            yield run, plc
        finally:
            plc.close()


def not_ready(bits: list[bool]) -> bool:
    return not any(bits[index] for index in (PASS, FAULT, VALID, READY, BUSY))


def never_passes(plc: ReadingPlc, written: WrittenPlc, seconds: float) -> None:
    assert until(lambda: not_ready(plc.bits()) and not_ready(written.bits())), "one of the two PLCs never heard of the pause"
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        for bits in (plc.bits(), written.bits()):
            assert not_ready(bits), bits
        time.sleep(0.01)


def test_a_pause_shows_not_ready_outlives_a_kill_and_ends_by_a_resume_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_tiny_bundle(tmp_path / "tiny.edgead")
    written = WrittenPlc()
    with station(tmp_path, written) as (run, plc):
        store = str(run.store)
        assert until(plc.passed)
        assert main(["pause", "--reason", "cleaning the lens", "--by", "anna", "--store", store]) == 0
        assert "the line is paused, by anna (command): cleaning the lens" in capsys.readouterr().out
        paused_at = time.time()
        assert until(lambda: not_ready(plc.bits()) and not_ready(written.bits()))
        assert plc.registers(4, 1) == [1]
        assert until(lambda: written.registers()[4] == 1)
        assert until(lambda: plc.bits()[7]), "the heartbeat goes on"
        never_passes(plc, written, 1.0)
        shown = run.wait(lambda state: state["run"]["pause"])
        assert (shown["by"], shown["reason"]) == ("anna", "cleaning the lens")
        assert b"edge_ad_paused 1.0" in run.ask("/metrics").body

        assert main(["pause", "--reason", "again", "--store", store]) == 2
        assert "paused already, by anna" in capsys.readouterr().err
        assert run.ask("/api/pause", {"reason": "again"}).status == 409
        plc.client.write_coil(RESUME_COIL, True)  # a PLC does not end the pause of a person
        never_passes(plc, written, 0.5)
        run.process.kill()
        run.process.wait()

    assert main(["events", "--store", store]) == 0
    assert "pause    by anna (command): cleaning the lens" in capsys.readouterr().out
    with station(tmp_path, written) as (run, plc):  # ready and judging when it begins
        assert until(lambda: plc.registers(4, 1) == [1])
        never_passes(plc, written, 1.0)
        resumed_at = time.time()
        assert "the line goes on, by ben" in run.ask("/api/resume", {"by": "ben"}).json()["told"]
        assert until(plc.passed)
        assert until(lambda: written.bits()[READY])
        assert plc.registers(4, 1) == [0]
        plc.client.write_coil(PAUSE_COIL, True)
        assert until(lambda: plc.registers(4, 1) == [1])
        never_passes(plc, written, 0.3)
        plc.client.write_coil(PAUSE_COIL, False)
        plc.client.write_coil(RESUME_COIL, True)  # what a PLC has paused it may resume
        assert until(plc.passed)
        assert main(["resume", "--store", store]) == 2
        assert "not paused" in capsys.readouterr().err
    written.close()

    log = ActionLog(actions_path(Path(store)))
    actions = [(one.kind, one.by, one.origin) for one in log.actions() if one.kind in ("pause", "resume")]
    assert actions == [
        ("pause", "anna", "command"), ("resume", "ben", "dashboard"), ("pause", "PLC", "plc"), ("resume", "PLC", "plc"),
    ]  # fmt: skip
    with sqlite3.connect(store) as connection:
        rows = connection.execute(
            "SELECT verdict, reason FROM event WHERE time > ? AND time < ?", (paused_at, resumed_at - 1.0)
        ).fetchall()
    assert len(rows) >= 5
    assert {verdict for verdict, _ in rows} == {"NONE"}
    assert any(reason == "paused: by anna (command): cleaning the lens" for _, reason in rows)


def test_a_station_is_paused_while_no_run_is_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "line.sqlite"
    assert main(["pause", "--reason", "x", "--store", str(store)]) == 2
    assert "there is no store" in capsys.readouterr().err
    store.touch()
    assert main(["pause", "--reason", "new belt", "--by", "anna", "--store", str(store)]) == 0
    assert "no run keeps" in capsys.readouterr().out
    reason = Pause(ActionLog(actions_path(store))).reason()
    assert reason == "paused: by anna (command): new belt"
    assert main(["resume", "--by", "anna", "--store", str(store)]) == 0
    assert Pause(ActionLog(actions_path(store))).reason() is None


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (asked("pause", reason=""), "a pause needs a reason"),
        (asked("pause", reason="  "), "a pause needs a reason"),
        (asked("pause", by=""), "who asks for the pause"),
        (asked("resume"), "the line is not paused"),
        (asked("dance"), "takes no request 'dance'; it takes pause, resume"),
    ],
)
def test_what_is_refused_is_one_sentence(request_: Request, message: str) -> None:
    pause, requests = Pause(None), Requests()
    requests.register("pause", pause.pause)
    requests.register("resume", pause.resume)
    with pytest.raises(BadInput, match=message):
        requests.submit(request_)
    assert pause.action is None


def test_what_is_only_asked_for_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A command that waits for a change of product asks 20 times a second."""
    requests = Requests()
    requests.register("product", lambda request: "done")
    requests.register("products", lambda request: "yes", logged=False)
    with caplog.at_level("INFO"):
        requests.submit(Request("products", "", "command"))
        requests.submit(Request("product", "anna", "command", {"name": "cap-red"}))
    assert [record.getMessage() for record in caplog.records] == ["done"]


def test_what_cannot_be_understood_or_done_keeps_nobody_else_from_asking(tmp_path: Path) -> None:
    def broken(request: Request) -> str:
        raise RuntimeError("bug")

    store, requests, faults = tmp_path / "line.sqlite", Requests(), ThreadFaults()
    requests.register("dance", broken)
    requests.register("pause", Pause(None).pause)
    with contextlib.closing(ControlSocket(control_path(store), requests, faults)):
        for line in (b"[" * 8000 + b"\n", b"\xff\n", b"{}\n"):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
                peer.settimeout(10)
                peer.connect(str(control_path(store)))
                peer.sendall(line)
                assert json.loads(peer.recv(4096)) == {"error": "this is no request of edge-ad"}
        with pytest.raises(DeviceFault, match="RuntimeError: bug"):
            ask_run(store, asked("dance"))
        assert "the line is paused" in str(ask_run(store, asked("pause")))
    assert faults.fault is None


def test_outputs_hear_of_a_pause_before_the_disk_and_of_a_resume_after_it(tmp_path: Path) -> None:
    order: list[str] = []

    class Log(ActionLog):
        def append(self, action: Action) -> None:
            order.append(f"disk {action.kind}")

    pause = Pause(Log(tmp_path / "a.jsonl"), lambda paused: order.append(f"outputs {paused}"))
    pause.pause(asked("pause"))
    pause.resume(asked("resume"))
    assert order == ["outputs False", "outputs True", "disk pause", "disk resume", "outputs False"]


def test_a_torn_line_ends_no_pause_and_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    Pause(ActionLog(path)).pause(asked("pause"))
    with path.open("ab") as stream:
        stream.write(b'{"kind":"resume","by":"b')  # a power cut
    pause = Pause(ActionLog(path))
    assert pause.action is not None
    pause.resume(asked("resume"))
    assert [one.kind for one in ActionLog(path).actions()] == ["pause", "resume"]
    assert Pause(ActionLog(path)).action is None


def test_a_disk_that_refuses_pauses_all_the_same_and_reports_it(tmp_path: Path) -> None:
    pause = Pause(ActionLog(tmp_path / "missing" / "a.jsonl"))
    assert "cannot be stored, so a restart ends it" in pause.pause(asked("pause"))
    assert pause.reason() == "paused: by anna (command): lens"
    assert "cannot be stored, so a restart comes up paused" in pause.resume(asked("resume"))
    assert pause.reason() is None


def test_in_a_pause_nothing_is_inferred_and_an_alarm_stays_as_it_is() -> None:
    pause = Pause(None)
    pipeline = Arithmetic(lambda call: 9.0 if call == 1 else 0.0)  # the second part that is judged is NG
    alarm_manager = AlarmManager(
        ["cam"], AlarmTable(min_on_s=0), None, paused=lambda: pause.action is not None, clock=lambda: 0.0
    )
    seen: list[tuple[str, str | None, bool]] = []

    def note(event: Any) -> None:
        seen.append((event.verdict, event.reason, alarm_manager.lit))
        if len(seen) in (1, 4):
            pause.pause(asked("pause"))
        if len(seen) in (3, 6):
            pause.resume(asked("resume"))

    loop, _ = make_loop(pipeline, [Script(range(7))], pause=pause)
    loop._observers = [alarm_manager, EventCallback(note)]
    loop.run()
    reason = "paused: by anna (command): lens"
    assert [(verdict, lit) for verdict, _, lit in seen] == [
        ("OK", False), ("NONE", False), ("NONE", False), ("NG", True), ("NONE", True), ("NONE", True), ("OK", False),
    ]  # fmt: skip
    assert alarm_manager.number == 1
    assert [why for _, why, _ in seen if why and why.startswith("paused")] == [reason] * 4
    assert pipeline.calls == 3
    assert loop.none_reasons == {"paused": 4}


@pytest.mark.parametrize(("kind", "verdicts"), [("live", ["NONE", "OK"]), ("video", ["OK", "OK"])])
def test_a_live_frame_of_the_pause_is_not_judged_after_the_resume(kind: SourceKind, verdicts: list[str]) -> None:
    """Two frames of the seconds 1 and 3; the line goes on at 2."""
    pause = Pause(None, clock=lambda: 2.0)
    pause.pause(asked("pause"))
    pause.resume(asked("resume"))
    loop, events = make_loop(Arithmetic(), [Script([], kind=kind)], pause=pause)
    for number, at in enumerate((1.0, 3.0)):
        frame = Frame(noise(number), number, at, time.time(), "cam", str(number))
        loop._take(loop.workers[0], Judgeable(frame, time.monotonic()))
        loop._finish(loop.workers[0])
    assert [event.verdict for event in events] == verdicts
    assert {event.reason for event in events if event.verdict == "NONE"} <= {"paused: seen before the line went on"}


def test_a_part_whose_frames_were_judged_before_the_pause_gets_no_ok() -> None:
    pause = Pause(None)

    def score(call: int) -> float:
        if call == 2:
            pause.pause(asked("pause"))
        return 0.0

    loop, events = make_loop(Arithmetic(score), [Script(range(3))], pause=pause)
    loop.run()
    check_account(loop)
    assert [event.verdict for event in events] == ["OK", "OK", "NONE"]  # the pause came while the third was inferred
    assert events[2].score is None
    assert json.loads(events[2].line())["z"] == {}
