"""The grids of images of any size: derived from the strides that a preset's square defines."""

from __future__ import annotations

import pytest

from edge_ad.bundle.graphs import map_size
from edge_ad.errors import BadInput
from edge_ad.presets.networks import MaskSettings, Size, scaled_size
from edge_ad.presets.presets import DEMO, FAST, PAPER, PAPER_M, Preset, with_teacher, with_values

# Strides 8 and 16; the map has 65,536 cells: 256 * 512 / sqrt(512 * 128), 256 * 416 / sqrt(416 * 160) = 412.7 and so on.
SIZES: dict[Size, tuple[Size, Size, Size]] = {
    (256, 256): ((32, 32), (16, 16), (256, 256)),
    (512, 128): ((64, 16), (32, 8), (512, 128)),
    (128, 512): ((16, 64), (8, 32), (128, 512)),
    (416, 160): ((52, 20), (26, 10), (413, 159)),
    (224, 288): ((28, 36), (14, 18), (226, 290)),
    (352, 384): ((44, 48), (22, 24), (245, 267)),  # a doubled budget: the map stays as fine
    (128, 128): ((16, 16), (8, 8), (256, 256)),
    (736, 96): ((92, 12), (46, 6), (709, 92)),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("preset", [FAST, DEMO, with_teacher(FAST, "pdn_small")], ids=lambda one: one.name)
def test_grids_follow_the_strides(preset: Preset, size: Size) -> None:
    features, tokens, fused = SIZES[size]
    assert (preset.feature_grid(size), preset.token_grid(size), map_size(size)) == (features, tokens, fused)


@pytest.mark.parametrize("preset", [FAST, DEMO, PAPER, PAPER_M], ids=lambda one: one.name)
def test_without_a_size_the_grids_are_those_of_the_square(preset: Preset) -> None:
    side, grid, tokens = preset.image_side, preset.teacher.grid, preset.teacher.token_grid
    assert (preset.image_size, preset.pixels) == ((side, side), side * side)
    assert preset.feature_grid() == preset.feature_grid((side, side)) == (grid, grid)
    assert preset.token_grid() == preset.token_grid((side, side)) == (tokens, tokens)


@pytest.mark.parametrize(
    ("preset", "size", "message"),
    [
        (PAPER, (512, 128), "preset paper cannot take images of 128 x 512 pixels .*published for squares of 256"),
        (PAPER_M, (512, 512), "preset paper-m cannot take images of 512 x 512 pixels .*published for squares of 256"),
        (FAST, (250, 256), "preset fast cannot take images of 256 x 250 pixels .*multiples of 32"),
        (FAST, (256, 48), "preset fast cannot take images of 48 x 256 pixels .*multiples of 32"),
        (FAST, (0, 256), "preset fast cannot take images of 256 x 0 pixels .*multiples of 32"),
    ],
)
def test_a_size_that_the_networks_cannot_take_is_refused(preset: Preset, size: Size, message: str) -> None:
    for ask in (preset.check_image_size, preset.feature_grid, preset.token_grid):
        with pytest.raises(BadInput, match=message):
            ask(size)


@pytest.mark.parametrize(
    ("preset", "values", "message"),
    [
        (FAST, ["image_side=250"], "preset fast with image_side=250: the side must be a multiple of 32"),
        (FAST, ["image_side=512"], "teacher.grid is 32, but the student compact gives 64 cells"),
        (FAST, ["teacher.grid=64"], "teacher.grid is 64, but the student compact gives 32 cells"),
        (FAST, ["teacher.token_grid=20"], "teacher.token_grid 20 does not divide teacher.grid 32"),
        (FAST, ["efficientad.student=pdn_small"], "teacher.grid is 32, but the student pdn_small gives 56 cells"),
        (PAPER, ["image_side=128"], "teacher.grid is 56, but the student pdn_small gives 24 cells"),
        (PAPER, ["efficientad.student=compact", "teacher.grid=32"], "teacher.grid is 32, but the teacher gives 56 cells"),
        (PAPER, ["teacher.token_side=112"], "teacher.token_grid is 24, but teacher.token_side=112 gives 10"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused_before_training(
    preset: Preset, values: list[str], message: str
) -> None:
    changed = with_values(preset, values)
    with pytest.raises(BadInput, match=message):
        changed.check_image_size(changed.image_size)


@pytest.mark.parametrize("values", [[], ["image_side=512", "teacher.grid=64", "teacher.token_grid=32"], ["teacher.token_grid=8"]])
def test_settings_that_fit_together_are_taken(values: list[str]) -> None:
    changed = with_values(FAST, values)
    assert changed.token_grid()[0] == changed.teacher.token_grid


def test_masks_hide_a_share_of_the_cells() -> None:
    masks = MaskSettings(share=0.4)
    assert [masks.masked_cells(grid) for grid in (16, (16, 16), (32, 8), (26, 10))] == [102, 102, 102, 104]


@pytest.mark.parametrize(
    ("side", "size", "expected"),
    [(8, (64, 64), (8, 8)), (8, (512, 128), (16, 4)), (2, (512, 128), (4, 1)), (2, (960, 32), (11, 1))],
)
def test_a_square_is_scaled_to_an_aspect_ratio(side: int, size: Size, expected: Size) -> None:
    assert scaled_size(side, size) == expected
