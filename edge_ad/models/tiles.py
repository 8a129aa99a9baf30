"""Overlapping tiles of a large image as one batch, maps of them joined to one, and the small image of the whole.

All of it is slices and means with fixed places, so a graph takes the large image and cuts it by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edge_ad.models.efficientad import EfficientAD
from edge_ad.models.hvq import HvqTokenizer
from edge_ad.models.teachers import LiteTeacher, PdnTeacher, TeacherOutput, pixels_of
from edge_ad.presets.networks import TileLayout


def cut(pixels: Tensor, layout: TileLayout) -> Tensor:
    """Return the tiles f32 (B * T, C, h, w) of large images f32 (B, C, H, W), those of an image one after the other."""
    height, width = layout.tile
    tiles = [pixels[:, :, top : top + height, left : left + width] for top, left in layout.places]
    return torch.stack(tiles, dim=1).flatten(0, 1)


def join(maps: Tensor, layout: TileLayout) -> Tensor:
    """Return maps f32 (B, C, H', W') of whole images from those of their tiles, f32 (B * T, C, h', w')."""
    tiles = maps.reshape(-1, layout.count, *maps.shape[1:])
    stride, columns = layout.tile[0] // maps.shape[2], layout.counts[1]
    rows = [
        torch.cat([tiles[:, row * columns + column, :, y, x] for column, (y, x) in enumerate(windows)], dim=3)
        for row, windows in enumerate(layout.own_cells(stride))
    ]
    return torch.cat(rows, dim=2)


def shrink(pixels: Tensor, layout: TileLayout) -> Tensor:
    """Return large images f32 (B, C, H, W) at the size of the frame: means of blocks, then linear for what is left."""
    block = [1 << max(0, (whole // frame).bit_length() - 1) for whole, frame in zip(layout.whole, layout.frame, strict=True)]
    if max(block) > 1:
        pixels = F.avg_pool2d(pixels, block)
    if tuple(pixels.shape[2:]) == layout.frame:
        return pixels
    return F.interpolate(pixels, size=layout.frame, mode="bilinear", align_corners=False)


class JoinedTeacher(nn.Module):
    """A teacher that sees the tiles of large images; its features are those of the whole images."""

    def __init__(self, teacher: LiteTeacher | PdnTeacher, layout: TileLayout) -> None:
        super().__init__()
        self.teacher, self.layout, self.channels = teacher, layout, teacher.channels

    def forward(self, pixels: Tensor) -> TeacherOutput:
        """Return joined features f32 (B, C, H', W'); tokens and pooled descriptions stay those of the tiles."""
        out: TeacherOutput = self.teacher(cut(pixels, self.layout))
        return out._replace(features=join(out.features, self.layout))


@dataclass(frozen=True)
class TileNetworks:
    """The networks that see tiles; of ``efficientad`` the student's first half alone is used."""

    layout: TileLayout
    teacher: LiteTeacher | PdnTeacher
    efficientad: EfficientAD
    tokenizer: HvqTokenizer

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """The networks."""
        return self.teacher, self.efficientad, self.tokenizer


def frame_of(image: Tensor, layout: TileLayout | None) -> Tensor:
    """Turn u8 [1, H, W, 3] into f32 [1, 3, h, w] in [0, 255]: the image, or the small one that shows all of it beside tiles.
    """
    return pixels_of(image) if layout is None else shrink(pixels_of(image), layout)


class TileTeacherGraph(nn.Module):
    """image u8 -> features and tokens of T tiles [T, C, h, w], and the features joined to those of the image."""

    def __init__(self, tiles: TileNetworks) -> None:
        super().__init__()
        self.teacher, self.layout = tiles.teacher, tiles.layout

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run the teacher once on all tiles."""
        out = self.teacher(cut(pixels_of(image), self.layout))
        return out.features, out.tokens, join(out.features, self.layout)


class TileStudentGraph(nn.Module):
    """image u8, tile_features -> map_local of the image."""

    def __init__(self, tiles: TileNetworks) -> None:
        super().__init__()
        self.model, self.layout = tiles.efficientad, tiles.layout

    def forward(self, image: Tensor, tile_features: Tensor) -> Tensor:
        """Compare student and teacher on every tile."""
        return join(self.model(cut(pixels_of(image), self.layout), tile_features)[0], self.layout)


class TileTokenizerGraph(nn.Module):
    """tile_tokens -> map_structure of the image."""

    def __init__(self, tiles: TileNetworks) -> None:
        super().__init__()
        self.model, self.layout = tiles.tokenizer, tiles.layout

    def forward(self, tile_tokens: Tensor) -> Tensor:
        """Say how badly codes redraw the cells of every tile."""
        return join(self.model.structure_map(tile_tokens)[1], self.layout)


class GlobalMapGraph(nn.Module):
    """image u8 -> map_global of the small image that shows all of it beside tiles."""

    def __init__(self, model: EfficientAD, layout: TileLayout) -> None:
        super().__init__()
        self.model, self.layout = model, layout

    def forward(self, image: Tensor) -> Tensor:
        """Compare student and autoencoder."""
        return self.model.global_map(frame_of(image, self.layout))
