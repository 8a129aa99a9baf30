"""Where the part lies, against parts drawn by hand."""

from __future__ import annotations

import numpy as np
import pytest

from edge_ad.data.part_regions import estimate_part, find_components, has_outline, outline_of, own_part
from tests.fixtures.parts import SCREW_RADIUS, disc, screws

SIZES = [(128, 128), (64, 200), (256, 96)]


@pytest.mark.parametrize("size", SIZES)
def test_a_part_before_a_calm_background_is_estimated_to_a_pixel_or_two(size: tuple[int, int]) -> None:
    images, part = [disc(size, seed)[0] for seed in range(5)], disc(size)[1]
    estimated = estimate_part(images)
    assert estimated.dtype == bool
    assert (estimated & part).sum() / (estimated | part).sum() > 0.9


def _texture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (96, 96, 3)).astype(np.uint8)


def _dots(seed: int) -> np.ndarray:
    """Bright dots all over the image at another pitch each time: foreground, but no part."""
    image = np.zeros((96, 96, 3), np.uint8)
    pitch = 8 + 3 * seed
    for row in range(seed, 96, pitch):
        image[row : row + 4, 2::pitch] = image[row : row + 4, 3::pitch] = 255
    return image


def _filling(seed: int) -> np.ndarray:
    """A part that reaches over three of the image's borders."""
    image = np.full((96, 96, 3), 200, np.uint8)
    image[:, 20:] = 60
    return image


def _screws_alone(seed: int) -> np.ndarray:
    image = np.full((128, 128, 3), 120 + 5 * seed, np.uint8)
    for row in (20, 90):
        for column in (20, 90):
            image[row : row + 16, column : column + 16] = 20
    return image


@pytest.mark.parametrize("make", [_texture, _dots, _filling, _screws_alone])
def test_the_whole_image_is_the_part_where_no_part_is_clear(make: object) -> None:
    assert estimate_part([make(seed) for seed in range(5)]).all()  # type: ignore[operator]


def test_images_of_other_sizes_and_one_image_alone_are_taken() -> None:
    part = disc()[1]
    mixed = estimate_part([disc((128, 128), 0)[0], disc((64, 64), 1)[0]])
    alone = estimate_part([disc()[0]])
    assert mixed.shape == alone.shape == (128, 128)
    assert (mixed & part).sum() / (mixed | part).sum() > 0.9
    assert estimate_part([np.zeros((5, 7, 3), np.uint8)]).shape == (5, 7)


def test_the_part_of_one_image_follows_its_own_outline() -> None:
    image, part = disc()
    moved = np.roll(part, 3, axis=1)
    own = own_part(image, moved)
    assert (own & part).sum() / (own | part).sum() > (moved & part).sum() / (moved | part).sum()
    nothing_alike = np.zeros_like(part)
    nothing_alike[:20, :20] = True
    assert (own_part(image, nothing_alike) == nothing_alike).all()


def test_the_outline_of_a_disc_has_normals_away_from_its_middle() -> None:
    points, normals = outline_of(disc()[1])
    away = points - 63.5
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    assert len(points) > 200
    assert (normals * away).sum(axis=1).min() > 0.95


def test_a_part_has_no_outline_along_the_images_border() -> None:
    assert not has_outline(np.ones((40, 50), bool))
    half = np.zeros((40, 50), bool)
    half[:, 25:] = True
    points, normals = outline_of(half)
    assert set(points[:, 1].tolist()) == {25}
    np.testing.assert_allclose(normals, [[0.0, -1.0]] * len(points), atol=1e-3)


@pytest.mark.parametrize("size", SIZES)
def test_components_are_the_screws_of_the_part(size: tuple[int, int]) -> None:
    image, part = disc(size)
    result = find_components(image, part)
    middles = [(w[0].start + (s.shape[0] - 1) / 2, w[1].start + (s.shape[1] - 1) / 2) for w, s in result]
    assert sorted(middles) == sorted((float(row), float(column)) for row, column in screws(size))
    for _, shape in result:
        assert abs(int(shape.sum()) - np.pi * (SCREW_RADIUS + 0.5) ** 2) < 30


def test_a_plain_part_has_no_components() -> None:
    assert not find_components(np.full((64, 64, 3), 90, np.uint8), np.ones((64, 64), bool))
