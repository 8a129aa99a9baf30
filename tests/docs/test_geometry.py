"""The example of docs/geometry.md: the code on the page is what runs here."""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_ad.geometry.pose import Pose
from tests.docs.documents import ROOT, blocks

PAGE = (ROOT / "docs" / "geometry.md").read_text(encoding="utf-8")


def test_the_example_locates_a_damaged_part_and_draws_back() -> None:
    (text,) = [block.text for block in blocks(PAGE) if block.language == "python"]
    space: dict[str, Any] = {}
    exec(compile(text, "docs/geometry.md", "exec", dont_inherit=True), space)
    assert space["fit"].geometry.method == "foreground"
    assert isinstance(space["pose"], Pose)
    assert space["drawn_back"].shape == space["image"].shape[:2]
    assert space["upright"].shape[:2] == space["fit"].geometry.size
    assert np.allclose(space["outline"], space["pose"].corners())
    assert space["warning"] is None
