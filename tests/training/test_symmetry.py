"""Turns and mirrorings of normal images that are normal too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_ad.presets.presets import FAST, PAPER, Augmentation
from edge_ad.synthetic.line import render_tray
from edge_ad.synthetic.single_part import PartOptions, render_part
from edge_ad.training.augment import is_still, move
from edge_ad.training.symmetry import ANY, FEWEST, Symmetry, measure_symmetry, with_symmetry

Images = NDArray[np.uint8]


def texture(seed: int, along: float, across: float, angle: float = 0.0) -> Images:
    """Noise that is smooth along and across a direction by so many pixels."""
    rng = np.random.default_rng(seed)
    values = cv2.GaussianBlur(rng.normal(0, 1, (240, 240)).astype(np.float32), (0, 0), sigmaX=along, sigmaY=across)
    matrix = cv2.getRotationMatrix2D((120, 120), angle, 1.0)
    values = cv2.warpAffine(values, matrix, (240, 240), borderMode=cv2.BORDER_REFLECT_101)[56:184, 56:184]
    return np.repeat(np.clip(128 + 30 * values / values.std(), 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def grain(seed: int, spread: float) -> Images:
    return texture(seed, 10, 1.2, 20 + np.random.default_rng([seed, 1]).uniform(-spread, spread))


def part(seed: int, **options: Any) -> Images:
    return render_part(seed, PartOptions(kind="bracket", size=(128, 128), **{"max_shift": 0.0, **options})).image


def tray(seed: int) -> Images:
    return render_tray(seed, size=128).image


@pytest.mark.parametrize(
    ("make", "rotate", "mirror"),
    [
        (partial(texture, along=3, across=3), (ANY, ANY), "both"),
        (partial(grain, spread=90), (ANY, ANY), "both"),
        (partial(grain, spread=0), (0, 5), "none"),
        (partial(part, max_angle=180.0), (ANY, ANY), "none"),
        (partial(part, max_angle=1.0), (0, 0), "none"),
        (tray, (0, 0), "none"),
    ],
    ids=["cast surface", "grain at any angle", "grain", "part at any angle", "part that lies the same way", "tray"],
)
def test_turns_that_normal_images_show_are_found(make: Callable[[int], Images], rotate: tuple[float, float], mirror: str) -> None:
    result = measure_symmetry(np.stack([make(seed) for seed in range(100, 160)]))
    assert result is not None
    assert rotate[0] <= result.rotate <= rotate[1], str(result)
    assert result.mirror == mirror, str(result)


def test_too_few_images_say_nothing() -> None:
    assert measure_symmetry(np.stack([tray(seed) for seed in range(FEWEST - 1)])) is None


def test_movements_follow_the_symmetry_but_for_what_a_person_set() -> None:
    anyhow = Symmetry(ANY, "both", {})
    moved = with_symmetry(FAST, anyhow, [])
    assert (moved.augmentation.rotate, moved.token_augmentation.rotate) == (ANY, ANY)
    assert (moved.augmentation.mirror, moved.token_augmentation.mirror) == ("both", "both")
    still = replace(moved, augmentation=FAST.augmentation, token_augmentation=FAST.token_augmentation)
    assert still == FAST  # nothing else changes
    own = with_symmetry(FAST, anyhow, ["augmentation.rotate=5", "token_augmentation.mirror=none"])
    assert (own.augmentation.rotate, own.augmentation.mirror) == (FAST.augmentation.rotate, "both")
    assert (own.token_augmentation.rotate, own.token_augmentation.mirror) == (ANY, "none")
    assert with_symmetry(FAST, Symmetry(0.0, "none", {}), []) == FAST
    assert with_symmetry(PAPER, anyhow, []) == PAPER


def test_mirroring_swaps_sides_by_chance() -> None:
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    still = Augmentation(rotate=0.0, shift=0.0, scale=0.0)
    assert is_still(still)
    for mirror, expected in (("horizontal", 2), ("vertical", 2), ("both", 4)):
        settings = replace(still, mirror=mirror)
        assert not is_still(settings)
        rng = np.random.default_rng(0)
        seen = {move(image, settings, rng).tobytes() for _ in range(64)}
        assert len(seen) == expected, mirror
        assert image.tobytes() in seen
    settings = replace(still, mirror="horizontal")
    assert image[:, ::-1].tobytes() in {move(image, settings, np.random.default_rng(k)).tobytes() for k in range(9)}
