"""The page of challenges in a real browser: a failure locks, and a person overrides it by the keyboard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge_ad.store.challenges import key_path, make_key
from tests.fixtures.loopback import free_port
from tests.fixtures.tiny_bundle import make_tiny_bundle
from tests.inspection.test_challenge_line import station
from tests.web.test_page import Watch, wait

pytestmark = pytest.mark.slow


def test_a_challenge_is_started_fails_and_is_overridden(chromium: Any, tmp_path: Path, shots: Path) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install 'edge-ad[test]'")
    make_tiny_bundle(tmp_path / "tiny.edgead")
    (tmp_path / "in").mkdir()
    (tmp_path / "edge-ad.toml").write_text("[challenge]\ngood = 1\nbad = 1\nevery = 8\n")
    make_key(key_path(tmp_path / "line.sqlite"))
    with station(tmp_path, free_port()) as (run, plc, show):
        result = Watch(chromium, run.url)
        page = result.live()
        page.keyboard.press("4")
        wait(page, "document.getElementById('challenge-told').textContent.includes('One is due since')")
        assert page.is_disabled("#challenge-override")
        page.focus("#challenge-start")
        page.keyboard.press("Enter")
        page.keyboard.type("anna")
        page.keyboard.press("Enter")
        wait(page, "document.getElementById('challenge-told').textContent.includes('show known good part 1 of 1')")
        show("known", False)
        wait(page, "document.getElementById('challenge-told').textContent.includes('show known bad part 1 of 1')")
        page.screenshot(path=shots / "challenge-open.png")
        show("known", False)
        page.wait_for_selector("#locked:not([hidden])")
        assert "a known bad part is OK" in page.inner_text("#locked")
        page.set_viewport_size({"width": 360, "height": 740})
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        page.screenshot(path=shots / "challenge-phone.png")
        answer = axe.Axe().run(page).response
        assert [one["id"] for one in answer["violations"] if one["impact"] in ("serious", "critical")] == []
        page.set_viewport_size({"width": 1280, "height": 800})
        page.screenshot(path=shots / "challenge-locked.png")
        page.focus("#challenge-override")
        page.keyboard.press("Enter")
        page.focus("#challenge-reason")
        page.keyboard.type("the bad part was swapped")
        page.keyboard.press("Enter")
        page.wait_for_selector("#locked", state="hidden")
        assert not plc.registers(4, 1)[0] & 4
        result.close()
        assert result.errors == []
