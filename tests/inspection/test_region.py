"""A bundle that carries its region: files are cut by it, a run takes it by itself, and one that contradicts is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_ad.bundle import Bundle, open_bundle, write_bundle
from edge_ad.camera.capture import Capture
from edge_ad.camera.sources import open_source
from edge_ad.cli.app import main
from edge_ad.config import Config, ProductTable, RunTable
from edge_ad.data.images import read_image
from edge_ad.deployment.recalibration import recalibrate
from edge_ad.errors import BadInput
from edge_ad.evaluation.evaluate import evaluate
from edge_ad.geometry.geometry import Geometry
from edge_ad.geometry.region import Roi
from edge_ad.geometry.zones import Zone, Zones
from edge_ad.inspection.inspector import RunOptions, inspect
from edge_ad.inspection.products import Product
from tests.camera.pictures import write_image as write_file
from tests.fixtures.extras import needs_training
from tests.fixtures.tiny_bundle import tiny_contents, tiny_image
from tests.fixtures.tiny_graphs import SIZE
from tests.inspection.line import ENGINE, settings_of

Image = NDArray[np.uint8]
ROI = Roi(24, 10, SIZE, SIZE)
TEXT = f"24,10,{SIZE},{SIZE}"


def write_image(path: Path, image: Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, image)


def framed(seed: int, spoilt: bool = False, clutter: int = 0) -> Image:
    """Return a camera's image with a part in the region, and beside it something that changes."""
    whole = np.full((SIZE + 40, SIZE + 60, 3), 90 + clutter, np.uint8)
    whole[10 : 10 + SIZE, 24 : 24 + SIZE] = tiny_image(seed, spoilt)
    return whole


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("region") / "region.edgead"
    write_bundle(path, replace(tiny_contents(), geometry=Geometry("square", (SIZE, SIZE), (SIZE, SIZE), roi=ROI)))
    return open_bundle(path)


def test_the_region_is_in_the_bundle_and_only_such_a_bundle_needs_a_newer_edge_ad(bundle: Bundle, tmp_path: Path) -> None:
    assert bundle.geometry.roi == ROI
    assert bundle.manifest["schema"] == 4
    write_bundle(tmp_path / "plain.edgead", tiny_contents())
    plain = open_bundle(tmp_path / "plain.edgead")
    assert (plain.geometry.roi, plain.manifest["schema"]) == (None, 3)


def test_a_whole_image_is_cut_and_one_that_was_cut_is_left_as_it_is() -> None:
    whole = framed(1)
    np.testing.assert_array_equal(ROI.cut(whole), tiny_image(1))
    np.testing.assert_array_equal(ROI.cut(tiny_image(1)), tiny_image(1))
    np.testing.assert_array_equal(ROI.cut(whole[:, :, 0]), tiny_image(1)[:, :, 0])
    with pytest.raises(BadInput, match=f"an image of 80 x 70 pixels does not hold the region {TEXT}"):
        ROI.cut(np.zeros((70, 80, 3), np.uint8))


@pytest.mark.parametrize("value", [[0, 0, 8], [0, 0, 0, 8], [-1, 0, 8, 8], "here", [0, 0, 8.5, 8]])
def test_a_state_with_a_region_that_is_none_is_refused(value: Any) -> None:
    values, arrays = Geometry.square((SIZE, SIZE)).state()
    with pytest.raises(BadInput, match="it describes no geometry"):
        Geometry.from_state({**values, "roi": value}, arrays)


def test_a_run_takes_the_region_from_the_bundle(bundle: Bundle, tmp_path: Path) -> None:
    for number, (spoilt, clutter) in enumerate(((False, 0), (False, 150), (True, 0))):
        write_image(tmp_path / "images" / f"{number}.png", framed(40 + number, spoilt, clutter))
    scores: list[list[tuple[str, float]]] = []
    for run in ({}, {"roi": TEXT}):
        events: list[Any] = []
        inspect(bundle.path, str(tmp_path / "images"), RunOptions(settings_of(**run), on_event=events.append))
        scores.append([(event.verdict, event.score) for event in events])
    assert [verdict for verdict, _ in scores[0]] == ["OK", "OK", "NG"]
    assert scores[0] == scores[1]


def test_a_region_that_contradicts_the_bundle_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=f"roi is 0,0,32,32, but .* was trained with the region {TEXT}: leave roi out"):
        inspect(bundle.path, str(tmp_path), RunOptions(settings_of(roi="0,0,32,32")))
    products = {"red": ProductTable(bundle=bundle.path, roi="0,0,32,32")}
    with pytest.raises(BadInput, match="was trained with the region"):
        Product("red", Config(run=RunTable(roi="0,0,32,32"), product=products, engine=ENGINE), bundle)


def test_recalibrate_cuts_whole_images(bundle: Bundle, tmp_path: Path) -> None:
    for number in range(12):
        write_image(tmp_path / "lot" / f"{number}.png", framed(700 + number, clutter=10 * number))
    child = open_bundle(recalibrate(bundle.path, tmp_path / "lot", tmp_path / "child.edgead", yes=True))
    assert child.geometry.roi == ROI


@needs_training  # a report is drawn
def test_evaluate_cuts_whole_images(bundle: Bundle, tmp_path: Path) -> None:
    for name, spoilt in (("good", False), ("spot", True)):
        for number in range(3):
            write_image(tmp_path / "set" / "test" / name / f"{number}.png", framed(800 + number, spoilt))
    mask = np.zeros((SIZE + 40, SIZE + 60, 3), np.uint8)
    mask[20:60, 30:70] = 255
    for number in range(3):
        write_image(tmp_path / "set" / "ground_truth" / "spot" / f"{number}_mask.png", mask)
    figures = evaluate(bundle.path, tmp_path / "set", report_dir=tmp_path / "report")
    assert figures["found"]["structural"]["count"] == 3
    assert figures["au_spro"]["0.3"]["structural"] is not None


def test_capture_keeps_whole_images_and_looks_at_the_region_without_what_zones_ignore(tmp_path: Path) -> None:
    clock = Zones((SIZE, SIZE), (Zone("ignore", ((0, 0), (24, 0), (24, 24), (0, 24)), "clock"),))
    for number in range(4):
        image = framed(1, clutter=40 * number)
        image[10:30, 24:44] = 60 * number  # a clock in the corner of the region: nothing else changes
        write_image(tmp_path / "seen" / f"{number}.png", image)
    kept: dict[bool, int] = {}
    for looks in (True, False):
        source = open_source(str(tmp_path / "seen"))
        out = tmp_path / f"kept-{looks}"
        kept[looks] = Capture(source, out, 4, roi=ROI if looks else None, zones=clock if looks else None).run(lambda: False).saved
        source.close()
    assert kept == {True: 1, False: 4}
    (first, *_) = sorted((tmp_path / "kept-True").glob("*.png"))
    assert read_image(first).shape == (SIZE + 40, SIZE + 60, 3)


def test_zones_are_drawn_on_the_region_that_is_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "good" / "0.png", framed(1))
    zone = "ignore 0,0 16,0 16,12 0,12"
    assert main(["zones", "edit", str(tmp_path / "good"), "--roi", TEXT, "--add", zone]) == 0
    assert f"1 zones on an image of {SIZE} x {SIZE} pixels" in capsys.readouterr().out
