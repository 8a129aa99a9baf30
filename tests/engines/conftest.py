"""What the tests of TensorRT's path share."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_ad.bundle import Bundle, open_bundle
from tests.fixtures.tiny_bundle import make_tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A tiny bundle, one for all tests of a file."""
    return open_bundle(make_tiny_bundle(tmp_path_factory.mktemp("trt") / "tiny.edgead"))


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep engines and timings of a test in a folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
