"""What a lot must be to teach a bundle: normal, of this product, of this size; and that the old lot still passes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_ad.bundle import open_bundle, write_bundle
from edge_ad.bundle.graphs import MEMORY
from edge_ad.camera.measure import HealthReference, measure_reference
from edge_ad.camera.quality import QualityLimit, QualityLimits
from edge_ad.cli.app import main
from edge_ad.data.tolerance import Tolerance
from edge_ad.deployment import recalibration
from edge_ad.deployment.lot import draw_anomalies, has_moved, known_normal
from edge_ad.deployment.lot_quality import LotQuality
from edge_ad.deployment.recalibration import recalibrate
from edge_ad.errors import BadInput, GateRefused
from edge_ad.geometry.geometry import Geometry, Prepared
from edge_ad.geometry.pose import NotLocated
from tests.fixtures.memory_bundle import memory_contents
from tests.fixtures.tiny_bundle import make_tiny_bundle, tiny_contents, tiny_image

pytestmark = pytest.mark.any_version

COUNT = 20


def write_images(folder: Path, first: int = 7000, light: float = 1.0, blob: bool = False, side: int = 64) -> Path:
    folder.mkdir(parents=True)
    for index in range(COUNT):
        image = (tiny_image(first + index, blob, (side, side)) * light).clip(0, 255).astype(np.uint8)
        assert cv2.imwrite(str(folder / f"{index:03d}.png"), image[:, :, ::-1])
    return folder


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("parent") / "tiny.edgead"
    write_bundle(path, replace(tiny_contents(), report={"sizes": {"64x64": 40}}))
    return path


@pytest.fixture(scope="module")
def same(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("same") / "good")


@pytest.fixture(scope="module")
def brighter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lot that has moved: it is learned."""
    return write_images(tmp_path_factory.mktemp("brighter") / "good", light=1.2)


BAD = {
    "anomalous": ({"blob": True}, "20 of 20 images are NG by the thresholds of tiny.edgead: look at them, take bad parts out"),
    "another size": ({"side": 80}, "holds images of 80x80 pixels, but tiny.edgead was trained on 64x64"),
}


@pytest.mark.parametrize("name", BAD)
def test_images_that_may_be_wrong_are_refused_until_somebody_says_yes(
    name: str, parent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_ad.deployment.lot.MAX_RATIO", np.inf)
    changes, message = BAD[name]
    folder, out = write_images(tmp_path / "good", **changes), tmp_path / "c.edgead"
    arguments = ["recalibrate", str(parent), str(folder), "--out", str(out)]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "--yes" in error
    assert not out.exists()
    assert main([*arguments, "--yes"]) == 0


def test_images_of_another_product_are_refused_by_likeness_whatever_is_said(parent: Path, tmp_path: Path) -> None:
    """Noise of all colours is far in both measures; the same parts under three quarters of the light are not."""
    folder = tmp_path / "other"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(COUNT):
        assert cv2.imwrite(str(folder / f"{index}.png"), rng.integers(0, 256, (64, 64, 3), np.uint8))
    with pytest.raises(BadInput, match="shows another product than tiny: its features lie [0-9]+ times as far"):
        recalibrate(parent, folder, tmp_path / "c.edgead", yes=True)
    recalibrate(parent, write_images(tmp_path / "dim", light=0.75), tmp_path / "d.edgead", yes=True)


def test_the_old_lot_is_counted_and_must_pass_where_that_is_asked_for(
    parent: Path, same: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = write_images(tmp_path / "kept", first=8000)
    child = open_bundle(recalibrate(parent, same, tmp_path / "c.edgead", keep_old=kept))
    old = child.report["recalibration"]["old_lot"]
    assert (old["images"], old["from"]) == (COUNT, str(kept))
    assert old["ng"] <= 2  # twice 1 / 21 of 20
    gone = write_images(tmp_path / "gone", light=2.4)
    out = tmp_path / "d.edgead"
    with pytest.raises(GateRefused, match=r"of the 20 normal images of the old lot in .*gone [0-9]+ would be NG, more than twice"):
        recalibrate(parent, same, out, keep_old=gone)
    arguments = ["recalibrate", str(parent), str(same), "--out", str(out), "--keep-old", str(gone)]
    for more in ([], ["--yes"]):  # somebody looked at the new images: that says nothing of the old ones
        assert main([*arguments, *more]) == 4
        assert not out.exists()
    assert "leave --keep-old out if the old lot is over" in capsys.readouterr().err
    assert main([*arguments[:-1], str(kept)]) == 0
    assert "normal images in" in capsys.readouterr().out


def test_an_old_lot_whose_parts_are_not_located_is_refused_instead_of_passing_uncounted(
    parent: Path, same: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, out, prepare = write_images(tmp_path / "kept", side=80), tmp_path / "c.edgead", Geometry.prepare

    def locate(geometry: Geometry, frame: NDArray[np.uint8]) -> Prepared | NotLocated:
        return NotLocated("nothing like the part") if len(frame) == 80 else prepare(geometry, frame)

    monkeypatch.setattr(Geometry, "prepare", locate)
    with pytest.raises(BadInput, match="of 20 normal images 20 have no part that the bundle's geometry locates"):
        recalibrate(parent, same, out, keep_old=kept)
    assert not out.exists()


def test_more_images_than_are_learned_set_thresholds_too(
    brighter: Path, parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recalibration, "MAX_LEARNED", 12)
    monkeypatch.setattr("edge_ad.deployment.lot_quality.MAX_FRAMES", 15)
    child = open_bundle(recalibrate(parent, brighter, tmp_path / "c.edgead", keep_colour=True))
    assert child.report["recalibration"]["learned"] == 12
    assert child.thresholds.goods == COUNT
    assert child.report["health_reference"]["count"] == 15
    # What was not learned is scored by the child itself.
    composition = child.raw_scores["threshold"][12:, 4]
    images = [cv2.imread(str(path))[:, :, ::-1] for path in sorted(brighter.iterdir())]
    from edge_ad.engines.pipeline import Pipeline

    with Pipeline(child, threads=1, all_branches=True) as pipeline:
        every = [float(pipeline.infer(np.ascontiguousarray(image)).raw[4]) for image in images]
    assert all(min(abs(value - other) for other in every) < 1e-3 * value for value in composition)


def test_a_lot_has_moved_where_it_scores_higher_or_more_of_it_is_ng_than_was_promised(parent: Path) -> None:
    bundle = open_bundle(parent)
    known = known_normal(bundle, bundle.raw_scores["threshold"][:0])
    assert len(known) == 60
    bundle.thresholds = replace(bundle.thresholds, ng=1e9)
    row = np.median(known, axis=0)
    assert not has_moved(bundle, known, np.stack([row] * 12))
    assert not has_moved(bundle, known, known[:12]), "they are the same"
    assert not has_moved(bundle, known, np.stack([known.min(axis=0)] * 12)), "lower scores reject nothing"
    assert has_moved(bundle, known, np.stack([known.max(axis=0)] * 12))
    assert has_moved(bundle, known[:3], known[:12]), "three say nothing of what is usual"
    bundle.thresholds = replace(bundle.thresholds, ng=-1e9, warn=-1e9, supported_ng=0.03)  # all are NG
    assert has_moved(bundle, known, np.stack([row] * 12))
    bundle.thresholds = replace(bundle.thresholds, goods=0, goods_ng=0, goods_warn=0)
    assert not has_moved(bundle, known, np.stack([row] * 12)), "thresholds that were set by hand promise nothing"


def test_weights_that_logical_anomalies_chose_stay(parent: Path) -> None:
    """Changed surfaces, all that is drawn on a lot, speak for the first branch alone."""
    bundle, random = open_bundle(parent), np.random.default_rng(0)
    branches = len(bundle.statistics.branches)
    z, anomalies = random.normal(size=(40, branches)), random.normal(size=(60, branches))
    anomalies[:, 0] += 2.0
    old, kinds, rows = bundle.statistics.weight, ("scratch",) * 60, anomalies.astype(np.float32)
    bundle.raw_scores = {**bundle.raw_scores, "synthetic_50": rows}
    assert recalibration._weights(bundle, z, anomalies, kinds, seed=0)[0] > old[0] + 0.05
    bundle.raw_scores["synthetic_logical"] = rows
    assert (recalibration._weights(bundle, z, anomalies, kinds, seed=0) == old).all()


def test_copies_of_one_image_are_never_all_that_is_learned(parent: Path) -> None:
    groups, quality = [list(range(130)), *([row] for row in range(130, 140))], LotQuality(open_bundle(parent), 0)
    for seed in range(40):
        read = recalibration._Read(quality, paths=[Path(str(row)) for row in range(140)])
        learned, others = recalibration._learned_first(read, groups, seed)
        assert len(learned) >= 2
        assert sorted(row for group in (*learned, *others) for row in group) == list(range(140))


def test_a_branch_that_its_constants_do_not_explain_stays_as_it_is(
    brighter: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A memory whose score is the mean of one cell is said to be that of ten: nothing is made of it."""
    contents = memory_contents()
    path = tmp_path / "b.edgead"
    write_bundle(path, replace(contents, settings={**contents.settings, "fusion": {"top": 10}}))
    child = open_bundle(recalibrate(path, brighter, tmp_path / "c.edgead", keep_colour=True, yes=True))
    assert child.graph(MEMORY) == open_bundle(path).graph(MEMORY)
    assert "memory of b.edgead cannot be refitted: it stays as it is" in caplog.text


def test_as_many_anomalies_are_drawn_as_a_cascade_of_two_percent_needs_from_ten_images_on() -> None:
    """It needs 1 / 0.02 - 1 = 49 that are above WARN; documented settings must go on after a recalibration."""
    drawn = draw_anomalies(np.stack([tiny_image(7000 + index) for index in range(10)]), 0, None)
    full = [kind for kind in drawn.kinds if " at " not in kind]
    assert len(full) == 160
    assert len(drawn.images) == len(drawn.kinds) == len(drawn.origins)
    assert set(drawn.origins.tolist()) == set(range(10))


def test_an_old_bundle_without_sizes_takes_any(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "good", side=80)
    recalibrate(make_tiny_bundle(tmp_path / "b.edgead"), folder, tmp_path / "c.edgead", yes=True)


def test_limits_of_a_tolerance_stay_where_the_new_lot_keeps_them(same: Path, tmp_path: Path) -> None:
    """The images have a median brightness of about 70: a limit of 20 says nothing against them, one of 100 would stop them all."""
    images = [cv2.imread(str(path))[:, :, ::-1] for path in sorted(same.iterdir())]
    dark, bright = QualityLimit("level_50", 20.0, below=True), QualityLimit("level_50", 10.0, below=False)
    limits = QualityLimits({"dark": dark, "bright": bright})
    old = replace(measure_reference(images), limits=limits).to_json()
    write_bundle(tmp_path / "b.edgead", replace(tiny_contents(), report={"health_reference": old}))
    for forget in (False, True):
        child = open_bundle(recalibrate(tmp_path / "b.edgead", same, tmp_path / "c.edgead", forget=forget))
        found = HealthReference.from_json(child.report["health_reference"]).limits
        assert found is not None
        assert list(found.by_fault) == ["dark"]


TOLERANCE = {"limits": Tolerance(light=0.1).as_dict()}


@pytest.mark.parametrize(
    ("forget", "found"),
    [(False, {"bright": "kept", "dark": "learned"}), (True, {"bright": "learned", "dark": "learned"})],
)
def test_a_new_lot_adds_limits_that_are_missing_or_replaces_all_where_the_old_lot_is_over(
    same: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forget: bool, found: dict[str, str]
) -> None:
    old = {"bright": QualityLimit("level_50", 200.0, below=False)}
    monkeypatch.setattr("edge_ad.deployment.lot_quality.MIN_LEARNED", COUNT)
    images = [cv2.imread(str(path))[:, :, ::-1] for path in sorted(same.iterdir())]
    reference = replace(measure_reference(images), limits=QualityLimits(old, ("dark",))).to_json()
    write_bundle(tmp_path / "b.edgead", replace(tiny_contents(), report={"health_reference": reference, "tolerance": TOLERANCE}))
    child = open_bundle(recalibrate(tmp_path / "b.edgead", same, tmp_path / "c.edgead", forget=forget))
    limits = HealthReference.from_json(child.report["health_reference"]).limits
    assert limits is not None
    assert not limits.unseen
    assert {fault: "kept" if one == old.get(fault) else "learned" for fault, one in limits.by_fault.items()} == found


@pytest.mark.parametrize("options", [{}, {"keep_colour": True}], ids=["its light brought back", "its light learned"])
def test_a_lot_in_other_light_adds_no_limits_that_the_old_one_might_break(
    brighter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, bool]
) -> None:
    monkeypatch.setattr("edge_ad.deployment.lot_quality.MIN_LEARNED", COUNT)
    images = [tiny_image(7000 + index, False, (64, 64)) for index in range(COUNT)]
    reference = replace(measure_reference(images), limits=QualityLimits({}, ("dark", "bright"))).to_json()
    write_bundle(tmp_path / "b.edgead", replace(tiny_contents(), report={"health_reference": reference, "tolerance": TOLERANCE}))
    child = open_bundle(recalibrate(tmp_path / "b.edgead", brighter, tmp_path / "c.edgead", yes=True, **options))
    assert ("gains" in child.report["recalibration"]) == (not options)
    assert HealthReference.from_json(child.report["health_reference"]).limits is None
