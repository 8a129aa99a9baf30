"""New thresholds while the line runs come from the file that is named, or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edge_ad.bundle import open_bundle
from edge_ad.config import RunTable
from edge_ad.errors import BadInput
from edge_ad.inspection.assembly import reload_thresholds
from tests.fixtures.tiny_bundle import make_tiny_bundle


def test_a_bundle_that_is_gone_changes_no_threshold(tmp_path: Path) -> None:
    path = make_tiny_bundle(tmp_path / "tiny.edgead")
    child = tmp_path / "child.edgead"
    shutil.copy(path, child)
    bundle = open_bundle(path)
    assert reload_thresholds(bundle, RunTable(), None, child) == bundle.thresholds
    for gone in (path, child):
        gone.unlink()
        with pytest.raises(BadInput, match=gone.name):
            reload_thresholds(bundle, RunTable(), None, gone)
