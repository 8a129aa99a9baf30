"""The fusion graph against the same arithmetic in plain numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch.nn import functional as F

from edge_ad.bundle.graphs import FUSION, GRAPHS
from edge_ad.export.fusion import FusionGraph
from edge_ad.export.graphs import export_graph
from edge_ad.presets.presets import FusionSettings

WIDTH = 6
PLAIN = FusionSettings()
PUBLISHED = FusionSettings(structure_side=20, structure_pool=4, border=2, top=1, structure_top=1)
OWN = FusionSettings(structure_top=5, local_top=1, global_top=20, memory_top=4)
SETTINGS = {"plain": PLAIN, "published": PUBLISHED, "own": OWN}
SIDE = 32


def case(seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    half = rng.normal(size=(WIDTH, WIDTH))
    result = {
        "map_structure": rng.uniform(0, 4, (1, 1, 8, 8)),
        "map_logic": rng.uniform(0, 1, (1, 1, 8, 8)),
        "map_local": rng.uniform(0, 2, (1, 1, 12, 12)),
        "map_global": rng.uniform(0, 2, (1, 1, 12, 12)),
        "map_memory": rng.uniform(0, 3, (1, 1, 12, 12)),
        "raw_logic": rng.uniform(0, 8, 1),
        "pooled": rng.normal(size=(1, WIDTH)),
        "quantiles": np.array([[0.5, 3.0], [0.1, 1.0], [0.2, 1.5], [0.3, 2.0]]),
        "centre": rng.normal(size=WIDTH),
        "precision": half @ half.T,
        "mean": rng.uniform(0, 1, 6),
        "std": rng.uniform(0.5, 2, 6),
        "weight": np.array([0.1, 0.2, 0.25, 0.15, 0.2, 0.1]),
    }
    return {name: result[name].astype(np.float32) for name in GRAPHS[FUSION].inputs}


def enlarge(picture: np.ndarray[Any, Any], side: int, corners: bool) -> np.ndarray[Any, Any]:
    """Bilinear by the definition: a sample is a weighted mean of its four neighbours, coordinates held inside."""
    before = picture.shape[0]
    grid = np.arange(side)
    at = grid * (before - 1) / (side - 1) if corners else np.clip((grid + 0.5) * before / side - 0.5, 0, None)
    low = np.minimum(np.floor(at).astype(int), before - 1)
    high, part = np.minimum(low + 1, before - 1), at - low
    rows = picture[low] * (1 - part)[:, None] + picture[high] * part[:, None]
    return rows[:, low] * (1 - part) + rows[:, high] * part


def peak(values: np.ndarray[Any, Any], top: int) -> float:
    return float(np.sort(values.ravel())[-top:].mean())


def expected(inputs: dict[str, np.ndarray[Any, Any]], s: FusionSettings) -> dict[str, np.ndarray[Any, Any]]:
    d = {name: value.astype(np.float64) for name, value in inputs.items()}
    structure = d["map_structure"][0, 0]
    if s.structure_side:
        structure = enlarge(structure, s.structure_side, corners=True)
    if s.structure_pool > 1:
        structure = np.lib.stride_tricks.sliding_window_view(structure, (s.structure_pool,) * 2).mean(axis=(2, 3))
    away = d["pooled"][0] - d["centre"]
    raw = np.array([
        peak(structure, s.structure_top), d["raw_logic"][0],
        peak(d["map_local"], s.local_top or s.top), peak(d["map_global"], s.global_top or s.top),
        np.sqrt(away @ d["precision"] @ away), peak(d["map_memory"], s.memory_top or s.top),
    ])  # fmt: skip
    z = (raw - d["mean"]) / d["std"]
    picture = d["weight"][1] * enlarge(0.1 * d["map_logic"][0, 0], SIDE, corners=False)
    rows = (("structure", 0), ("local", s.border), ("global", s.border), ("memory", s.border))
    for row, (name, border) in enumerate(rows):
        low, high = d["quantiles"][row]
        scaled = np.pad(0.1 * (d[f"map_{name}"][0, 0] - low) / (high - low), border)
        picture = picture + d["weight"][(0, 2, 3, 5)[row]] * enlarge(scaled, SIDE, corners=False)
    return {"raw": raw, "z": z, "score": np.array([d["weight"] @ z]), "map": picture[None, None]}


@pytest.fixture(scope="module", params=SETTINGS)
def graph(request: pytest.FixtureRequest) -> tuple[FusionSettings, onnxruntime.InferenceSession]:
    settings = SETTINGS[request.param]
    examples = [torch.from_numpy(value) for value in case().values()]
    outputs = ("raw", "z", "score", "map")
    exported = export_graph("fusion", FusionGraph(settings, SIDE), examples, GRAPHS[FUSION].inputs, outputs=outputs)
    return settings, onnxruntime.InferenceSession(exported.model, providers=["CPUExecutionProvider"])


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_numpy_gives_the_same(graph: tuple[FusionSettings, onnxruntime.InferenceSession], seed: int) -> None:
    settings, session = graph
    inputs = case(seed)
    for (name, want), got in zip(expected(inputs, settings).items(), session.run(None, inputs), strict=True):
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("dropped", range(6))
def test_a_dropped_branch_may_hold_anything(
    graph: tuple[FusionSettings, onnxruntime.InferenceSession], dropped: int
) -> None:
    """With weight 0 a branch that is not a number reaches neither the score nor the image."""
    settings, session = graph
    inputs = case()
    inputs["weight"][dropped] = 0.0
    want = expected(inputs, settings)
    names = ("map_structure", "raw_logic", "map_local", "map_global", "pooled", "map_memory")
    inputs[names[dropped]][...] = np.nan
    if dropped == 1:
        inputs["map_logic"][...] = np.nan
    raw, _, score, picture = session.run(None, inputs)
    assert np.isnan(raw[dropped])
    np.testing.assert_allclose(np.delete(raw, dropped), np.delete(want["raw"], dropped), rtol=1e-4)
    np.testing.assert_allclose(score, want["score"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(picture, want["map"], rtol=1e-4, atol=1e-5)


def test_maps_of_one_size_are_enlarged_together() -> None:
    """Structure and logic are 8 x 8, the three others 12 x 12."""
    example = [torch.from_numpy(value) for value in case().values()]
    names, outputs = GRAPHS[FUSION].inputs, GRAPHS[FUSION].outputs
    model = onnx.load_model_from_string(export_graph(FUSION, FusionGraph(PLAIN, SIDE), example, names, outputs=outputs).model)
    assert [node.op_type for node in model.graph.node].count("Resize") == 2


def test_equal_quantiles_do_not_divide_by_zero() -> None:
    inputs = case()
    inputs["quantiles"][:] = 0.5
    with torch.no_grad():
        picture = FusionGraph(PLAIN, SIDE)(*map(torch.from_numpy, inputs.values()))[3]
    assert torch.isfinite(picture).all()


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_map_lies_as_its_image_does(settings: FusionSettings) -> None:
    """Rows and columns of maps that are no squares, changed for each other, change nothing but the map's own."""
    inputs = case()
    rng = np.random.default_rng(1)
    for name in ("map_structure", "map_logic", "map_local", "map_global", "map_memory"):
        shape = (12, 6) if name in ("map_structure", "map_logic") else (24, 12)
        inputs[name] = rng.uniform(0, 2, (1, 1, *shape)).astype(np.float32)
    turned = {name: np.swapaxes(value, 2, 3).copy() if value.ndim == 4 else value for name, value in inputs.items()}
    with torch.no_grad():
        tall = FusionGraph(settings, (64, 32))(*map(torch.from_numpy, inputs.values()))
        wide = FusionGraph(settings, (32, 64))(*map(torch.from_numpy, turned.values()))
    assert tall[3].shape == (1, 1, 64, 32)
    torch.testing.assert_close(tall[3], wide[3].transpose(2, 3))
    for one, other in zip(tall[:3], wide[:3], strict=True):
        torch.testing.assert_close(one, other)


def test_an_upsampled_structure_keeps_the_aspect_ratio() -> None:
    """A square of 20 has 400 cells; in the ratio 2 : 1 they are 28 x 14."""
    inputs = case()
    error = np.random.default_rng(2).uniform(0, 2, (1, 1, 12, 6)).astype(np.float32)
    inputs["map_structure"] = error
    with torch.no_grad():
        raw = FusionGraph(PUBLISHED, SIDE)(*map(torch.from_numpy, inputs.values()))[0]
        fine = F.interpolate(torch.from_numpy(error), size=(28, 14), mode="bilinear", align_corners=True)
    assert raw[0].item() == pytest.approx(F.avg_pool2d(fine, 4, stride=1).max().item(), rel=1e-6)
