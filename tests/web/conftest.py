"""A line that all tests of the dashboard share, one behind a token, and a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.tiny_bundle import make_tiny_bundle
from tests.web.running import CAMERA, Line, browser, browser_missing, line

TOKEN = "full-token-of-the-tests"
READ_TOKEN = "read-token-of-the-tests"


@pytest.fixture(scope="package")
def open_line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """A line on loopback without a token; its first frames are dark, so that there are faults too."""
    folder = tmp_path_factory.mktemp("line")
    (folder / "edge-ad.toml").write_text("[alarm]\nlatch = true\n")
    bundle = make_tiny_bundle(folder / "tiny.edgead")
    with line(folder, bundle, camera=f"{CAMERA}&black=3-6") as result:
        yield result


@pytest.fixture(scope="module")
def guarded_line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """A line with both tokens; a new one for each file of tests, since wrong tokens lock their sender out for a minute."""
    folder = tmp_path_factory.mktemp("guarded")
    bundle = make_tiny_bundle(folder / "tiny.edgead")
    environment = {"EDGE_AD_WEB_TOKEN": TOKEN, "EDGE_AD_WEB_READ_TOKEN": READ_TOKEN}
    with line(folder, bundle, address="0.0.0.0:0", environment=environment) as result:
        yield result


@pytest.fixture(scope="package")
def chromium() -> Iterator[Any]:
    """The system's Chromium; skips where there is none."""
    if reason := browser_missing():
        pytest.skip(reason)
    with browser() as result:
        yield result


@pytest.fixture
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots stay until pytest clears its old folders."""
    folder = tmp_path_factory.getbasetemp() / "screenshots"
    folder.mkdir(exist_ok=True)
    return folder
