"""A station with products, seen by its dashboard, its metrics and its commands: one run for all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge_ad.bundle import open_bundle
from edge_ad.cli.app import main
from tests.fixtures.tiny_bundle import make_tiny_bundle
from tests.web.running import line, until
from tests.web.test_page import wait

SETTINGS = """
[run]
product = "cap-red"
[product.cap-red]
bundle = "red.edgead"
code = 1
[product.cap-blue]
bundle = "blue.edgead"
"""


@pytest.mark.slow
def test_page_metrics_and_commands_choose_and_show_the_product(
    chromium: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "edge-ad.toml").write_text(SETTINGS)
    for seed, name in enumerate(("red", "blue")):
        make_tiny_bundle(tmp_path / f"{name}.edgead", seed)
    blue = open_bundle(tmp_path / "blue.edgead").sha256
    with line(tmp_path, None) as result:
        store = str(result.store)
        assert result.wait(lambda state: state["run"]["products"]["product"]) == "cap-red"
        assert "edge_ad_product{" in result.ask("/metrics").body.decode()
        assert "cap-blue" in result.ask("/api/product", {"name": "cap-blue"}).json()["told"]
        assert result.wait(lambda state: state["run"]["products"]["product"] == "cap-blue")
        assert result.wait(lambda state: [one for one in state["events"] if one["bundle"] == blue])
        assert f'bundle="{blue}",product="cap-blue",state="active"}} 1.0' in result.ask("/metrics").body.decode()
        refused = result.ask("/api/product", {"name": "cap-black"})
        assert (refused.status, refused.json()["error"]) == (
            409, "there is no product 'cap-black'; choose one of cap-red, cap-blue",
        )  # fmt: skip

        assert main(["product", "select", "cap-red", "--by", "anna", "--store", store]) == 0
        assert "cap-red is judged now; the change took " in capsys.readouterr().out
        assert main(["product", "list", "--store", store]) == 0
        message = capsys.readouterr().out
        assert "cap-red   active  1" in message
        assert f"blue.edgead {blue[:12]}" in message
        assert main(["product", "select", "cap-black", "--store", store]) == 2
        assert "there is no product 'cap-black'" in capsys.readouterr().err

        page = chromium.new_page()
        page.goto(f"{result.url}#token={result.token}" if result.token else result.url)
        page.wait_for_selector("#product:not([disabled])")
        wait(page, "document.querySelector('#product').value === 'cap-red'")  # its state is up to a second old
        axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install 'edge-ad[test]'")
        for width in (1280, 360):
            page.set_viewport_size({"width": width, "height": 740})
            assert page.is_visible("#product")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert axe.Axe().run(page).response["violations"] == []
        page.focus("#product")
        page.keyboard.press("ArrowDown")  # by the keyboard alone
        assert result.wait(lambda state: state["run"]["products"]["product"] == "cap-blue")
        assert until(lambda: page.input_value("#product") == "cap-blue")
        page.close()
    assert main(["product", "select", "cap-red", "--store", store]) == 2
    assert "no run keeps the store" in capsys.readouterr().err
    assert main(["product", "list", "--store", store]) == 0
    assert "the next begins with cap-blue" in capsys.readouterr().out
