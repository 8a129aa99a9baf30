"""Every graph of the presets ``fast`` and (in small) ``paper``: its door, its versions, and that TensorRT compiles it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from calibration.fp16 import to_fp16
from edge_ad.bundle.graphs import FUSION, GRAPHS
from edge_ad.engines.tensorrt.build import compile_check
from edge_ad.export.graphs import ExportedGraph, export_all
from edge_ad.models.lavit import mask_bank
from edge_ad.presets.presets import FAST, Preset
from tests.data.folders import picture
from tests.export.graph_facts import Facts, facts, first_steps, inner_shapes, readers_of
from tests.fixtures.tiny_presets import TINY_PAPER, untrained

pytestmark = pytest.mark.slow

F32, U8, I32 = "float32", "uint8", "int32"
PRESETS: dict[str, Preset] = {"fast": FAST, "paper": TINY_PAPER}
SHARED_NAMES = ("teacher", "efficientad", "tokenizer", "lavit", "fusion")
FAST_NAMES, PAPER_NAMES = ("memory", *SHARED_NAMES), ("teacher_tokens", *SHARED_NAMES)
NAMES = [*(("fast", name) for name in FAST_NAMES), *(("paper", name) for name in PAPER_NAMES)]


def door(maps: int, cells: int, channels: int, tokens: int, pooled: int, views: int, side: int) -> dict[str, Facts]:
    """The tensors of design by graph, inputs and outputs together, for given sizes."""
    image, features = (U8, (1, side, side, 3)), (F32, (1, channels, maps, maps))
    grid, fine = (F32, (1, 1, cells, cells)), (F32, (1, 1, maps, maps))
    token = F32, (1, tokens, cells, cells)
    codes = I32, (1, 4, cells * cells)
    six = F32, (6,)
    return {
        "teacher": {"image": image, "features": features, "tokens": token, "pooled": (F32, (1, pooled))},
        "teacher_tokens": {"image": image, "tokens": token},
        "efficientad": {"image": image, "features": features, "map_local": fine, "map_global": fine},
        "memory": {"features": features, "map_memory": fine},
        "tokenizer": {"tokens": token, "codes": codes, "map_structure": grid},
        "lavit": {"tokens": token, "codes": codes, "masks": (F32, (views, cells * cells)), "raw_logic": (F32, (1,)),
                  "map_logic": grid},
        "fusion": {"map_structure": grid, "map_logic": grid, "map_local": fine, "map_global": fine,
                   "raw_logic": (F32, (1,)), "pooled": (F32, (1, pooled)), "map_memory": fine,
                   "quantiles": (F32, (4, 2)), "centre": (F32, (pooled,)), "precision": (F32, (pooled, pooled)),
                   "mean": six, "std": six, "weight": six, "raw": six, "z": six, "score": (F32, (1,)),
                   "map": (F32, (1, 1, 256, 256))},
    }  # fmt: skip


# Lite0 stages 24 + 40 + 112 channels; pooled with 320 more and 4 x 4 regions of 40; a PDN has 384.
POOLED = 24 + 40 + 112 + 320 + 16 * 40
DOORS = {"fast": door(32, 16, 176, 176, POOLED, 10, 256), "paper": door(24, 10, 384, 384, 384, 2, 128)}
DOORS["paper"]["teacher"].pop("tokens")
# What a lot changes: banks of 2 x 2 regions, the surprise of 4 levels, the cells of the logic map.
BANK = (4, FAST.memory.cells, FAST.memory.width or 176)
DOORS["fast"]["memory"] |= {"memory_bank": (F32, BANK), "memory_norms": (F32, (*BANK[:2], 1))}
DOORS["fast"]["lavit"] |= {"surprise_centre": (F32, (4 * 176,)), "surprise_precision": (F32, (4 * 176, 4 * 176))}
DOORS["fast"]["lavit"] |= {"cell_mean": (F32, (16 * 16,)), "cell_std": (F32, (16 * 16,))}
DOORS["paper"]["lavit"] |= {"cell_mean": (F32, (10 * 10,)), "cell_std": (F32, (10 * 10,))}


@pytest.fixture(scope="module")
def exported() -> dict[tuple[str, str], ExportedGraph]:
    result = {}
    for key, preset in PRESETS.items():
        grid, side, masks = preset.teacher.token_grid, preset.image_side, preset.masks
        bank = mask_bank(0, masks.count, grid, round(masks.share * grid**2), minimum=round(masks.least_share * grid**2))
        shown = torch.from_numpy(np.stack([picture(0, (side, side))]))
        for graph in export_all(untrained(preset), preset, torch.from_numpy(bank), shown):
            result[key, graph.name] = graph
    return result


@pytest.fixture(scope="module")
def models(exported: dict[tuple[str, str], ExportedGraph]) -> dict[tuple[str, str], onnx.ModelProto]:
    return {key: onnx.load_model_from_string(graph.model) for key, graph in exported.items()}


def test_the_presets_have_their_graphs(exported: dict[tuple[str, str], ExportedGraph]) -> None:
    assert sorted(exported) == sorted(NAMES)


@pytest.mark.parametrize("key", NAMES, ids="-".join)
class TestEveryGraph:
    """What holds for each."""

    def test_versions(self, models: dict[tuple[str, str], onnx.ModelProto], key: tuple[str, str]) -> None:
        model = models[key]
        onnx.checker.check_model(model, full_check=True)
        assert model.ir_version == 10
        assert {(entry.domain or "ai.onnx", entry.version) for entry in model.opset_import} == {("ai.onnx", 20)}

    def test_names_types_and_shapes(
        self, models: dict[tuple[str, str], onnx.ModelProto], key: tuple[str, str]
    ) -> None:
        graph, expected = models[key].graph, DOORS[key[0]][key[1]]
        assert facts([*graph.input, *graph.output]) == expected
        if key[1] == "fusion":
            assert [value.name for value in graph.input] == list(GRAPHS[FUSION].inputs)
            assert [value.name for value in graph.output] == ["raw", "z", "score", "map"]

    def test_static_shapes_inside(self, models: dict[tuple[str, str], onnx.ModelProto], key: tuple[str, str]) -> None:
        assert inner_shapes(models[key]) == []

    def test_pixels_are_cast_before_anything_else(
        self, models: dict[tuple[str, str], onnx.ModelProto], key: tuple[str, str]
    ) -> None:
        if key[1] in ("teacher", "teacher_tokens", "efficientad"):
            assert first_steps(models[key])[:2] == ["Cast", "Transpose"]
        else:
            assert readers_of(models[key], "image") == set()

    def test_torch_gives_the_same(
        self, exported: dict[tuple[str, str], ExportedGraph], key: tuple[str, str]
    ) -> None:
        assert 0.0 < exported[key].relative_error < 1e-4

    @pytest.mark.parametrize("precision", ["fp32", "fp16"])
    def test_tensorrt_compiles_it(
        self, exported: dict[tuple[str, str], ExportedGraph], key: tuple[str, str], precision: str
    ) -> None:
        pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is made for x86-64 alone")
        graph = exported[key].model
        assert compile_check(to_fp16(graph) if precision == "fp16" else graph, precision, key[1]) > 5_000


def test_no_random_numbers_are_left_in_a_graph(models: dict[tuple[str, str], onnx.ModelProto]) -> None:
    """Dropout is for training."""
    kinds = {node.op_type for model in models.values() for node in model.graph.node}
    assert not {kind for kind in kinds if "Random" in kind or kind == "Dropout"}
    assert not {"NonZero", "Loop", "If", "Where"} & {node.op_type for node in models["fast", "lavit"].graph.node}
