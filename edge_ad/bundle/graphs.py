"""Which graph feeds which, and which graphs a set of branch weights needs."""

from __future__ import annotations

from collections.abc import Iterable

from edge_ad.scoring import BRANCHES

# In the order they run. ``teacher_tokens`` exists in bundles whose tokens come from a second pass of the teacher.
ORDER = ("teacher", "teacher_tokens", "efficientad", "tokenizer", "lavit", "fusion")

# The graphs that a branch needs; codes for ``logic`` come from the tokenizer.
NEEDS: dict[str, tuple[str, ...]] = {
    "structure": ("teacher", "teacher_tokens", "tokenizer", "fusion"),
    "logic": ("teacher", "teacher_tokens", "tokenizer", "lavit", "fusion"),
    "local": ("teacher", "efficientad", "fusion"),
    "global": ("teacher", "efficientad", "fusion"),
    "composition": ("teacher", "fusion"),
}

# Inputs bound once from the bundle; everything else is an output of an earlier graph or the image.
CONSTANTS = ("masks", "quantiles", "centre", "precision", "mean", "std", "weight")

# Inputs of ``fusion`` that are zeros while the graph that makes them is not loaded.
BRANCH_OUTPUTS = ("map_structure", "map_logic", "map_local", "map_global", "raw_logic")


def needed_graphs(available: Iterable[str], active: Iterable[str]) -> tuple[str, ...]:
    """Return those of the ``available`` graphs that the ``active`` branches need, in running order.

    The teacher and the fusion are always needed.
    """
    wanted = {"teacher", "fusion"}.union(*(NEEDS[branch] for branch in active))
    have = set(available)
    return tuple(name for name in ORDER if name in wanted and name in have)


def computed_branches(graphs: Iterable[str]) -> tuple[str, ...]:
    """Return the branches whose own graphs are all among ``graphs``, in branch order."""
    have = set(graphs) | {"teacher_tokens"}
    return tuple(branch for branch in BRANCHES if have.issuperset(NEEDS[branch]))
