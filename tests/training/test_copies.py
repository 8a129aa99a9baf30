"""What the networks and the Gaussians learn from besides the normal images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edge_ad.presets.presets import Augmentation, ViewSettings
from edge_ad.training import augment
from edge_ad.training.augment import disturbed, with_moved
from tests.data.folders import picture
from tests.fixtures.tiny_presets import TINY

GOODS = np.stack([picture(number, (32, 32)) for number in range(5)])


def test_goods_come_first_and_copies_differ() -> None:
    preset = replace(TINY, token_augmentation=Augmentation(copies=2))
    result = with_moved(GOODS, preset, 0)
    assert result.shape == (15, 32, 32, 3)
    np.testing.assert_array_equal(result[:5], GOODS)
    assert all((copy != good).any() for copy, good in zip(result[5:], [*GOODS, *GOODS], strict=True))
    np.testing.assert_array_equal(result, with_moved(GOODS, preset, 0))
    assert (result[5:] != with_moved(GOODS, preset, 1)[5:]).any()


def test_views_are_of_some_goods_only_where_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augment, "VIEWED", 3)
    preset = replace(TINY, views=ViewSettings(copies=2))
    result = disturbed(GOODS, preset, 0)
    assert result.shape == (6, 32, 32, 3)
    np.testing.assert_array_equal(result, disturbed(GOODS, preset, 0))


def test_without_views_there_are_none() -> None:
    assert disturbed(GOODS, replace(TINY, views=ViewSettings(copies=0)), 0).shape == (0, 32, 32, 3)
