"""Synthetic anomalies: visible, where the mask says, and the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest

from edge_ad.data.synthetic_anomalies import KINDS, LOGICAL_KINDS, STRUCTURAL_KINDS, make_anomaly, recolour
from tests.data.folders import picture


def _scene(seed: int, size: tuple[int, int] = (96, 128)) -> np.ndarray:
    """A plain ground with differently coloured squares: detail in known places."""
    rng = np.random.default_rng(seed)
    image = np.full((*size, 3), 90, np.uint8)
    for top, left in ((20, 20), (20, 80), (60, 50)):
        image[top : top + 20, left : left + 20] = rng.integers(0, 255, 3)
    return image


OTHERS = [_scene(100 + index) for index in range(6)]


def test_kinds_are_logical_or_structural() -> None:
    assert set(LOGICAL_KINDS) | set(STRUCTURAL_KINDS) == set(KINDS)
    assert not set(LOGICAL_KINDS) & set(STRUCTURAL_KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_an_anomaly_changes_what_its_mask_marks(kind: str) -> None:
    rng = np.random.default_rng(5)
    for seed in range(10):
        image = _scene(seed)
        before = image.copy()
        result, mask = make_anomaly(image, OTHERS, rng, kind)
        assert (image == before).all()
        assert (result.shape, result.dtype, mask.shape, mask.dtype) == (image.shape, np.uint8, (96, 128), np.uint8)
        assert set(np.unique(mask).tolist()) == {0, 255}
        change = np.abs(result.astype(int) - image).max(axis=2)
        assert change[mask > 0].mean() >= 12
        assert change[mask > 0].sum() > change[mask == 0].sum()
        assert 0 < (mask > 0).mean() < 0.45


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides(kind: str) -> None:
    results = [make_anomaly(_scene(0), OTHERS, np.random.default_rng(seed), kind) for seed in (3, 3, 4)]
    assert (results[0][0] == results[1][0]).all()
    assert (results[0][1] == results[1][1]).all()
    assert (results[0][0] != results[2][0]).any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(32, 32), (33, 200), (300, 40)])
def test_any_size_and_other_sizes_of_the_others(kind: str, size: tuple[int, int]) -> None:
    result, mask = make_anomaly(picture(1, size), [picture(2, (50, 70))], np.random.default_rng(0), kind)
    assert result.shape == (*size, 3)
    assert mask.shape == size


@pytest.mark.parametrize("kind", KINDS)
def test_a_plain_picture_does_not_fail(kind: str) -> None:
    plain = np.full((64, 64, 3), 128, np.uint8)
    result, _ = make_anomaly(plain, [plain], np.random.default_rng(0), kind)
    assert result.shape == plain.shape


def test_anomalies_lie_on_detail() -> None:
    image = np.full((128, 128, 3), 90, np.uint8)
    image[64:, 64:] = np.random.default_rng(0).integers(0, 255, (64, 64, 3))
    rng = np.random.default_rng(0)
    centres = [np.argwhere(make_anomaly(image, OTHERS, rng, "stain")[1]).mean(axis=0) for _ in range(40)]
    assert np.mean([(centre > 50).all() for centre in centres]) > 0.9


def test_what_cannot_be_made_is_told() -> None:
    with pytest.raises(ValueError, match="'dent' is no kind of anomaly: remove, swap"):
        make_anomaly(_scene(0), OTHERS, np.random.default_rng(0), "dent")
    with pytest.raises(ValueError, match="at least one other good image"):
        make_anomaly(_scene(0), [], np.random.default_rng(0), "swap")


def _bottle(juice: tuple[int, int, int]) -> np.ndarray:
    """A grey image with a coloured half and a white label in it."""
    image = np.full((96, 96, 3), 60, np.uint8)
    image[40:90, 10:86] = juice
    image[55:70, 30:60] = 250
    return image


def test_a_part_takes_the_colour_that_another_good_has_there() -> None:
    red, blue = (200, 30, 30), (30, 30, 200)
    found = recolour(_bottle(red), [_bottle(blue)], np.random.default_rng(0))
    assert found is not None
    result, alpha = found
    assert np.abs(result[80:88, 14:80].astype(int) - blue).max() <= 12
    assert np.abs(result[57:68, 33:57].astype(int) - 250).max() <= 1
    assert (result[:34] == 60).all()
    assert (alpha[80:88, 14:80] > 0.99).all()


def test_goods_of_one_colour_cannot_be_recoloured() -> None:
    assert recolour(_bottle((200, 30, 30)), [_bottle((198, 33, 30))] * 3, np.random.default_rng(0)) is None
