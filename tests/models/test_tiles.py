"""Tiles of a large input: where they lie, and that what is joined from them is what each of them gave."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from edge_ad.errors import BadInput
from edge_ad.models.build import build_efficientad, build_teacher, cost_of_tiles
from edge_ad.models.standardise import Standardise
from edge_ad.models.tiles import (
    GlobalMapGraph,
    JoinedTeacher,
    TileNetworks,
    TileStudentGraph,
    TileTeacherGraph,
    cut,
    join,
    shrink,
)
from edge_ad.presets.networks import TileLayout, parse_tiles
from tests.fixtures.tiny_presets import TINY, untrained

FRAMES = [(256, 256), (128, 512), (224, 288), (64, 96)]
COUNTS = [(1, 2), (2, 1), (2, 2), (2, 3), (3, 3), (1, 5)]


def test_four_tiles_of_a_square_are_as_derived_by_hand() -> None:
    """256 x sqrt(4) = 512; 256 + 32 of overlap is the least multiple of 32 with which two tiles of 288 cover it."""
    layout = TileLayout((2, 2), (256, 256))
    assert (layout.whole, layout.tile) == ((512, 512), (288, 288))
    assert layout.places == [(0, 0), (0, 224), (224, 0), (224, 224)]
    # They meet in the middle of their 64 pixels: 256 pixels are 32 cells of 8 from the first, and cells 4 to 36 of the second.
    assert list(layout.own_cells(8))[1] == [(slice(4, 36), slice(0, 32)), (slice(4, 36), slice(4, 36))]


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("counts", COUNTS)
def test_tiles_cover_the_input_on_the_grid_and_overlap(frame: tuple[int, int], counts: tuple[int, int]) -> None:
    layout = TileLayout(counts, frame)
    if not layout.fits:
        assert min(frame) == 64, "only the smallest is too small"
        return
    covered = np.zeros(layout.whole, int)
    for top, left in layout.places:
        assert top % 32 == left % 32 == 0
        covered[top : top + layout.tile[0], left : left + layout.tile[1]] += 1
    assert covered.min() == 1
    assert all(side % 32 == 0 for side in (*layout.whole, *layout.tile))
    for axis, side in enumerate(layout.tile):
        starts = sorted({place[axis] for place in layout.places})
        assert len(starts) == counts[axis]
        assert all(before + side - after >= 32 for before, after in pairwise(starts))
    # About as many times the pixels as there are tiles: sides are rounded to 32.
    assert np.prod(layout.whole) / np.prod(frame) == pytest.approx(layout.count, rel=0.4)


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize(("frame", "stride"), [(FRAMES[0], 16), (FRAMES[1], 8), (FRAMES[2], 1)])
def test_cells_cut_and_joined_are_the_cells(counts: tuple[int, int], frame: tuple[int, int], stride: int) -> None:
    layout = TileLayout(counts, frame)
    cells = torch.arange(2.0 * 3 * layout.whole[0] * layout.whole[1] / stride**2)
    cells = cells.reshape(2, 3, layout.whole[0] // stride, layout.whole[1] // stride)
    pixels = cells.repeat_interleave(stride, dim=2).repeat_interleave(stride, dim=3)
    tiles = cut(pixels, layout)
    assert tiles.shape == (2 * layout.count, 3, *layout.tile)
    torch.testing.assert_close(join(tiles[:, :, ::stride, ::stride], layout), cells, rtol=0, atol=0)


@pytest.mark.parametrize("text", ["1x1", "", "2", "4x3", "0x2", "2x-1", "2x2x2", "10x1", "a"])
def test_what_is_no_number_of_tiles_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="--tiles is .*: give ROWSxCOLUMNS with 2 to 9 tiles, such as 2x2"):
        parse_tiles(text)


def test_tiles_of_a_side_that_is_too_short_are_refused() -> None:
    with pytest.raises(BadInput, match="a side of 64 pixels cannot be cut into 2 overlapping tiles"):
        _ = TileLayout((2, 2), (32, 256)).tile


def test_the_whole_is_seen_as_means_of_its_pixels() -> None:
    image = torch.rand(1, 3, 512, 512)
    expected = image.reshape(1, 3, 256, 2, 256, 2).mean(dim=(3, 5))
    torch.testing.assert_close(shrink(image, TileLayout((2, 2), (256, 256))), expected)
    odd = TileLayout((2, 3), (224, 288))  # 544 x 704: not a whole multiple
    torch.testing.assert_close(shrink(torch.full((1, 3, *odd.whole), 7.0), odd), torch.full((1, 3, *odd.frame), 7.0))


def test_the_graphs_of_tiles_give_what_the_networks_give_of_each() -> None:
    layout = TileLayout((1, 2), (64, 128))
    networks = untrained(TINY, image_size=layout.frame)
    teacher = build_teacher(TINY).eval()
    student = build_efficientad(TINY, teacher.channels, layout.tile).eval()
    tiles = TileNetworks(layout, teacher, student, networks.tokenizer)
    image = torch.randint(0, 256, (1, *layout.whole, 3), dtype=torch.uint8)
    with torch.no_grad():
        features, tokens, joined = TileTeacherGraph(tiles)(image)
        local = TileStudentGraph(tiles)(image, features)
        (height, width), (_, second) = layout.tile, layout.places
        half = layout.whole[1] // 2
        for number, (top, left) in enumerate(layout.places):
            pixels = image[:, top : top + height, left : left + width].permute(0, 3, 1, 2).float()
            out = teacher(pixels)
            torch.testing.assert_close(features[number : number + 1], out.features)
            torch.testing.assert_close(tokens[number : number + 1], out.tokens)
            own_cells = slice(0, half // 8) if number == 0 else slice((half - second[1]) // 8, width // 8)
            place = slice(0, half // 8) if number == 0 else slice(half // 8, layout.whole[1] // 8)
            torch.testing.assert_close(joined[..., place], out.features[..., own_cells])
            torch.testing.assert_close(local[..., place], student(pixels, out.features)[0][..., own_cells])
        small = shrink(image.permute(0, 3, 1, 2).float(), layout)
        whole = networks.efficientad(small, networks.teacher(small).features)[1]
        torch.testing.assert_close(GlobalMapGraph(networks.efficientad, layout)(image), whole)
        torch.testing.assert_close(JoinedTeacher(teacher, layout)(image.permute(0, 3, 1, 2).float()).features, joined)


def test_every_tile_has_its_own_usual_errors() -> None:
    """The second of two tiles errs three times as much everywhere: the root of (1 + usual / mean usual) divides it more."""
    errors = torch.ones(6, 4, 5, 5)
    errors[1::2] *= 3.0
    module = Standardise(4, (5, 5), whiten=False)
    module.learn(errors, tiles=2)
    assert module.place.shape == (2, 1, 5, 5)
    # Usual squares are 1 and 9, their mean 5.
    torch.testing.assert_close(module.place[:, 0, 0, 0], torch.tensor([1.2, 2.8]).rsqrt())
    one = Standardise(4, (5, 5), whiten=False)
    one.learn(errors)
    assert one.place.shape == (1, 1, 5, 5)


def test_the_cost_counts_each_tile_and_the_whole() -> None:
    """Four tiles of 160 x 160 beside 128 x 128: 6.25 times the pixels, of a part of the networks."""
    cost = cost_of_tiles(TINY, TileLayout((2, 2), (128, 128)))
    assert TileLayout((2, 2), (128, 128)).tile == (160, 160)
    assert 1 < cost < 1 + 1.2 * 6.25
