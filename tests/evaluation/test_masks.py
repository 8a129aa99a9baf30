"""Defect channels: saturation as MVTec LOCO AD defines it, and a sentence for every mask that does not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_ad.data.datasets import Saturation, TestItem
from edge_ad.errors import BadInput
from edge_ad.evaluation.figures import read_channels, saturated_area
from tests.data.folders import save

CONFIG = {254: Saturation(30.0, False), 255: Saturation(0.5, True)}


def _item(folder: Path, *masks: np.ndarray) -> TestItem:
    paths = tuple(save(folder / f"{index:03}.png", mask) for index, mask in enumerate(masks))
    return TestItem(folder / "image.png", "logical", "logical_anomalies", paths)


def _mask(value: int, area: int = 20) -> np.ndarray:
    mask = np.zeros((8, 10), np.uint8)
    mask.ravel()[:area] = value
    return mask


@pytest.mark.parametrize(
    ("rule", "area", "expected"),
    [
        (Saturation(1.0, True), 7, 7),
        (Saturation(0.5, True), 7, 3),  # int(3.5)
        (Saturation(0.1, True), 7, 1),  # int(0.7) would be no pixel at all
        (Saturation(6300.0, False), 9000, 6300),
        (Saturation(6300.0, False), 500, 500),
    ],
)
def test_saturated_area(rule: Saturation, area: int, expected: int) -> None:
    assert saturated_area(rule, area) == expected


def test_one_channel_a_file_with_its_saturation(tmp_path: Path) -> None:
    channels = read_channels(_item(tmp_path, _mask(254, 40), _mask(255, 20)), (8, 10), CONFIG)
    assert [(int(channel.pixels.sum()), channel.saturation) for channel in channels] == [(40, 30), (20, 10)]


def test_without_a_config_any_value_counts_and_all_of_it_must_be_found(tmp_path: Path) -> None:
    mask = _mask(255)
    mask[0, :5] = 90
    (channel,) = read_channels(_item(tmp_path, mask), (8, 10), {})
    assert (int(channel.pixels.sum()), channel.saturation) == (20, 20)


def test_a_good_image_has_no_channels(tmp_path: Path) -> None:
    assert read_channels(TestItem(tmp_path / "a.png", "good", "good"), (8, 10), CONFIG) == []


def _two_values() -> np.ndarray:
    mask = _mask(255)
    mask[7, 9] = 254
    return mask


@pytest.mark.parametrize(
    ("mask", "size", "sentence"),
    [
        (_mask(255), (8, 11), r"000\.png is 10 x 8 pixels but its image .* is 11 x 8"),
        (_mask(0), (8, 10), r"000\.png marks no pixel"),
        (_mask(7), (8, 10), r"000\.png holds the values 7: one of 254, 255 is allowed"),
        (_two_values(), (8, 10), r"000\.png holds the values 254, 255: one of"),
    ],
)
def test_a_mask_that_does_not_fit_is_named(
    tmp_path: Path, mask: np.ndarray, size: tuple[int, int], sentence: str
) -> None:
    with pytest.raises(BadInput, match=sentence):
        read_channels(_item(tmp_path, mask), size, CONFIG)


def test_an_unreadable_mask_is_named(tmp_path: Path) -> None:
    item = _item(tmp_path, _mask(255))
    item.masks[0].write_bytes(item.masks[0].read_bytes()[:30])
    with pytest.raises(BadInput, match=r"000\.png cannot be read: it is truncated"):
        read_channels(item, (8, 10), CONFIG)
