"""The page that zones are drawn on, in a real browser: by mouse and by keyboard, and what it saves is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge_ad.geometry.zone_files import read_zones
from edge_ad.geometry.zones import Zone, Zones
from edge_ad.web.zone_editor import ZoneService
from edge_ad.web.zone_page import write_zone_page
from tests.fixtures.tiny_bundle import make_tiny_bundle, tiny_image
from tests.web.running import Line, until
from tests.web.test_page import wait


def test_zones_are_drawn_by_mouse_and_keyboard_and_saved(chromium: Any, tmp_path: Path, shots: Path) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install 'edge-ad[test]'")
    known = Zones((300, 400), (Zone("ignore", ((0, 0), (60, 0), (60, 40)), "</script><b>"),))
    write_zone_page(tmp_path / "zones.html", tiny_image(0, size=(300, 400)), known, tmp_path / "zones.json")
    page = chromium.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((tmp_path / "zones.html").as_uri())
    page.wait_for_selector("#rows tr")
    assert page.inner_text("#rows td:nth-child(2)") == "</script><b>"
    box = page.locator("#image").bounding_box()
    page.select_option("#kind", "sensitivity")
    for x, y in ((200, 100), (300, 100), (300, 200)):
        page.locator("#image").click(position={"x": x * box["width"] / 400, "y": y * box["height"] / 300})
    page.keyboard.press("c")
    page.select_option("#kind", "ignore")
    page.focus("#image")
    page.keyboard.press("Enter")  # where the mouse was
    for key, count in (("Shift+ArrowDown", 5), ("Shift+ArrowLeft", 3)):
        for _ in range(count):
            page.keyboard.press(key)
        page.keyboard.press("Enter")
    assert page.inner_text("#status").startswith("corner 3 at ")
    page.click("#close")
    page.screenshot(path=shots / "zones.png", full_page=True)
    answer = axe.Axe().run(page).response
    assert [one["id"] for one in answer["violations"] if one["impact"] in ("serious", "critical")] == []
    page.fill("#rows tr:nth-child(1) input", "0,0 900,0 60,40")
    page.keyboard.press("Tab")
    assert "outside the image of 400 x 300 pixels" in page.inner_text("#status")
    with page.expect_download() as saved:
        page.click("#save")
    saved.value.save_as(tmp_path / "zones.json")
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.close()
    assert errors == []
    result = read_zones(tmp_path / "zones.json")
    assert result.zones[0] == known.zones[0]
    assert [(zone.kind, zone.factor) for zone in result.zones[1:]] == [("sensitivity", 2.0), ("ignore", 1.0)]
    mouse, keyboard = (zone.points for zone in result.zones[1:])
    for drawn, clicked in zip(mouse, ((200, 100), (300, 100), (300, 200)), strict=True):
        assert drawn == pytest.approx(clicked, abs=2)  # a click hits a pixel of the screen
    assert [(x - mouse[-1][0], y - mouse[-1][1]) for x, y in keyboard] == [(0, 0), (0, 50), (-30, 50)]


def test_the_dashboard_draws_on_a_fresh_frame_and_saves_beside_the_settings(chromium: Any, open_line: Line, shots: Path) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install 'edge-ad[test]'")
    saved = open_line.store.parent / "zones.json"
    page = chromium.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if "Security Policy" in message.text else None)
    page.goto(f"http://127.0.0.1:{open_line.port}/")  # images are sent while a page is open
    assert until(lambda: open_line.ask("/zones/image").status == 200)
    page.goto(f"http://127.0.0.1:{open_line.port}/zones")
    wait(page, "document.getElementById('image').width > 300 || document.getElementById('image').style.width")
    box = page.locator("#image").bounding_box()
    for x, y in ((0.1, 0.1), (0.4, 0.1), (0.4, 0.4)):
        page.locator("#image").click(position={"x": x * box["width"], "y": y * box["height"]})
    page.click("#close")
    page.click("#save")
    wait(page, "document.getElementById('status').textContent.includes('zones written')")
    assert "the line goes on without them until it has a bundle that was trained with them" in page.inner_text("#status")
    page.screenshot(path=shots / "zones-dashboard.png", full_page=True)
    answer = axe.Axe().run(page).response
    assert [one["id"] for one in answer["violations"] if one["impact"] in ("serious", "critical")] == []
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.close()
    assert errors == []
    (zone,) = read_zones(saved).zones
    assert (zone.kind, len(zone.points)) == ("ignore", 3)
    saved.unlink()


def test_the_dashboard_saves_no_zones_that_are_none_and_asks_for_the_header(open_line: Line) -> None:
    zone = {"kind": "ignore", "points": [[0, 0], [900, 0], [900, 40]]}
    outside = json.dumps({"width": 400, "height": 300, "zones": [zone]}).encode()
    for body, message in ((b"{", "this is no JSON"), (b"{}", "holds no zones"), (outside, "outside the image of 400 x 300 pixels")):
        answer = open_line.ask("/api/zones", body, headers={"Content-Type": "application/json"})
        assert (answer.status, message in answer.json()["error"]) == (400, True), answer.body
    assert not (open_line.store.parent / "zones.json").exists()


def test_the_dashboard_cuts_nothing_for_a_region_whose_frame_is_shown_smaller(tmp_path: Path) -> None:
    path = make_tiny_bundle(tmp_path / "a.edgead")
    service = ZoneService(lambda: ("red", path, "10,20,1280,960"), lambda: tiny_image(0, size=(480, 640)))
    assert '"width": 1280, "height": 960' in service.page()
    assert service.place().name == "zones-red.json"
    assert str(tmp_path) not in service.page()
