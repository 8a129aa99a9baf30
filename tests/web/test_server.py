"""The server as machines see it: state, record, thresholds, metrics, health, with a real line behind it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from edge_ad.bundle import open_bundle
from tests.fixtures.tiny_bundle import make_tiny_bundle
from tests.web.running import Line, ask, line, until

pytestmark = [pytest.mark.slow, pytest.mark.versions]


def test_state_tells_of_the_run(open_line: Line) -> None:
    state = open_line.wait(lambda state: state if state["count"] > 8 else None)
    run = state["run"]
    assert state["role"] == "full"
    assert not state["login"]
    assert state["about"]["bundle"] == "tiny.edgead"
    assert run["cameras"][0]["event"]["verdict"] in ("OK", "WARN", "NG", "NONE")
    assert run["cycle_age_s"] < run["cycle_limit_s"]
    assert run["store"]["fault"] is None
    assert run["stages"]["total"]["sum"] > 0
    assert str(open_line.store.parent) not in json.dumps(state)  # no paths of this machine in pages


def test_events_are_those_of_the_record_and_page_without_gaps(open_line: Line) -> None:
    open_line.wait(lambda state: state["count"] > 12)
    newest = open_line.ask("/api/events?limit=5").json()
    older = open_line.ask(f"/api/events?limit=5&before={newest['before']}").json()
    numbers = [event["sequence"] for event in newest["events"] + older["events"]]
    assert numbers == list(range(numbers[0], numbers[0] - 10, -1))
    faults = open_line.ask("/api/events?verdict=NONE&limit=200").json()["events"]
    assert {event["verdict"] for event in faults} == {"NONE"}
    # Other tests set thresholds at random, under which an anomaly of this bundle is not plausible ("engine").
    faults = [event for event in faults if event["frame"] in range(3, 7)]
    assert faults
    assert all(event["score"] is None and "dark" in event["reason"] for event in faults)
    one = open_line.ask(f"/api/events/{faults[0]['id']}").json()
    assert one == faults[0]
    assert open_line.ask("/api/events/00000000-0000-0000-0000-000000000000").status == 404


def test_evidence_is_served_and_nothing_else(open_line: Line) -> None:
    def kept() -> str | None:
        events = open_line.ask("/api/events?limit=200").json()["events"]
        return next((event["id"] for event in events if event["images"]), None)

    event = until(kept)
    found = open_line.ask(f"/api/events/{event}/images/0")
    assert found.status == 200
    assert found.headers["content-type"] == "image/jpeg"
    assert found.body[:2] == b"\xff\xd8"
    assert open_line.ask(f"/api/events/{event}/images/50").status == 404
    assert open_line.ask(f"/api/events/{event}/images/-1").status == 422
    assert open_line.ask(f"/api/events/{event}/images/..%2f..%2fline.sqlite").status == 400


def test_marks_are_set_and_taken_back(open_line: Line) -> None:
    event = open_line.ask("/api/events?limit=1").json()["events"][0]["id"]
    path = f"/api/events/{event}/mark"
    assert open_line.ask(path, {"mark": "good"}).json()["mark"] == "good"
    assert event in [found["id"] for found in open_line.ask("/api/events?mark=good").json()["events"]]
    assert open_line.ask(path, {"mark": None}).json()["mark"] is None
    assert open_line.ask(path, {"mark": "perfect"}).status == 422
    assert open_line.ask(path, {"mark": "bad", "by": "me"}).status == 422


def test_live_picture_and_heat_belong_together_while_a_page_watches(open_line: Line) -> None:
    with watching(open_line):
        until(lambda: open_line.ask("/api/cameras/0/picture").status == 200)
        until(lambda: open_line.ask("/api/cameras/0/heat").status == 200)
        picture, heat = open_line.ask("/api/cameras/0/picture"), open_line.ask("/api/cameras/0/heat")
        assert picture.body[:2] == b"\xff\xd8"
        assert heat.body[:8] == b"\x89PNG\r\n\x1a\n"
        assert picture.headers["cache-control"] == "no-store"
    assert open_line.ask("/api/cameras/7/picture").status == 404


def test_stream_sends_states_and_counts_its_pages(open_line: Line) -> None:
    with watching(open_line) as lines:
        first = json.loads(next(lines).removeprefix("data: "))
        assert next(lines) == ""
        second = json.loads(next(lines).removeprefix("data: "))
        assert second["count"] >= first["count"]
        assert second["pages"] >= 1
    until(lambda: open_line.ask("/api/state").json()["pages"] == 0)


def test_acknowledge_ends_a_latched_alarm_but_none_that_came_later(open_line: Line) -> None:
    number = open_line.wait(lambda state: state["run"]["lamp"]["waiting"] and state["run"]["lamp"]["number"])
    assert open_line.ask(f"/api/alarms/{number - 1}/acknowledge", {}).status == 202
    assert open_line.ask("/api/state").json()["run"]["lamp"]["waiting"]
    assert open_line.ask(f"/api/alarms/{number}/acknowledge", {}).json() == {"number": number}
    assert open_line.wait(lambda state: seen(state, number))


def seen(state: dict, number: int) -> bool:  # type: ignore[type-arg]
    return all(not alarm["waiting"] for alarm in state["run"]["alarms"] if alarm["number"] == number)


def test_thresholds_are_tried_out_without_any_effect(open_line: Line) -> None:
    now = open_line.ask("/api/thresholds").json()
    assert now["locked"] is None
    nothing = open_line.ask("/api/thresholds/preview?warn=1e8&ng=1e9&hours=1").json()
    every = open_line.ask("/api/thresholds/preview?warn=-1e9&ng=-1e8&hours=1").json()
    assert nothing["rejects"] == 0
    assert every["counts"] == {"OK": 0, "WARN": 0, "NG": every["judged"]}
    assert every["faults"] == nothing["faults"] >= 1  # NONE stays NONE
    assert open_line.ask("/api/thresholds").json() == now
    assert open_line.ask("/api/thresholds/preview?warn=2&ng=1").status == 400
    assert open_line.ask("/api/thresholds/preview?warn=nan&ng=1").status == 422


def test_thresholds_are_taken_over_by_the_running_line(open_line: Line) -> None:
    before = open_bundle(open_line.bundle)
    pid = open_line.process.pid
    answer = open_line.ask("/api/thresholds", {"warn": 1e6, "ng": 2e6, "reason": "too many rejects"}).json()
    assert answer["running"]
    open_line.wait(lambda state: state["run"]["cameras"][0]["event"]["verdict"] == "OK")
    child = open_bundle(open_line.bundle.with_name(answer["bundle"]))
    assert child.parent == before.sha256
    assert (child.thresholds.warn, child.thresholds.ng, child.thresholds.goods) == (1e6, 2e6, 0)
    assert child.report["rethreshold"][0]["reason"] == "too many rejects"
    back = {"warn": before.thresholds.warn, "ng": before.thresholds.ng}
    assert open_line.ask("/api/thresholds", back).json()["running"]
    open_line.wait(lambda state: state["run"]["cameras"][0]["event"]["verdict"] == "NG")
    assert open_line.process.pid == pid
    assert open_line.process.poll() is None
    assert open_line.ask("/api/thresholds", {"warn": 2, "ng": 1}).status == 400


def test_metrics_have_the_documented_names_and_bounded_labels(open_line: Line) -> None:
    text = open_line.ask("/metrics").body.decode()
    names = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    wanted = {
        "frames_total",
        "dropped_frames_total",
        "latency_seconds",
        "last_verdict_age_seconds",
        "up",
        "verdicts_total",
    }
    assert {f"edge_ad_{name}" for name in wanted} <= names
    assert "edge_ad_up 1.0" in text
    assert 'edge_ad_latency_seconds_bucket{le="+Inf",stage="total"}' in text
    cameras = set(re.findall(r'camera="([^"]*)"', text))
    assert len(cameras) == 1
    table = Path("docs/dashboard.md").read_text(encoding="utf-8")
    assert [name for name in sorted(names) if f"`{name}`" not in table] == []


def test_openapi_document_names_every_route_and_no_documentation_page_loads_from_outside(open_line: Line) -> None:
    paths = open_line.ask("/openapi.json").json()["paths"]
    for path in ("/api/state", "/api/events", "/api/thresholds", "/metrics", "/healthz", "/readyz"):
        assert path in paths
    assert open_line.ask("/docs").status == 404
    assert open_line.ask("/redoc").status == 404


@pytest.mark.any_version
def test_health_fails_when_cycles_stop_and_comes_back(tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "tiny.edgead")
    with line(tmp_path, bundle) as found:
        assert found.ask("/healthz").json()["status"] == "ok"
        assert found.ask("/readyz").status == 200
        os.kill(found.process.pid, signal.SIGSTOP)
        until(lambda: found.ask("/healthz").status == 503)
        assert found.ask("/readyz").status == 503
        assert "edge_ad_up 0.0" in found.ask("/metrics").body.decode()
        os.kill(found.process.pid, signal.SIGCONT)
        until(lambda: found.ask("/healthz").status == 200)
        children = found.ask("/metrics").status
        assert children == 200
        kill_dashboard(found)  # the line goes on, and so does the dashboard
        until(lambda: found.ask("/readyz").status == 200)
        assert any("is started again" in text for text in found.said)
        assert found.stop() == 0
        with pytest.raises(OSError):
            found.ask("/healthz")


def kill_dashboard(found: Line) -> None:
    """Kill the process that serves, a child of the run."""
    children = Path(f"/proc/{found.process.pid}/task/{found.process.pid}/children").read_text().split()
    pids = [int(pid) for pid in children if b"edge_ad.web.serve" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(pids) == 1
    os.kill(pids[0], signal.SIGKILL)
    until(lambda: not Path(f"/proc/{pids[0]}").exists())


def test_a_camera_filter_takes_any_name(open_line: Line) -> None:
    name = open_line.ask("/api/state").json()["run"]["cameras"][0]["name"]
    assert open_line.ask(f"/api/events?limit=1&camera={quote(name, safe='')}").json()["events"]
    assert open_line.ask("/api/events?limit=1&camera=other").json()["events"] == []


class watching:
    """An open page: reads the stream line by line."""

    def __init__(self, found: Line) -> None:
        self._line = found

    def __enter__(self) -> Iterator[str]:
        import http.client

        self._connection = http.client.HTTPConnection("127.0.0.1", self._line.port, timeout=30)
        self._connection.request("GET", "/api/stream")
        answer = self._connection.getresponse()
        assert answer.headers["content-type"].startswith("text/event-stream")
        self._answer = answer
        return (text.decode().rstrip("\n") for text in iter(answer.readline, b""))

    def __exit__(self, *error: object) -> None:
        self._answer.close()
        self._connection.close()


def test_a_wrong_address_is_told_in_one_sentence(tmp_path: Path, open_line: Line) -> None:
    from edge_ad.errors import BadInput
    from edge_ad.web.address import listen, parse_address

    with pytest.raises(BadInput, match="a free port"):
        listen(parse_address(f"127.0.0.1:{open_line.port}"))
    assert ask(open_line.port, "/healthz").status == 200


def test_a_record_is_shown_without_a_line(open_line: Line) -> None:
    command = [sys.executable, "-m", "edge_ad", "web", "127.0.0.1:0", "--store", str(open_line.store)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=open_line.store.parent)
    try:
        assert process.stderr is not None
        port = int(process.stderr.readline().strip().rstrip("/").rpartition(":")[2])
        until(lambda: ask(port, "/healthz").status == 200)
        assert ask(port, "/api/events?limit=3").json()["events"]
        state = ask(port, "/api/state").json()
        assert (state["attached"], state["run"]) == (False, None)
        assert ask(port, "/api/alarms/1/acknowledge", {}).status == 409
        assert ask(port, "/api/thresholds", {"warn": 1, "ng": 2}).status == 409
    finally:
        process.terminate()
        process.wait(20)


def test_the_run_loads_nothing_of_the_server() -> None:
    """Not without a dashboard, and not with one either: it is another process."""
    modules = "sys, edge_ad.inspection.inspector, edge_ad.web.link"
    check = f"import {modules}; print({{'fastapi', 'uvicorn', 'starlette'}} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
