"""Screenshots of the running product for the documentation: `python tools/screenshots.py [BUNDLE] [--out docs/images]`.

Starts a line on the synthetic camera with the bundle (default: the newest under runs/, as `tools/demo.sh` makes one),
waits until it has judged some parts, and takes `dashboard.png` (1280 pixels wide) and `dashboard-phone.png` (360).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from edge_ad.utils.files import newest_bundle
from tests.web.running import browser, line

CAMERA = "synthetic://line?frames=100000&seed=3&fps=2"
SHOTS = (("dashboard.png", 1280, 860, 1.0), ("dashboard-phone.png", 360, 740, 2.0))


def shoot(started: Any, url: str, path: Path, width: int, height: int, scale: float) -> None:
    """Take one image of the page at a moment when a rejected part is shown with its heat map."""
    page = started.new_page(viewport={"width": width, "height": height}, device_scale_factor=scale)
    page.goto(url)
    page.wait_for_selector('body[data-link="live"]')
    end = time.monotonic() + 60.0
    while time.monotonic() < end:
        page.wait_for_timeout(100)
        shown = page.get_attribute("#lamp", "data-show")
        if shown == "NG" and page.get_attribute("#figure", "data-show") == "NG":
            break
    page.screenshot(path=path)
    page.close()


def main() -> None:
    """Take all images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", nargs="?", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--camera", default=CAMERA)
    parser.add_argument("--parts", type=int, default=60, help="parts to judge before the first image")
    arguments = parser.parse_args()
    bundle = (arguments.bundle or newest_bundle()).resolve()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as name,
        browser() as started,
        line(Path(name), bundle, camera=arguments.camera) as run,
    ):
        run.wait(lambda state: state["count"] >= arguments.parts)
        for file, width, height, scale in SHOTS:
            shoot(started, run.url, arguments.out / file, width, height, scale)
            print(arguments.out / file)


if __name__ == "__main__":
    main()
