"""Layouts: what is found in each, and one sentence for each folder that cannot be used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from edge_ad.data.datasets import Saturation, find_categories, load_dataset, load_test
from edge_ad.data.folders import FolderUse, folders_table
from edge_ad.data.images import read_image
from edge_ad.errors import BadInput
from tests.data.folders import DEFECTS, goods, loco, mvtec, picture, save


def _all(split: object) -> list[Path]:
    return [path for part in ("fit", "normalise", "threshold") for path in getattr(split, part)]


def test_a_flat_folder_is_split(tmp_path: Path) -> None:
    paths = goods(tmp_path / "caps", 40, suffix=".jpg")
    result = load_dataset(tmp_path / "caps")
    assert (result.name, result.layout, result.test, result.skipped) == ("caps", "flat", (), ())
    assert sorted(_all(result.normal)) == sorted(path.resolve() for path in paths)
    assert (len(result.normal.fit), len(result.normal.normalise), len(result.normal.threshold)) == (28, 6, 6)
    assert result.sizes == {"60x40": 40}


def test_a_folder_named_good_inside_is_found(tmp_path: Path) -> None:
    goods(tmp_path / "good", 12)
    assert load_dataset(tmp_path).layout == "flat"


def test_mvtec_defects_are_structural(tmp_path: Path) -> None:
    result = load_dataset(mvtec(tmp_path / "bottle"))
    assert result.layout == "mvtec"
    assert len(_all(result.normal)) == 30
    kinds = [(item.defect, item.kind, len(item.masks)) for item in result.test]
    assert kinds == [("broken", "structural", 1)] * 3 + [("dirt", "structural", 1)] * 3 + [("good", "good", 0)] * 4
    assert result.test[0].masks[0].name == "000_mask.png"
    assert result.saturation == {}


def test_goods_without_a_test_folder_are_enough(tmp_path: Path) -> None:
    goods(tmp_path / "train" / "good", 20)
    result = load_dataset(tmp_path)
    assert (result.layout, result.test, len(_all(result.normal))) == ("mvtec", (), 20)


def test_loco_takes_its_validation_goods_for_the_threshold(tmp_path: Path) -> None:
    root = loco(tmp_path / "juice")
    result = load_dataset(root)
    assert result.layout == "loco"
    assert all(path.parent.parent.name == "validation" for path in result.normal.threshold)
    assert (len(result.normal.fit), len(result.normal.normalise), len(result.normal.threshold)) == (26, 4, 24)
    assert [item.kind for item in result.test] == ["good"] * 4 + ["logical"] * 3 + ["structural"] * 3
    assert result.saturation == {255: Saturation(1.0, True)}
    assert result.sizes == {"60x40": 54}


def test_few_validation_goods_are_pooled_with_the_training_goods(tmp_path: Path) -> None:
    result = load_dataset(loco(tmp_path / "juice", train=30, validation=19))
    assert (len(result.normal.fit), len(result.normal.normalise), len(result.normal.threshold)) == (35, 7, 7)


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
        split = load_dataset(tmp_path, seed).normal
        for path in paths[:6]:
            pair = {path.resolve(), (tmp_path / f"copy_of_{path.name}").resolve()}
            assert [len(pair & set(part)) for part in (split.fit, split.normalise, split.threshold)].count(0) == 2


def test_broken_goods_are_named_skipped_and_counted(tmp_path: Path) -> None:
    paths = goods(tmp_path, 20, suffix=".jpg")
    paths[7].write_bytes(paths[7].read_bytes()[:200])
    paths[11].write_text("no image")
    result = load_dataset(tmp_path)
    assert [path.name for path, _ in result.skipped] == ["007.jpg", "011.jpg"]
    assert "truncated" in result.skipped[0][1]
    assert len(_all(result.normal)) == 18
    assert result.sizes == {"60x40": 18}


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


def _images_beside_good(root: Path) -> Path:
    goods(root / "caps", 3)
    goods(root / "caps" / "good", 12, 100)
    return root / "caps"


def _days(root: Path) -> Path:
    goods(root / "caps" / "day1", 12)
    goods(root / "caps" / "day2", 12, 100)
    return root / "caps"


def _train_without_good(root: Path) -> Path:
    goods(root / "caps" / "train", 12)
    return root / "caps"


def _without_structure(root: Path) -> Path:
    for index in range(12):  # all grey, each of another brightness
        save(root / "grey" / f"{index:03}.png", np.full((64, 64, 3), 100 + index, np.uint8))
    return root / "grey"


def _copies(root: Path) -> Path:
    for index in range(12):
        save(root / "copies" / f"{index:03}.png", picture(1))
    return root / "copies"


def _tiny(root: Path) -> Path:
    for index in range(12):
        save(root / "tiny" / f"{index:03}.png", picture(index, (8, 8)))
    return root / "tiny"


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (_empty, "holds no images: name a folder of good images"),
        (_missing, "gone does not exist: name a folder"),
        (_file, r"one\.png is a file: name a folder"),
        (_nine, "holds 9 good images; at least 10 are needed"),
        (_nine_readable, r"holds 9 good images \(3 more cannot be used; the first: .*000\.png cannot be read: it is empty"),
        (_test_only, "set holds anomalies only, and training needs good parts"),
        (_anomaly_folder, "structural_anomalies holds anomalies only"),
        (_defect_folder, "broken holds anomalies only"),
        (_anomaly_folders, "holds anomalies only"),
        (_empty_train, "good holds no images"),
        (_categories, "holds the categories bottle, cable: name one of them"),
        (_images_beside_good, r"holds 3 images and the folder good with 12: name .*good to train on that folder"),
        (_days, r"holds images in the folders day1, day2 only: name one of them, or put normal images into .*good"),
        (_train_without_good, r"train has no folder good: put the normal images into .*good"),
        (_without_structure, r"holds 0 good images \(12 more cannot be used; .*shows nothing but one brightness"),
        (_copies, "holds 12 good images, but only 1 that differ from each other; at least 10 are needed"),
        (_tiny, r"holds 0 good images \(12 more .*000\.png is 8 x 8 pixels; at least 32 x 32 are needed"),
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
    result = load_test(root)
    assert result.layout == "loco"
    assert len(result.test) == 10
    assert result.normal.fit == ()


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


def test_an_empty_test_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "test" / "good").mkdir(parents=True)
    with pytest.raises(BadInput, match="holds no images to evaluate"):
        load_test(tmp_path)


def test_categories_are_found(tmp_path: Path) -> None:
    mvtec(tmp_path / "cable")
    mvtec(tmp_path / "bottle")
    goods(tmp_path / "notes", 2)
    assert [path.name for path in find_categories(tmp_path)] == ["bottle", "cable"]


@pytest.mark.parametrize("name", ["good", "Good", "GOOD", "ok", "OK", "normal", "Normal", "pass"])
def test_every_usual_name_of_a_normal_folder_is_recognised(tmp_path: Path, name: str) -> None:
    root = tmp_path / "caps"
    goods(root / "train" / name, 12)
    goods(root / "test" / name, 3, 100)
    goods(root / "test" / "ko", 2, 200)
    assert len(_all(load_dataset(root).normal)) == 12
    assert sorted(item.kind for item in load_test(root).test) == ["good"] * 3 + ["structural"] * 2
    assert find_categories(tmp_path) == [root]


def test_folders_below_a_test_folder_are_read_with_their_masks(tmp_path: Path) -> None:
    goods(tmp_path / "test" / "good" / "monday", 2)
    goods(tmp_path / "test" / "bad" / "scratch", 1, 100)
    goods(tmp_path / "test" / "bad", 1, 200)
    save(tmp_path / "ground_truth" / "bad" / "scratch" / "000_mask.png", picture(3)[:, :, 0])
    result = load_dataset_test(tmp_path)
    assert result == [("bad", "structural", 0), ("bad/scratch", "structural", 1), ("good/monday", "good", 0)]


def load_dataset_test(root: Path) -> list[tuple[str, str, int]]:
    """Return defect, kind and number of masks of each test image, without the check that every anomaly has one."""
    from edge_ad.data.datasets import _test_items

    return sorted({(item.defect, item.kind, len(item.masks)) for item in _test_items(root)})


def test_a_good_and_a_bad_folder_side_by_side_are_a_test_set(tmp_path: Path) -> None:
    goods(tmp_path / "good", 12)
    goods(tmp_path / "bad", 3, 100)
    assert [item.kind for item in load_test(tmp_path).test] == ["structural"] * 3 + ["good"] * 12
    assert len(_all(load_dataset(tmp_path).normal)) == 12


def test_folders_below_the_normal_images_are_read(tmp_path: Path) -> None:
    goods(tmp_path / "good" / "monday", 8)
    goods(tmp_path / "good" / "tuesday", 8, 100)
    assert len(_all(load_dataset(tmp_path).normal)) == 16


def test_the_table_states_what_was_read_from_which_folder_and_what_was_not(tmp_path: Path) -> None:
    root = mvtec(tmp_path / "bottle", train=12, good=2, defects=("broken",))
    goods(root / "test", 1, 900)
    goods(root / "notes" / "pictures", 2, 950)
    result = load_dataset(root).folders
    assert result == (
        FolderUse("train/good", 12, "normal images for training"),
        FolderUse("test/broken", 3, "test: structural anomalies"),
        FolderUse("test/good", 2, "test: normal images"),
        FolderUse("notes/pictures", 2, "left out"),
        FolderUse("test", 1, "left out"),
    )
    assert load_test(root).folders[-1] == FolderUse("test", 1, "left out: no sub-folder says whether they are good")
    assert folders_table(result).splitlines()[0] == "  train/good      12  normal images for training"


@pytest.mark.parametrize("name", ["test/station1", "test/line"])
def test_a_folder_below_one_named_test_may_hold_goods(tmp_path: Path, name: str) -> None:
    goods(tmp_path / name, 12)
    assert load_dataset(tmp_path / name).layout == "flat"


def test_images_that_show_nothing_are_left_out_by_name(tmp_path: Path) -> None:
    goods(tmp_path, 12)
    save(tmp_path / "covered.png", np.zeros((40, 60, 3), np.uint8))
    result = load_dataset(tmp_path)
    assert [path.name for path, _ in result.skipped] == ["covered.png"]
    assert len(_all(result.normal)) == 12


def test_validation_images_that_do_not_decode_are_left_out(tmp_path: Path) -> None:
    root = loco(tmp_path / "juice")
    damaged = save(root / "validation" / "good" / "900.jpg", picture(900))
    data = damaged.read_bytes()
    third = len(data) // 3
    damaged.write_bytes(data[:third] + bytes(third) + data[2 * third :])
    result = load_dataset(root)
    assert [path.name for path, _ in result.skipped] == ["900.jpg"]
    assert len(result.normal.threshold) == 24


@pytest.mark.parametrize("name", ["001.png", "001_mask.png", "001.bmp"])
def test_a_mask_is_found_by_the_name_of_its_image(tmp_path: Path, name: str) -> None:
    root = mvtec(tmp_path / "bottle")
    (root / "ground_truth" / "broken" / "001_mask.png").unlink()
    save(root / "ground_truth" / "broken" / name, picture(3)[:, :, 0])
    assert [item.masks[0].name for item in load_test(root).test if item.defect == "broken"][1] == name


def test_a_missing_mask_is_named_as_the_layout_wants_it(tmp_path: Path) -> None:
    root = mvtec(tmp_path / "bottle")
    (root / "ground_truth" / "broken" / "001_mask.png").unlink()
    with pytest.raises(BadInput, match=r"add ground_truth/broken/001_mask\.png, or take"):
        load_test(root)


def test_12_bit_values_are_scaled_everywhere(tmp_path: Path) -> None:
    for index in range(12):
        deep = picture(index)[:, :, 0].astype(np.uint16) * 16  # a Mono12 camera stored in 16 bits
        save(tmp_path / "train" / "good" / f"{index:03}.png", deep)
        save(tmp_path / "test" / "good" / f"{index:03}.png", deep)
    result = load_dataset(tmp_path)
    assert result.bits == 12
    assert {item.bits for item in load_test(tmp_path, 12).test} == {12}
    assert (read_image(result.normal.fit[0], result.bits)[:, :, 0] == picture(int(result.normal.fit[0].stem))[:, :, 0]).all()


@pytest.mark.parametrize(("name", "kind"), [("logical", "logical"), ("Logical_anomalies", "logical"), ("illogical", "structural")])
def test_a_test_folder_that_begins_with_logical_holds_logical_anomalies(tmp_path: Path, name: str, kind: str) -> None:
    goods(tmp_path / "test" / name, 1)
    assert [item.kind for item in load_test(tmp_path).test] == [kind]


@pytest.mark.parametrize(
    ("folder", "inner", "sentence"),
    [
        ("test/line1", "good", "good is named as normal images, but .*line1 stands for anomalies"),
        ("test/bad", "a/OK", "OK is named as normal images, but .*bad stands for anomalies"),
        ("test/good", "defects/a", "a is named as anomalies, but .*good stands for normal images"),
    ],
)
def test_a_folder_that_contradicts_the_one_above_is_refused(tmp_path: Path, folder: str, inner: str, sentence: str) -> None:
    """Good parts of test/line1/good counted as anomalies."""
    goods(tmp_path / folder / inner, 2)
    with pytest.raises(BadInput, match=sentence):
        load_test(tmp_path)


@pytest.mark.parametrize("folder", ["good/bad", "train/good/a/ng"])
def test_no_anomaly_inside_a_folder_of_normal_images_is_trained_on(tmp_path: Path, folder: str) -> None:
    goods(tmp_path / folder, 12)
    with pytest.raises(BadInput, match="is named as anomalies, but .*good stands for normal images"):
        load_dataset(tmp_path)


def test_the_table_counts_what_was_read_and_what_was_not(tmp_path: Path) -> None:
    goods(tmp_path, 12)
    (tmp_path / "900.png").write_bytes(b"no image")
    save(tmp_path / "901.png", np.zeros((40, 60, 3), np.uint8))
    assert load_dataset(tmp_path).folders == (
        FolderUse(".", 12, "normal images for training"),
        FolderUse(".", 2, "left out: cannot be used"),
    )


@pytest.mark.parametrize(("bits", "warned"), [(16, True), (14, True), (12, False)])
def test_images_of_another_depth_than_the_bundle_reads_are_reported(
    tmp_path: Path, bits: int, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path / "test" / "good" / "a.png", picture(1)[:, :, 0].astype(np.uint16) * 16)
    load_test(tmp_path, bits)
    assert any(f"above 4095, but the bundle reads {bits} bits" in text for text in caplog.messages) is warned
