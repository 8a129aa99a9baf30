"""Every graph for images that are no squares: against torch, in every precision, and that TensorRT compiles it."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from calibration.placement import DIALECTS
from edge_ad.bundle import Bundle, BundleContents, Golden, References, open_bundle, write_bundle
from edge_ad.bundle.graphs import FLOAT_BY_DEFAULT, bound_constants, map_size
from edge_ad.config import CalibrateTable
from edge_ad.data.images import Image
from edge_ad.deployment.calibrate import CalibrateOptions, with_quantisation
from edge_ad.deployment.derive import check_compiles, derive
from edge_ad.deployment.one_file import write_one_file
from edge_ad.engines import engine_store
from edge_ad.engines.backends import open_backend
from edge_ad.engines.pipeline import Pipeline
from edge_ad.export.graphs import Networks, _plans, _run, export_all
from edge_ad.models.lavit import bank_of
from edge_ad.presets.networks import Size
from edge_ad.presets.presets import FAST, Preset
from edge_ad.scoring import BRANCHES, Thresholds
from edge_ad.training.statistics import blank_statistics
from tests.data.folders import picture
from tests.export.graph_facts import inner_shapes
from tests.fixtures.tiny_presets import TINY, untrained

pytestmark = pytest.mark.slow

# All sizes in every precision take minutes: EDGE_AD_EVERY_SIZE=1 runs them. Squares have tests of their own.
EVERY = os.environ.get("EDGE_AD_EVERY_SIZE") == "1"
SIZES: tuple[Size, ...] = ((224, 288), *([(512, 128), (416, 160)] if EVERY else []))
SMALL = replace(TINY, lavit=replace(TINY.lavit, surprise="l1"))  # an untrained surprise is 0 whatever it sees
COMPILED: tuple[Size, ...] = ((416, 160), (512, 128), (256, 256))
PRECISIONS = ("int8", "fp16", "fp32")
# Each precision once, on one export; test_bundle_graphs compiles a square.
COMPILATIONS = list(product(COMPILED if EVERY else COMPILED[:1], PRECISIONS))


SHOWN = 4  # images


def images(size: Size) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.stack([picture(seed, size) for seed in range(SHOWN)])


def untrained_bundle(path: Path, preset: Preset, networks: Networks, size: Size, options: CalibrateOptions) -> Bundle:
    """Write a calibrated bundle of untrained networks whose branches count equally."""
    shown, masks = images(size), bank_of(preset.masks, preset.token_grid(size))
    with torch.no_grad():
        pooled = networks.teacher(torch.from_numpy(shown).permute(0, 3, 1, 2).float()).pooled.numpy()
    exported = export_all(networks, preset, torch.from_numpy(masks), torch.from_numpy(shown[:1]))
    contents = BundleContents(
        name="sizes",
        preset=preset.name,
        settings=preset.settings(),
        image_size=size,
        parent=None,
        graphs={graph.name: graph.model for graph in exported},
        references=References.from_arrays(*(graph.references for graph in exported)),
        masks=masks,
        # The inverse covariance of a few images would magnify any rounding.
        statistics=replace(blank_statistics(pooled), precision=np.eye(pooled.shape[1], dtype=np.float32)),
        thresholds=Thresholds(warn=1e6, ng=2e6),
        raw_scores={"threshold": np.zeros((1, len(BRANCHES)), np.float32)},
        golden=Golden(shown[:1], np.zeros((1, len(BRANCHES)), np.float32)),
        report={},
    )
    scratch = path.with_name("scratch.edgead")
    write_bundle(path, with_quantisation(contents, scratch, shown, shown, options=options, report=lambda text: None))
    return open_bundle(path)


def by_torch(networks: Networks, preset: Preset, bundle: Bundle, image: Image) -> dict[str, np.ndarray]:
    """Return what torch makes of an image: the graphs one after the other, without export."""
    known = {name: torch.from_numpy(value) for name, value in bound_constants(bundle.masks, bundle.statistics, {}).items()}
    known["image"] = torch.from_numpy(image)[None]
    known["map_memory"] = torch.zeros(1, 1, *preset.feature_grid(bundle.image_size))  # where there is no such graph
    for plan in _plans(networks, preset, bundle.image_size):
        known.update(zip(plan.outputs, _run(plan.module, [known[name] for name in plan.inputs]), strict=True))
    return {name: known[name].numpy() for name in ("raw", "score", "map", "map_logic", "map_structure")}


@pytest.fixture(scope="module", params=SIZES, ids=str)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Networks, Bundle]:
    networks = untrained(SMALL, image_size=request.param)
    path = tmp_path_factory.mktemp("sizes") / "tiny.edgead"
    options = CalibrateOptions(CalibrateTable(images=SHOWN), search=False, keep=FLOAT_BY_DEFAULT)
    return networks, untrained_bundle(path, SMALL, networks, request.param, options)


def test_a_frame_is_what_torch_makes_of_it(made: tuple[Networks, Bundle]) -> None:
    networks, bundle = made
    image = images(bundle.image_size)[1]
    expected = by_torch(networks, SMALL, bundle, image)
    with Pipeline(bundle, all_branches=True, threads=1) as pipeline:
        result = pipeline.infer(image)
        maps = {name: pipeline.tensor(name) for name in ("map_logic", "map_structure")}
    assert result.map.shape == map_size(bundle.image_size)
    assert maps["map_logic"].shape[2:] == SMALL.token_grid(bundle.image_size)
    np.testing.assert_allclose(result.raw, expected["raw"], rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(result.map, expected["map"][0, 0], rtol=1e-2, atol=1e-3)
    np.testing.assert_allclose(maps["map_structure"], expected["map_structure"], rtol=1e-2, atol=1e-3)


def test_shapes_are_fixed_inside_every_graph(made: tuple[Networks, Bundle]) -> None:
    for name in made[1].graphs:
        model = onnx.load_model_from_string(made[1].graph(name))
        onnx.checker.check_model(model, full_check=True)
        assert inner_shapes(model) == []


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_lower_precisions_run(made: tuple[Networks, Bundle], precision: str) -> None:
    bundle = made[1]
    image = images(bundle.image_size)[1]
    with Pipeline(bundle, all_branches=True, threads=1) as exact:
        expected = exact.infer(image).raw
    with Pipeline(bundle, all_branches=True, threads=1, graphs=derive(bundle, precision)) as pipeline:
        result = pipeline.infer(image)
    assert result.map.shape == map_size(bundle.image_size)
    np.testing.assert_allclose(result.raw, expected, rtol=0.35 if precision == "int8" else 0.02, atol=1e-2)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_one_file_gives_what_the_pipeline_gives(made: tuple[Networks, Bundle], precision: str, tmp_path: Path) -> None:
    bundle = made[1]
    graphs = {name: bundle.graph(name) for name in bundle.graphs} | derive(bundle, precision)
    engine_store.store(bundle, open_backend("onnxruntime"), precision, graphs)
    written = write_one_file(bundle, tmp_path / "part.onnx", precision)  # refuses a file that does not
    graph = onnx.load(written.path).graph
    shapes = {entry.name: [size.dim_value for size in entry.type.tensor_type.shape.dim] for entry in (*graph.input, *graph.output)}
    assert shapes["image"] == [1, *bundle.image_size, 3]
    assert shapes["map"] == [1, 1, *map_size(bundle.image_size)]
    assert shapes["z"] == [len(bundle.statistics.branches)]


@pytest.fixture(scope="module")
def fast(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The large graphs, for TensorRT alone: what the corrections add to constants is measured on the small ones."""
    networks = untrained(FAST, image_size=request.param)
    none = {dialect: {} for dialect in DIALECTS}
    options = CalibrateOptions(CalibrateTable(images=SHOWN), search=False, corrections=none)
    return untrained_bundle(tmp_path_factory.mktemp("fast") / "fast.edgead", FAST, networks, request.param, options)


@pytest.mark.parametrize(("fast", "precision"), COMPILATIONS, indirect=["fast"], ids=str, scope="module")  # one export a size
def test_tensorrt_compiles_the_preset_fast(fast: Bundle, precision: str) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is made for x86-64 alone")
    sizes = check_compiles(fast, precision)
    typings = ("strong",) if precision == "fp32" else ("weak", "strong")
    assert set(sizes) == {f"{name} ({typing} typing)" for name in fast.graphs for typing in typings}
    assert min(sizes.values()) > 5_000
