"""The contract of the graphs and branches: what every graph reads and gives, and how each may be built.

Everything that depends on the set of graphs follows from the two tables here: the running order, which graphs a branch
needs, what is zero while a branch is left out, and which precision a graph may have. The order of the branches is that
of `edge_ad.scoring.BRANCHES`: the columns of scores and weights are arrays of `scoring`, which lies below this package.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType

from edge_ad.scoring import BRANCHES, MAPS, Array, Statistics

# Graphs that code of the product names by itself.
TEACHER, LAVIT, MEMORY, FUSION = "teacher", "lavit", "memory", "fusion"
TILE_TEACHER, TILE_MEMORY = "tile_teacher", "tile_memory"

# Constants of the graph of the memory, of remembered cells and of Gaussians; the last two change when it learns more.
MEMORY_CONSTANTS = ("model.fp32_whitening", "model.fp32_offset", "model.fp32_bank", "model.fp32_norms")
GAUSSIAN_CONSTANTS = ("model.fp32_whitening", "model.fp32_mean", "model.fp32_roots")

# Inputs with what a lot changes (`edge_ad.bundle.references`), each with the constant that it is in older bundles.
_OF_MEMORY = (
    ("memory_bank", MEMORY_CONSTANTS[2]),
    ("memory_norms", MEMORY_CONSTANTS[3]),
    ("memory_mean", GAUSSIAN_CONSTANTS[1]),
    ("memory_roots", GAUSSIAN_CONSTANTS[2]),
)
_OF_LAVIT = (
    ("surprise_centre", "model.surprise.centre"),
    ("surprise_precision", "model.surprise.precision"),
    ("cell_mean", "model.cell_mean"),
    ("cell_std", "model.cell_std"),
)

# By how much each cell of a map counts, where a bundle has zones (`edge_ad.geometry.zones`).
ZONE_PREFIX = "zone_"
_OF_FUSION = tuple((ZONE_PREFIX + branch, ZONE_PREFIX + branch) for branch in ("structure", "logic", "local", "global", "memory"))

IMAGE = "image"  # u8 [1, H, W, 3], the only tensor that comes from outside
CONSTANTS = ("masks", *(field.name for field in fields(Statistics)))  # bound once from the bundle
RESULTS = ("raw", "z", "score", "map")  # what a frame gives
MAP_SIDE = 256  # of the fused map of a square image; others have about as many cells


@dataclass(frozen=True)
class GraphSpec:
    """One graph: ``inputs`` and ``outputs`` by tensor name, and how it may be built.

    An input is the image, a constant of the bundle, or an output of an earlier graph of the same name. A graph that is
    not ``required`` may be missing from a bundle or not be loaded. ``replaces`` are outputs of an earlier graph which
    that one does not have where this graph exists. ``omittable`` are tensors that only some settings have.
    ``references`` are further inputs, bound once from the bundle, with the constants that they are in older ones; a
    variant of the graph has some of them.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    required: bool = False
    replaces: tuple[str, ...] = ()
    omittable: tuple[str, ...] = ()
    references: tuple[tuple[str, str], ...] = ()
    always_fp32: bool = False  # in every precision
    int8_by_default: bool = True  # in the plan that training writes; `calibrate` searches anew
    expensive: bool = False  # takes most of a frame: left out by a cascade, held while a search looks at others
    max_units: int = 64  # parts of it that a search for a plan looks at


@dataclass(frozen=True)
class BranchSpec:
    """One branch: the inputs of the fusion that it alone reads, and which of them is its map, None without a map."""

    name: str
    inputs: tuple[str, ...]
    map: str | None = None


_GRAPHS = (
    # Every branch reads the two passes of the teacher, and they take little of a frame: INT8 would gain little.
    GraphSpec(TEACHER, (IMAGE,), ("features", "tokens", "pooled"), required=True, int8_by_default=False),
    GraphSpec("teacher_tokens", (IMAGE,), ("tokens",), replaces=("tokens",), int8_by_default=False),
    # Tiles of the image at its full resolution, as a batch; the graphs without them then shrink the image by themselves.
    GraphSpec(TILE_TEACHER, (IMAGE,), ("tile_features", "tile_tokens", "joined_features"), int8_by_default=False),
    GraphSpec("efficientad", (IMAGE, "features"), ("map_local", "map_global")),
    GraphSpec("tile_student", (IMAGE, "tile_features"), ("map_local",), replaces=("map_local",)),
    # Distances to what is near are differences of large products: INT8 and FP16 would lose them, for little time.
    GraphSpec(MEMORY, ("features",), ("map_memory",), references=_OF_MEMORY, always_fp32=True),
    GraphSpec(
        TILE_MEMORY,
        ("joined_features",),
        ("map_memory",),
        replaces=("map_memory",),
        references=_OF_MEMORY,
        always_fp32=True,
    ),
    GraphSpec("tokenizer", ("tokens",), ("codes", "map_structure", "shares"), omittable=("shares",), max_units=12),
    GraphSpec("tile_tokenizer", ("tile_tokens",), ("map_structure",), replaces=("map_structure",), max_units=12),
    GraphSpec(
        LAVIT,
        ("tokens", "codes", "masks", "shares"),
        ("raw_logic", "map_logic"),
        omittable=("shares",),
        references=_OF_LAVIT,
        expensive=True,
        max_units=12,
    ),
    # The arithmetic of scores stays FP32.
    GraphSpec(
        FUSION,
        (
            *("map_structure", "map_logic", "map_local", "map_global", "raw_logic", "pooled"),
            "map_memory",
            *("quantiles", "centre", "precision", "mean", "std", "weight"),
        ),
        RESULTS,
        required=True,
        references=_OF_FUSION,
        always_fp32=True,
    ),
)

_BRANCHES = (
    BranchSpec("structure", ("map_structure",), map="map_structure"),
    BranchSpec("logic", ("raw_logic", "map_logic"), map="map_logic"),
    BranchSpec("local", ("map_local",), map="map_local"),
    BranchSpec("global", ("map_global",), map="map_global"),
    BranchSpec("composition", ("pooled",)),
    BranchSpec("memory", ("map_memory",), map="map_memory"),
)

GRAPHS: Mapping[str, GraphSpec] = MappingProxyType({spec.name: spec for spec in _GRAPHS})  # in the order they run
BRANCH_SPECS: Mapping[str, BranchSpec] = MappingProxyType({spec.name: spec for spec in _BRANCHES})

REQUIRED_GRAPHS = tuple(spec.name for spec in _GRAPHS if spec.required)
FP32_GRAPHS = tuple(spec.name for spec in _GRAPHS if spec.always_fp32)
FLOAT_BY_DEFAULT = tuple(spec.name for spec in _GRAPHS if not (spec.int8_by_default or spec.always_fp32))
UNTILED = frozenset(spec.name for spec in _GRAPHS if not spec.name.startswith("tile_"))
EXPENSIVE = tuple(spec.name for spec in _GRAPHS if spec.expensive)

# Inputs of the fusion that are zeros while the graph that gives them is not loaded.
DROPPABLE = tuple(
    name
    for name in GRAPHS[FUSION].inputs
    if any(name in spec.outputs for spec in _GRAPHS if not spec.required) and name not in CONSTANTS
)

# The maps whose quantiles a bundle holds, in the order of ``MAPS``.
MAP_TENSORS = tuple(spec.map for spec in (BRANCH_SPECS[branch] for branch in MAPS) if spec.map is not None)


def map_size(image_size: tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) of the fused map of images of a size (height, width): its aspect ratio, 256 x 256 cells.
    """
    mean = math.sqrt(image_size[0] * image_size[1])
    return max(1, round(MAP_SIDE * image_size[0] / mean)), max(1, round(MAP_SIDE * image_size[1] / mean))


def graphs_of(branch: str, available: Collection[str] = UNTILED) -> frozenset[str]:
    """Return those of the ``available`` graphs that a branch needs: those that give its inputs, what they read in turn, and
    the required ones.
    """
    return _resolved(branch, available)[0]


def _resolved(branch: str, available: Collection[str]) -> tuple[frozenset[str], frozenset[str]]:
    """Return the available graphs that a branch needs, and the tensors that no available graph gives."""
    needed, wanted = set(REQUIRED_GRAPHS), set(BRANCH_SPECS[branch].inputs)
    for spec in reversed(_GRAPHS):  # a graph reads only what earlier ones give
        if spec.name != FUSION and spec.name in available and wanted.intersection(spec.outputs):
            needed.add(spec.name)
            wanted.difference_update(spec.outputs)
            wanted.update(set(spec.inputs).difference(spec.omittable))
    return frozenset(needed), frozenset(wanted.difference({IMAGE, *CONSTANTS}))


def is_tiled(graphs: Iterable[str]) -> bool:
    """Whether the graphs of a bundle cut the image into tiles by themselves."""
    return TILE_TEACHER in graphs


def memory_graph(graphs: Collection[str]) -> str | None:
    """Return which of the graphs of a bundle is its memory, None where it has none."""
    return next((name for name in (TILE_MEMORY, MEMORY) if name in graphs), None)


def needed_graphs(available: Iterable[str], active: Iterable[str]) -> tuple[str, ...]:
    """Return those of the ``available`` graphs that the ``active`` branches need, in running order.

    The teacher and the fusion are always needed.
    """
    have = set(available)
    wanted = set(REQUIRED_GRAPHS).union(*(graphs_of(branch, have) for branch in active)).intersection(have)
    return tuple(name for name in GRAPHS if name in wanted)


def computed_branches(graphs: Iterable[str], available: Iterable[str] | None = None) -> tuple[str, ...]:
    """Return the branches whose own graphs are all among ``graphs``, in branch order; ``available`` are all of the bundle."""
    have = set(graphs)
    known = have if available is None else set(available)
    resolved = {branch: _resolved(branch, known) for branch in BRANCHES}
    return tuple(branch for branch, (needed, lacking) in resolved.items() if have.issuperset(needed) and not lacking)


def expensive_branches() -> tuple[str, ...]:
    """Return the branches that need an expensive graph, in branch order."""
    return tuple(branch for branch in BRANCHES if graphs_of(branch).intersection(EXPENSIVE))


def bound_constants(masks: Array, statistics: Statistics, references: Mapping[str, Array]) -> dict[str, Array]:
    """Return the tensors that are bound once from a bundle, by name: those of ``CONSTANTS`` in order, then ``references``.
    """
    return {**dict(zip(CONSTANTS, (masks, *statistics.arrays().values()), strict=True)), **references}
