"""The graphs of a bundle in another precision, for ONNX Runtime and for TensorRT in either way of typing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from calibration.fp16 import choose_fp16, large_tensors, to_fp16
from calibration.graph_view import GraphView
from calibration.ranges import Ranges
from edge_ad.bundle import Bundle
from edge_ad.bundle.graphs import FP32_GRAPHS
from edge_ad.deployment.int8 import TARGET, Recipe, derive_int8, ranges_of, recipe_of
from edge_ad.engines.tensorrt.build import BuildOptions, build_engine, rtx
from edge_ad.engines.tensorrt.progress import Progress, Report, run_interruptibly
from edge_ad.engines.tensorrt.versions import check_version

_FREE_KINDS = frozenset({"Cast", "Constant", "DequantizeLinear", "QuantizeLinear"})  # their types are their own


@dataclass(frozen=True)
class TypedGraph:
    """A graph as TensorRT wants it: ONNX bytes, the precision to build it in, and nodes that weak typing holds in FP32.
    """

    data: bytes
    precision: str
    fp32_nodes: frozenset[str] = frozenset()


def derive(
    bundle: Bundle, precision: str, keep_fp32: Collection[str] = (), recipe: Recipe | None = None
) -> dict[str, bytes]:
    """Return the graphs for onnxruntime in ``precision`` by name; those that stay FP32 are absent.

    So an fp32 build derives nothing. int8 takes the ``recipe``, by default the bundle's own. fp16 leaves nodes in FP32
    whose tensors went beyond half the range of FP16 in calibration, where the bundle knows.
    """
    if precision == "fp32":
        return {}
    if precision == "int8":
        return derive_int8(bundle, recipe or recipe_of(bundle), TARGET["onnxruntime"], keep_fp32=keep_fp32)
    fp32, ranges = {*FP32_GRAPHS, *keep_fp32}, ranges_of(bundle)
    return {name: to_fp16(bundle.graph(name), ranges=ranges.get(name)) for name in bundle.graphs if name not in fp32}


def typed_graphs(
    bundle: Bundle, precision: str, strong: bool, keep_fp32: Collection[str] = (), *, recipe: Recipe | None = None
) -> dict[str, TypedGraph]:
    """Return all graphs by name as TensorRT wants them, typed themselves for ``strong`` typing, else in FP32.

    The fusion and graphs in ``keep_fp32`` are FP32 throughout; a graph that INT8 leaves out altogether is FP16.
    """
    graphs = {name: TypedGraph(bundle.graph(name), "fp32") for name in bundle.graphs}
    if precision == "fp32":
        return graphs
    ranges = ranges_of(bundle)
    if strong:
        lower = {name: TypedGraph(data, "fp16") for name, data in derive(bundle, "fp16", keep_fp32).items()}
    else:
        halves = [name for name in graphs if name not in {*FP32_GRAPHS, *keep_fp32}]
        lower = {name: _weak(graphs[name].data, "fp16", ranges.get(name)) for name in halves}
    if precision == "int8":
        typing = "fp16" if strong else "fp32"
        for name, data in derive_int8(bundle, recipe or recipe_of(bundle), "tensorrt", typing, keep_fp32=keep_fp32).items():
            lower[name] = TypedGraph(data, "int8") if strong else _weak(data, "int8", ranges.get(name))
    return graphs | lower


def fp32_nodes(graph: bytes, ranges: Ranges | None = None) -> frozenset[str]:
    """Return the names of the nodes that an FP16 cast of the graph would leave in FP32, as TensorRT's parser names
    them.
    """
    view = GraphView(graph)
    fp16 = choose_fp16(view, large=large_tensors(ranges))
    return frozenset(
        node.name or f"node_of_{node.output[0]}"
        for index, node in enumerate(view.graph.node)
        if index not in fp16 and node.op_type not in _FREE_KINDS and view.floats.intersection(node.output)
    )


def compile_typed(
    trt: Any, graphs: Mapping[str, TypedGraph], options: BuildOptions | None = None, report: Report = lambda text: None
) -> dict[str, bytes]:
    """Return the serialised engine of every graph by name, built with the module ``trt``; Ctrl-C ends it cleanly.

    ``report`` gets a sentence on the progress every few seconds. BadInput or DeviceFault names the graph that does not
    compile.
    """
    check_version(trt)
    progress = Progress(float(sum(len(graph.data) for graph in graphs.values())), report)

    def one(name: str, graph: TypedGraph) -> Callable[[], bytes]:
        return lambda: build_engine(
            trt, graph.data, graph.precision, name, options=options, progress=progress, fp32_nodes=graph.fp32_nodes
        )

    plans = {}
    for name, graph in graphs.items():
        progress.begin(name, float(len(graph.data)))
        plans[name] = run_interruptibly(one(name, graph), progress)
    return plans


def check_compiles(bundle: Bundle, precision: str, recipe: Recipe | None = None, trt: Any = None) -> dict[str, int]:
    """Compile all graphs as ``build-engine`` does, in both typings, by default with TensorRT for RTX, which needs no
    GPU.

    Returns sizes in bytes by name; in FP32 both typings are one. BadInput or DeviceFault names the graph that does not
    compile.
    """
    module = trt or rtx()
    sizes = {}
    typings = {"strong": True} if precision == "fp32" else {"weak": False, "strong": True}
    for typing, strong in typings.items():
        for name, plan in compile_typed(module, typed_graphs(bundle, precision, strong, recipe=recipe)).items():
            sizes[f"{name} ({typing} typing)"] = len(plan)
    return sizes


def _weak(data: bytes, precision: str, ranges: Ranges | None) -> TypedGraph:
    return TypedGraph(data, precision, fp32_nodes(data, ranges))
