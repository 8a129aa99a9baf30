"""What sees a part in overlapping tiles: a teacher with channel statistics of its own, a student and a tokenizer.

The input is then large, and each tile about as large as the input without tiles. All else sees the large input shrunk.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from edge_ad.errors import BadInput
from edge_ad.models.build import AnyTeacher, build_efficientad, build_tokenizer, cost_of_tiles
from edge_ad.models.tiles import TileNetworks, cut, shrink
from edge_ad.presets.networks import TILE_STEP, Size, TileLayout
from edge_ad.presets.presets import Preset
from edge_ad.training.augment import to_pixels
from edge_ad.training.images import Images
from edge_ad.training.loop import Arithmetic
from edge_ad.training.recipes import EfficientADRecipe, TokenizerRecipe, soften
from edge_ad.training.statistics import learn_student_errors, learn_tokenizer_errors
from edge_ad.training.teacher import describe, measure_channels

CHUNK = 16
NAME = "tile_{}"  # of the recipes, beside those of the networks that see the whole image


def layout_of(tiles: Size, frame: Size, preset: Preset) -> TileLayout:
    """Return the tiles for a ``frame`` (height, width), the input without them; BadInput where preset or shape has none."""
    stride = preset.image_side // preset.teacher.token_grid
    if preset.teacher.token_side or (TILE_STEP // 2) % stride or preset.image_side % preset.teacher.token_grid:
        raise BadInput(f"--tiles: the networks of preset {preset.name} see one image of one size; leave it out, or use fast")
    layout = TileLayout(tiles, frame)
    preset.check_image_size(layout.tile)
    return layout


def shrunk(images: Images, layout: TileLayout | None) -> Images:
    """Return large images u8 [N, H, W, 3] as the networks that see all of them do; as they are without tiles."""
    if layout is None:
        return images
    rows = [shrink(to_pixels(images[start : start + CHUNK], torch.device("cpu")), layout) for start in range(0, len(images), CHUNK)]
    pixels = torch.cat(rows) if rows else torch.zeros(0, 3, *layout.frame)
    return np.ascontiguousarray(pixels.round().to(torch.uint8).permute(0, 2, 3, 1).numpy())


def cut_images(images: Images, layout: TileLayout) -> Images:
    """Return the tiles u8 [N * T, h, w, 3] of large images u8 [N, H, W, 3], those of an image one after the other."""
    tiles = cut(torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2), layout)
    return np.ascontiguousarray(tiles.permute(0, 2, 3, 1).numpy())


def tiles_report(layout: TileLayout, preset: Preset, scale: float) -> dict[str, Any]:
    """Return what report.json says of tiles; ``scale`` is that of the large input beside the image."""
    sizes = {"whole": layout.whole, "tile": layout.tile, "frame": layout.frame}
    return {"counts": layout.counts, **sizes, "scale": round(scale, 4), "cost": round(cost_of_tiles(preset, layout), 2)}


def tiles_message(report: Mapping[str, Any]) -> str:
    """Return the report in one line, or two where tiles are finer than the image."""
    (rows, columns), (high, wide), (tile_high, tile_wide) = report["counts"], report["whole"], report["tile"]
    message = (
        f"tiles {rows}x{columns} of {tile_wide} x {tile_high} pixels over an input of {wide} x {high}: structure, local and memory "
        f"see them; a frame takes about {report['cost']:.1f} times the multiply-accumulates of one without"
    )
    if report["scale"] <= 1:
        return message
    return f"{message}\nwarning: tiles show the part {report['scale']:.2g} times as large as the image does, which brings nothing"


@dataclass(frozen=True)
class TileImages:
    """Large images u8 [N, H, W, 3] that the networks of tiles learn from, unseen ones, and images of other things in a
    tile's size (None: scrambled tiles serve).
    """

    fit: Images
    unseen: Images
    others: Images | None


def learn_tiles(
    common: AnyTeacher,
    images: TileImages,
    layout: TileLayout,
    *,
    preset: Preset,
    seed: int,
    arithmetic: Arithmetic,
    fit: Callable[[Any, int], None],
) -> TileNetworks:
    """Train student and tokenizer on the tiles of large images; ``fit`` trains a recipe of so many normal images.

    The teacher is a copy of the ``common`` one, with channel statistics of the tiles.
    """
    device, tiles = arithmetic.device, layout.count
    seen, unseen = cut_images(images.fit, layout), cut_images(images.unseen, layout)
    teacher = copy.deepcopy(common)
    measure_channels(teacher, seen, device)
    tokens, unseen_tokens = (describe(teacher, part, preset, device)[0] for part in (seen, unseen))

    torch.manual_seed(seed)
    tokenizer = build_tokenizer(preset, teacher.token_channels, layout.tile)
    redraws = TokenizerRecipe(tokenizer, preset.tokenizer_schedule, tokens, unseen_tokens, arithmetic=arithmetic)
    redraws.name = NAME.format(redraws.name)
    fit(redraws, len(images.fit))
    soften(tokenizer, tokens, arithmetic)
    learn_tokenizer_errors(tokenizer, tokens, arithmetic, tiles)

    torch.manual_seed(seed)
    efficientad = build_efficientad(preset, teacher.channels, layout.tile)
    imitates = EfficientADRecipe(
        efficientad, teacher, preset, seen, unseen=unseen, others=images.others, arithmetic=arithmetic
    )
    imitates.name = NAME.format(imitates.name)
    fit(imitates, len(images.fit))
    learn_student_errors(efficientad, teacher, seen, arithmetic, tiles=tiles)
    return TileNetworks(layout, teacher, efficientad, tokenizer)
