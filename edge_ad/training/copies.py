"""Copies of the goods to learn from: moved ones for the networks, disturbed ones for what only measures how goods vary."""

from __future__ import annotations

import numpy as np

from edge_ad.engines.proof import spread
from edge_ad.presets import Preset
from edge_ad.training.augment import Image, disturb, move
from edge_ad.training.pictures import Images

VIEWED = 400  # goods that views are made of


def with_moved(goods: Images, preset: Preset, seed: int) -> Images:
    """Return ``goods`` u8 [N, S, S, 3] followed by moved copies of them."""
    settings = preset.token_augmentation
    rng = np.random.default_rng([seed, 3])
    copies = [np.stack([move(image, settings, rng) for image in goods]) for _ in range(settings.copies)]
    return np.concatenate([goods, *copies])


def disturbed(goods: Images, preset: Preset, seed: int) -> Images:
    """Return moved copies of ``goods`` u8 [N, S, S, 3] with blur and noise; of many goods only of some, since a Gaussian
    needs no more.
    """
    rng = np.random.default_rng([seed, 4])

    def view(image: Image) -> Image:
        return disturb(move(image, preset.token_augmentation, rng), preset.views, rng)

    views = [view(image) for _ in range(preset.views.copies) for image in spread(goods, VIEWED)]
    return np.stack(views) if views else goods[:0]
