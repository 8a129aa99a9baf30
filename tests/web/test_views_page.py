"""A station whose parts two cameras see, on its dashboard: one event a part, with the images and verdicts of both views."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.camera.pictures import write_image
from tests.fixtures.tiny_bundle import make_tiny_bundle, tiny_image
from tests.web.running import line, until
from tests.web.test_judge_api import FORM, form
from tests.web.test_judge_api import ask as ask_judge
from tests.web.test_page import wait

CAMERAS = {view: f"synthetic://line?frames=100000&size=64&seed={seed}&fps=5" for seed, view in ((1, "top"), (2, "side"))}
NG_ABOVE = {"top": "1e6", "side": "-1e6"}
SETTINGS = '[part]\nviews = ["top", "side"]\ndeadline_ms = 60000\n' + "".join(
    f'[view.{view}]\ncamera = "{camera}"\nbundle = "{view}.edgead"\nwarn_above = -1e6\nng_above = {NG_ABOVE[view]}\n'
    for view, camera in CAMERAS.items()
)


@pytest.mark.slow
def test_a_part_is_one_event_with_the_images_of_all_views(chromium: Any, tmp_path: Path, shots: Path) -> None:
    (tmp_path / "edge-ad.toml").write_text(SETTINGS)
    write_image(tmp_path / "part.png", tiny_image(8100))
    for seed, view in enumerate(CAMERAS):
        make_tiny_bundle(tmp_path / f"{view}.edgead", seed)
    with line(tmp_path, None, "--camera", CAMERAS["side"], camera=CAMERAS["top"]) as result:
        complete = result.wait(
            lambda state: next((one for one in state["events"] if one["verdict"] == "NG" and len(one["views"]) == 2), None)
        )
        assert [(row["view"], row["verdict"]) for row in complete["views"]] == [("top", "WARN"), ("side", "NG")]
        stored = until(lambda: [one for one in result.ask("/api/events?verdict=NG").json()["events"] if one["images"] == 4])[0]
        assert result.ask("/api/judge", b"", headers={"Content-Type": "image/png"}).status == 422
        image = (tmp_path / "part.png").read_bytes()
        event = ask_judge(result, form(top=image, side=image), FORM).json()
        assert [(row["view"], row["verdict"]) for row in event["views"]] == [("top", "WARN"), ("side", "NG")]
        page = chromium.new_page()
        page.goto(f"{result.url}#token={result.token}" if result.token else result.url)
        wait(page, "document.querySelectorAll('#camera-tabs button').length === 2")
        tabs = "[...document.querySelectorAll('#camera-tabs button')]"
        wait(page, f"{tabs}.every((one) => one.textContent.includes('NG'))")
        wait(page, "!document.querySelector('#picture').hidden")
        title, message = "document.querySelector('#camera-title').textContent", "document.querySelector('#chart-told').textContent"
        wait(page, f"{title} === 'top' && {message}.startsWith('last ')")
        axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install 'edge-ad[test]'")

        def check(shot: str) -> None:
            for width in (1280, 360):
                page.set_viewport_size({"width": width, "height": 740})
                page.screenshot(path=str(shots / f"views-{shot}-{width}.png"), full_page=True)
                assert page.evaluate("document.documentElement.scrollWidth") <= width, shot
                assert axe.Axe().run(page).response["violations"] == [], shot
            page.set_viewport_size({"width": 1280, "height": 800})

        check("line")
        page.keyboard.press("c")  # the next view by the keyboard alone
        wait(page, f"{tabs}[1].ariaPressed === 'true' && {title} === 'side' && {message}.startsWith('last ')")
        wait(page, "document.querySelector('#caption').textContent.includes('NG')")
        page.focus("#camera-tabs button")
        page.keyboard.press("Enter")
        wait(page, f"{tabs}[0].ariaPressed === 'true'")
        page.click("#tab-events")
        page.fill("#filters [name='part']", stored["part"])  # the list ends at 50 events, and the line goes on
        page.click(f'#rows [data-id="{stored["id"]}"]')
        page.wait_for_selector("#detail figure")
        captions = page.eval_on_selector_all("#detail figcaption", "(all) => all.map((one) => one.textContent)")
        assert captions == ["View side", "View side, heat map", "View top", "View top, heat map"]
        facts = page.text_content("#detail dl")
        assert "View top" in facts
        assert "(view side)" in facts
        check("event")
        page.close()
