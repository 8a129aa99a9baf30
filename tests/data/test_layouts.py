"""Layouts: what is found in each, and one sentence for each folder that cannot be used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edge_ad.data.layouts import Saturation, find_categories, load_dataset, load_test
from edge_ad.errors import BadInput
from tests.data.folders import DEFECTS, goods, loco, mvtec, picture, save


def _all(split: object) -> list[Path]:
    return [path for part in ("fit", "normalise", "threshold") for path in getattr(split, part)]


def test_a_flat_folder_is_split(tmp_path: Path) -> None:
    paths = goods(tmp_path / "caps", 40, suffix=".jpg")
    found = load_dataset(tmp_path / "caps")
    assert (found.name, found.layout, found.test, found.skipped) == ("caps", "flat", (), ())
    assert sorted(_all(found.goods)) == sorted(path.resolve() for path in paths)
    assert (len(found.goods.fit), len(found.goods.normalise), len(found.goods.threshold)) == (28, 6, 6)
    assert found.sizes == {"60x40": 40}


def test_a_folder_named_good_inside_is_found(tmp_path: Path) -> None:
    goods(tmp_path / "good", 12)
    assert load_dataset(tmp_path).layout == "flat"


def test_mvtec_defects_are_structural(tmp_path: Path) -> None:
    found = load_dataset(mvtec(tmp_path / "bottle"))
    assert found.layout == "mvtec"
    assert len(_all(found.goods)) == 30
    kinds = [(item.defect, item.kind, len(item.masks)) for item in found.test]
    assert kinds == [("broken", "structural", 1)] * 3 + [("dirt", "structural", 1)] * 3 + [("good", "good", 0)] * 4
    assert found.test[0].masks[0].name == "000_mask.png"
    assert found.saturation == {}


def test_goods_without_a_test_folder_are_enough(tmp_path: Path) -> None:
    goods(tmp_path / "train" / "good", 20)
    found = load_dataset(tmp_path)
    assert (found.layout, found.test, len(_all(found.goods))) == ("mvtec", (), 20)


def test_loco_takes_its_validation_goods_for_the_threshold(tmp_path: Path) -> None:
    root = loco(tmp_path / "juice")
    found = load_dataset(root)
    assert found.layout == "loco"
    assert all(path.parent.parent.name == "validation" for path in found.goods.threshold)
    assert (len(found.goods.fit), len(found.goods.normalise), len(found.goods.threshold)) == (26, 4, 24)
    assert [item.kind for item in found.test] == ["good"] * 4 + ["logical"] * 3 + ["structural"] * 3
    assert found.saturation == {255: Saturation(1.0, True)}
    assert found.sizes == {"60x40": 54}


def test_few_validation_goods_are_pooled_with_the_training_goods(tmp_path: Path) -> None:
    found = load_dataset(loco(tmp_path / "juice", train=30, validation=19))
    assert (len(found.goods.fit), len(found.goods.normalise), len(found.goods.threshold)) == (35, 7, 7)


def test_several_channels_of_one_image(tmp_path: Path) -> None:
    root = loco(tmp_path / "pins")
    save(root / "ground_truth" / "logical_anomalies" / "001" / "001.png", picture(0)[:, :, 0])
    item = next(item for item in load_dataset(root).test if item.kind == "logical" and item.path.stem == "001")
    assert [path.name for path in item.masks] == ["000.png", "001.png"]


def test_near_duplicates_stay_on_one_side(tmp_path: Path) -> None:
    paths = goods(tmp_path, 40)
    for path in paths[:6]:
        shutil.copy(path, tmp_path / f"copy_of_{path.name}")
    for seed in range(5):
        split = load_dataset(tmp_path, seed).goods
        for path in paths[:6]:
            pair = {path.resolve(), (tmp_path / f"copy_of_{path.name}").resolve()}
            assert [len(pair & set(part)) for part in (split.fit, split.normalise, split.threshold)].count(0) == 2


def test_broken_goods_are_named_skipped_and_counted(tmp_path: Path) -> None:
    paths = goods(tmp_path, 20, suffix=".jpg")
    paths[7].write_bytes(paths[7].read_bytes()[:200])
    paths[11].write_text("no image")
    found = load_dataset(tmp_path)
    assert [path.name for path, _ in found.skipped] == ["007.jpg", "011.jpg"]
    assert "truncated" in found.skipped[0][1]
    assert len(_all(found.goods)) == 18
    assert found.sizes == {"60x40": 18}


def test_mixed_sizes_are_accepted_and_stated(tmp_path: Path) -> None:
    goods(tmp_path, 12)
    save(tmp_path / "wide.png", picture(99, (40, 90)))
    assert load_dataset(tmp_path).sizes == {"60x40": 12, "90x40": 1}


def _empty(root: Path) -> Path:
    return root


def _missing(root: Path) -> Path:
    return root / "gone"


def _file(root: Path) -> Path:
    return save(root / "one.png", picture(0))


def _nine(root: Path) -> Path:
    goods(root / "few", 9)
    return root / "few"


def _nine_readable(root: Path) -> Path:
    goods(root / "few", 12)
    for index in range(3):
        (root / "few" / f"{index:03}.png").write_bytes(b"")
    return root / "few"


def _test_only(root: Path) -> Path:
    shutil.rmtree(mvtec(root / "set") / "train")
    return root / "set"


def _anomaly_folder(root: Path) -> Path:
    goods(root / "structural_anomalies", 20)
    return root / "structural_anomalies"


def _defect_folder(root: Path) -> Path:
    return mvtec(root / "set") / "test" / "broken"


def _anomaly_folders(root: Path) -> Path:
    goods(root / "logical_anomalies", 20)
    goods(root / "ground_truth", 20)
    return root


def _empty_train(root: Path) -> Path:
    (root / "train" / "good").mkdir(parents=True)
    return root


def _categories(root: Path) -> Path:
    mvtec(root / "bottle")
    mvtec(root / "cable")
    return root


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (_empty, "holds no images: name a folder of good images"),
        (_missing, "gone does not exist: name a folder"),
        (_file, r"one\.png is a file: name a folder"),
        (_nine, "holds 9 good images; at least 10 are needed"),
        (_nine_readable, r"holds 9 good images \(3 more cannot be read\); at least 10"),
        (_test_only, "set holds anomalies only, and training needs good parts"),
        (_anomaly_folder, "structural_anomalies holds anomalies only"),
        (_defect_folder, "broken holds anomalies only"),
        (_anomaly_folders, "holds anomalies only"),
        (_empty_train, "good holds no images"),
        (_categories, "holds the categories bottle, cable: name one of them"),
    ],
)
def test_folders_that_cannot_be_trained_on(tmp_path: Path, make: object, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        load_dataset(make(tmp_path))  # type: ignore[operator]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[1]",
        "7",
        json.dumps([{**DEFECTS[0], "pixel_value": 0}]),
        json.dumps([{**DEFECTS[0], "saturation_threshold": 0}]),
        json.dumps([{**DEFECTS[0], "saturation_threshold": 1.5}]),
        json.dumps([{"pixel_value": 3}]),
    ],
)
def test_a_wrong_defects_config_is_named(tmp_path: Path, text: str) -> None:
    root = loco(tmp_path / "juice")
    (root / "defects_config.json").write_text(text)
    with pytest.raises(BadInput, match=r"defects_config\.json .*repair or remove it"):
        load_dataset(root)


def test_a_test_set_needs_no_training_goods(tmp_path: Path) -> None:
    root = loco(tmp_path / "juice")
    shutil.rmtree(root / "train")
    found = load_test(root)
    assert found.layout == "loco"
    assert len(found.test) == 10
    assert found.goods.fit == ()


def test_a_flat_folder_is_a_test_set_of_goods(tmp_path: Path) -> None:
    goods(tmp_path, 3)
    assert [item.kind for item in load_test(tmp_path).test] == ["good"] * 3


def test_a_missing_mask_is_named(tmp_path: Path) -> None:
    root = loco(tmp_path / "juice")
    shutil.rmtree(root / "ground_truth" / "logical_anomalies" / "001")
    assert load_dataset(root).has_masks
    with pytest.raises(BadInput, match=r"001\.png has no mask under .*ground_truth \(1 such images\)"):
        load_test(root)


def test_a_set_without_ground_truth_needs_no_masks(tmp_path: Path) -> None:
    root = mvtec(tmp_path / "bottle")
    shutil.rmtree(root / "ground_truth")
    assert not load_test(root).has_masks


def test_an_empty_test_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "test" / "good").mkdir(parents=True)
    with pytest.raises(BadInput, match="holds no images to evaluate"):
        load_test(tmp_path)


def test_categories_are_found(tmp_path: Path) -> None:
    mvtec(tmp_path / "cable")
    mvtec(tmp_path / "bottle")
    goods(tmp_path / "notes", 2)
    assert [path.name for path in find_categories(tmp_path)] == ["bottle", "cable"]
