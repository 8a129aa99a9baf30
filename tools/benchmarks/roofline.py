"""How close every graph of a bundle runs to the limit of this processor, in FP32 and INT8, and what bounds it.

    python tools/benchmarks/roofline.py BUNDLE [--turns 30] [--json roofline.json] [--publish]

One thread, CPU time, the 20th percentile of all turns, so that other load changes little. In each turn every graph runs once, and
so do a matrix product of each precision in the same onnxruntime (GEMM) and a = b + s * c (STREAM) on arrays that the second-level
cache holds and on arrays larger than all caches. The least time of a graph is its products at the rate of GEMM, or what its nodes
read and write at the rate of STREAM in the cache, whichever takes longer. `--publish` writes table and plot of
docs/experiments/precision.md.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from calibration.cpu import weight_limit
from calibration.graph_view import GraphView
from calibration.session import open_session
from edge_ad.bundle import Bundle, open_bundle
from edge_ad.deployment.derive import derive
from edge_ad.engines.pipeline import Pipeline
from edge_ad.utils.board import machine
from edge_ad.utils.files import atomic_write

ROOT = Path(__file__).resolve().parents[2]
PAGE, PLOT = ROOT / "docs/experiments/precision.md", ROOT / "docs/images/roofline.png"
MARKS = ("<!-- roofline: tools/benchmarks/roofline.py writes this -->", "<!-- end of roofline -->")
SIDE = 1024  # of the matrices of GEMM
CACHED, LARGE = 1 << 17, 1 << 24  # bytes of one of three arrays: in the second-level cache, beyond all of them
QUIET = 20  # percentile of times
_BYTES = {TensorProto.FLOAT: 4, TensorProto.INT32: 4, TensorProto.INT64: 8, TensorProto.FLOAT16: 2}
_VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "DequantizeLinear"})  # nothing is moved


@dataclass(frozen=True)
class Cost:
    """Multiply-accumulates of one run by precision (10^9), and what nodes read and write (10^6 bytes)."""

    fp32: float
    int8: float
    mb: float


@dataclass(frozen=True)
class Peaks:
    """What this processor does in one thread: 10^9 multiply-accumulates a second, 10^9 bytes a second."""

    fp32: float
    int8: float
    cache: float
    memory: float


@dataclass(frozen=True)
class Row:
    """One graph in one precision: its cost, its milliseconds, and the least that products and bytes would take."""

    graph: str
    precision: str
    cost: Cost
    ms: float
    product_ms: float
    byte_ms: float

    @property
    def share(self) -> float:
        """The share of the limit that is reached."""
        return max(self.product_ms, self.byte_ms) / self.ms

    @property
    def bound(self) -> str:
        """What takes most of its time: products, bytes, or neither where both together are less than half of it."""
        if self.product_ms + self.byte_ms < 0.5 * self.ms:
            return "many small nodes"
        return "products" if self.product_ms >= self.byte_ms else "bytes"


def cost_of(view: GraphView) -> Cost:
    """Return what one run of a graph costs; products whose inputs are dequantised count as INT8."""
    types = {value.name: value.type.tensor_type for value in (*view.graph.input, *view.graph.output, *view.graph.value_info)}
    products = {"fp32": 0.0, "int8": 0.0}
    moved = 0.0

    def size(name: str) -> float:
        producer = view.producer_of(name)
        if producer is not None and producer.op_type == "DequantizeLinear":
            return size(producer.input[0])
        if name in view.weights:
            return float(math.prod(view.weights[name].dims) * _BYTES.get(view.weights[name].data_type, 1))
        shape = view.shape(name)
        return float(math.prod(shape) * _BYTES.get(types[name].elem_type, 1)) if shape is not None and name in types else 0.0

    for node in view.graph.node:
        count = products_of(view, node)
        sources = [view.producer_of(name) for name in node.input[:2]]
        eight = bool(count) and all(source is not None and source.op_type == "DequantizeLinear" for source in sources)
        products["int8" if eight else "fp32"] += count
        if node.op_type not in _VIEWS:
            moved += sum(size(name) for name in (*node.input, *node.output) if name)
    return Cost(products["fp32"] / 1e9, products["int8"] / 1e9, moved / 1e6)


def products_of(view: GraphView, node: NodeProto) -> int:
    """Return the multiply-accumulates of a node: convolutions, matrix products and Einsum, else 0."""
    shapes = [view.shape(name) or () for name in node.input[:2]]
    out = math.prod(view.shape(node.output[0]) or ())
    if node.op_type == "Conv":
        return out * math.prod(shapes[1][1:])
    if node.op_type == "ConvTranspose":
        return math.prod(shapes[0]) * math.prod(shapes[1][1:])
    if node.op_type in ("MatMul", "Gemm"):
        turned = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        return out * shapes[0][0 if turned else -1]
    if node.op_type == "Einsum":
        terms = helper.get_attribute_value(node.attribute[0]).decode().replace(" ", "").split("->")[0].split(",")
        sides = {label: side for term, shape in zip(terms, shapes, strict=True) for label, side in zip(term, shape, strict=True)}
        return math.prod(sides.values())
    return 0


def gemm(precision: str) -> Callable[[], object]:
    """Return one product of two matrices of SIDE x SIDE in onnxruntime, the second a constant."""
    rng, limit = np.random.default_rng(0), weight_limit()
    image: NDArray[Any]
    weight: NDArray[Any]
    if precision == "fp32":
        kinds, kind = (TensorProto.FLOAT, TensorProto.FLOAT), "MatMul"
        image, weight = np.ones((SIDE, SIDE), np.float32), rng.normal(size=(SIDE, SIDE)).astype(np.float32)
    else:
        kinds, kind = (TensorProto.UINT8, TensorProto.INT32), "MatMulInteger"
        image, weight = np.ones((SIDE, SIDE), np.uint8), rng.integers(-limit, limit, (SIDE, SIDE)).astype(np.int8)
    ends = [helper.make_tensor_value_info(name, one, [SIDE, SIDE]) for name, one in zip("xy", kinds, strict=True)]
    node = helper.make_node(kind, ["x", "w"], ["y"])
    graph = helper.make_graph([node], "gemm", ends[:1], ends[1:], [numpy_helper.from_array(weight, "w")])
    session = open_session(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), 1)
    return lambda: session.run(None, {"x": image})


def stream(size: int, repeats: int) -> Callable[[], object]:
    """Return a = b + s * c over arrays of ``size`` bytes, as two passes of numpy: five arrays are read or written."""
    a, b, c = (np.ones(size // 4, np.float32) for _ in range(3))

    def run() -> None:
        for _ in range(repeats):
            np.multiply(c, np.float32(3.0), out=a)
            np.add(a, b, out=a)

    return run


def measure(bundle: Bundle, turns: int) -> tuple[Peaks, list[Row]]:
    """Run everything in turns and return the peaks and a row for each graph and precision."""
    lower = {} if bundle.quantisation is None else derive(bundle, "int8")
    opened = {"fp32": Pipeline(bundle, threads=1, all_branches=True)}
    if lower:
        opened["int8"] = Pipeline(bundle, precision="int8", threads=1, all_branches=True, graphs=lower)
    repeats = LARGE // CACHED
    jobs: dict[tuple[str, str], Callable[[], object]] = {
        ("gemm", "fp32"): gemm("fp32"),
        ("gemm", "int8"): gemm("int8"),
        ("stream", "cache"): stream(CACHED, repeats),
        ("stream", "memory"): stream(LARGE, 1),
    }
    for precision, pipeline in opened.items():
        pipeline.infer(bundle.golden.images[0])
        jobs |= {(name, precision): engine.run for name, engine in pipeline.engines.items() if precision == "fp32" or name in lower}
    times = in_turns(jobs, turns)
    work, moved = SIDE**3 / 1e6, 5 * LARGE / 1e6
    gemms, streams = ([times["gemm", name] for name in ("fp32", "int8")], [times["stream", name] for name in ("cache", "memory")])
    peaks = Peaks(*(work / ms for ms in gemms), *(moved / ms for ms in streams))
    rows = []
    for (name, precision), ms in times.items():
        if name not in ("gemm", "stream"):
            cost = cost_of(GraphView(lower[name] if precision == "int8" else bundle.graph(name)))
            product_ms = 1000.0 * (cost.fp32 / peaks.fp32 + cost.int8 / peaks.int8)
            rows.append(Row(name, precision, cost, ms, product_ms, cost.mb / peaks.cache))
    for pipeline in opened.values():
        pipeline.close()
    return peaks, rows


def in_turns(jobs: Mapping[tuple[str, str], Callable[[], object]], turns: int) -> dict[tuple[str, str], float]:
    """Return the milliseconds of CPU time of each job, all taken in turns."""
    times: dict[tuple[str, str], list[float]] = {key: [] for key in jobs}
    for _ in range(turns):
        for key, job in jobs.items():
            start = time.process_time()
            job()
            times[key].append((time.process_time() - start) * 1000.0)
    return {key: float(np.percentile(values[1:] or values, QUIET)) for key, values in times.items()}


def table(bundle: str, peaks: Peaks, rows: list[Row]) -> str:
    """Return the Markdown of the results."""
    lines = [
        f"`{bundle}`, {machine()['processor']}, one thread, CPU time. GEMM {peaks.fp32:.0f} GMAC/s in FP32 and "
        f"{peaks.int8:.0f} in INT8, STREAM {peaks.cache:.0f} GB/s in the cache and {peaks.memory:.0f} in memory.",
        "",
        "| graph | precision | GMAC (of 8 bits) | MB moved | ms | least ms: products, bytes | share of the limit | bound by |",
        "|---|---|--:|--:|--:|--:|--:|---|",
    ]
    for row in sorted(rows, key=lambda row: (row.precision, -row.ms)):
        cost = f"{row.cost.fp32 + row.cost.int8:.3f} ({row.cost.int8:.3f}) | {row.cost.mb:.1f}"
        least = f"{row.product_ms:.2f}, {row.byte_ms:.2f} | {100 * row.share:.0f} %"
        lines.append(f"| {row.graph} | {row.precision.upper()} | {cost} | {row.ms:.2f} | {least} | {row.bound} |")
    return "\n".join(lines) + "\n"


def plot(peaks: Peaks, rows: list[Row], path: Path) -> None:
    """Draw products a second over products a byte, below the roofs of this processor."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    x = np.geomspace(0.01, 300, 200)
    for name, peak, colour in (("FP32", peaks.fp32, "#1d4ed8"), ("INT8", peaks.int8, "#c2410c")):
        axes.plot(x, np.minimum(peak, peaks.cache * x), color=colour, label=f"{name}, GEMM {peak:.0f} GMAC/s")
    axes.plot(x, np.minimum(peaks.fp32, peaks.memory * x), color="#999999", linestyle=":", label=f"memory, {peaks.memory:.0f} GB/s")
    for number, row in enumerate(rows):
        products = row.cost.fp32 + row.cost.int8
        point = products * 1000.0 / row.cost.mb, products * 1000.0 / row.ms
        axes.plot(*point, "o", color="#1d4ed8" if row.precision == "fp32" else "#c2410c")
        side = ("right", -6) if number == 0 or row.precision == "int8" else ("left", 6)  # so that no two names meet
        axes.annotate(row.graph, point, textcoords="offset points", xytext=(side[1], -3), ha=side[0], fontsize=8)
    axes.set(xscale="log", yscale="log", xlabel="multiply-accumulates a byte", ylabel="GMAC a second", ylim=(0.5, None))
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def publish(text: str) -> None:
    """Write the table between its marks."""
    before, first, rest = PAGE.read_text(encoding="utf-8").partition(MARKS[0])
    _, last, after = rest.partition(MARKS[1])
    if not (first and last):
        raise SystemExit(f"error: {PAGE} has no place for the table: {MARKS[0]} ... {MARKS[1]}")
    atomic_write(PAGE, f"{before}{first}\n{text.strip()}\n{last}{after}")


def main() -> int:
    """Measure, print, and write what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--publish", action="store_true", help="write the table and the plot of docs/experiments/precision.md")
    asked = parser.parse_args()
    bundle = open_bundle(asked.bundle)
    peaks, rows = measure(bundle, asked.turns)
    text = table(bundle.name, peaks, rows)
    print(text)
    if asked.json is not None:
        graphs = [{**asdict(row), "share": row.share, "bound": row.bound} for row in rows]
        atomic_write(asked.json, json.dumps({"peaks": asdict(peaks), "graphs": graphs}, indent=1) + "\n")
    if asked.publish:
        publish(text)
        plot(peaks, rows, PLOT)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
