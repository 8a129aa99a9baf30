"""A bundle with zones: what is ignored changes nothing, what is beside it is judged as before, weighed cells count more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from edge_ad.bundle import Bundle, References, open_bundle, write_bundle
from edge_ad.camera.frames import Frame
from edge_ad.config import EngineTable
from edge_ad.deployment.build import build
from edge_ad.deployment.one_file import write_one_file
from edge_ad.deployment.recalibration import recalibrate
from edge_ad.engines.pipeline import Pipeline
from edge_ad.errors import BadInput
from edge_ad.evaluation.evaluate import evaluate
from edge_ad.inspection.assembly import _input_of
from edge_ad.inspection.inspector import RunOptions, inspect
from edge_ad.inspection.locating import Locating
from edge_ad.inspection.presence import LikeNormal, PresenceDetector
from edge_ad.inspection.view import Grid, View
from edge_ad.scoring import MAPS
from tests.camera.pictures import write_image as write_file
from tests.fixtures.tiny_bundle import make_tiny_bundle, tiny_image
from tests.fixtures.tiny_graphs import SIZE
from tests.fixtures.zoned_bundle import CLOCK, make_zoned_bundle
from tests.inspection.line import settings_of

Image = NDArray[np.uint8]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_zoned_bundle(tmp_path_factory.mktemp("zoned") / "zoned.edgead")


def write_image(path: Path, image: Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, image)


def painted(seed: int, *, inside: bool) -> Image:
    """Return a normal image of four times the input's pixels with a white square in the ignored corner, or in the middle."""
    image = tiny_image(seed, size=(2 * SIZE, 2 * SIZE)).copy()
    start, side = (0, 2 * CLOCK) if inside else (SIZE, SIZE // 2)
    image[start : start + side, start : start + side] = 255
    return image


def test_an_anomaly_inside_an_ignore_zone_changes_no_bit_and_one_outside_is_seen(bundle: Bundle) -> None:
    plain = tiny_image(7, size=(2 * SIZE, 2 * SIZE))
    with Pipeline(bundle, all_branches=True, threads=1) as pipeline:
        results = []
        for image in (plain, painted(7, inside=True), painted(7, inside=False)):
            (part,) = Locating(bundle.geometry).inputs(Frame(image, 0, 0.0, 0.0, "camera", "0")).parts
            assert not isinstance(part, str)
            results.append(pipeline.infer(part.tiles[0]))  # type: ignore[union-attr]
            results[-1] = replace(results[-1], raw=results[-1].raw.copy(), map=results[-1].map.copy())
    np.testing.assert_array_equal(results[0].raw, results[1].raw)
    np.testing.assert_array_equal(results[0].map, results[1].map)
    assert results[0].score == results[1].score
    assert bundle.thresholds.verdict(results[0].score) == "OK"
    assert bundle.thresholds.verdict(results[2].score) == "NG"


def test_a_map_is_read_with_its_factors_and_the_fusion_takes_the_same(bundle: Bundle) -> None:
    image = bundle.geometry.without_ignored(tiny_image(8, blob=True))
    with Pipeline(bundle, all_branches=True, threads=1) as pipeline:
        raw = pipeline.infer(image).raw.copy()
        for column, name in ((0, "structure"), (2, "local"), (3, "global")):
            factors = bundle.references.cell_factors(name)
            assert factors is not None
            counted = pipeline.counted_map(f"map_{name}")
            np.testing.assert_array_equal(counted, pipeline.tensor(f"map_{name}").reshape(-1) * factors)
            assert raw[column] == pytest.approx(counted.max())
            assert set(np.unique(factors)) >= {0.0, 1.0, 2.0}
            np.testing.assert_array_equal(bundle.references.inspected_cells(name), np.flatnonzero(factors))


def test_a_bundle_without_zones_reads_maps_as_they_are(tmp_path: Path) -> None:
    plain = open_bundle(make_tiny_bundle(tmp_path / "tiny.edgead"))
    image = tiny_image(8)
    assert plain.geometry.without_ignored(image) is image
    assert plain.geometry.inspected is None
    assert all(plain.references.inspected_cells(name) == slice(None) for name in MAPS)
    with Pipeline(plain, threads=1) as pipeline:
        pipeline.infer(image)
        np.testing.assert_array_equal(pipeline.counted_map("map_local"), pipeline.tensor("map_local").reshape(-1))


def test_a_run_calls_a_painted_clock_ok_and_a_painted_part_ng(bundle: Bundle, tmp_path: Path) -> None:
    for number, inside in enumerate((True, False)):
        write_image(tmp_path / "images" / f"{number}.png", painted(40 + number, inside=inside))
    events: list[Any] = []
    inspect(bundle.path, str(tmp_path / "images"), RunOptions(settings_of(), on_event=events.append))
    assert [event.verdict for event in events] == ["OK", "NG"]


def test_evaluate_and_recalibrate_ignore_the_same_place(bundle: Bundle, tmp_path: Path) -> None:
    for name, first, inside in (("test/good", 60, True), ("test/spot", 80, False)):
        for number in range(6):
            write_image(tmp_path / "set" / name / f"{number}.png", painted(first + number, inside=inside))
    figures = evaluate(bundle.path, tmp_path / "set")
    assert figures["found"]["structural"]["count"] == 6
    assert figures["false_reject"]["count"] == 0
    for number in range(12):
        write_image(tmp_path / "lot" / f"{number}.png", painted(100 + number, inside=True))
    child = open_bundle(recalibrate(bundle.path, tmp_path / "lot", tmp_path / "child.edgead", yes=True))
    assert child.geometry.zones is not None
    assert child.geometry.zones.zones == bundle.geometry.zones.zones  # type: ignore[union-attr]
    corner_of = child.golden.images[:, : CLOCK - 1, : CLOCK - 1]
    np.testing.assert_array_equal(
        corner_of, np.broadcast_to(bundle.geometry.zones.mean[: CLOCK - 1, : CLOCK - 1], corner_of.shape)
    )  # type: ignore[union-attr]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_engines_of_a_bundle_with_zones_pass_their_gate(bundle: Bundle, precision: str) -> None:
    assert build(bundle, precision, settings=EngineTable(), threads=1).refusal is None


def test_one_file_replaces_what_is_ignored_by_itself(bundle: Bundle, tmp_path: Path) -> None:
    write_one_file(bundle, tmp_path / "part.onnx", threads=1)
    session = onnxruntime.InferenceSession(tmp_path / "part.onnx", providers=["CPUExecutionProvider"])
    image = tiny_image(9)
    clock = image.copy()
    clock[: CLOCK - 1, : CLOCK - 1] = 255
    (plain,), (changed,) = (session.run(["score"], {"image": one[None]}) for one in (image, clock))
    assert plain == changed
    with Pipeline(bundle, threads=1) as pipeline:
        assert pipeline.infer(bundle.geometry.without_ignored(image)).score == pytest.approx(float(plain[0]), abs=1e-4)


def test_a_ticking_clock_moves_nothing_and_hides_no_part_from_the_eye(bundle: Bundle) -> None:
    shown = _input_of(bundle)
    normal = [bundle.geometry.without_ignored(tiny_image(seed)) for seed in range(4)]
    detector = PresenceDetector(LikeNormal(normal), shown=shown)
    images = [painted(3, inside=inside) for inside in (True, False)]
    images[1][SIZE : SIZE + SIZE // 2, SIZE : SIZE + SIZE // 2] = images[0][
        SIZE : SIZE + SIZE // 2, SIZE : SIZE + SIZE // 2
    ]
    looks = [detector.look(images[turn % 2]) for turn in range(6)]
    assert looks[-1].still
    assert looks[-1].present


def test_tiles_of_a_run_and_zones_exclude_each_other(bundle: Bundle) -> None:
    with pytest.raises(BadInput, match="tiles and a bundle with zones exclude each other: leave out --tiles"):
        Locating(bundle.geometry, View(None, Grid(2, 2)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"zone_local": None}, "hold 'zone_global', but not 'zone_local'"),
        ({"zone_local": -np.ones((1, 1, 2, 2), np.float32)}, "'zone_local' must be 0 or more"),
        ({"zone_local": np.zeros((1, 1, 2, 2), np.float32)}, "and above 0 somewhere"),
        ({"zone_local": np.ones((2, 2), np.float32)}, "must have 4 dimensions"),
    ],
)
def test_factors_that_do_not_fit_are_refused(change: dict[str, Any], message: str, bundle: Bundle) -> None:
    with pytest.raises(BadInput, match=message):
        References(**{**bundle.references.arrays(), **change})


def test_factors_of_another_grid_are_refused_when_engines_are_loaded(bundle: Bundle, tmp_path: Path) -> None:
    contents = bundle.contents()
    wrong = replace(contents.references, zone_local=np.ones((1, 1, 3, 3), np.float32))
    write_bundle(tmp_path / "wrong.edgead", replace(contents, references=wrong))
    with pytest.raises(BadInput, match="graph 'fusion' wants"):
        Pipeline(open_bundle(tmp_path / "wrong.edgead"))
