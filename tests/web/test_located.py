"""The dashboard of a line that locates parts: outline in the live image, pose in the record, warnings where they are seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_ad.bundle import open_bundle, write_bundle
from tests.camera.pictures import write_image
from tests.fixtures.located_bundle import VIEW, make_located_bundle, part_image
from tests.web.running import Line, line
from tests.web.test_page import Watch, wait

pytestmark = pytest.mark.slow

# The share of the canvas's pixels that have the blue of an outline.
BLUE = """() => {
  const canvas = document.getElementById("picture");
  if (!canvas.width) return 0;
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let found = 0;
  for (let at = 0; at < data.length; at += 4) found += data[at + 2] > data[at] + 50 && data[at + 1] > data[at] + 25;
  return found / (data.length / 4);
}"""


@pytest.fixture(scope="module")
def located_line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """A line on a folder of parts at any angle; every fifth is mirrored, and few lie in the middle, where they are expected."""
    folder = tmp_path_factory.mktemp("located")
    bundle = open_bundle(make_located_bundle(folder / "all.edgead"))
    geometry = bundle.geometry
    assert geometry.expected is not None
    expected = replace(geometry.expected, x=(VIEW[1] / 2 - 1, VIEW[1] / 2 + 1))
    write_bundle(folder / "narrow.edgead", replace(bundle.contents(), geometry=replace(geometry, expected=expected)))
    (folder / "parts").mkdir()
    images = [part_image(8200 + number, mirrored=number % 5 == 4) for number in range(10)]
    for number in range(1500):
        write_image(folder / "parts" / f"{number:04d}.png", images[number % 10])
    with line(folder, folder / "narrow.edgead", camera=str(folder / "parts")) as result:
        yield result


def test_the_part_is_outlined_in_the_live_image_and_a_strange_pose_is_a_warning(
    chromium: Any, located_line: Line, shots: Path
) -> None:
    watch = Watch(chromium, located_line.url)
    page = watch.live()
    wait(page, "document.getElementById('caption').textContent.includes('warning: the part\\'s x is')")
    wait(page, f"({BLUE})() > 0.003")
    page.screenshot(path=shots / "located-line.png")
    wait(page, "document.getElementById('lamp-why').textContent.includes('the part\\'s x is')")
    page.click("#tab-health")
    wait(page, "document.getElementById('cameras').textContent.includes('Not located')")
    page.screenshot(path=shots / "located-health.png", full_page=True)
    counters = located_line.ask("/api/state").json()["run"]["cameras"][0]["counters"]
    assert counters["unlocated"] > 0
    assert counters["outside"] > 0
    assert "locate" in located_line.ask("/api/state").json()["run"]["stages"]
    metrics = located_line.ask("/metrics").body.decode()
    assert "edge_ad_unlocated_parts_total{" in metrics
    assert "edge_ad_outside_poses_total{" in metrics
    watch.close()
    assert watch.errors == []


def test_the_record_shows_pose_and_residual(chromium: Any, located_line: Line, shots: Path) -> None:
    result = located_line.wait(lambda _: located_line.ask("/api/events?verdict=OK&limit=1").json()["events"])
    assert set(result[0]["pose"]) >= {"x", "y", "angle", "residual", "outside"}
    missing = located_line.ask("/api/events?verdict=NONE&limit=1").json()["events"][0]
    assert missing["pose"] is None
    assert missing["reason"] == "not located: the part lies mirrored: it was turned over"
    watch = Watch(chromium, located_line.url)
    page = watch.live()
    page.click("#tab-events")
    page.check("#filters input[value=OK]")
    page.uncheck("#filters input[value=NONE]")
    wait(page, "document.querySelectorAll('#rows tr button').length > 0")
    page.click("#rows tr button")
    for text in ("Place", "turned by", "Residual", "Warning", "the normal images had"):
        wait(page, f"document.getElementById('detail').textContent.includes('{text}')")
    page.screenshot(path=shots / "located-event.png")
    watch.close()
    assert watch.errors == []
