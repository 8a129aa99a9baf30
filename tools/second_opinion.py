"""A second opinion on INT8: nvidia-modelopt beside edge-ad, on the same graphs and pictures.

    python tools/second_opinion.py BUNDLE GOODS [--count 32] [--every-graph] [--json FILE]

GOODS is what `edge-ad train` and `edge-ad calibrate` take. Both quantise the graphs that the plan of the bundle quantises, or
--every-graph, from --count goods to learn from, and are measured on as many goods that were held back, with jittered views
and synthetic anomalies of them: which nodes read 8-bit numbers, what that changes in the scores, and time. modelopt's
graphs are for TensorRT, like those of our dialect `tensorrt`: ONNX Runtime gives their numbers here, not their speed.
modelopt is no dependency; docs/calibration.md says how to install it.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import io
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, redirect_stdout
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from measure_precision import plain, speed
from numpy.typing import NDArray

from calibration.view import View
from edge_ad.bundle import Bundle, open_bundle
from edge_ad.data.images import read_image, resize
from edge_ad.data.layouts import load_dataset
from edge_ad.engines.calibrate import CalibrateOptions, measure
from edge_ad.engines.int8 import NEVER, Recipe, derive_int8, recipe_of
from edge_ad.engines.loss import loss
from edge_ad.engines.pipeline import Pipeline
from edge_ad.engines.proof import Proof, evenly, make_proof
from edge_ad.engines.staged import Staged
from edge_ad.errors import BadInput, EdgeAdError
from edge_ad.files import atomic_write

KNOWN = "0.47.0"  # the version of modelopt that this was written for; older ones take other arguments
METHODS = ("entropy", "max")  # how modelopt calibrates; the first is its default
DIALECTS = ("cpu", "tensorrt")

Feeds = dict[str, NDArray[Any]]
Images = NDArray[np.uint8]


def modelopt() -> Any:
    """Return modelopt's module for ONNX; BadInput where it is missing, older than KNOWN or cannot be imported."""
    how = f"pip install 'nvidia-modelopt[onnx]=={KNOWN}' into an environment of its own, see docs/calibration.md"
    os.environ.setdefault("TQDM_DISABLE", "1")
    try:
        version = metadata.version("nvidia-modelopt")
        if _numbers(version) < _numbers(KNOWN):
            raise BadInput(f"nvidia-modelopt is {version}, but {KNOWN} or newer is needed: {how}")
        with redirect_stdout(io.StringIO()):
            return importlib.import_module("modelopt.onnx.quantization")
    except metadata.PackageNotFoundError as error:
        raise BadInput(
            f"the second opinion needs the package 'nvidia-modelopt', which is not installed: {how}"
        ) from error
    except (ImportError, AttributeError) as error:
        raise BadInput(f"nvidia-modelopt {version} cannot be imported ({_line(error)}): {how}") from error


def by_modelopt(module: Any, name: str, model: bytes, arrays: Feeds, method: str) -> bytes:
    """Return ``model`` quantised with modelopt's defaults on the CPU; BadInput with its own words where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, f"{name}.onnx"), Path(folder, f"{name}.int8.onnx")
        source.write_bytes(model)
        try:
            with redirect_stdout(io.StringIO()):  # it talks
                module.quantize(
                    str(source),
                    quantize_mode="int8",
                    calibration_data=arrays,
                    calibration_method=method,
                    calibration_eps=["cpu"],
                    high_precision_dtype="fp32",
                    output_path=str(target),
                )
            return target.read_bytes()
        except Exception as error:  # assertions, plain Exceptions and those of onnx and onnxruntime
            raise BadInput(
                f"modelopt cannot quantise graph {name!r}: {type(error).__name__}: {_line(error)}"
            ) from error


def in_8_bits(reference: bytes, variant: bytes) -> dict[str, str]:
    """Return key and operator of every node of an FP32 graph that reads a computed 8-bit tensor in its Q/DQ ``variant``.

    A node is found again by its key (see ``View.keys``): its own name or that of its first output.
    """
    graph = onnx.load_model_from_string(variant).graph
    makers = {name: node for node in graph.node for name in node.output}
    constant = {tensor.name for tensor in graph.initializer}
    constant |= {name for node in graph.node if node.op_type == "Constant" for name in node.output}

    def computed(name: str) -> bool:
        maker = makers.get(name)
        if maker is None or maker.op_type != "DequantizeLinear":
            return False
        before = makers.get(maker.input[0])
        source = before.input[0] if before is not None and before.op_type == "QuantizeLinear" else maker.input[0]
        return source not in constant

    reading = {tag for node in graph.node if any(map(computed, node.input)) for tag in (node.name, *node.output[:1])}
    view = View(reference)
    kinds = {key: node.op_type for key, node in zip(view.keys, view.graph.node, strict=True)}
    return {key: kind for key, kind in kinds.items() if key in reading}


def compare_nodes(reference: bytes, ours: bytes, theirs: bytes) -> dict[str, dict[str, str]]:
    """Return the nodes that read 8-bit numbers in both variants, in ours alone and in theirs alone."""
    a, b = in_8_bits(reference, ours), in_8_bits(reference, theirs)
    return {
        "both": {key: kind for key, kind in a.items() if key in b},
        "edge-ad alone": {key: kind for key, kind in a.items() if key not in b},
        "modelopt alone": {key: kind for key, kind in b.items() if key not in a},
    }


def read_goods(folder: Path, count: int, size: tuple[int, int]) -> tuple[Images, Proof]:
    """Return at most ``count`` goods to learn from, and pictures made from as many that were held back."""
    goods = load_dataset(folder, 0).goods
    if not goods.threshold:
        raise BadInput(f"{folder} has no goods to hold back; give more of them")
    held_back = _read(goods.threshold, count, size)
    return _read([*goods.fit, *goods.normalise], count, size), make_proof(held_back)


def our_recipe(bundle: Bundle, goods: Images, every_graph: bool) -> Recipe:
    """Return ranges and corrections measured on ``goods``, with the plan of the bundle unless ``every_graph``."""
    plan = None if every_graph or bundle.quantisation is None else bundle.quantisation.plan
    calibrated = copy.copy(bundle)
    calibrated.quantisation, _ = measure(bundle, goods, goods[:1], CalibrateOptions(plan=plan, search=False))
    return recipe_of(calibrated)


def feeds(bundle: Bundle, goods: Images) -> dict[str, Feeds]:
    """Return by graph what its inputs are for ``goods``, pictures one behind the other along the first axis."""
    with Pipeline(bundle, all_branches=True) as pipeline:
        staged = Staged(pipeline, goods)
        names = [name for name in pipeline.engines if name not in NEVER]
        tables = {name: staged.feeds(name, len(goods)) for name in names}
    return {name: {key: np.concatenate([row[key] for row in rows]) for key in rows[0]} for name, rows in tables.items()}


def measured(bundle: Bundle, variants: Mapping[str, Mapping[str, bytes]], proof: Proof) -> dict[str, Any]:
    """Return by variant what it changes in the scores against FP32, and by graph the same where that is exchanged alone."""
    with Pipeline(bundle, threads=1, all_branches=True) as pipeline:
        staged = Staged(pipeline, proof.images)

        def error(graphs: Mapping[str, bytes]) -> dict[str, Any]:
            raw, limits = staged.raw(graphs), bundle.thresholds
            return plain(loss(staged.reference, raw, proof.anomalous, bundle.statistics, limits, everyone=True))

        names = next(iter(variants.values()))
        alone = {graph: {name: error({graph: models[graph]}) for name, models in variants.items()} for graph in names}
        return {"scores": {name: error(models) for name, models in variants.items()}, "alone": alone}


def times(bundle: Bundle, variants: Mapping[str, Mapping[str, bytes]], image: NDArray[np.uint8], count: int) -> Any:
    """Return median milliseconds by variant and graph, ``count`` frames of each, taken in turns on one thread."""
    with ExitStack() as stack:
        opened = {
            name: stack.enter_context(Pipeline(bundle, precision=name, graphs=graphs, threads=1, all_branches=True))
            for name, graphs in {"fp32": {}, **variants}.items()
        }
        return speed(opened, image, count)["ms"]


def told(result: Mapping[str, Any]) -> str:
    """Return the result as four tables."""
    columns = ("both", "edge-ad alone", "modelopt alone")
    rows = [[name, *(_counts(held[column]) for column in columns)] for name, held in result["nodes"].items()]
    lines = ["Nodes that read 8-bit numbers", "", *_table(["graph", *columns], rows)]

    scores = result["scores"]
    some = next(iter(scores.values()))
    lines += ["", f"Error against FP32 on {some['images']} pictures, in z: rms, largest", ""]
    rows = [[branch, *(_error(held["branches"][branch]) for held in scores.values())] for branch in some["branches"]]
    rows.append(["far flips", *(str(held["far_flips"]) for held in scores.values())])
    moves = [max(row["auroc_change"] for row in held["branches"].values()) for held in scores.values()]
    rows.append(["AUROC moves, most of any", *(f"{value:.4f}" for value in moves)])
    lines += _table(["branch", *scores], rows)

    lines += ["", "The same with one graph exchanged alone: branches that move, rms in z", ""]
    rows = [[graph, *(_moving(held) for held in row.values())] for graph, row in result["alone"].items()]
    lines += _table(["graph", *scores], rows)

    taken = result["ms"]
    lines += ["", "Milliseconds in ONNX Runtime on one thread of this CPU, median", ""]
    stages = [stage for stage in taken["fp32"] if stage in result["nodes"] or stage == "frame"]
    rows = [[stage, *(f"{held[stage]:.1f}" for held in taken.values())] for stage in stages]
    return "\n".join([*lines, *_table(["graph", *taken], rows)])


def compare(asked: argparse.Namespace) -> dict[str, Any]:
    """Quantise with both and measure."""
    module = modelopt()
    bundle = open_bundle(asked.bundle)
    goods, proof = read_goods(asked.goods, asked.count, bundle.image_size)
    _say(f"edge-ad calibrates on {len(goods)} goods")
    recipe = our_recipe(bundle, goods, asked.every_graph)
    ours = {dialect: derive_int8(bundle, recipe, dialect) for dialect in DIALECTS}
    graphs = {name: bundle.graph(name) for name in ours["tensorrt"] if name in ours["cpu"]}
    theirs, inputs = {}, feeds(bundle, goods)
    for method in METHODS:
        _say(f"modelopt calibrates by {method}")
        theirs[method] = {
            name: by_modelopt(module, name, model, inputs[name], method) for name, model in graphs.items()
        }
    nodes = {
        name: compare_nodes(model, ours["tensorrt"][name], theirs[METHODS[0]][name]) for name, model in graphs.items()
    }
    variants = {f"edge-ad {dialect}": {name: models[name] for name in graphs} for dialect, models in ours.items()}
    variants.update({f"modelopt {method}": models for method, models in theirs.items()})
    versions = {name: metadata.version(name) for name in ("nvidia-modelopt", "onnx")}
    versions["onnxruntime"] = importlib.import_module("onnxruntime").__version__
    about = {"bundle": bundle.sha256, "goods": len(goods), "every_graph": asked.every_graph, "versions": versions}
    _say(f"{len(proof.images)} pictures are measured")
    result = {**about, "nodes": nodes, **measured(bundle, variants, proof)}
    return {**result, "ms": times(bundle, variants, proof.images[0], asked.timed)}


def main() -> int:
    """Parse, compare, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("goods", type=Path, help="a folder of goods, or a data set")
    parser.add_argument("--count", type=_positive, default=32, help="goods to calibrate on, and to measure on (32)")
    parser.add_argument("--every-graph", action="store_true", help="also what the plan of the bundle leaves in FP32")
    parser.add_argument("--timed", type=_positive, default=30, help="frames of each variant that are timed (30)")
    parser.add_argument("--json", type=Path, help="write everything here, the names of the nodes too")
    asked = parser.parse_args()
    try:
        result = compare(asked)
        if asked.json is not None:
            atomic_write(asked.json, json.dumps(result, indent=1) + "\n")
    except EdgeAdError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(told(result))
    return 0


def _read(paths: Sequence[Path], count: int, size: tuple[int, int]) -> Images:
    return np.stack([resize(read_image(paths[index]), size) for index in evenly(len(paths), count)])


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of 1 or more")
    return int(text)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _counts(nodes: Mapping[str, str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(nodes.values()).items())) or "none"


def _error(row: Mapping[str, float]) -> str:
    return f"{row['rms_z']:.3f}, {row['largest_z']:.2f}"


def _moving(held: Mapping[str, Any]) -> str:
    rows = [(branch, f"{row['rms_z']:.3f}") for branch, row in held["branches"].items() if branch != "score"]
    return ", ".join(f"{branch} {value}" for branch, value in rows if value != "0.000") or "none"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


if __name__ == "__main__":
    raise SystemExit(main())
