"""A bundle with a memory: what it runs, what its weight drops, and how recalibration teaches it a new appearance."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_ad.bundle import Bundle, BundleContents, open_bundle, write_bundle
from edge_ad.bundle.graphs import MEMORY, MEMORY_CONSTANTS
from edge_ad.deployment.build import build, reuse_engine
from edge_ad.deployment.calibrate import CalibrateOptions, with_quantisation
from edge_ad.deployment.int8 import recipe_of
from edge_ad.deployment.one_file import TOLERANCE, write_one_file
from edge_ad.deployment.recalibration import recalibrate
from edge_ad.deployment.refit import SHARES
from edge_ad.engines.pipeline import Pipeline
from edge_ad.scoring import BRANCHES
from edge_ad.scoring.memory import Regions, fit_cells, gaussian_distances
from tests.fixtures.fake_gpu import fake_gpu
from tests.fixtures.memory_bundle import CELLS, WEIGHT, make_memory_bundle, memory_contents, with_inputs
from tests.fixtures.tiny_bundle import make_tiny_bundle, tiny_image
from tests.fixtures.tiny_graphs import GRID, gaussian_memory, lavit

NEW = 40
OLD = range(1000, 1020)  # seeds of the images behind the Gaussians


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_memory_bundle(tmp_path_factory.mktemp("parent") / "six.edgead")


def striped(seed: int) -> NDArray[np.uint8]:
    """A normal image of another appearance: bright stripes, as of a new variant of the part."""
    image = tiny_image(seed)
    image[:, ::8] = 230
    return image


@pytest.fixture(scope="module")
def new_goods(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("new")
    for index in range(NEW):
        assert cv2.imwrite(str(folder / f"{index:03}.png"), striped(9000 + index)[:, :, ::-1])
    return folder


@pytest.fixture(scope="module")
def child(parent: Path, new_goods: Path) -> Bundle:
    return open_bundle(recalibrate(parent, new_goods, yes=True, any_product=True))


def raw_of(bundle: Bundle, images: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
    with Pipeline(bundle, threads=1, all_branches=True) as pipeline:
        return np.stack([pipeline.infer(image).raw for image in images])


def test_the_pipeline_gives_six_scores_as_the_golden_images_say(parent: Path) -> None:
    bundle = open_bundle(parent)
    assert bundle.statistics.branches == BRANCHES
    np.testing.assert_allclose(raw_of(bundle, list(bundle.golden.images)), bundle.golden.raw, rtol=1e-4, atol=1e-4)


def test_weight_0_drops_the_memory_and_leaves_the_others_alone(parent: Path, tmp_path: Path) -> None:
    bundle = open_bundle(make_memory_bundle(tmp_path / "b.edgead", weight=(0.2, 0.2, 0.2, 0.2, 0.2, 0.0)))
    image = tiny_image(1, blob=True)
    with Pipeline(bundle, threads=1) as pipeline:
        assert MEMORY not in pipeline.engines
        assert pipeline.branches == BRANCHES[:5]
        raw = pipeline.infer(image).raw
    assert raw[5] == 0
    np.testing.assert_array_equal(raw[:5], raw_of(open_bundle(parent), [image])[0, :5])


def test_a_bundle_of_five_branches_scores_as_one_of_six_without_its_memory(parent: Path, tmp_path: Path) -> None:
    five = open_bundle(make_tiny_bundle(tmp_path / "five.edgead"))
    images = [tiny_image(seed, blob=bool(seed % 2)) for seed in range(4)]
    np.testing.assert_array_equal(raw_of(five, images), raw_of(open_bundle(parent), images)[:, :5])


def test_recalibration_remembers_a_new_appearance(parent: Path, child: Bundle) -> None:
    unseen = [striped(9500 + index) for index in range(6)]
    before, after = raw_of(open_bundle(parent), unseen), raw_of(child, unseen)
    assert (after[:, 5] < 0.5 * before[:, 5]).all()
    np.testing.assert_array_equal(after[:, :4], before[:, :4])  # composition is refitted, networks are not
    assert child.report["recalibration"]["shares"]["memory"] in SHARES


@pytest.mark.any_version
def test_forgetting_takes_the_old_appearance_for_an_anomaly_and_blending_does_not(
    parent: Path, child: Bundle, new_goods: Path, tmp_path: Path
) -> None:
    old = [tiny_image(2500 + index) for index in range(6)]
    forgot = open_bundle(recalibrate(parent, new_goods, tmp_path / "f.edgead", forget=True, yes=True, any_product=True))
    blended, alone = raw_of(child, old)[:, 4:], raw_of(forgot, old)[:, 4:]
    assert (alone[:, 1] > 2 * blended[:, 1]).all()
    assert np.median(alone[:, 0]) > np.median(blended[:, 0])


def test_what_is_known_stays_known_and_anomalies_stay_far(parent: Path, child: Bundle) -> None:
    old, bad = [tiny_image(2500 + index) for index in range(6)], [tiny_image(3500 + i, blob=True) for i in range(6)]
    known, anomalous = raw_of(child, old)[:, 5], raw_of(child, bad)[:, 5]
    assert known.max() < anomalous.min()


def test_recalibration_changes_only_the_remembered_cells_of_the_graph(parent: Path, child: Bundle) -> None:
    import onnx
    from onnx.numpy_helper import to_array

    def constants(bundle: Bundle) -> dict[str, NDArray[np.float32]]:
        model = onnx.load_model_from_string(bundle.graph(MEMORY))
        return {tensor.name: to_array(tensor) for tensor in model.graph.initializer}

    old, new = constants(open_bundle(parent)), constants(child)
    assert set(old) - set(new) == set(MEMORY_CONSTANTS[2:]), "they are inputs from now on"
    assert all(np.array_equal(old[name], new[name]) for name in new)
    bank = child.references.memory_bank
    assert bank is not None
    assert bank.shape == old[MEMORY_CONSTANTS[2]].shape
    assert bank.shape[1] == CELLS
    assert not np.array_equal(bank, old[MEMORY_CONSTANTS[2]])
    others = [name for name in child.graphs if name != MEMORY]
    assert all(child.graph(name) == open_bundle(parent).graph(name) for name in others)


def test_the_child_of_a_recalibration_is_proven_with_its_own_scores(child: Bundle) -> None:
    np.testing.assert_allclose(raw_of(child, list(child.golden.images)), child.golden.raw, rtol=1e-6)
    assert build(child, "fp32").refusal is None


@pytest.mark.any_version
@pytest.mark.parametrize("reason", ["weight 0", "gaussian"])
def test_a_memory_without_weight_or_cells_learns_nothing(tmp_path: Path, reason: str) -> None:
    weight = (0.2, 0.2, 0.2, 0.2, 0.2, 0.0) if reason == "weight 0" else WEIGHT
    contents = memory_contents(weight)
    report = contents.report if reason == "weight 0" else {MEMORY: {"variant": "gaussian"}}
    path = tmp_path / "b.edgead"
    write_bundle(path, replace(contents, report=report))
    folder = tmp_path / "new"
    folder.mkdir()
    for index in range(12):
        assert cv2.imwrite(str(folder / f"{index:03}.png"), striped(9000 + index)[:, :, ::-1])
    child = open_bundle(recalibrate(path, folder, yes=True, any_product=True))
    assert child.graph(MEMORY) == open_bundle(path).graph(MEMORY)
    assert "memory" not in child.report["recalibration"]["shares"]


def gaussian_bundle(path: Path, **reported: int) -> Bundle:
    """Write a bundle whose Gaussians are of 20 images, and return it."""
    contents = memory_contents()
    regions = Regions.local((GRID, GRID), 1, 0)
    graph = gaussian_memory(*fit_cells(features(path, map(tiny_image, OLD)), regions))
    report = {MEMORY: {"variant": "gaussian", "regions": asdict(regions), **reported}}
    write_bundle(path, replace(contents, graphs={**contents.graphs, MEMORY: graph}, report=report))
    return open_bundle(path)


def features(path: Path, images: Iterable[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Return the features f32 [N, h, w, C] of the miniature's teacher."""
    with Pipeline(open_bundle(make_memory_bundle(path)), threads=1, all_branches=True) as pipeline:
        rows = []
        for image in images:
            pipeline.infer(image)
            rows.append(pipeline.tensor("features")[0].copy())
    return np.moveaxis(np.stack(rows), 1, 3)


def test_recalibration_joins_the_gaussians_with_new_images(tmp_path: Path, new_goods: Path) -> None:
    """Half of either lot: those of 40 old and 40 new images, fitted at once."""
    parent = gaussian_bundle(tmp_path / "b.edgead")
    child = open_bundle(recalibrate(parent.path, new_goods, keep_colour=True, yes=True, any_product=True))
    share = child.report["recalibration"]["shares"]["memory"]
    new = features(tmp_path / "a.edgead", (striped(9000 + index) for index in range(NEW)))
    old = features(tmp_path / "a.edgead", map(tiny_image, OLD))
    copies = round(NEW * (1 - share) / share / len(OLD) * 6)  # a mixture of shares is a set of so many copies
    both = np.concatenate([*[old] * copies, *[new] * 6])
    regions = Regions.local((GRID, GRID), 1, 0)
    unseen = [striped(9500), tiny_image(2500), tiny_image(3500, blob=True)]
    cells = features(tmp_path / "a.edgead", unseen)
    expected = gaussian_distances(cells, fit_cells(both, regions), regions).reshape(3, -1).max(axis=1)
    np.testing.assert_allclose(raw_of(child, unseen)[:, 5], expected, rtol=1e-3)
    np.testing.assert_allclose(raw_of(child, list(child.golden.images)), child.golden.raw, rtol=1e-6)


def calibrated(contents: BundleContents, folder: Path) -> BundleContents:
    """Return the contents with ranges and a plan of INT8."""
    normal, held = (np.stack([tiny_image(first + i) for i in range(count)]) for first, count in ((6000, 16), (2030, 8)))
    options = CalibrateOptions(search=False, keep=("efficientad",))
    return with_quantisation(contents, folder / "scratch.edgead", normal, held, options=options, report=lambda text: None)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_engines_with_a_memory_pass_their_gates_before_and_after_recalibration(
    tmp_path: Path, new_goods: Path, precision: str
) -> None:
    contents = calibrated(memory_contents(), tmp_path)
    path = tmp_path / "b.edgead"
    write_bundle(path, contents)
    parent = open_bundle(path)
    assert build(parent, precision, threads=1).refusal is None
    child = open_bundle(recalibrate(path, new_goods, yes=True, any_product=True))
    assert parent.quantisation is not None
    assert child.quantisation is not None
    assert child.quantisation.plan == parent.quantisation.plan
    assert "no engine was taken over" in (reuse_engine(path, child) or ""), "the engine remembers other cells"
    assert build(child, precision, threads=1).refusal is None
    image = striped(9700)
    with Pipeline(child, threads=1) as exact, Pipeline(child, precision=precision, threads=1) as built:
        assert built.infer(image).raw[5] == pytest.approx(exact.infer(image).raw[5], rel=1e-2)


@pytest.mark.parametrize("variant", ["cells", "gaussians"])
def test_what_a_memory_compares_with_scores_alike_as_constant_and_as_input(
    tmp_path: Path, new_goods: Path, variant: str
) -> None:
    """Before a recalibration and after it; as inputs the graph stays the same."""
    contents = memory_contents() if variant == "cells" else gaussian_bundle(tmp_path / "a.edgead", images=20).contents()
    write_bundle(tmp_path / "constants.edgead", contents)
    write_bundle(tmp_path / "inputs.edgead", with_inputs(contents))
    old, new = open_bundle(tmp_path / "constants.edgead"), open_bundle(tmp_path / "inputs.edgead")
    images = [striped(9500), tiny_image(2500), tiny_image(3500, blob=True)]
    np.testing.assert_array_equal(raw_of(new, images), raw_of(old, images))
    old_child, new_child = (open_bundle(recalibrate(bundle.path, new_goods, yes=True, any_product=True)) for bundle in (old, new))
    np.testing.assert_array_equal(raw_of(new_child, images), raw_of(old_child, images))
    assert (raw_of(new_child, images) != raw_of(new, images)).any()
    assert new_child.graph(MEMORY) == new.graph(MEMORY)
    assert old_child.graph(MEMORY) == new.graph(MEMORY), "an older bundle has inputs from then on"
    assert list(old_child.references.arrays()) == list(new_child.references.arrays())
    for name, value in new_child.references.arrays().items():
        np.testing.assert_array_equal(value, old_child.references.arrays()[name])


@pytest.mark.any_version
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_engine_built_before_a_recalibration_serves_after_it(tmp_path: Path, new_goods: Path, precision: str) -> None:
    """It scores as one that is built from the child."""
    path, images = tmp_path / "b.edgead", [striped(9700), tiny_image(3700, blob=True)]
    write_bundle(path, calibrated(with_inputs(memory_contents()), tmp_path))
    parent = open_bundle(path)
    assert build(parent, precision, threads=1).refusal is None
    child = open_bundle(recalibrate(path, new_goods, yes=True, any_product=True))
    reused = reuse_engine(path, child) or ""
    assert reused.startswith(f"engine: onnxruntime {precision} of the parent, proven again on ")
    with Pipeline(child, precision=precision, threads=1) as pipeline:
        served = np.stack([pipeline.infer(image).raw for image in images])
    assert build(child, precision, threads=1).refusal is None
    with Pipeline(child, precision=precision, threads=1) as pipeline:
        np.testing.assert_array_equal(served, np.stack([pipeline.infer(image).raw for image in images]))
    assert (served[:, 5] != raw_of(parent, images)[:, 5]).any(), "the child remembers other cells"


def test_an_engine_of_tensorrt_serves_after_a_recalibration(
    tmp_path: Path, new_goods: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is compiled; what the child remembers is uploaded to the inputs of its parent's engine."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_bundle(tmp_path / "b.edgead", with_inputs(memory_contents()))
    parent, image = open_bundle(tmp_path / "b.edgead"), striped(9700)
    with fake_gpu(monkeypatch) as gpu:
        assert build(parent, "fp16", "tensorrt", threads=1).refusal is None
        gpu.trt.built.clear()
        child = open_bundle(recalibrate(parent.path, new_goods, yes=True, any_product=True))
        assert (reuse_engine(parent.path, child) or "").startswith("engine: tensorrt fp16 of the parent")
        assert not gpu.trt.built
        with Pipeline(child, precision="fp16", backend="tensorrt") as pipeline:
            assert pipeline.infer(image).raw[5] == pytest.approx(raw_of(child, [image])[0, 5], rel=1e-2)
            assert "memory_bank" in pipeline.constants


def test_one_file_holds_what_the_memory_compares_with(tmp_path: Path) -> None:
    write_bundle(tmp_path / "b.edgead", with_inputs(memory_contents()))
    written = write_one_file(open_bundle(tmp_path / "b.edgead"), tmp_path / "b.onnx", threads=1)
    assert max(written.errors.values()) <= TOLERANCE


@pytest.mark.any_version
def test_ranges_and_plan_of_an_older_bundle_serve_the_graphs_that_its_recalibration_gave_inputs(
    tmp_path: Path, new_goods: Path
) -> None:
    """Its LAViT holds what normal images have in each cell. The engine of the child serves its own children."""
    path, contents = tmp_path / "b.edgead", memory_contents()
    write_bundle(path, calibrated(replace(contents, graphs={**contents.graphs, "lavit": lavit(0, cells=True)}), tmp_path))
    child = open_bundle(recalibrate(path, new_goods, yes=True, any_product=True))
    assert {"cell_mean", "cell_std", "memory_bank", "memory_norms"} == set(child.references.arrays())
    assert recipe_of(child).ranges["lavit"].graph_sha256 == child.graph_sha256("lavit") != open_bundle(path).graph_sha256("lavit")
    assert build(child, "int8", threads=1).refusal is None
    again = open_bundle(recalibrate(child.path, new_goods, yes=True))
    assert (reuse_engine(child.path, again) or "").startswith("engine: onnxruntime int8 of the parent")
