"""Images of the same good part a little later: small movements, light, colour jitter; and images of nothing known.

Copies of the normal images to learn from: moved ones for the networks, disturbed ones for what only measures how normal
images vary.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_ad.data.images import resize
from edge_ad.data.tolerance import MIN_BLUR, Tolerance
from edge_ad.deployment.validation_images import spread
from edge_ad.presets.networks import scaled_size
from edge_ad.presets.presets import Augmentation, Mirror, Preset, ViewSettings
from edge_ad.training.distributed import Shard
from edge_ad.training.images import Images

Image = NDArray[np.uint8]
GREY = (0.299, 0.587, 0.114)


def move(image: Image, settings: Augmentation, rng: np.random.Generator) -> Image:
    """Mirror, rotate, scale, shift and brighten u8 [H, W, 3] by draws within ``settings``; the rim is mirrored.

    A shift is as many pixels at most along both axes: a share of the side of a square of as many pixels.
    """
    height, width = image.shape[:2]
    side = math.sqrt(height * width)
    angle = rng.uniform(-settings.rotate, settings.rotate)
    scale = rng.uniform(1 - settings.scale, 1 + settings.scale)
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, scale)
    matrix[:, 2] = matrix[:, 2] + rng.uniform(-settings.shift * side, settings.shift * side, 2)
    if settings.mirror != "none":
        image = _mirrored(image, settings.mirror, rng)
    moved = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    if settings.gain:
        gain = rng.uniform(1 - settings.gain, 1 + settings.gain)
        moved = np.clip(moved.astype(np.float32) * gain, 0, 255)
    return moved.astype(np.uint8)


def _mirrored(image: Image, mirror: Mirror, rng: np.random.Generator) -> Image:
    """Swap left and right, or up and down, or each, by chance."""
    across, down = rng.random(2) < 0.5
    if across and mirror != "vertical":
        image = image[:, ::-1]
    if down and mirror != "horizontal":
        image = image[::-1]
    return np.ascontiguousarray(image)


def disturb(image: Image, settings: ViewSettings, rng: np.random.Generator) -> Image:
    """Blur u8 [H, W, 3], tint it and add the noise of a sensor, each by a draw up to what ``settings`` allow.

    The blur is a share of the shorter side.
    """
    blur = rng.uniform(0.0, settings.blur * min(image.shape[:2]))
    noise = rng.normal(0.0, rng.uniform(0.0, settings.noise), image.shape)
    soft: NDArray[Any] = cv2.GaussianBlur(image, (0, 0), blur) if blur > MIN_BLUR else image
    if settings.colour:
        soft = soft * rng.uniform(1 - settings.colour, 1 + settings.colour, 3)
    return np.clip(np.rint(soft + noise), 0, 255).astype(np.uint8)


def is_still(settings: Augmentation) -> bool:
    """Whether ``move`` would change nothing, so that features of the frozen teacher may be kept."""
    still = settings.mirror == "none"
    return still and not (settings.rotate or settings.shift or settings.scale or settings.gain)


def scramble(image: Image, rng: np.random.Generator) -> Image:
    """Return u8 [H, W, 3] with its tiles shuffled, turned and recoloured: a penalty image that shows no part."""
    rows, columns = scaled_size(int(rng.choice([2, 4, 8])), (image.shape[0], image.shape[1]))
    boxes = [(down, across) for down in _edges(image.shape[0], rows) for across in _edges(image.shape[1], columns)]
    out = np.empty_like(image)
    for index, source in enumerate(rng.permutation(len(boxes))):
        tile = np.rot90(image[boxes[source]], int(rng.integers(4)))[:, :, rng.permutation(3)]
        place = out[boxes[index]]
        # Tiles are about square; what a turn or another place leaves to fill is filled by stretching.
        place[:] = tile if tile.shape == place.shape else resize(np.ascontiguousarray(tile), place.shape[:2])
    return out


def _edges(length: int, count: int) -> list[slice]:
    """Return ``count`` parts of a side, as equal as whole pixels allow."""
    return [slice(index * length // count, (index + 1) * length // count) for index in range(count)]


class Colours(NamedTuple):
    """How the colours of a batch change: by image brightness, contrast or saturation (i64 [B]), and its factor (f32
    [B]).
    """

    kinds: NDArray[np.int64]
    factors: NDArray[np.float32]


def draw_colours(rng: np.random.Generator, shard: Shard) -> Colours:
    """Draw for a whole batch and return the rows of ``shard``; factors are in [0.8, 1.2]."""
    kinds, factors = rng.integers(0, 3, shard.total), rng.uniform(0.8, 1.2, shard.total).astype(np.float32)
    return Colours(kinds[shard.rows], factors[shard.rows])


def colour_jitter(pixels: Tensor, colours: Colours) -> Tensor:
    """Change brightness, contrast or saturation of each f32 (B, 3, H, W) in [0, 255] as drawn."""
    kind = torch.from_numpy(colours.kinds).to(pixels.device).view(-1, 1, 1, 1)
    factor = torch.from_numpy(colours.factors).to(pixels.device).view(-1, 1, 1, 1)
    grey = (pixels * torch.tensor(GREY, device=pixels.device).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    level = grey.mean(dim=(2, 3), keepdim=True).expand_as(grey)
    towards = torch.where(kind == 0, torch.zeros_like(grey), torch.where(kind == 1, level, grey))
    return (towards + (pixels - towards) * factor).clamp(0.0, 255.0)


def to_pixels(images: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Turn u8 [N, H, W, 3] into f32 (N, 3, H, W) in [0, 255] on a device."""
    tensor = torch.from_numpy(np.ascontiguousarray(images)).to(device)
    return tensor.permute(0, 3, 1, 2).to(torch.float32)


NOTHING = Tolerance()
VIEWED = 400  # normal images that views are made of


def with_moved(normal_images: Images, preset: Preset, seed: int, tolerance: Tolerance = NOTHING) -> Images:
    """Return ``normal_images`` u8 [N, H, W, 3] followed by moved copies of them, in other light and focus within ``tolerance``."""
    settings = preset.token_augmentation
    rng = np.random.default_rng([seed, 3])

    def copy(image: Image) -> Image:
        moved = move(image, settings, rng)
        return tolerance.draw(rng).degrade(moved, rng) if tolerance.changes_look else moved

    copies = [np.stack([copy(image) for image in normal_images]) for _ in range(settings.copies)]
    return np.concatenate([normal_images, *copies])


def disturbed(normal_images: Images, preset: Preset, seed: int, tolerance: Tolerance = NOTHING) -> Images:
    """Return moved copies of ``normal_images`` u8 [N, H, W, 3] with blur and noise, or in other light and focus within
    ``tolerance``; of many normal images only of some, since a Gaussian needs no more.
    """
    rng = np.random.default_rng([seed, 4])

    def view(image: Image) -> Image:
        moved = move(image, preset.token_augmentation, rng)
        return tolerance.draw(rng).degrade(moved, rng) if tolerance.changes_look else disturb(moved, preset.views, rng)

    views = [view(image) for _ in range(preset.views.copies) for image in spread(normal_images, VIEWED)]
    return np.stack(views) if views else normal_images[:0]
