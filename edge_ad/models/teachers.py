"""Frozen teachers: one pass over an image gives features for EfficientAD, tokens for LADMIM and a pooled description.

``efficientnet_lite0`` brings three stages to one grid (HVQ-Trans was published on EfficientNet features); ``pdn_small``
and ``pdn_medium`` are the teachers of EfficientAD, with LADMIM's raw, pooled features as tokens. A teacher learns every
patch of a source network's layers as one short vector: distillation of EfficientAD (arXiv 2303.14535, section 3.1)
after PatchCore (arXiv 2106.08265, section 3.1), 3 x 3 neighbourhoods of each layer, averaged to 1,024 values a layer
and to 384 over the layers. All of this is linear, so here it is one 3 x 3 convolution with fixed weights a layer;
coarser layers are resized after it, which gives the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edge_ad.models.efficientnet_lite import EfficientNetLite
from edge_ad.models.pdn import PatchDescriptionNetwork, PdnSize
from edge_ad.presets.networks import Sides, Size, TeacherSettings, size_of

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def pixels_of(image: Tensor) -> Tensor:
    """Turn u8 [1, H, W, 3] into f32 [1, 3, H, W] in [0, 255]."""
    return image.to(torch.float32).permute(0, 3, 1, 2)


class ImageNetNormalise(nn.Module):
    """Map f32 (B, 3, H, W) pixels in [0, 255] to zero mean and unit deviation as ImageNet networks expect."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1) * 255.0, persistent=False)
        self.register_buffer("scale", 1.0 / (torch.tensor(IMAGENET_STD).view(1, 3, 1, 1) * 255.0), persistent=False)
        self.mean: Tensor
        self.scale: Tensor

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalise channel-wise."""
        return (pixels - self.mean) * self.scale


class TeacherOutput(NamedTuple):
    """features f32 (B, C, h, w), channel-normalised; tokens f32 (B, Ct, th, tw); pooled f32 (B, D)."""

    features: Tensor
    tokens: Tensor
    pooled: Tensor


class Teacher(Protocol):
    """What every teacher offers besides being an ``nn.Module`` over RGB pixels in [0, 255]."""

    normalise: ChannelNormalise
    token_channels: int
    pooled_width: int

    def raw(self, pixels: Tensor) -> Tensor:
        """Return un-normalised features f32 (B, C, h, w)."""
        ...

    def __call__(self, pixels: Tensor) -> TeacherOutput:
        """Return features, tokens and pooled description."""
        ...


class ChannelNormalise(nn.Module):
    """Subtract a mean and divide by a deviation per channel, measured on normal images (methods section 4.4)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("std", torch.ones(1, channels, 1, 1))
        self.mean: Tensor
        self.std: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Normalise f32 (B, C, h, w)."""
        return (x - self.mean) / self.std

    def set(self, mean: Tensor, std: Tensor) -> None:
        """Store statistics f32 (C,); deviations below 1e-6 are lifted to it."""
        self.mean.copy_(mean.view_as(self.mean))
        self.std.copy_(std.clamp_min(1e-6).view_as(self.std))


class LiteTeacher(nn.Module):
    """EfficientNet-Lite0 stages on one grid; tokens are the normalised features pooled to a coarser grid.

    ``side`` is that of the square for which ``settings`` give the grids: images of any size in multiples of 32 pixels
    have grids of the same strides.
    """

    def __init__(self, settings: TeacherSettings, side: int = 256) -> None:
        super().__init__()
        self.taps, self.pooled_taps = settings.taps, settings.pooled_taps
        self.region_tap, self.regions = settings.region_tap, settings.regions
        self.trunk = EfficientNetLite(sorted({*self.taps, *self.pooled_taps, self.region_tap}))
        widths = dict(zip(self.trunk.taps, self.trunk.channels, strict=True))
        self.stride, self.token_cells = side // settings.grid, settings.grid // settings.token_grid
        self.token_channels = self.channels = sum(widths[tap] for tap in self.taps)
        self.pooled_width = sum(widths[tap] for tap in self.pooled_taps) + self.regions**2 * widths[self.region_tap]
        self.normalise = ChannelNormalise(self.channels)

    def raw(self, pixels: Tensor) -> Tensor:
        """Return un-normalised features f32 (B, C, h, w)."""
        return self._gather(dict(zip(self.trunk.taps, self.trunk(pixels), strict=True)), _cells(pixels, self.stride))

    def forward(self, pixels: Tensor) -> TeacherOutput:
        """Return features on the fine grid, tokens on the coarse one, and stage means."""
        stages = dict(zip(self.trunk.taps, self.trunk(pixels), strict=True))
        features = self.normalise(self._gather(stages, _cells(pixels, self.stride)))
        tokens = F.avg_pool2d(features, self.token_cells)
        return TeacherOutput(features, tokens, self._pooled(stages))

    def _pooled(self, stages: dict[int, Tensor]) -> Tensor:
        means = [stages[tap].mean(dim=(2, 3)) for tap in self.pooled_taps]
        if self.regions:
            means.append(region_means(stages[self.region_tap], self.regions).flatten(1))
        return torch.cat(means, dim=1)

    def _gather(self, stages: dict[int, Tensor], grid: Size) -> Tensor:
        return torch.cat([to_grid(stages[tap], grid) for tap in self.taps], dim=1)


class PdnTeacher(nn.Module):
    """PDN over ImageNet-normalised images.

    With ``token_side`` it is the publications' teacher, without padding: 256 pixels give 56 x 56 features, 224 pixels
    LADMIM's raw 384 x 24 x 24 tokens. Without, one padded pass gives a cell every 4 pixels (64 x 64 of 256), averaged to
    the preset's grids; ``side`` as for ``LiteTeacher``.
    """

    def __init__(self, size: PdnSize, settings: TeacherSettings, side: int = 256) -> None:
        super().__init__()
        self.published = settings.token_side > 0
        self.pdn = PatchDescriptionNetwork(size, padding=not self.published)
        self.image = ImageNetNormalise()
        self.stride, self.token_cells = side // settings.grid, settings.grid // settings.token_grid
        self.channels = self.token_channels = self.pooled_width = 384
        self.normalise = ChannelNormalise(384)

    def raw(self, pixels: Tensor) -> Tensor:
        """Return un-normalised features f32 (B, 384, h, w)."""
        out: Tensor = self.pdn(self.image(pixels))
        return out if self.published else to_grid(out, _cells(pixels, self.stride))

    def forward(self, pixels: Tensor) -> TeacherOutput:
        """Return normalised features, tokens (raw where published, else normalised) and channel means."""
        raw = self.raw(pixels)
        features = self.normalise(raw)
        tokens = F.avg_pool2d(raw, 2) if self.published else F.avg_pool2d(features, self.token_cells)
        return TeacherOutput(features, tokens, raw.mean(dim=(2, 3)))


def _cells(pixels: Tensor, stride: int) -> Size:
    """Return (rows, columns) of a grid with a cell every ``stride`` pixels of images f32 (B, 3, H, W)."""
    return pixels.shape[-2] // stride, pixels.shape[-1] // stride


def to_grid(x: Tensor, grid: Sides) -> Tensor:
    """Bring f32 (B, C, s, t) to (B, C, *grid): average down by a whole factor or bilinear up."""
    rows, columns = size_of(grid)
    height, width = x.shape[-2:]
    if (height, width) == (rows, columns):
        return x
    if height > rows:
        return F.avg_pool2d(x, (height // rows, width // columns))
    return F.interpolate(x, size=(rows, columns), mode="bilinear", align_corners=False)


def region_means(x: Tensor, regions: int) -> Tensor:
    """Return the means of ``regions`` x ``regions`` parts of f32 (B, C, h, w), f32 (B, C, regions, regions).

    Parts that do not divide the map evenly overlap by a cell, as in adaptive pooling; the windows are constants, since
    an export may hold no operator whose windows follow the data.
    """
    height, width = x.shape[-2:]
    if height % regions == 0 and width % regions == 0:
        return F.avg_pool2d(x, (height // regions, width // regions))
    rows = torch.stack([x[:, :, start:stop].mean(dim=2) for start, stop in _parts(height, regions)], dim=2)
    return torch.stack([rows[..., start:stop].mean(dim=3) for start, stop in _parts(width, regions)], dim=3)


def _parts(length: int, count: int) -> list[tuple[int, int]]:
    return [(index * length // count, -(-(index + 1) * length // count)) for index in range(count)]


KERNEL = 3


class PatchFeatures(nn.Module):
    """Map layers f32 (B, C_i, h_i, w_i), the finest first, to f32 (B, channels, h_0, w_0), normalised per channel."""

    def __init__(self, widths: Sequence[int], channels: int = 384, per_layer: int = 1024) -> None:
        super().__init__()
        weights = projections(widths, channels, per_layer)
        self.count = len(weights)
        for number, weight in enumerate(weights):
            self.register_buffer(f"weight_{number}", weight, persistent=False)
        self.normalise = ChannelNormalise(channels)

    def raw(self, layers: Sequence[Tensor]) -> Tensor:
        """Return the features before channel normalisation."""
        parts = [F.conv2d(x, getattr(self, f"weight_{n}"), padding=KERNEL // 2) for n, x in enumerate(layers)]
        size = parts[0].shape[2:]
        out = parts[0]
        for part in parts[1:]:
            out = out + F.interpolate(part, size=size, mode="bilinear", align_corners=False)
        return out

    def forward(self, layers: Sequence[Tensor]) -> Tensor:
        """Describe every patch; mean 0 and deviation 1 over the photographs that ``normalise`` was measured on."""
        out: Tensor = self.normalise(self.raw(layers))
        return out


def projections(widths: Sequence[int], channels: int, per_layer: int) -> list[Tensor]:
    """Return the fixed weight f32 (channels, C_i, 3, 3) of each layer.

    Averaging is applied to unit vectors: entry (c, y, x) of a neighbourhood stands at (3 c + y) 3 + x of its patch
    vector, which is averaged to ``per_layer`` values; the layers' values one after the other are averaged to
    ``channels``.
    """
    layers = []
    for number, width in enumerate(widths):
        entries = width * KERNEL**2
        stacked = torch.zeros(entries, len(widths), per_layer)
        stacked[:, number] = F.adaptive_avg_pool1d(torch.eye(entries), per_layer)
        joint = F.adaptive_avg_pool1d(stacked.flatten(1), channels)
        layers.append(joint.T.reshape(channels, width, KERNEL, KERNEL).contiguous())
    return layers
