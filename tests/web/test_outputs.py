"""Outputs that do not work, as machines and people see them: a real PLC that refuses, a broken file, a recovery."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from edge_ad.web.dashboard_state import DashboardState
from tests.fixtures.loopback import free_port
from tests.fixtures.tiny_bundle import make_tiny_bundle
from tests.outputs.peers import WrittenPlc
from tests.web.running import Line, line, until
from tests.web.test_page import Watch, wait

SMALL, LARGE = 64, 200


def named(found: Line) -> dict[str, Any]:
    return {output["name"]: output for output in found.ask("/api/state").json()["run"]["outputs"]}


def metric(found: Line, name: str, output: str) -> float | None:
    text = found.ask("/metrics").body.decode()
    match = re.search(rf'^{name}{{output="{re.escape(output)}"}} (\S+)$', text, re.MULTILINE)
    return float(match[1]) if match else None


@pytest.mark.slow
def test_a_plc_that_refuses_is_reported_once_shown_and_gone_on_recovery(tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "tiny.edgead")
    plc = WrittenPlc(size=SMALL)
    name = f"modbus://127.0.0.1:{plc.port}"
    file = tmp_path / "events.jsonl"
    with line(tmp_path, bundle, "--alarm", f"{name}?base=100", "--alarm", f"file:{file}") as result:
        refused = until(lambda: named(result)[name]["fault"] and named(result)[name])
        assert "it refuses to take coils 100 to 107" in refused["fault"]
        assert (refused["up"], refused["faults"]) == (False, 1)
        until(lambda: named(result)["file:…/events.jsonl"]["up"])
        assert metric(result, "edge_ad_output_up", name) == 0
        assert metric(result, "edge_ad_output_faults_total", name) == 1
        assert metric(result, "edge_ad_output_up", "file:…/events.jsonl") == 1
        assert metric(result, "edge_ad_output_faults_total", "file:…/events.jsonl") == 0
        assert result.ask("/healthz").status == 200  # nobody said that this output is required
        messages = [text for text in result.said if f"output fault: {name}" in text]
        late = [text for text in messages if "no answer within" in text]  # of a busy machine: another fault, told too
        assert 1 <= len(messages) - len(late) <= 1 + len(late)
        before = named(result)[name]["since"]
        plc.close()
        plc = WrittenPlc(plc.port, size=LARGE)  # the program of the PLC was mended
        until(lambda: named(result)[name]["up"])
        assert named(result)[name]["since"] > before
        assert metric(result, "edge_ad_output_up", name) == 1
        assert metric(result, "edge_ad_output_faults_total", name) == 1
        assert sum(f"output {name} works again" in text for text in result.said) == 1
        assert result.stop() == 0
    plc.close()


@pytest.mark.slow
def test_health_follows_an_output_only_where_it_is_required(tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "tiny.edgead")
    plc = WrittenPlc()
    with line(tmp_path, bundle, "--alarm", f"modbus://127.0.0.1:{plc.port}", "--require-alarms") as result:
        assert result.ask("/healthz").status == 200
        plc.close()
        until(lambda: result.ask("/healthz").status == 503)
        assert result.ask("/healthz").json()["told"] == "1 of the required outputs does not work"
        plc = WrittenPlc(plc.port)
        until(lambda: result.ask("/healthz").status == 200)
    plc.close()


@pytest.mark.parametrize(
    ("required", "fault", "healthy"), [(True, None, True), (True, "away", False), (False, "away", True)]
)
def test_only_a_fault_of_a_required_output_is_a_fault_of_the_run(
    required: bool, fault: str | None, healthy: bool
) -> None:
    mirror = DashboardState()
    mirror.take({"kind": "hello", "about": {"require_alarms": required}}, [])
    outputs = [{"name": "modbus://plc:502", "up": fault is None, "fault": fault, "faults": 1, "since": 0.0}]
    state = {"cycle_age_s": 1.0, "cycle_limit_s": 10.0, "cameras": [], "outputs": outputs}
    mirror.take({"kind": "state", "state": state, "events": []}, [])
    life = mirror.life()
    assert (life.healthy, life.ready) == (healthy, healthy)
    assert "plc" not in life.told  # it is told without a token


@pytest.mark.slow
@pytest.mark.parametrize("size", ["wide", "phone"])
def test_the_health_view_shows_outputs_as_text(chromium: Any, tmp_path: Path, shots: Path, size: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install 'edge-ad[test]'")
    bundle = make_tiny_bundle(tmp_path / "tiny.edgead")
    (tmp_path / "taken").write_text("a file where a folder should be")
    broken, away = "file:taken/<b>bold</b>.jsonl", f"modbus://127.0.0.1:{free_port()}"
    alarms = ["--alarm", broken, "--alarm", away, "--alarm", "file:good.jsonl"]
    with line(tmp_path, bundle, *alarms) as result:
        until(
            lambda: (
                named(result)[broken]["fault"] and named(result)[away]["fault"] and named(result)["file:good.jsonl"]["up"]
            )
        )
        watch = Watch(chromium, result.url, size)
        page = watch.live()
        page.click("#tab-health")
        wait(page, "document.getElementById('outputs-told').textContent === '2 of 3 do not work'")
        rows = [row.inner_text() for row in page.query_selector_all("#outputs tbody tr")]
        assert "cannot be reached" in rows[0]  # those of the guard come first
        assert "does not work" in rows[1]
        assert "<b>bold</b>" in rows[1]
        assert page.query_selector("#outputs b") is None
        assert "works" in rows[2]
        assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
        page.screenshot(path=shots / f"outputs-{size}.png", full_page=True)
        violations = axe.Axe().run(page).response["violations"]
        assert [one["id"] for one in violations if one["impact"] in ("serious", "critical")] == []
        watch.close()
        assert watch.errors == []
