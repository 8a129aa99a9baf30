"""The graph of the memory, variant by variant: the same as torch, FP32 in every precision, compiled by TensorRT for RTX."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from calibration.precision_sensitive import METADATA_KEY
from edge_ad.bundle.graphs import FP32_GRAPHS, GAUSSIAN_CONSTANTS, GRAPHS, MEMORY, MEMORY_CONSTANTS
from edge_ad.export.graphs import MemoryGraph, export_graph
from edge_ad.models.build import build_gaussians, build_memory, memory_regions
from edge_ad.models.memory import CellGaussians, Memory
from edge_ad.presets.presets import FAST
from edge_ad.scoring.memory import distances, fit_cells, gaussian_distances, remember

pytestmark = pytest.mark.slow

CHANNELS, WIDTH = 176, FAST.memory.width


@pytest.mark.parametrize("image_size", [(256, 256), (512, 128)])
@pytest.mark.parametrize("variant", ["global", "local", "gaussian"])
def test_the_graph_gives_the_distances(variant: str, image_size: tuple[int, int]) -> None:
    import onnxruntime

    regions, grid = memory_regions(FAST, image_size)[variant], FAST.feature_grid(image_size)
    rng = np.random.default_rng(0)
    centre, matrix = rng.normal(size=CHANNELS).astype(np.float32), rng.normal(size=(WIDTH, CHANNELS)).astype(np.float32)
    white = rng.normal(size=(6, *grid, WIDTH)).astype(np.float32)
    features = rng.normal(size=(1, CHANNELS, *grid)).astype(np.float32)
    cells = (np.moveaxis(features, 1, 3) - centre) @ matrix.T
    module: Memory | CellGaussians
    if variant == "gaussian":
        gaussian = fit_cells(white, regions)
        module, expected = build_gaussians(FAST, CHANNELS, regions), gaussian_distances(cells, gaussian, regions)
        module.set(centre, matrix, *gaussian)
    else:
        banks = remember(white, regions, FAST.memory.cells, seed=0)
        module, expected = build_memory(FAST, CHANNELS, regions), distances(cells, banks, regions)
        module.set(centre, matrix, banks)
    spec, example = GRAPHS[MEMORY], torch.from_numpy(features)
    graph = export_graph(MEMORY, MemoryGraph(module), [example], spec.inputs, outputs=spec.outputs)
    session = onnxruntime.InferenceSession(graph.model, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"features": features, **graph.references})
    np.testing.assert_allclose(result[0, 0], expected[0], rtol=1e-3)
    model = onnx.load_model_from_string(graph.model)
    assert any(entry.key == METADATA_KEY for entry in model.metadata_props)
    assert MEMORY in FP32_GRAPHS
    learned = ["memory_mean", "memory_roots"] if variant == "gaussian" else ["memory_bank", "memory_norms"]
    assert [entry.name for entry in model.graph.input] == ["features", *learned] == ["features", *graph.references]
    constants = {tensor.name for tensor in model.graph.initializer}
    assert constants >= set(GAUSSIAN_CONSTANTS[:1] if variant == "gaussian" else MEMORY_CONSTANTS[:2]), "recalibrate reads them"
    assert not constants & set(GAUSSIAN_CONSTANTS[1:] + MEMORY_CONSTANTS[2:])
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is made for x86-64 alone")
    from edge_ad.engines.tensorrt.build import compile_check

    assert compile_check(graph.model, "fp32", MEMORY) > 5_000
