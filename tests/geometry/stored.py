"""A locator or geometry as a bundle stores it."""

from __future__ import annotations

from typing import Any

from edge_ad.bundle.safe_zip import dump_state, load_state
from edge_ad.geometry.pose import Arrays

WHERE = "the part's template"


def packed(values: dict[str, Any], arrays: Arrays) -> bytes:
    """Return plain values and arrays as one file."""
    return dump_state(values, arrays, WHERE)


def unpacked(data: bytes) -> tuple[dict[str, Any], Arrays]:
    """Return what ``packed`` was given."""
    return load_state(data, WHERE)
