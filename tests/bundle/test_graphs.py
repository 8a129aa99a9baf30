"""The contract of graphs and branches: what follows from its two tables, against what the design says."""

from __future__ import annotations

import ast
import inspect
from dataclasses import fields
from pathlib import Path

import pytest

import edge_ad
from edge_ad.bundle import References, graphs
from edge_ad.bundle.graphs import BRANCH_SPECS, CONSTANTS, FUSION, GRAPHS, IMAGE
from edge_ad.scoring import BRANCHES, MAPS

TOKENS = {"teacher", "teacher_tokens"}

PRODUCT = Path(edge_ad.__file__).parent

# Who else may write the name of a graph, a branch or a tensor of a branch as text, and why.
NAMERS = {
    "bundle/graphs.py": "the contract",
    "scoring/statistics.py": "the order of the columns of scores",
    "export/graphs.py": "the module behind each graph",
    "models/build.py": "names networks in the report of their sizes",
    "presets/presets.py": "the pooling of each map",
    "training/choices.py": "pairs each map with the network whose errors make it",
    "training/distillation.py": "names its stage in the journal of a training",
    "training/recipes.py": "names its stage",
    "training/teacher.py": "names its stage",
    "deployment/lot.py": "what of each branch a lot changes",
    "deployment/recalibration.py": "takes the refitted Gaussian of one, and the share of another",
    "deployment/zone_thresholds.py": "takes the share of one",
    "evaluation/figures.py": "compares published subsets of branches",
    "inspection/drift.py": "names what moved by the branches that rose",
}


@pytest.mark.parametrize(
    ("branch", "needed"),
    [
        ("structure", {*TOKENS, "tokenizer", "fusion"}),
        ("logic", {*TOKENS, "tokenizer", "lavit", "fusion"}),
        ("local", {"teacher", "efficientad", "fusion"}),
        ("global", {"teacher", "efficientad", "fusion"}),
        ("composition", {"teacher", "fusion"}),
        ("memory", {"teacher", "memory", "fusion"}),
    ],
)
def test_a_branch_needs_what_its_tensors_are_made_of(branch: str, needed: set[str]) -> None:
    assert graphs.graphs_of(branch) == needed


def test_tiles_replace_what_the_whole_image_gave() -> None:
    tiled = [name for name in GRAPHS if name not in ("teacher_tokens", "memory")]
    assert graphs.graphs_of("local", tiled) == {"teacher", "tile_teacher", "tile_student", "fusion"}
    assert graphs.graphs_of("structure", tiled) == {"teacher", "tile_teacher", "tile_tokenizer", "fusion"}
    assert graphs.graphs_of("memory", tiled) == {"teacher", "tile_teacher", "tile_memory", "fusion"}
    assert graphs.graphs_of("global", tiled) == {"teacher", "efficientad", "fusion"}
    assert graphs.graphs_of("logic", tiled) == {"teacher", "tokenizer", "lavit", "fusion"}
    assert graphs.computed_branches(tiled) == BRANCHES
    # The student of the whole image gives no map of a bundle with tiles.
    loaded = graphs.needed_graphs(tiled, ["global", "structure"])
    assert loaded == ("teacher", "tile_teacher", "efficientad", "tile_tokenizer", "fusion")
    assert graphs.computed_branches(loaded, tiled) == ("structure", "global", "composition")
    assert graphs.is_tiled(tiled)
    assert not graphs.is_tiled(graphs.UNTILED)
    assert (graphs.memory_graph(tiled), graphs.memory_graph(graphs.UNTILED)) == ("tile_memory", "memory")


def test_what_follows_from_the_tables() -> None:
    assert tuple(name for name in GRAPHS if name in graphs.UNTILED) == (
        *("teacher", "teacher_tokens", "efficientad", "memory", "tokenizer", "lavit", "fusion"),
    )
    tiled = ("tile_teacher", "tile_student", "tile_memory", "tile_tokenizer")
    assert tuple(name for name in GRAPHS if name not in graphs.UNTILED) == tiled
    assert graphs.REQUIRED_GRAPHS == ("teacher", "fusion")
    assert graphs.FP32_GRAPHS == ("memory", "tile_memory", "fusion")
    assert graphs.FLOAT_BY_DEFAULT == ("teacher", "teacher_tokens", "tile_teacher")
    assert graphs.EXPENSIVE == ("lavit",)
    assert graphs.expensive_branches() == ("logic",)
    assert graphs.DROPPABLE == ("map_structure", "map_logic", "map_local", "map_global", "raw_logic", "map_memory")
    assert graphs.MAP_TENSORS == ("map_structure", "map_local", "map_global", "map_memory")
    assert CONSTANTS == ("masks", "quantiles", "centre", "precision", "mean", "std", "weight")


def test_references_are_inputs_beside_those_of_the_contract() -> None:
    named = {name for spec in GRAPHS.values() for name, _ in spec.references}
    assert named == {field.name for field in fields(References)}
    assert not named & {IMAGE, *CONSTANTS, *(name for spec in GRAPHS.values() for name in (*spec.inputs, *spec.outputs))}


def test_branches_are_described_in_the_order_of_their_scores() -> None:
    assert tuple(BRANCH_SPECS) == BRANCHES
    assert all(BRANCH_SPECS[branch].map for branch in MAPS)


def test_every_input_is_there_before_its_graph_runs() -> None:
    known = {IMAGE, *CONSTANTS}
    for spec in GRAPHS.values():
        assert known >= set(spec.inputs), spec.name
        assert set(spec.omittable) <= {*spec.inputs, *spec.outputs}
        assert set(spec.replaces) == known.intersection(spec.outputs), "an output is made twice"
        known.update(spec.outputs)


def test_the_fusion_reads_every_branch_and_the_constants_of_scores() -> None:
    of_branches = {name for spec in BRANCH_SPECS.values() for name in spec.inputs}
    assert set(GRAPHS[FUSION].inputs) == of_branches | set(CONSTANTS[1:])


def test_the_exported_fusion_takes_its_inputs_in_the_order_of_the_contract() -> None:
    torch_side = pytest.importorskip("edge_ad.export.fusion")
    assert tuple(inspect.signature(torch_side.FusionGraph.forward).parameters)[1:] == (*GRAPHS[FUSION].inputs, "factors")
    assert {f"zone_{branch}" for branch in torch_side.ZONED} == set(dict(GRAPHS[FUSION].references))


@pytest.mark.any_version
def test_graphs_and_branches_are_named_in_few_places() -> None:
    words = {"local", "global", "memory", "pooled"}  # of other things too
    names = {*GRAPHS, *BRANCHES, *(name for spec in BRANCH_SPECS.values() for name in spec.inputs)} - words
    namers = set()
    for path in PRODUCT.rglob("*.py"):
        texts = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
        if names.intersection(texts):
            namers.add(path.relative_to(PRODUCT).as_posix())
    assert namers == set(NAMERS)
