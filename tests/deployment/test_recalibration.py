"""Recalibration of the tiny bundle with the real engine: what changes, what stays, what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_ad.bundle import Bundle, open_bundle, write_bundle
from edge_ad.camera.measure import HealthReference, measure_reference
from edge_ad.cli.app import main
from edge_ad.cli.recalibrate import _lines
from edge_ad.data.images import read_image, resize
from edge_ad.deployment.recalibration import recalibrate
from edge_ad.deployment.rethreshold import rethreshold
from edge_ad.errors import BadInput
from edge_ad.scoring import fuse
from tests.fixtures.tiny_bundle import Reference, make_tiny_bundle, tiny_contents, tiny_image

GOODS = 40


def write_goods(folder: Path, count: int = GOODS, light: float = 1.2, first: int = 7000) -> Path:
    """Normal images of another size than those of the tiny bundle, and brighter: 5 of 40 are NG by it."""
    folder.mkdir(parents=True)
    for index in range(count):
        image = (tiny_image(first + index, size=(96, 80)) * light).clip(0, 255).astype(np.uint8)
        assert cv2.imwrite(str(folder / f"{index:03d}.png"), image[:, :, ::-1])
    return folder


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_bundle(tmp_path_factory.mktemp("parent") / "tiny.edgead")


@pytest.fixture(scope="module")
def goods(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_goods(tmp_path_factory.mktemp("goods") / "good")


@pytest.fixture(scope="module")
def child(parent: Path, goods: Path) -> Bundle:
    return open_bundle(recalibrate(parent, goods, target_ng=0.01, target_warn=0.1, keep_colour=True))


def test_a_child_is_the_same_bit_for_bit_whatever_the_number_of_jobs(
    parent: Path, goods: Path, child: Bundle, tmp_path: Path
) -> None:
    for jobs in (1, 3):
        path = tmp_path / f"{jobs}.edgead"
        other = open_bundle(recalibrate(parent, goods, path, target_ng=0.01, target_warn=0.1, keep_colour=True, jobs=jobs))
        assert other.thresholds == child.thresholds
        assert other.report == child.report
        for split, raw in child.raw_scores.items():
            np.testing.assert_array_equal(other.raw_scores[split], raw)


def test_networks_weights_and_proof_images_stay(parent: Path, child: Bundle) -> None:
    old, new = open_bundle(parent).contents(), child.contents()
    assert child.parent == open_bundle(parent).sha256
    assert child.path == parent.parent / "tiny-recalibrated-1.edgead"
    assert new.graphs == old.graphs
    assert (new.name, new.preset, new.settings, new.image_size) == (old.name, old.preset, old.settings, old.image_size)
    np.testing.assert_array_equal(new.statistics.weight, old.statistics.weight)  # of defects that nobody can draw again
    np.testing.assert_array_equal(new.golden.images, old.golden.images)
    np.testing.assert_allclose(new.golden.raw, raw_of_images(child, new.golden.images), rtol=1e-4, atol=1e-4)


@pytest.mark.any_version
@pytest.mark.parametrize(("given", "expected"), [(None, "cost:5"), ("balanced", "balanced")])
def test_the_operating_point_of_the_bundle_stays_without_another(
    parent: Path, goods: Path, tmp_path: Path, given: str | None, expected: str
) -> None:
    contents = open_bundle(parent).contents()
    cost = replace(contents, thresholds=replace(contents.thresholds, operating_point="cost:5"))
    write_bundle(tmp_path / "cost.edgead", cost)
    thresholds = open_bundle(recalibrate(tmp_path / "cost.edgead", goods, operating_point=given)).thresholds
    assert thresholds.operating_point == expected
    assert [row.name for row in thresholds.found] == ["anomalies", "at 50 %", "at 25 %"]
    by_hand = open_bundle(rethreshold(tmp_path / "cost.edgead", 1.0, 2.0)).thresholds
    assert (by_hand.operating_point, by_hand.goods, by_hand.estimated_ng) == ("cost:5", 0, None)
    with pytest.raises(BadInput, match="must be promise, balanced or cost:K"):
        recalibrate(parent, goods, operating_point="cost:0")


def raw_of_images(bundle: Bundle, images: Sequence[NDArray[np.uint8]]) -> NDArray[Any]:
    """Raw scores by plain sessions, without the engines."""
    contents = bundle.contents()
    reference = Reference(dict(contents.graphs), contents.masks)
    return np.stack([reference.raw(i, bundle.statistics.centre, bundle.statistics.precision) for i in images])


def reference_raw(bundle: Bundle, files: Sequence[Path]) -> NDArray[Any]:
    return raw_of_images(bundle, [resize(read_image(file), bundle.image_size) for file in files])


def test_statistics_and_thresholds_come_from_all_images_each_scored_by_the_others(
    parent: Path, goods: Path, child: Bundle
) -> None:
    raw = child.raw_scores["threshold"]
    assert len(raw) == GOODS
    expected = reference_raw(open_bundle(parent), sorted(goods.iterdir()))
    for column in (0, 1, 2, 3):  # of networks, which stay; composition is refitted
        np.testing.assert_allclose(np.sort(raw[:, column]), np.sort(expected[:, column]), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(child.statistics.mean, raw.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(child.statistics.std, raw.std(axis=0, ddof=1), rtol=1e-4)
    others = [np.delete(raw, row, axis=0) for row in range(GOODS)]
    z = [(raw[row] - rest.mean(axis=0)) / rest.std(axis=0, ddof=1) for row, rest in enumerate(others)]
    scores = np.sort(np.stack(z) @ child.statistics.weight)
    # 40 normal images: NG at 1 % is unsupported, so the largest; WARN at 10 % is rank ceil(0.9 * 41) = 37
    assert child.thresholds.ng == pytest.approx(scores[-1], rel=1e-4)
    assert child.thresholds.warn == pytest.approx(scores[36], rel=1e-4)
    assert child.thresholds.supported_ng == pytest.approx(1 / 41)
    assert "40 normal images cannot promise less than 2.4 %" in child.report["recalibration"]["thresholds"]


def test_quantiles_come_from_the_maps_of_all_normal_images(parent: Path, goods: Path, child: Bundle) -> None:
    contents = open_bundle(parent).contents()
    reference = Reference(dict(contents.graphs), contents.masks)
    for row, name in enumerate(("map_structure", "map_local", "map_global")):
        images = (resize(read_image(file), contents.image_size) for file in sorted(goods.iterdir()))
        cells = np.concatenate([reference.tensors(image)[name].ravel() for image in images])
        expected = np.quantile(cells, [0.9, 0.995])
        np.testing.assert_allclose(child.statistics.quantiles[row], expected, rtol=1e-4, atol=1e-5)


def test_the_new_light_is_good_again(parent: Path, tmp_path: Path) -> None:
    """Normal images far brighter than before score high on the old bundle, and as usual on the new one."""
    bright = write_goods(tmp_path / "bright", light=1.7)
    path = recalibrate(parent, bright, tmp_path / "bright.edgead", target_ng=0.05, target_warn=0.1, yes=True)
    files = sorted(write_goods(tmp_path / "unseen", first=9000, light=1.7).iterdir())
    unseen = [resize(read_image(file), open_bundle(parent).image_size) for file in files]
    reference = Reference(dict(open_bundle(parent).contents().graphs), open_bundle(parent).masks)
    rejected = []
    for bundle in (open_bundle(parent), open_bundle(path)):
        statistics = bundle.statistics
        raw = np.stack([reference.raw(image, statistics.centre, statistics.precision) for image in unseen])
        verdicts = [bundle.thresholds.verdict(float(score)) for score in fuse(raw, statistics)[1]]
        rejected.append(verdicts.count("NG"))
    assert rejected[0] >= 36
    assert rejected[1] <= 8


def test_a_lot_that_has_not_moved_leaves_what_describes_it_and_joins_the_images_that_set_thresholds(
    parent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dimmer, out = write_goods(tmp_path / "good", 12, light=0.8), tmp_path / "c.edgead"
    assert main(["recalibrate", str(parent), str(dimmer), "--out", str(out)]) == 0
    assert "12 new and 60 known normal images set statistics and thresholds" in capsys.readouterr().out
    old, child = open_bundle(parent), open_bundle(out)
    for name in ("centre", "precision", "weight", "quantiles"):
        np.testing.assert_array_equal(getattr(child.statistics, name), getattr(old.statistics, name))
    assert (child.report["recalibration"]["moved"], child.report["recalibration"]["shares"]) == (False, {})
    known = np.concatenate([old.raw_scores["normalise"], old.raw_scores["threshold"]])
    raw = child.raw_scores["threshold"]
    np.testing.assert_array_equal(raw[:60], known)
    assert np.sort(raw[60:, 0]) == pytest.approx(np.sort(reference_raw(old, sorted(dimmer.iterdir()))[:, 0]), rel=1e-4)
    np.testing.assert_allclose(child.statistics.mean, raw.mean(axis=0), rtol=1e-5)
    assert child.thresholds.goods == 72
    np.testing.assert_array_equal(child.raw_scores["synthetic"], old.raw_scores["synthetic"])  # drawn for the same constants
    again = open_bundle(recalibrate(out, dimmer, tmp_path / "d.edgead"))
    assert again.thresholds.goods == 72, "images that are known already count once"
    forced = open_bundle(recalibrate(parent, dimmer, tmp_path / "e.edgead", forget=True))
    assert (forced.report["recalibration"]["moved"], forced.thresholds.goods) == (True, 12)


def test_thresholds_within_a_tolerance_stay_for_a_lot_that_has_not_moved(parent: Path, tmp_path: Path) -> None:
    contents = open_bundle(parent).contents()
    wide = replace(contents.statistics, std=2 * contents.statistics.std)  # as of disturbed images
    contents = replace(contents, statistics=wide, report={"tolerance": {"light": 0.1}})
    write_bundle(tmp_path / "b.edgead", contents)
    dimmer = write_goods(tmp_path / "good", 12, light=0.8)
    targets = contents.thresholds.target_ng, contents.thresholds.target_warn
    child = open_bundle(
        recalibrate(tmp_path / "b.edgead", dimmer, tmp_path / "c.edgead", targets[0], target_warn=targets[1])
    )
    assert child.thresholds == contents.thresholds
    assert child.report["recalibration"]["kept"]
    np.testing.assert_array_equal(child.statistics.mean, contents.statistics.mean)
    other = open_bundle(recalibrate(tmp_path / "b.edgead", dimmer, tmp_path / "d.edgead", target_ng=0.03))
    assert (other.thresholds.target_ng, other.thresholds.goods) == (0.03, 72)
    # Thresholds and statistics are a pair, of the same images.
    np.testing.assert_allclose(other.statistics.std, other.raw_scores["threshold"].std(axis=0, ddof=1), rtol=0.2)
    again = open_bundle(recalibrate(child.path, dimmer, tmp_path / "e.edgead", targets[0], target_warn=targets[1]))
    assert again.thresholds == contents.thresholds, "a lot that changed nothing before still promises the tolerance"
    by_hand = rethreshold(tmp_path / "b.edgead", 2.0, 3.0)
    last = open_bundle(recalibrate(by_hand, dimmer, tmp_path / "f.edgead", targets[0], target_warn=targets[1]))
    assert last.thresholds.goods == 72


@pytest.mark.any_version
def test_recalibration_is_deterministic_and_numbered(parent: Path, goods: Path, child: Bundle, tmp_path: Path) -> None:
    paths = [recalibrate(parent, goods, tmp_path) for _ in range(2)]
    assert [path.name for path in paths] == ["tiny-recalibrated-1.edgead", "tiny-recalibrated-2.edgead"]
    one, two = (open_bundle(path).manifest for path in paths)
    assert one["members"] == two["members"]
    grandchild = open_bundle(recalibrate(child.path, goods, tmp_path / "x.edgead"))
    assert grandchild.parent == child.sha256
    other = open_bundle(recalibrate(parent, goods, tmp_path / "y.edgead", seed=1))
    assert other.thresholds != open_bundle(paths[0]).thresholds


def test_dropped_branches_are_measured_too(goods: Path, tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "b.edgead", weight=(0, 0, 0.5, 0.5, 0))
    child = open_bundle(recalibrate(bundle, goods, tmp_path / "c.edgead"))
    assert child.statistics.active == ("local", "global")
    assert (child.raw_scores["normalise"].std(axis=0) > 0).all()


def test_images_that_cannot_be_read_are_named_skipped_and_counted(parent: Path, tmp_path: Path) -> None:
    folder = write_goods(tmp_path / "good", 14)
    whole = (folder / "003.png").read_bytes()
    (folder / "003.png").write_bytes(whole[: len(whole) // 2])
    (folder / "007.png").write_bytes(b"no picture")
    told = open_bundle(recalibrate(parent, folder, tmp_path / "c.edgead", keep_colour=True)).report["recalibration"]
    assert sorted(entry["file"] for entry in told["skipped"]) == ["003.png", "007.png"]
    assert told["goods"] == {"normalise": 12, "threshold": 12}


def test_refusals(parent: Path, goods: Path, tmp_path: Path) -> None:
    few = write_goods(tmp_path / "few", 9)
    (tmp_path / "empty").mkdir()
    table: list[tuple[tuple[Any, ...], str]] = [
        ((parent, few), "holds 9 good images"),
        ((parent, tmp_path / "empty"), "no images"),
        ((parent, tmp_path / "none"), "none"),
        ((tmp_path / "none.edgead", goods), "cannot read the bundle"),
        ((parent, goods, parent), "never overwritten"),
        ((parent, goods, tmp_path / "x.zip"), "must end in .edgead"),
        ((parent, goods, None, 0.0), "0 < NG <= WARN < 1"),
        ((parent, goods, None, 0.2), "0 < NG <= WARN < 1"),
    ]
    for arguments, told in table:
        with pytest.raises(BadInput) as caught:
            recalibrate(*arguments)
        assert told in str(caught.value)
    assert not list(tmp_path.glob("*.edgead"))


def test_ten_goods_are_enough(parent: Path, tmp_path: Path) -> None:
    child = open_bundle(recalibrate(parent, write_goods(tmp_path / "good", 10), tmp_path / "c.edgead", keep_colour=True))
    assert child.thresholds.goods == 10


def test_progress_counts_to_the_end(parent: Path, goods: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    recalibrate(parent, goods, tmp_path / "c.edgead", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(count, GOODS) for count in range(1, GOODS + 1)]


def test_the_command(parent: Path, goods: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new.edgead"
    targets = ["--target-ng", "0.05", "--target-warn", "0.1"]
    assert main(["recalibrate", str(parent), str(goods), "--out", str(out), *targets]) == 0
    told = capsys.readouterr().out
    assert "40 normal images: 40 learned" in told
    assert "refitted; the new images count: composition " in told
    assert "of 40 normal images would be rejected" in told
    assert told.splitlines()[-1] == str(out)
    assert open_bundle(out).thresholds.target_ng == 0.05
    assert main(["recalibrate", str(parent), str(tmp_path / "none")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "Traceback" not in error


@pytest.mark.parametrize(("lost", "warned"), [(0, False), (2, False), (3, True)])
def test_a_lot_with_too_many_parts_that_are_not_located_is_warned_of(lost: int, warned: bool) -> None:
    """One in ten of 20 may fail: on the line each has no verdict."""
    report: dict[str, Any] = {"goods": {"threshold": 50 - lost}, "known": 30, "moved": True, "kept": False, "learned": 20 - lost}
    report |= {"shares": {}, "skipped": [], "unlocated": [{"file": "a.png", "reason": "no part"}] * lost}
    text = "\n".join(_lines(report))
    assert (f"{lost} images without a part" in text) is (lost > 0)
    assert (f"warning: {lost} of 20 parts of this lot are not located" in text) is warned
    assert ("train again with these images, or with `--geometry none`" in text) is warned


def test_a_report_of_the_training_is_kept(goods: Path, tmp_path: Path) -> None:
    write_bundle(tmp_path / "b.edgead", replace(tiny_contents(), report={"steps": 7}))
    child = open_bundle(recalibrate(tmp_path / "b.edgead", goods, tmp_path / "c.edgead"))
    assert child.report["steps"] == 7


def test_the_camera_is_compared_with_the_new_goods(goods: Path, tmp_path: Path) -> None:
    old = {"health_reference": {"of": "the old normal images"}, "camera": {"of": "the old camera"}}
    write_bundle(tmp_path / "b.edgead", replace(tiny_contents(), report=old))
    child = open_bundle(recalibrate(tmp_path / "b.edgead", goods, tmp_path / "c.edgead"))
    images = [resize(read_image(path), child.image_size) for path in sorted(goods.iterdir())]
    expected = measure_reference(images)
    found = HealthReference.from_json(child.report["health_reference"])
    assert (found.count, found.size) == (len(images), child.image_size)
    assert found.median_low == pytest.approx(expected.median_low)
    assert child.report["camera"] is None


def test_images_of_another_depth_than_the_training_are_told(
    parent: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The values of a 12-bit camera in 16-bit files are nearly black to a bundle that was trained on 8-bit files."""
    (tmp_path / "deep").mkdir()
    for index in range(12):
        assert cv2.imwrite(str(tmp_path / "deep" / f"{index}.png"), tiny_image(index).astype(np.uint16) * 16)
    recalibrate(parent, tmp_path / "deep", tmp_path / "child.edgead", yes=True)
    assert any("no value of the 16-bit images" in text and "above 4095" in text for text in caplog.messages)


def test_without_a_bundle_the_newest_one_is_taken(
    goods: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    made = make_tiny_bundle(tmp_path / "runs" / "tiny.edgead")
    assert main(["recalibrate", str(goods)]) == 0
    assert f"parent {open_bundle(made).sha256}" in capsys.readouterr().out
    assert (tmp_path / "runs" / "tiny-recalibrated-1.edgead").is_file()
