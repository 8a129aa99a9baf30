"""INT8 graphs of a bundle: its FP32 graphs, the ranges and the plan that calibration stored, one dialect at a time."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

from calibration.bias_correction import Corrections
from calibration.graph_view import GraphView
from calibration.placement import Plan
from calibration.quantise import quantise
from calibration.ranges import Ranges, is_number
from calibration.session import is_symmetric
from edge_ad.bundle import Bundle, Quantisation
from edge_ad.bundle.graphs import FP32_GRAPHS
from edge_ad.engines.onnxruntime import OrtBackend
from edge_ad.errors import BadInput
from edge_ad.utils.files import read_regular, sha256_bytes

SCHEMA = 1
TARGET = {"onnxruntime": "cpu", "tensorrt": "tensorrt"}  # by backend

Plans = Mapping[str, Plan]


@dataclass(frozen=True)
class Recipe:
    """Ranges and plans of the graphs of one bundle by graph name, and bias corrections by dialect, graph and node."""

    ranges: Mapping[str, Ranges]
    plans: Plans
    corrections: Mapping[str, Mapping[str, Corrections]] = field(default_factory=dict)


def recipe_of(bundle: Bundle, plan: Path | None = None) -> Recipe:
    """Return what a bundle says of INT8, with the plan of a file, and its corrections, instead of its own if one is
    given.

    BadInput for a bundle that was never calibrated, a file that is no plan, and ranges or plans of other graphs.
    """
    stored = bundle.quantisation
    if stored is None:
        raise BadInput(
            f"{bundle.path} holds no INT8 ranges: run `edge-ad calibrate {quote(str(bundle.path))} GOODS` and build from "
            "the new bundle"
        )
    where = f"{bundle.path}: plan.json" if plan is None else str(plan)
    ranges = _parsed(stored.ranges, Ranges.from_json, f"{bundle.path}: ranges.json")
    source = stored.plan if plan is None else read_plan(plan)
    plans = parse_plans(source, where)
    corrections = parse_corrections(source.get("corrections", {}), where)
    recipe = Recipe(ranges, plans, corrections)
    for name, entry in [*ranges.items(), *plans.items()]:
        if name not in bundle.graphs or entry.graph_sha256 != bundle.graph_sha256(name):
            raise BadInput(
                f"{where}: {name!r} is another graph than that of {bundle.path}; run `edge-ad calibrate` again"
            )
    return recipe


def for_graphs(stored: Quantisation | None, graphs: Mapping[str, bytes]) -> Quantisation | None:
    """Return ranges and plan for ``graphs`` in the place of those they were made for, whose nodes and tensors are the same."""
    if stored is None:
        return None

    def marked(table: Mapping[str, Any]) -> dict[str, Any]:
        hashes = {name: {"graph_sha256": sha256_bytes(graphs[name])} for name in graphs if name in table}
        return {**table, **{name: {**table[name], **entry} for name, entry in hashes.items()}}

    return Quantisation(marked(stored.ranges), {**stored.plan, "graphs": marked(stored.plan["graphs"])}, stored.proof)


def ranges_of(bundle: Bundle) -> Mapping[str, Ranges]:
    """Return the ranges that a bundle holds, none for one that was never calibrated."""
    return {} if bundle.quantisation is None else recipe_of(bundle).ranges


def derive_int8(
    bundle: Bundle, recipe: Recipe, target: str, typing: str = "fp32", *, keep_fp32: Collection[str] = ()
) -> dict[str, bytes]:
    """Return the INT8 graphs of a bundle by name; those that the plan or ``keep_fp32`` leaves in FP32 are absent.

    BadInput for a plan that names a node which its graph does not have.
    """
    derived: dict[str, bytes] = {}
    for name, ranges in recipe.ranges.items():
        plan = recipe.plans.get(name)
        if name in (*FP32_GRAPHS, *keep_fp32) or (plan is not None and plan.skips(target)):
            continue
        keep = plan.keep.get(target, ()) if plan is not None else ()
        biases = recipe.corrections.get(target, {}).get(name, {})
        try:
            derived[name] = quantise(bundle.graph(name), ranges, target, keep, typing=typing, corrections=biases)
        except ValueError as error:
            raise BadInput(f"graph {name!r} of {bundle.path} cannot be quantised: {error}") from error
    return derived


def measuring_backend(graphs: Iterable[bytes], threads: int | None = None) -> OrtBackend:
    """Return an onnxruntime that gives the numbers which the target of ``graphs`` will give.

    Graphs of the CPU's own dialect run in its own kernels, which are what is measured. As soon as one is for TensorRT,
    all are computed as they are written, with sums in FP32: the CPU's kernels may saturate, and TensorRT's do not.
    """
    return OrtBackend(threads, as_written=any(is_symmetric(graph) for graph in graphs))


def parse_plans(value: Mapping[str, Any], where: str) -> dict[str, Plan]:
    """Return the plans by graph in a plan file's JSON object; BadInput naming ``where`` for anything else."""
    if value.get("schema") != SCHEMA or not isinstance(value.get("graphs"), dict):
        raise BadInput(
            f"{where} must be a plan of schema {SCHEMA} with an object of graphs, as `edge-ad calibrate` writes it"
        )
    return _parsed(value["graphs"], Plan.from_json, where)


def parse_corrections(value: object, where: str) -> dict[str, dict[str, Corrections]]:
    """Return bias corrections by dialect, graph and node; BadInput naming ``where`` for anything but finite numbers."""
    table = value if isinstance(value, dict) else {"": None}
    for graphs in table.values():
        nodes = [node for node in graphs.values() if isinstance(node, dict)] if isinstance(graphs, dict) else [None]
        lists = [item for node in nodes for item in (node.values() if node is not None else [None])]
        if not all(isinstance(item, list) and all(map(is_number, item)) for item in lists):
            raise BadInput(f"{where}: corrections must hold lists of finite numbers; run `edge-ad calibrate` again")
    return dict(table)


def read_plan(path: Path) -> dict[str, Any]:
    """Read a plan file; BadInput when it cannot be read or is no JSON object."""
    try:
        value = json.loads(read_regular(path))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(
            f"cannot read the plan {path}: {error}; give a file that `edge-ad calibrate --table` wrote"
        ) from error
    if not isinstance(value, dict):
        raise BadInput(f"{path} is not a JSON object; give a file that `edge-ad calibrate --table` wrote")
    return value


def view_of(bundle: Bundle, name: str) -> GraphView:
    """Return the graph of a bundle with its links."""
    return GraphView(bundle.graph(name))


def _parsed(table: Mapping[str, Any], parse: Any, where: str) -> dict[str, Any]:
    try:
        return {name: parse(value) for name, value in table.items()}
    except ValueError as error:
        raise BadInput(f"{where}: {error}") from error
