"""Movements, scrambles and colour jitter of training images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edge_ad.presets.presets import PAPER, Augmentation, ViewSettings
from edge_ad.training.augment import colour_jitter, disturb, draw_colours, is_still, move, scramble, to_pixels
from edge_ad.training.distributed import Shard
from tests.data.folders import picture

STILL = Augmentation(rotate=0.0, shift=0.0, scale=0.0, gain=0.0)
IMAGE = picture(1, (64, 64))


class Draws:
    """Stands for a generator: it answers ``uniform`` and ``integers`` with planned values."""

    def __init__(self, integers: int, uniform: float) -> None:
        self._integers, self._uniform = integers, uniform

    def integers(self, low: int, high: int, size: int) -> np.ndarray:
        return np.full(size, self._integers)

    def uniform(self, low: float, high: float, size: int) -> np.ndarray:
        assert (low, high) == (0.8, 1.2)
        return np.full(size, self._uniform)


def test_still_settings_change_nothing() -> None:
    assert is_still(STILL)
    assert is_still(PAPER.augmentation)
    np.testing.assert_array_equal(move(IMAGE, STILL, np.random.default_rng(0)), IMAGE)


@pytest.mark.parametrize(
    "settings",
    [
        Augmentation(5.0, 0.0, 0.0, 0.0),
        Augmentation(0.0, 0.1, 0.0, 0.0),
        Augmentation(0.0, 0.0, 0.2, 0.0),
        Augmentation(0.0, 0.0, 0.0, 0.3),
    ],
)
def test_each_setting_moves_the_picture_by_seed(settings: Augmentation) -> None:
    one, again, other = (move(IMAGE, settings, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert not is_still(settings)
    assert one.dtype == np.uint8
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    assert not np.array_equal(one, IMAGE)


def test_a_shift_is_at_most_its_share_of_the_side() -> None:
    """A bright point in the middle of 64 pixels moves by at most 0.1 * 64 = 6.4."""
    image = np.zeros((64, 64, 3), np.uint8)
    image[32, 32] = 255
    moved = [move(image, Augmentation(0.0, 0.1, 0.0, 0.0), np.random.default_rng(seed)) for seed in range(40)]
    places = np.array([np.argwhere(one[:, :, 0] == one.max())[0] - 32 for one in moved])
    assert 4 <= np.abs(places).max() <= 7
    assert (places < -2).any()
    assert (places > 2).any()


@pytest.mark.parametrize("shape", [(64, 64), (128, 32), (32, 128)])
def test_a_shift_is_as_far_along_both_axes(shape: tuple[int, int]) -> None:
    """All three have the pixels of a square of 64: at most 0.1 * 64 = 6.4 pixels."""
    image = np.zeros((*shape, 3), np.uint8)
    middle = np.array(shape) // 2
    image[middle[0], middle[1]] = 255
    moved = [move(image, Augmentation(0.0, 0.1, 0.0, 0.0), np.random.default_rng(seed)) for seed in range(60)]
    places = np.array([np.argwhere(one[:, :, 0] == one.max())[0] - middle for one in moved])
    assert ((np.abs(places).max(axis=0) >= 4) & (np.abs(places).max(axis=0) <= 7)).all()


def test_gain_scales_brightness_within_its_share() -> None:
    image = np.full((8, 8, 3), 100, np.uint8)
    values = [int(move(image, Augmentation(0, 0, 0, 0.3), np.random.default_rng(seed))[4, 4, 0]) for seed in range(60)]
    assert 69 <= min(values) < 80
    assert 120 < max(values) <= 130


def test_a_scramble_keeps_every_pixel_and_destroys_the_picture() -> None:
    rng = np.random.default_rng(0)
    for _ in range(10):
        result = scramble(IMAGE, rng)
        # Tiles move and turn and channels change places, so the sorted channels of all pixels stay the same set.
        ours, theirs = (np.sort(image.reshape(-1, 3), axis=1) for image in (result, IMAGE))
        np.testing.assert_array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])
        assert (result != IMAGE).any(axis=2).mean() > 0.5


@pytest.mark.parametrize("shape", [(128, 32), (96, 64), (416, 160)])
def test_a_scramble_of_a_picture_that_is_no_square_is_full_and_keeps_its_light(shape: tuple[int, int]) -> None:
    """Every tile is filled; tiles of equal area keep the mean, stretched ones nearly."""
    image = picture(1, shape)
    for seed in range(10):
        out = scramble(image, np.random.default_rng(seed))
        assert (out.shape, out.dtype) == (image.shape, np.uint8)
        assert out.mean() == pytest.approx(image.mean(), rel=0.1)
        assert (out != image).any(axis=2).mean() > 0.5


def test_square_tiles_of_a_picture_that_is_no_square_keep_every_pixel() -> None:
    image = picture(1, (128, 32))  # 2, 4 or 8 tiles a side of a square of 64: squares of 32, 16 or 8
    for seed in range(10):
        ours, theirs = (
            np.sort(one.reshape(-1, 3), axis=1) for one in (scramble(image, np.random.default_rng(seed)), image)
        )
        np.testing.assert_array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.2])
@pytest.mark.parametrize("kind", ["brightness", "contrast", "saturation"])
def test_colour_jitter_by_hand(kind: str, factor: float) -> None:
    """The image goes away from black, from the mean grey of the image, or from each pixel's own grey."""
    pixels = torch.tensor([[100.0, 50.0], [20.0, 60.0], [30.0, 200.0]]).reshape(1, 3, 1, 2)
    grey = 0.299 * pixels[:, :1] + 0.587 * pixels[:, 1:2] + 0.114 * pixels[:, 2:]
    towards = {"brightness": 0.0, "contrast": grey.mean(), "saturation": grey}[kind]
    number = ("brightness", "contrast", "saturation").index(kind)
    result = colour_jitter(pixels, draw_colours(Draws(number, factor), Shard(1)))  # type: ignore[arg-type]
    torch.testing.assert_close(result, (towards + (pixels - towards) * factor).clamp(0, 255))


def test_jitter_differs_by_picture_and_stays_in_range() -> None:
    pixels = torch.rand(16, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 255
    colours = draw_colours(np.random.default_rng(0), Shard(16))
    result = colour_jitter(pixels, colours)
    assert 0.0 <= float(result.min()) <= float(result.max()) <= 255.0
    assert len({round(float(value), 3) for value in (result / pixels.clamp_min(1)).mean(dim=(1, 2, 3))}) == 16
    assert torch.equal(result, colour_jitter(pixels, colours))


def test_the_colours_of_the_shards_are_those_of_the_batch() -> None:
    whole = draw_colours(np.random.default_rng(0), Shard(5))
    parts = [draw_colours(np.random.default_rng(0), Shard(5, rank, 3)) for rank in range(3)]
    for expected, result in zip(whole, zip(*parts, strict=True), strict=True):
        np.testing.assert_array_equal(np.concatenate(result), expected)


def test_pixels_keep_their_places_and_values() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    result = to_pixels(images, torch.device("cpu"))
    assert result.dtype == torch.float32
    assert result.shape == (2, 3, 4, 5)
    assert float(result[1, 2, 3, 4]) == float(images[1, 3, 4, 2])


def test_a_disturbed_view_is_noisy_up_to_its_setting() -> None:
    """A draw of uniform(0, 3) for the deviation of the noise; rounding to whole grey levels adds a variance of 1/12."""
    flat = np.full((64, 64, 3), 128, np.uint8)
    settings = ViewSettings(noise=3.0, blur=0.0)
    spreads = [float(disturb(flat, settings, np.random.default_rng(seed)).std()) for seed in range(40)]
    assert max(spreads) < 1.05 * np.hypot(3.0, 12**-0.5)
    assert min(spreads) < 0.5
    assert np.mean(spreads) == pytest.approx(1.5, abs=0.4)


def test_the_blur_follows_the_shorter_side() -> None:
    """A blur of at most 1/64 of 16 pixels is 0.25: the kernel is one pixel, or nearly."""
    step = np.zeros((256, 16, 3), np.uint8)
    step[128:] = 200
    views = [disturb(step, ViewSettings(noise=0.0, blur=1 / 64), np.random.default_rng(seed)) for seed in range(40)]
    assert min(int(np.diff(view[:, 8, 0].astype(int)).max()) for view in views) > 190


def test_a_disturbed_view_is_blurred_up_to_its_setting() -> None:
    """A Gaussian of deviation s turns a step into one whose steepest slope is height / (s sqrt(2 pi))."""
    step = np.zeros((64, 64, 3), np.uint8)
    step[:, 32:] = 200
    settings = ViewSettings(noise=0.0, blur=4 / 64)
    views = [disturb(step, settings, np.random.default_rng(seed)).astype(int) for seed in range(40)]
    slopes = [np.diff(view[32, :, 0]).max() for view in views]
    assert min(slopes) == pytest.approx(200 / (4 * (2 * np.pi) ** 0.5), rel=0.15)
    assert max(slopes) > 100
