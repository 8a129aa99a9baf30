"""Normal images in memory and the anomalies that choose weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_ad.data.datasets import load_dataset
from edge_ad.data.images import read_image, resize
from edge_ad.data.synthetic_anomalies import COMPONENT_KINDS, KINDS, OUTLINE_KINDS, synthetic
from edge_ad.errors import BadInput
from edge_ad.geometry.geometry import Geometry
from edge_ad.training.images import ScoringImages, labelled, load_images, read_all
from tests.data.folders import goods, picture, save
from tests.fixtures.parts import disc

GOODS = np.stack([picture(seed, (64, 64)) for seed in range(4)])


def test_pictures_are_read_in_order_at_the_size_of_the_networks(tmp_path: Path) -> None:
    paths = goods(tmp_path, 5)
    result = read_all(paths, 32)
    assert result.shape == (5, 32, 32, 3)
    assert result.dtype == np.uint8
    for image, path in zip(result, paths, strict=True):
        np.testing.assert_array_equal(image, resize(read_image(path), (32, 32)))


def test_synthetic_anomalies_come_from_the_seed() -> None:
    result, kinds = synthetic(GOODS, 24, 5)
    assert result.shape == (24, 64, 64, 3)
    again, _ = synthetic(GOODS, 24, 5)
    other, _ = synthetic(GOODS, 24, 6)
    np.testing.assert_array_equal(result, again)
    assert not np.array_equal(result, other)
    for number, image in enumerate(result):
        assert (image != GOODS[number % len(GOODS)]).any(), kinds[number]


@pytest.mark.parametrize("images", [4, 8, 16, 17, 30])
def test_every_kind_is_drawn_equally_often_and_on_different_images(images: int) -> None:
    """Of 34 anomalies 2 are of each of the 17 kinds, however many images there are."""
    parts = np.stack([disc((64, 64), seed)[0] for seed in range(images)])
    _, kinds = synthetic(parts, 34, 0)
    assert {kind: kinds.count(kind) for kind in KINDS} == dict.fromkeys(KINDS, 2)
    assert all(len({number % images for number in range(34) if kinds[number] == kind}) == 2 for kind in KINDS)


def test_kinds_that_cannot_be_drawn_give_their_turn_to_others() -> None:
    """A slope of brightness has neither an outline nor components."""
    ramps = [np.arange(60 + 10 * step, 188 + 10 * step, 2, np.uint8) for step in range(4)]
    slopes = np.stack([np.tile(ramp[:, None, None], (1, 64, 3)) for ramp in ramps])
    _, kinds = synthetic(slopes, 34, 0)
    assert not {*OUTLINE_KINDS, *COMPONENT_KINDS} & set(kinds)
    assert set(kinds) == set(KINDS) - {*OUTLINE_KINDS, *COMPONENT_KINDS}


def test_synthetic_anomalies_stay_on_the_part_that_is_given() -> None:
    part = np.zeros((64, 64), bool)
    part[:, :32] = True
    result, _ = synthetic(GOODS, 34, 0, part)
    changed = (result != GOODS[np.arange(34) % len(GOODS)]).any(axis=(0, 3))
    assert changed[:, :32].any()
    assert changed[:, 32:].sum() < 0.1 * changed.sum()  # burrs and dents reach over the outline


def test_faded_anomalies_lie_between_their_good_and_themselves() -> None:
    """A quarter of the way from 100 to 201 is 125.25, from 100 to 0 is 75."""
    good = np.full((2, 1, 1, 3), 100, np.uint8)
    anomalies = np.array([201, 0, 100], np.uint8).reshape(3, 1, 1, 1).repeat(3, axis=3)
    pictures = ScoringImages(good, good, good, anomalies, ("a", "b", "c"), (0, 1, 0))
    np.testing.assert_array_equal(pictures.faded(0.25)[:, 0, 0, 0], [125, 75, 100])
    np.testing.assert_array_equal(pictures.faded(1.0), anomalies)
    assert len(ScoringImages(good, good, good, anomalies, ("a", "b", "c")).faded(0.25)) == 0


def test_a_flat_folder_becomes_pictures(tmp_path: Path) -> None:
    goods(tmp_path, 20)
    dataset = load_dataset(tmp_path)
    pictures = load_images(dataset, 64, 8, 0)
    counts = (len(pictures.fit), len(pictures.normalise), len(pictures.threshold), len(pictures.anomalies))
    assert counts == (len(dataset.normal.fit), len(dataset.normal.normalise), len(dataset.normal.threshold), 8)
    assert sum(counts[:3]) == 20
    assert pictures.origins == tuple(number % counts[1] for number in range(8))
    own = pictures.normalise[list(pictures.origins)]
    changed = np.abs(pictures.anomalies.astype(int) - own).mean(axis=(1, 2, 3))
    half = np.abs(pictures.faded(0.5).astype(int) - own).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(half, changed / 2, atol=0.5)
    assert (changed > 0).all()


def test_labelled_defects_replace_synthetic_ones(tmp_path: Path) -> None:
    goods(tmp_path / "goods", 12)
    save(tmp_path / "defects" / "loose.png", picture(90))
    save(tmp_path / "defects" / "scratch" / "a.png", picture(91))
    save(tmp_path / "defects" / "missing" / "a.png", picture(92))
    result, kinds = labelled(tmp_path / "defects", Geometry.square((32, 32)))
    assert kinds == ("defects", "missing", "scratch")
    np.testing.assert_array_equal(result[2], resize(picture(91), (32, 32)))
    pictures = load_images(load_dataset(tmp_path / "goods"), 32, 8, 0, defects=tmp_path / "defects")
    np.testing.assert_array_equal(pictures.anomalies, result)
    assert pictures.kinds == kinds
    assert not len(pictures.faded(0.5))


@pytest.mark.parametrize(("make", "words"), [("nothing", "is not a folder"), ("folder", "holds no image")])
def test_defects_that_are_not_there(tmp_path: Path, make: str, words: str) -> None:
    folder = tmp_path / "defects"
    if make == "folder":
        (folder / "scratch").mkdir(parents=True)
    with pytest.raises(BadInput, match=f"--defects .*defects {words}"):
        labelled(folder, Geometry.square((32, 32)))


def test_labelled_defects_are_read_from_folders_below_and_never_from_normal_ones(tmp_path: Path) -> None:
    goods(tmp_path / "defects" / "scratch" / "deep", 2)
    goods(tmp_path / "defects", 1, 100)
    _, kinds = labelled(tmp_path / "defects", Geometry.square((32, 32)))
    assert sorted(kinds) == ["defects", "scratch/deep", "scratch/deep"]
    goods(tmp_path / "defects" / "OK", 1, 200)
    with pytest.raises(BadInput, match=r"holds normal images in .*OK: name a folder of defects alone"):
        labelled(tmp_path / "defects", Geometry.square((32, 32)))


def numbered(anomalies: int, kinds: int) -> ScoringImages:
    """Two black normal images and anomalies that are as bright as 4 (number + 1), of ``kinds`` kinds in turn."""
    normal = np.zeros((2, 8, 8, 3), np.uint8)
    bright = np.stack([np.full((8, 8, 3), 4 * (number + 1), np.uint8) for number in range(anomalies)])
    names = tuple(f"kind {number % kinds}" for number in range(anomalies))
    return ScoringImages(normal, normal, normal, bright, names, tuple(number % 2 for number in range(anomalies)))


def test_each_anomaly_is_shown_once_and_each_kind_at_every_strength() -> None:
    shown, kinds = numbered(12, 4).shown_once(100)
    marks = [float(kind.partition(" at ")[2] or 1) for kind in kinds]
    assert [kind.partition(" at ")[0] for kind in kinds] == [f"kind {number % 4}" for number in range(12)]
    assert shown[:, 0, 0, 0].tolist() == [round(4 * (number + 1) * mark) for number, mark in enumerate(marks)]
    assert sorted(kinds) == sorted(f"kind {kind}{mark}" for kind in range(4) for mark in ("", " at 0.5", " at 0.25"))


def test_fewer_anomalies_are_spread_over_all_and_labelled_defects_stay_whole() -> None:
    images = numbered(12, 1)
    assert [len(part) for part in images.shown_once(3)] == [3, 3]
    shown, kinds = replace(images, origins=()).shown_once(3)
    assert shown[:, 0, 0, 0].tolist() == [4, 24, 48]
    assert kinds == ("kind 0",) * 3
