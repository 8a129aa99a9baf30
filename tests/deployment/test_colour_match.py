"""A lot in other light is brought back to the light of the training, where that makes it look normal, and only then."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_ad.bundle import Bundle, open_bundle, write_bundle
from edge_ad.cli.app import main
from edge_ad.config import Config
from edge_ad.deployment.colour_match import REPORT_KEY, colour_report
from edge_ad.deployment.one_file import write_one_file
from edge_ad.deployment.recalibration import recalibrate
from edge_ad.engines.pipeline import Pipeline
from edge_ad.errors import BadInput
from edge_ad.geometry.geometry import Prepared
from edge_ad.inspection.improvement import judge_image, judged_by
from edge_ad.scoring import fuse
from tests.fixtures.tiny_bundle import make_tiny_bundle, tiny_contents, tiny_image

COUNT = 30
LIGHT = (1.25, 1.1, 0.85)  # what the lot has of red, green and blue
BACK = tuple(1 / value for value in LIGHT)


def lit(image: NDArray[np.uint8], light: tuple[float, float, float] = LIGHT) -> NDArray[np.uint8]:
    return np.rint(image * np.array(light)).clip(0, 255).astype(np.uint8)


def write_lot(folder: Path, light: tuple[float, float, float] = LIGHT, first: int = 7000, count: int = COUNT) -> Path:
    folder.mkdir(parents=True)
    for index in range(count):
        assert cv2.imwrite(str(folder / f"{index:03d}.png"), lit(tiny_image(first + index), light)[:, :, ::-1])
    return folder


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("parent") / "tiny.edgead"
    report = colour_report(np.stack([tiny_image(5000 + number) for number in range(40)]), None)
    write_bundle(path, replace(tiny_contents(), report=report))
    return open_bundle(path)


@pytest.fixture(scope="module")
def goods(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lot(tmp_path_factory.mktemp("lot") / "good")


@pytest.fixture(scope="module")
def child(parent: Bundle, goods: Path) -> Bundle:
    return open_bundle(recalibrate(parent.path, goods, yes=True))


def scores_of(bundle: Bundle, images: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
    with Pipeline(bundle, all_branches=True) as pipeline:
        prepared = [bundle.geometry.prepare(image) for image in images]
        raw = np.stack([pipeline.infer(one.image).raw for one in prepared if isinstance(one, Prepared)])
    return np.asarray(fuse(raw, bundle.statistics)[1], np.float32)


def test_the_gains_of_the_lot_are_found_and_an_unseen_part_in_its_light_scores_as_in_the_old_light(
    parent: Bundle, child: Bundle
) -> None:
    gains = child.geometry.gains
    assert gains is not None
    np.testing.assert_allclose(gains, BACK, rtol=0.06)  # what the levels of 30 such images tell
    np.testing.assert_allclose(child.report["recalibration"]["gains"], gains, atol=1e-4)
    images = [tiny_image(8000 + number) for number in range(20)] + [tiny_image(8100 + number, blob=True) for number in range(4)]
    usual, before = scores_of(parent, images), scores_of(parent, list(map(lit, images)))
    other = parent.with_geometry(child.geometry)  # statistics and thresholds of the parent
    after = scores_of(other, list(map(lit, images)))
    assert np.median(np.abs(after - usual)[:20]) < 0.25 * np.median(np.abs(before - usual)[:20])
    verdicts = [[parent.thresholds.verdict(float(score)) == "NG" for score in rows] for rows in (usual, before, after)]
    assert verdicts[0] == verdicts[2] != verdicts[1]


def test_a_lot_of_which_only_the_light_moved_joins_the_known_images(parent: Bundle, child: Bundle) -> None:
    report = child.report["recalibration"]
    assert report["moved"] is False
    assert report["known"] > 0
    assert child.thresholds.goods == report["known"] + COUNT
    np.testing.assert_array_equal(child.statistics.centre, parent.statistics.centre)


def test_networks_and_proof_images_stay_and_an_older_version_refuses_the_bundle(parent: Bundle, child: Bundle) -> None:
    assert child.contents().graphs == parent.contents().graphs
    np.testing.assert_array_equal(child.golden.images, parent.golden.images)
    assert (parent.manifest["schema"], child.manifest["schema"]) == (3, 5)


@pytest.mark.parametrize(
    ("light", "options"),
    [
        ((1.0, 1.0, 1.0), {}),
        (LIGHT, {"keep_colour": True}),
        ((1.7, 1.7, 1.7), {}),
    ],
    ids=["the light of the training", "kept", "beyond the limits"],
)
def test_no_gains(parent: Bundle, tmp_path: Path, light: tuple[float, float, float], options: dict[str, bool]) -> None:
    lot = write_lot(tmp_path / "lot", light)
    child = open_bundle(recalibrate(parent.path, lot, tmp_path / "c.edgead", yes=True, **options))
    assert child.geometry.gains is None
    assert "gains" not in child.report["recalibration"]
    assert child.manifest["schema"] == 3


def test_images_of_the_old_lot_that_must_still_pass_forbid_gains(parent: Bundle, goods: Path, tmp_path: Path) -> None:
    old = write_lot(tmp_path / "old", (1.0, 1.0, 1.0), first=7500)
    child = open_bundle(recalibrate(parent.path, goods, tmp_path / "c.edgead", 0.05, yes=True, keep_old=old))
    assert child.geometry.gains is None


def test_gains_are_joined_by_the_next_recalibration_and_taken_back_by_the_old_light(child: Bundle, tmp_path: Path) -> None:
    third = (1.4, 1.2, 0.8)
    later = open_bundle(recalibrate(child.path, write_lot(tmp_path / "third", third), tmp_path / "c.edgead", yes=True))
    assert later.geometry.gains is not None
    np.testing.assert_allclose(later.geometry.gains, [1 / value for value in third], rtol=0.06)
    assert child.geometry.gains is not None
    np.testing.assert_allclose(
        np.multiply(later.report["recalibration"]["gains"], child.geometry.gains), later.geometry.gains, rtol=1e-3
    )
    plain = open_bundle(recalibrate(child.path, write_lot(tmp_path / "p", (1.0, 1.0, 1.0)), tmp_path / "d.edgead", yes=True))
    np.testing.assert_allclose(plain.geometry.gains or (1, 1, 1), (1, 1, 1), rtol=0.06)


def test_an_older_bundle_takes_the_light_of_its_proof_images(goods: Path, tmp_path: Path) -> None:
    path = make_tiny_bundle(tmp_path / "old.edgead")
    assert REPORT_KEY not in open_bundle(path).report
    gains = open_bundle(recalibrate(path, goods, tmp_path / "c.edgead", yes=True)).geometry.gains
    np.testing.assert_allclose(gains or (1, 1, 1), BACK, rtol=0.1)


@pytest.mark.parametrize("value", [{}, {"levels": [1, 2]}, {"levels": [1, 2, 300]}, {"levels": "red"}, []])
def test_a_damaged_report_is_reported(goods: Path, tmp_path: Path, value: object) -> None:
    path = tmp_path / "b.edgead"
    write_bundle(path, replace(tiny_contents(), report={REPORT_KEY: value}))
    with pytest.raises(BadInput, match="of its channels: train it again"):
        recalibrate(path, goods, tmp_path / "c.edgead", yes=True)


def test_the_run_and_the_one_file_see_the_lot_as_the_recalibration_did(child: Bundle, tmp_path: Path) -> None:
    import onnxruntime

    images = [lit(tiny_image(8000 + number, blob=number > 1)) for number in range(4)]
    expected = scores_of(child, images)
    with judged_by(Config(), "", child.path) as product:
        for number, image in enumerate(images):
            path = tmp_path / f"{number}.png"
            assert cv2.imwrite(str(path), image[:, :, ::-1])
            assert judge_image(product, path).event.score == pytest.approx(expected[number], rel=1e-3, abs=1e-3)
    session = onnxruntime.InferenceSession(write_one_file(child, tmp_path / "part.onnx").path)
    for number, image in enumerate(images):
        (score,) = session.run(["score"], {"image": image[None]})
        np.testing.assert_allclose(score, expected[number], rtol=1e-3, atol=1e-3)


def test_the_command_reports_the_gains(parent: Bundle, goods: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recalibrate", str(parent.path), str(goods), "--yes", "--out", str(tmp_path / "c.edgead")]) == 0
    message = capsys.readouterr().out
    assert "the light of the lot is brought back to that of the training: red x 0." in message
    assert "apart from its light the lot has not moved" in message
    assert main(["recalibrate", str(parent.path), str(goods), "--yes", "--keep-colour", "--out", str(tmp_path / "d.edgead")]) == 0
    assert "brought back" not in capsys.readouterr().out
