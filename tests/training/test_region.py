"""A training that is given a region learns its geometry, and cuts its images, in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_ad.config import TrainTable
from edge_ad.data.datasets import load_dataset
from edge_ad.data.images import read_image
from edge_ad.data.prepared import prepare_files
from edge_ad.errors import BadInput
from edge_ad.geometry.region import Roi
from edge_ad.presets.presets import preset_named
from edge_ad.training.geometry import check_region, choose
from tests.inspection.test_region import ROI, TEXT, framed, write_image


def test_a_training_learns_its_geometry_in_the_region(tmp_path: Path) -> None:
    for number in range(12):
        write_image(tmp_path / "good" / f"{number}.png", framed(number, clutter=10 * number))
    data, preset = load_dataset(tmp_path / "good", 0), preset_named("demo")
    for method in ("square", "none"):
        geometry = choose(data, TrainTable(geometry=method, roi=TEXT), preset, lambda text: None).geometry
        assert geometry.roi == ROI
        cut = prepare_files(data.normal.fit[:1], geometry).images[0]
        plain = replace(geometry, roi=None).prepare(ROI.cut(read_image(data.normal.fit[0])))
        np.testing.assert_array_equal(cut, plain.image)  # type: ignore[union-attr]
    with pytest.raises(BadInput, match=r"reaches beyond images of \d+x\d+ pixels"):
        check_region(Roi(0, 0, 500, 500), data)
