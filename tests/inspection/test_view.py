"""Region of interest and tiles: geometry, and statistics of tiles by hand."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_ad.bundle import open_bundle
from edge_ad.camera.frames import Frame
from edge_ad.engines.pipeline import Inference, Pipeline
from edge_ad.engines.selection import Streams
from edge_ad.errors import BadInput
from edge_ad.inspection.assembly import tile_combiner
from edge_ad.inspection.view import (
    Grid,
    Roi,
    TileStatistics,
    View,
    combine,
    load_tiles,
    measure_tiles,
    parse_grid,
    parse_roi,
)
from edge_ad.scoring import Thresholds
from tests.camera.pictures import noise, write_image
from tests.fixtures.plain_bundle import plain_contents
from tests.fixtures.tiny_bundle import make_tiny_bundle, tiny_image


@pytest.mark.parametrize(("text", "roi"), [("1,2,30,40", Roi(1, 2, 30, 40)), (" 0, 0, 8, 8 ", Roi(0, 0, 8, 8))])
def test_regions(text: str, roi: Roi) -> None:
    assert parse_roi(text) == roi


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,4,5", "a,b,c,d", "-1,0,9,9", "0,0,7,9", "0,0,9,0", "1.5,0,9,9"])
def test_regions_refused(text: str) -> None:
    with pytest.raises(BadInput, match="roi"):
        parse_roi(text)


@pytest.mark.parametrize("text", ["", "2", "0x1", "9x9", "2x", "axb", "-1x2"])
def test_grids_refused(text: str) -> None:
    assert parse_grid("2x3") == Grid(2, 3)
    with pytest.raises(BadInput, match="tiles"):
        parse_grid(text)


@given(st.integers(1, 8), st.integers(1, 8), st.integers(8, 200), st.integers(8, 200))
def test_tiles_cover_the_picture_exactly_once(rows: int, columns: int, height: int, width: int) -> None:
    seen = np.zeros((height, width), int)
    boxes = Grid(rows, columns).boxes(height, width)
    for box in boxes:
        seen[box] += 1
    assert (seen == 1).all()
    heights = {seen[box].shape[0] for box in boxes}
    assert max(heights) - min(heights) <= 1


def test_what_is_cut_out() -> None:
    image = noise(1, 40, 60)
    frame = Frame(image, 0, 0.0, 0.0, "cam", "0")
    view = View(Roi(10, 4, 32, 16), Grid(1, 2))
    left, right = view.tiles(frame, (16, 16))
    np.testing.assert_array_equal(left, image[4:20, 10:26])
    np.testing.assert_array_equal(right, image[4:20, 26:42])
    np.testing.assert_array_equal(View().tiles(frame, (40, 60))[0], image)


@pytest.mark.parametrize(
    ("view", "message"),
    [
        (View(), None),
        (View(Roi(0, 0, 60, 40)), None),
        (View(Roi(1, 0, 60, 40)), "beyond"),
        (View(Roi(0, 8, 60, 40)), "beyond"),
        (View(Roi(0, 0, 8, 8), Grid(9, 1)), "cannot be cut"),
    ],
)
def test_a_region_that_does_not_fit_is_a_fault(view: View, message: str | None) -> None:
    fault = view.fault(noise(1, 40, 60))
    assert fault is None if message is None else fault is not None and fault.startswith("roi:") and message in fault


def inference(raw: list[float], level: float = 0.0) -> Inference:
    values = np.array(raw, np.float32)
    return Inference(values, values, float(values.sum()), np.full((256, 256), level, np.float32), {"teacher": 2.0})


def test_the_worst_tile_by_its_own_statistics_counts() -> None:
    statistics = plain_contents().statistics
    mean, std = np.zeros((2, 5), np.float32), np.ones((2, 5), np.float32)
    mean[1], std[1] = 10.0, 2.0
    tiles = TileStatistics(mean, std, Thresholds(1.0, 2.0))
    # The second tile has the higher raw scores but they are usual there.
    result = combine([inference([3.0] * 5, 1.0), inference([12.0] * 5, 2.0)], View(None, Grid(1, 2)), tiles, statistics)
    assert result.score == pytest.approx(3.0, rel=1e-5)
    assert result.z == pytest.approx(np.full(5, 3.0))
    assert (result.map[0, 0], result.map[0, 255]) == (1.0, 2.0)
    assert result.stages_ms == {"teacher": 4.0}


def test_the_maps_of_tiles_are_put_together_in_the_shape_of_one() -> None:
    """Two tiles of 512 x 128 cells, one above the other: half of the rows each."""
    tiles = TileStatistics(np.zeros((2, 5), np.float32), np.ones((2, 5), np.float32), Thresholds(1.0, 2.0))
    tall = [replace(inference([3.0] * 5), map=np.full((512, 128), level, np.float32)) for level in (1.0, 2.0)]
    whole = combine(tall, View(None, Grid(2, 1)), tiles, plain_contents().statistics).map
    assert whole.shape == (512, 128)
    assert (whole[:256].min(), whole[:256].max(), whole[256:].min(), whole[256:].max()) == (1.0, 1.0, 2.0, 2.0)


def test_a_tile_without_a_number_is_not_hidden() -> None:
    statistics = plain_contents().statistics
    tiles = TileStatistics(np.zeros((2, 5), np.float32), np.ones((2, 5), np.float32), Thresholds(1.0, 2.0))
    result = combine([inference([9.0] * 5), inference([float("nan")] * 5)], View(None, Grid(2, 1)), tiles, statistics)
    assert np.isnan(result.score)


def test_statistics_of_tiles_are_measured_once_and_kept(tmp_path: Path) -> None:
    bundle = open_bundle(make_tiny_bundle(tmp_path / "tiny.edgead"))
    goods = tmp_path / "goods"
    goods.mkdir()
    view = View(None, Grid(1, 2))
    for number in range(12):
        write_image(goods / f"{number:02d}.png", tiny_image(number, size=(64, 128)))
    with Pipeline(bundle) as pipeline:
        first = load_tiles(pipeline, bundle, view, goods)
        files = list((tmp_path / "tiny.edgead.tiles").iterdir())
        assert len(files) == 1
        again = load_tiles(pipeline, bundle, view, goods)
        np.testing.assert_array_equal(first.mean, again.mean)
        assert again.thresholds == first.thresholds
        # By hand: the mean of the first half of the seeded order.
        order = np.random.default_rng(0).permutation(12)[:6]
        raw = [
            pipeline.infer(tile).raw
            for n in order
            for tile in view.cut(tiny_image(int(n), size=(64, 128)), bundle.image_size)
        ]
        np.testing.assert_allclose(first.mean[1], np.mean(raw[1::2], axis=0), rtol=1e-4, atol=1e-5)
        files[0].write_text("{}")
        np.testing.assert_array_equal(load_tiles(pipeline, bundle, view, goods).mean, first.mean)
        files[0].write_text("{}")
        with closing(Streams([pipeline])) as streams:
            np.testing.assert_array_equal(load_tiles(pipeline, bundle, view, goods, streams=streams).mean, first.mean)
        with pytest.raises(BadInput, match="at least 10"):
            measure_tiles(pipeline, bundle, view, [noise(1)] * 9)
        with pytest.raises(BadInput, match="roi"):
            measure_tiles(pipeline, bundle, View(Roi(0, 0, 999, 999)), [noise(1)] * 10)


def test_a_map_of_the_region_lies_in_the_region() -> None:
    heat = np.arange(4, dtype=np.float32).reshape(2, 2)
    picture = np.zeros((20, 30, 3), np.uint8)
    whole = View(Roi(10, 4, 8, 8)).spread(heat, picture)
    assert whole.shape == (20, 30)
    assert whole[4, 10] == 0.0
    assert whole[11, 17] == 3.0
    assert whole[4:12, 10:18].sum() == pytest.approx(whole.sum())
    np.testing.assert_array_equal(View().spread(heat, picture), heat)


def test_a_bundle_that_was_trained_with_tiles_is_not_cut_again() -> None:
    bundle = SimpleNamespace(path="part.edgead", graphs=("teacher", "tile_teacher", "fusion"))
    with pytest.raises(BadInput, match="--tiles: part.edgead was trained with tiles and cuts the image by itself; leave --tiles"):
        tile_combiner(SimpleNamespace(), bundle, View(None, Grid(1, 2)), None)  # type: ignore[arg-type]
