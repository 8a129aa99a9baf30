"""The page of champion and challenger in a real browser: accessible, and as narrow as a phone."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from edge_ad.config import Config, EngineTable
from edge_ad.inspection.improvement import Comparison, JudgedPart, RecordedPart
from edge_ad.inspection.improvement_report import write_report
from edge_ad.inspection.products import open_product
from edge_ad.store.schema import StoredEvent
from tests.camera.pictures import write_image
from tests.fixtures.tiny_bundle import make_tiny_bundle, tiny_image
from tests.web.running import browser, browser_missing

SIZES = ((1280, "light"), (360, "light"), (360, "dark"))


def recorded(folder: Path, number: int) -> RecordedPart:
    path = folder / f"{number}.png"
    write_image(path, tiny_image(7000 + number, blob=number > 2))
    event_id, mark = f"{number:08x}-0000-4000-8000-000000000000", "good" if number < 3 else "bad"
    about = ("a camera of a long name", number, str(number), 1e9, "NG", 5.0, {}, 10.0, "local: z 5.0")
    return RecordedPart(StoredEvent(*about, id=event_id, mark=mark), path)


@pytest.mark.slow
def test_the_page_is_accessible_and_fits_its_width(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install 'edge-ad[test]'")
    if reason := browser_missing():
        pytest.skip(reason)
    parts = [recorded(tmp_path, number) for number in range(6)]
    before, after = JudgedPart("NG", 5.0, "local: z 5.0"), JudgedPart("OK", 0.5, None)
    promises = {"champion": "2 of 100 normal parts are rejected", "challenger": "2 of 100 normal parts are rejected"}
    comparison = Comparison(parts, [before] * 6, [after] * 3 + [before] * 3, frozenset({parts[0].event.id}), promises)
    shots = tmp_path_factory.getbasetemp() / "screenshots"
    shots.mkdir(exist_ok=True)
    settings = Config(engine=EngineTable(precision="fp32", backend="onnxruntime"))
    with contextlib.ExitStack() as stack:
        products = []
        for seed, name in enumerate(("champion", "a-challenger-of-a-rather-long-name")):
            bundle = make_tiny_bundle(tmp_path / f"{name}.edgead", seed)
            products.append(stack.enter_context(contextlib.closing(open_product(settings, "", bundle, image_bits=None))))
            products[-1].open()
        champion, challenger = products
        page_file = tmp_path / "report.html"
        write_report(page_file, comparison, [(parts[5], before)], limit=4.0, champion=champion, challenger=challenger)
        chromium = stack.enter_context(browser())
        for width, scheme in SIZES:
            page = chromium.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
            page.goto(f"file://{page_file}")
            page.screenshot(path=shots / f"improve-{width}-{scheme}.png", full_page=True)
            assert axe.Axe().run(page).response["violations"] == []
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate("[...document.images].every((one) => one.naturalWidth > 0 && one.alt)")
            page.close()
