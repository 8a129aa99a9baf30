"""Thresholds of zones: learned from the map inside them, judged beside the whole image, named by the event, carried on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from edge_ad.bundle import Bundle, Quantisation, open_bundle, write_bundle
from edge_ad.deployment.gate import Gate, measure_gate
from edge_ad.deployment.one_file import write_one_file
from edge_ad.deployment.recalibration import recalibrate
from edge_ad.deployment.rethreshold import rethreshold
from edge_ad.deployment.zone_thresholds import zone_scores
from edge_ad.engines.pipeline import Pipeline
from edge_ad.errors import BadInput, DeviceFault
from edge_ad.evaluation.evaluate import evaluate
from edge_ad.geometry.zones import Zone, Zones
from edge_ad.inspection.assembly import make_cascade
from edge_ad.inspection.inspector import RunOptions, inspect
from edge_ad.inspection.judge import InspectionResult, decide, median_result
from edge_ad.scoring import Thresholds, choose_thresholds
from edge_ad.training.tolerance import with_zone_thresholds
from tests.camera.pictures import write_image as write_file
from tests.fixtures.tiny_bundle import tiny_image
from tests.fixtures.tiny_graphs import SIZE
from tests.fixtures.zoned_bundle import zoned_contents
from tests.inspection.line import settings_of

Image = NDArray[np.uint8]
RIM = SIZE * 3 // 4  # left side of the sensitivity zone that the miniature bundle has
HIGH = {"warn_above": 1e6, "ng_above": 1e6}  # the whole image says nothing


def painted(seed: int, column: int) -> Image:
    """Return a normal image with a white square whose left side is at a column."""
    image = tiny_image(seed).copy()
    image[SIZE // 2 : SIZE // 2 + 8, column : column + 8] = 255
    return image


def write_image(path: Path, image: Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, image)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The miniature bundle with zones, and thresholds of its rim from 30 normal images."""
    folder = tmp_path_factory.mktemp("zoned")
    contents = zoned_contents(folder / "between.edgead")
    normal = [contents.geometry.without_ignored(tiny_image(seed)) for seed in range(2030, 2060)]  # type: ignore[union-attr]
    write_bundle(folder / "zoned.edgead", with_zone_thresholds(contents, normal, None, (0.05, 0.05), stopped=0))
    return open_bundle(folder / "zoned.edgead")


def test_a_zone_scores_its_highest_cell_and_its_thresholds_are_those_of_a_conformal_rank(bundle: Bundle) -> None:
    images = [bundle.geometry.without_ignored(tiny_image(seed)) for seed in range(2030, 2060)]
    with Pipeline(bundle, threads=1) as pipeline:
        maps = [pipeline.infer(image).map.copy() for image in images]
    expected = [float(heat[:, heat.shape[1] * 3 // 4 :].max()) for heat in maps]
    np.testing.assert_allclose(zone_scores(bundle.contents(), images)["rim"], expected, rtol=1e-6)
    ((name, own),) = bundle.thresholds.zones
    # 30 images: the ceil(0.95 * 31)-th smallest is the 30th, the highest one.
    assert (name, own.goods, own.goods_ng, own.supported_ng) == ("rim", 30, 0, 0.05)
    assert own.ng == pytest.approx(max(expected), rel=1e-6)
    assert "zone rim: NG above" in bundle.thresholds.describe()
    assert "whole image and zones together reject at most 10 % of normal parts" in bundle.thresholds.describe()


def test_thresholds_with_zones_survive_json_and_those_without_say_nothing_of_them(bundle: Bundle) -> None:
    assert Thresholds.from_json(bundle.thresholds.to_json()) == bundle.thresholds
    assert "zones" not in Thresholds(1.0, 2.0).to_json()


@pytest.mark.parametrize(
    ("zones", "message"),
    [
        ([["rim"]], "must list pairs"),
        ("rim", "must list pairs"),
        ([["", {}]], "must list pairs"),
        ([["rim", {"warn": 1}]], "exactly"),
        ([["rim", Thresholds(1.0, 2.0).to_json()]] * 2, "two of the 'zones' have one name"),
        ([["rim", {**Thresholds(1.0, 2.0).to_json(), "zones": [["inner", {}]]}]], "has zones of its own"),
    ],
)
def test_thresholds_of_zones_that_are_none_are_refused(zones: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Thresholds.from_json({**Thresholds(1.0, 2.0).to_json(), "zones": zones})


WITH_RIM = Thresholds(1.0, 2.0, zones=(("rim", Thresholds(0.1, 0.2)), ("hub", Thresholds(0.3, 0.4))))


@pytest.mark.parametrize(
    ("score", "rim", "hub", "verdict", "zone"),
    [
        (0.5, 0.05, 0.1, "OK", None),
        (0.5, 0.15, 0.1, "WARN", "rim"),
        (0.5, 0.15, 0.5, "NG", "hub"),
        (0.5, 0.25, 0.9, "NG", "hub"),
        (1.5, 0.05, 0.1, "WARN", None),
        (1.5, 0.15, 0.1, "WARN", "rim"),
        (1.5, 0.25, 0.1, "NG", "rim"),
        (2.5, 0.15, 0.1, "NG", "rim"),
        (2.5, 0.05, 0.1, "NG", None),
        (0.5, float("nan"), 0.1, "NONE", None),
        (float("inf"), 0.05, 0.1, "NONE", None),
    ],
)
def test_a_part_has_the_worst_verdict_of_the_whole_and_its_zones(
    score: float, rim: float, hub: float, verdict: str, zone: str | None
) -> None:
    z = weight = np.full(6, 1 / 6, np.float32)
    decision = decide(score, z, weight, WITH_RIM, zones={"rim": rim, "hub": hub})
    assert (decision.verdict, decision.zone) == (verdict, zone)
    assert (f"zone {zone}: " in (decision.reason or "")) == (zone is not None)
    if verdict != "NONE":
        assert WITH_RIM.verdict_of_part(score, {"rim": rim, "hub": hub}) == verdict


def test_a_zone_without_a_score_is_a_fault_and_never_ok() -> None:
    with pytest.raises(DeviceFault, match="not a finite number"):
        WITH_RIM.verdict_of_part(0.5, {"hub": 0.1})


def test_two_zones_of_one_name_are_distinguished_by_their_numbers() -> None:
    sides = [((x, 0.0), (x + 10, 0.0), (x + 10, 10.0), (x, 10.0)) for x in (0.0, 20.0, 40.0, 60.0)]
    names = ("rim", "rim", "", "hub")
    zones = tuple(Zone("sensitivity", points, name, 2.0) for points, name in zip(sides, names, strict=True))
    assert Zones((100, 100), zones).names == ("rim #1", "rim #2", "#3", "hub")


def test_a_zone_of_which_ignored_places_leave_nothing_is_refused() -> None:
    zones = (
        Zone("ignore", ((0, 0), (50, 0), (50, 100), (0, 100))),
        Zone("sensitivity", ((49, 0), (51, 0), (51, 100), (49, 100)), "seam", 2.0),
    )
    with pytest.raises(BadInput, match="zone seam is too near to what is ignored"):
        Zones((100, 100), zones).places((32, 32))


def test_a_run_names_the_zone_that_alone_makes_a_part_ng(bundle: Bundle, tmp_path: Path) -> None:
    for number, column in enumerate((SIZE // 2 - 8, RIM + 2)):
        write_image(tmp_path / "images" / f"{number}.png", painted(40 + number, column))
    events: list[Any] = []
    inspect(bundle.path, str(tmp_path / "images"), RunOptions(settings_of(**HIGH), on_event=events.append))
    assert [(event.verdict, event.zone) for event in events] == [("OK", None), ("NG", "rim")]
    assert events[1].reason.startswith("zone rim: ")


def test_evaluate_and_one_file_judge_by_zones_as_the_run_does(bundle: Bundle, tmp_path: Path) -> None:
    high = replace(bundle.thresholds, warn=1e6, ng=1e6)
    path = tmp_path / "high.edgead"
    write_bundle(path, replace(bundle.contents(), thresholds=high))
    columns = {"test/good": SIZE // 2 - 8, "test/spot": RIM + 2}
    for name, column in columns.items():
        for number in range(3):
            write_image(tmp_path / "set" / name / f"{number}.png", painted(60 + number, column))
    figures = evaluate(path, tmp_path / "set")
    assert figures["found"]["structural"]["count"] == 3
    assert figures["false_reject"]["count"] == 0
    write_one_file(open_bundle(path), tmp_path / "part.onnx", threads=1)
    session = onnxruntime.InferenceSession(tmp_path / "part.onnx", providers=["CPUExecutionProvider"])
    levels = [session.run(["verdict"], {"image": painted(60, column)[None]})[0].tolist() for column in columns.values()]
    assert levels == [[0], [2]]


def test_thresholds_of_zones_stay_where_the_lot_stays_and_are_learned_where_there_are_none(bundle: Bundle, tmp_path: Path) -> None:
    for number in range(12):
        write_image(tmp_path / "lot" / f"{number}.png", tiny_image(9030 + number))
    child = open_bundle(recalibrate(bundle.path, tmp_path / "lot", tmp_path / "child.edgead", 0.05, yes=True))
    assert child.report["recalibration"]["moved"] is False
    assert child.thresholds.zones == bundle.thresholds.zones
    write_bundle(tmp_path / "old.edgead", replace(bundle.contents(), thresholds=replace(bundle.thresholds, zones=())))
    learned = open_bundle(recalibrate(tmp_path / "old.edgead", tmp_path / "lot", tmp_path / "new.edgead", yes=True))
    ((name, own),) = learned.thresholds.zones
    images = [bundle.geometry.without_ignored(tiny_image(9030 + number)) for number in range(12)]
    assert (name, own) == ("rim", choose_thresholds(zone_scores(learned.contents(), images)["rim"], 0.01, 0.05))


def test_a_lot_that_has_moved_sets_thresholds_by_all_its_images(bundle: Bundle, tmp_path: Path) -> None:
    for number in range(14):
        brighter = np.clip(tiny_image(500 + number).astype(np.float32) * 1.3 + 30, 0, 255).astype(np.uint8)
        write_image(tmp_path / "lot" / f"{number}.png", brighter)
    path = recalibrate(bundle.path, tmp_path / "lot", tmp_path / "c.edgead", 0.1, target_warn=0.1, yes=True, any_product=True)
    child = open_bundle(path)
    assert child.report["recalibration"]["moved"] is True
    ((name, own),) = child.thresholds.zones
    assert (name, own.goods, own.target_ng) == ("rim", 14, 0.1)


def test_thresholds_of_the_whole_set_by_hand_leave_those_of_zones(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "part.edgead"
    write_bundle(path, bundle.contents())
    assert open_bundle(rethreshold(path, 3.0, 4.0)).thresholds.zones == bundle.thresholds.zones


def test_int8_is_refused_where_verdicts_of_a_zone_flip(bundle: Bundle, tmp_path: Path) -> None:
    assert "3 of 100 verdicts of zone rim flip (3.00%" in str(Gate({}, 0.02, {"rim": (3, 100)}).refused)
    assert Gate({}, 0.03, {"rim": (3, 100)}).refused is None
    proven = tmp_path / "proven.edgead"
    proof = Quantisation({}, {"graphs": {}}, bundle.golden.images[:2])
    write_bundle(proven, replace(bundle.contents(), quantisation=proof))
    with Pipeline(bundle, threads=1) as pipeline:
        gate = measure_gate(pipeline, pipeline, open_bundle(proven))
    flips, images = gate.zone_flips["rim"]
    assert flips == 0 < images


def test_a_cascade_and_thresholds_of_zones_exclude_each_other(bundle: Bundle) -> None:
    with Pipeline(bundle, threads=1) as pipeline, pytest.raises(BadInput, match="--cascade leaves out a part of the map"):
        make_cascade(pipeline, bundle, 0.1, tiled=False, first=bundle.thresholds, now=lambda: bundle.thresholds)


def test_the_median_of_three_frames_is_by_verdict_before_score() -> None:
    from edge_ad.events import Event

    def frame(verdict: Any, score: float) -> InspectionResult:
        return InspectionResult(Event("cam", 0, "1", 0.0, verdict, score, {}, 1.0, None))

    # A zone made two of three frames NG whose scores are the lowest and the highest.
    assert median_result([frame("NG", 0.1), frame("OK", 0.5), frame("NG", 0.9)]).event.verdict == "NG"
    assert median_result([frame("OK", 0.1), frame("OK", 0.5), frame("NG", 0.9)]).event.score == 0.5
