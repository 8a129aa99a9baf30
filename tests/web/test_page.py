"""The page in a real browser against a real line: what an operator sees and does."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.fixtures.loopback import until
from tests.fixtures.tiny_bundle import make_tiny_bundle
from tests.web.running import Line, line

pytestmark = pytest.mark.slow
WAIT_MS = 60_000
SIZES = {"wide": (1280, 800), "phone": (360, 740)}


class Watch:
    """A page that fails the test for any error of the console and any request to another host."""

    def __init__(self, chromium: Any, url: str, size: str = "wide", scheme: str = "light") -> None:
        width, height = SIZES[size]
        self.context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.errors: list[str] = []
        self.hosts: set[str] = set()
        self.page.on(
            "console", lambda told: self.errors.append(told.text) if told.type in ("error", "warning") else None
        )
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda sent: self.hosts.add(urlsplit(sent.url).netloc))
        self.page.goto(url)

    def live(self) -> Any:
        """Wait until the page is live and return it."""
        self.page.wait_for_selector('body[data-link="live"]')
        return self.page

    def close(self) -> None:
        self.context.close()


@pytest.fixture
def watch(chromium: Any, open_line: Line) -> Iterator[Watch]:
    result = Watch(chromium, open_line.url)
    result.live()
    yield result
    result.close()
    assert result.errors == []
    assert {host for host in result.hosts if host} == {f"127.0.0.1:{open_line.port}"}


def wait(page: Any, expression: str, arg: Any = None) -> None:
    """Wait until an expression is true; wait_for_function would need eval in the page, which its policy forbids."""
    end = time.monotonic() + WAIT_MS / 1000
    while not page.evaluate(expression, arg):
        assert time.monotonic() < end, expression
        page.wait_for_timeout(50)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_view_is_accessible_and_fits_its_width(
    chromium: Any, open_line: Line, shots: Path, size: str, scheme: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install 'edge-ad[test]'")
    result = Watch(chromium, open_line.url, size, scheme)
    page = result.live()
    wait(page, "document.getElementById('caption').textContent.includes('part')")
    for tab in ("line", "events", "thresholds", "health"):
        page.click(f"#tab-{tab}")
        if tab == "events":
            page.click("#rows tr button")
        if tab == "thresholds":
            wait(page, "document.getElementById('preview-told').textContent.includes('At this threshold')")
        page.wait_for_timeout(300)
        page.screenshot(path=shots / f"{tab}-{size}-{scheme}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
        answer = axe.Axe().run(page)
        serious = [
            (one["id"], [node["html"][:200] for node in one["nodes"]])
            for one in answer.response["violations"]
            if one["impact"] in ("serious", "critical")
        ]
        assert serious == [], tab
    result.close()
    assert result.errors == []


def test_live_pictures_arrive_and_the_lamp_follows_the_line(watch: Watch, open_line: Line) -> None:
    page = watch.page
    wait(page, "document.getElementById('caption').textContent.includes('part')")
    first = page.inner_text("#caption")
    wait(page, "first => document.getElementById('caption').textContent !== first", arg=first)
    drawn = page.evaluate(
        "() => { const c = document.getElementById('picture'); "
        "return new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size }"
    )
    assert drawn > 20  # an image, not a blank
    wait(page, "document.getElementById('lamp-word').textContent === 'NG'")
    assert page.get_attribute("#lamp", "data-show") == "NG"
    assert "NG" in page.title()
    wait(page, "document.getElementById('say').textContent.includes('NG')")  # for those who listen
    assert page.get_attribute("#heat", "aria-pressed") == "true"
    page.keyboard.press("h")
    assert page.get_attribute("#heat", "aria-pressed") == "false"
    page.keyboard.press("h")


def test_the_keyboard_does_everything(watch: Watch) -> None:
    page = watch.page
    page.keyboard.press("2")
    assert page.get_attribute("#tab-events", "aria-selected") == "true"
    assert page.evaluate("document.activeElement.id") == "tab-events"
    page.keyboard.press("ArrowRight")
    assert page.get_attribute("#tab-thresholds", "aria-selected") == "true"
    page.focus("#reason")
    page.keyboard.type("1 2 h")  # what is typed is no shortcut
    assert page.input_value("#reason") == "1 2 h"
    page.keyboard.press("Tab")
    page.keyboard.press("1")
    page.keyboard.press("l")
    assert page.evaluate("document.body.classList.contains('large')")
    page.keyboard.press("Escape")
    assert not page.evaluate("document.body.classList.contains('large')")
    page.keyboard.press("?")
    assert page.is_visible("#help")
    page.uncheck("#keys-on")
    page.keyboard.press("Escape")
    page.keyboard.press("3")
    assert page.get_attribute("#tab-line", "aria-selected") == "true"
    page.evaluate("localStorage.clear()")


def test_an_alarm_is_acknowledged(watch: Watch, open_line: Line) -> None:
    page = watch.page
    page.wait_for_selector("#acknowledge:not(:disabled)")
    number = int(page.inner_text("#acknowledge").split()[1])
    page.keyboard.press("a")
    wait(page, "document.getElementById('note').textContent.includes('acknowledged')")
    assert open_line.wait(
        lambda state: not any(one["waiting"] for one in state["run"]["alarms"] if one["number"] == number)
    )


def test_the_line_is_paused_and_goes_on_by_the_keyboard(watch: Watch, open_line: Line, shots: Path) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install 'edge-ad[test]'")
    page = watch.page
    page.wait_for_selector("#pause:not(:disabled)")
    page.keyboard.press("p")
    assert page.evaluate("document.activeElement.id") == "pause-by"
    page.keyboard.type("anna")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # a reason is missing
    assert page.is_visible("#pause-dialog")
    page.keyboard.type("cleaning the lens")
    page.screenshot(path=shots / "pause-dialog.png")
    page.keyboard.press("Enter")
    page.wait_for_selector("#paused:not([hidden])")
    assert "Paused by anna since" in page.inner_text("#paused-told")
    assert open_line.wait(lambda state: state["run"]["cameras"][0]["why"] == "paused: by anna (dashboard): cleaning the lens")
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.screenshot(path=shots / "paused-phone.png")
    serious = [one["id"] for one in axe.Axe().run(page).response["violations"] if one["impact"] in ("serious", "critical")]
    assert serious == []
    page.set_viewport_size({"width": 1280, "height": 800})
    page.screenshot(path=shots / "paused.png")
    page.keyboard.press("p")
    page.click("#pause-no")
    assert page.is_visible("#paused")
    page.keyboard.press("p")
    page.wait_for_selector("#pause-dialog[open]")
    assert page.input_value("#pause-by") == "anna"
    page.keyboard.press("Enter")
    page.wait_for_selector("#paused", state="hidden")
    assert open_line.wait(lambda state: state["run"]["pause"] is None)
    page.click("#tab-health")
    wait(page, "document.getElementById('actions').textContent.includes('cleaning the lens')")
    page.evaluate("localStorage.clear()")


def test_an_event_is_found_shown_and_marked(watch: Watch, open_line: Line) -> None:
    page = watch.page
    page.keyboard.press("2")
    page.wait_for_selector("#rows tr button")
    page.keyboard.press("j")
    page.wait_for_selector("#detail .facts")
    wait(page, "[...document.querySelectorAll('#detail img')].every(i => i.complete && i.naturalWidth)")
    page.keyboard.press("g")
    wait(page, "document.getElementById('note').textContent.includes('was good')")
    marked = open_line.ask("/api/events?mark=good").json()["events"]
    assert len(marked) == 1
    page.select_option("select[name=mark]", "good")
    wait(page, "document.querySelectorAll('#rows tr').length === 1")
    page.keyboard.press("Escape")
    page.click("#detail button:has-text('No mark')")
    wait(page, "document.getElementById('note').textContent.includes('taken away')")
    assert open_line.ask("/api/events?mark=good").json()["events"] == []


def test_older_events_are_paged_through(watch: Watch, open_line: Line) -> None:
    open_line.wait(lambda state: state["count"] > 60)
    page = watch.page
    page.click("#tab-events")
    page.check("input[value=OK]")
    page.wait_for_selector("#older:not(:disabled)")
    newest = page.get_attribute("#rows tr:first-child button", "data-id")
    page.click("#older")
    wait(page, "id => !document.querySelector(`[data-id='${id}']`)", arg=newest)
    page.click("#newest")
    wait(page, "document.querySelectorAll('#rows tr').length === 50")


def test_thresholds_are_tried_out_and_applied_while_the_line_runs(watch: Watch, open_line: Line) -> None:
    page = watch.page
    before = open_line.ask("/api/thresholds").json()
    for warn, ng in ((1e6, 2e6), (before["warn"], before["ng"])):
        page.click("#tab-thresholds")
        wait(page, "document.getElementById('warn').value !== ''")
        page.fill("#warn", str(warn))
        page.fill("#ng", str(ng))
        wait(page, "document.getElementById('preview-told').textContent.includes('At this threshold')")
        page.fill("#reason", "trial")
        page.click("#apply")
        page.click("#confirm button[value=yes]")
        wait(page, "document.getElementById('note').textContent.includes('judges by them now')")
        open_line.wait(lambda state, wanted=ng: abs(state["run"]["thresholds"]["ng"] - wanted) < 1e-6 * abs(wanted))
        page.evaluate("document.getElementById('note').textContent = ''")
    assert open_line.process.poll() is None


def test_what_is_typed_while_the_thresholds_are_asked_for_is_not_overwritten(watch: Watch) -> None:
    page = watch.page
    asked = []
    page.route("**/api/thresholds", lambda route: asked.append(route))
    page.click("#tab-thresholds")
    page.fill("#warn", "1.25")
    assert until(lambda: page.wait_for_timeout(20) or asked, WAIT_MS / 1000)
    page.fill("#ng", "2.5")
    for route in asked:
        route.continue_()
    wait(page, "document.getElementById('preview-told').textContent.includes('At this threshold')")
    assert (page.input_value("#warn"), page.input_value("#ng")) == ("1.25", "2.5")


def test_a_page_whose_inspector_stops_reports_it_and_greys_out(chromium: Any, tmp_path: Path, shots: Path) -> None:
    with line(tmp_path, make_tiny_bundle(tmp_path / "tiny.edgead")) as own:
        result = Watch(chromium, own.url)
        page = result.live()
        assert own.stop() == 0
        page.wait_for_selector('body[data-link="lost"]')
        assert "No connection to the inspector since" in page.inner_text("#stale")
        assert page.inner_text("#lamp-word") == "NO DATA"
        assert page.get_attribute("#lamp", "data-show") == "LOST"
        assert page.title().startswith("NO DATA")
        assert "grayscale" in page.evaluate("getComputedStyle(document.querySelector('.camera')).filter")
        page.screenshot(path=shots / "stale.png")
        result.close()


def test_a_reader_may_look_and_not_touch(chromium: Any, tmp_path: Path, shots: Path) -> None:
    tokens = {"EDGE_AD_WEB_TOKEN": "full-token-of-the-tests", "EDGE_AD_WEB_READ_TOKEN": "read-token-of-the-tests"}
    with line(tmp_path, make_tiny_bundle(tmp_path / "tiny.edgead"), environment=tokens) as own:
        result = Watch(chromium, own.url)
        page = result.page
        page.screenshot(path=shots / "login.png")
        page.fill("#token", "wrong")
        page.click("button")
        assert "wrong" in page.inner_text("[role=alert]")
        page.fill("#token", "read-token-of-the-tests")
        page.click("button")
        result.live()
        assert page.is_disabled("#acknowledge")
        page.click("#tab-thresholds")
        page.wait_for_selector("#tune-locked:not([hidden])")
        assert page.is_disabled("#apply")
        assert page.evaluate("document.cookie") == ""  # no script can read the session
        page.click("#logout button")
        page.wait_for_selector("#token")
        result.close()


def test_first_paint_is_recorded(watch: Watch, shots: Path) -> None:
    page = watch.page
    paints = page.evaluate("performance.getEntriesByType('paint').map(p => [p.name, p.startTime])")
    result = dict(paints)
    assert "first-contentful-paint" in result
    (shots / "paint.json").write_text(json.dumps(result))
