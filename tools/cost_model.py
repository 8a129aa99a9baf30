"""What a frame costs, graph by graph, and what boards could do with it at best: `python tools/cost_model.py [BUNDLE] [--json FILE]`

Counts the multiply-accumulates of every graph and the bytes that it must move: weights, inputs and outputs (everything
between them stays on the chip), or in and out of every operator (nothing stays there). A roofline with the peaks of a
board's data sheet makes two times of that. They are PREDICTIONS of what cannot be beaten, never measurements: real engines
take a multiple, and what the host does comes on top.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import onnx
from onnx import NodeProto

from calibration.view import View
from edge_ad.bundle import Bundle, open_bundle
from edge_ad.files import atomic_write, newest_bundle


@dataclass(frozen=True)
class Board:
    """Dense peaks of the GPU alone: 10^12 operations a second in INT8 (FP16 has half of it), and 10^9 bytes a second.

    Data sheets name sparse INT8, which is twice the dense, and count the DLAs in, which are left out here. They follow from
    2,048 dense INT8 multiply-accumulates a clock and SM.
    """

    name: str
    int8_tops: float
    gbytes: float


BOARDS = (
    Board("Orin Nano 8GB (8 SMs, 625 MHz)", 20.5, 68.0),
    Board("Orin Nano 8GB Super (8 SMs, 1,020 MHz)", 33.4, 102.0),
    Board("Orin NX 16GB (8 SMs, 918 MHz)", 30.1, 102.4),
    Board("AGX Orin 64GB (16 SMs, 1,300 MHz)", 85.2, 204.8),
)
WIDTHS = {"fp16": 2, "int8": 1}  # bytes of a number


@dataclass(frozen=True)
class Cost:
    """Multiply-accumulates and numbers of one graph: its weights, what goes in and out, and the sum over all operators."""

    graph: str
    macs: int
    weights: int
    ends: int
    every: int

    def seconds(self, board: Board, precision: str) -> tuple[float, float]:
        """Return the roofline's least time with everything, and with nothing, kept on the chip."""
        width = WIDTHS[precision]
        rate = board.int8_tops * 1e12 * (1.0 if precision == "int8" else 0.5)
        numbers = (self.weights + self.ends, self.every)
        low, high = (max(2 * self.macs / rate, count * width / (board.gbytes * 1e9)) for count in numbers)
        return low, high


def cost_of(name: str, data: bytes) -> Cost:
    """Count a graph whose shapes are static."""
    view = View(data)
    graph = view.graph
    sizes = {value.name: _numbers(value) for value in (*graph.value_info, *graph.input, *graph.output)}
    sizes.update({key: prod(tensor.dims) for key, tensor in view.weights.items()})
    ends = sum(sizes[value.name] for value in (*graph.input, *graph.output))
    every = sum(sizes.get(key, 0) for node in graph.node for key in (*node.input, *node.output) if key)
    macs = sum(_macs(view, node) for node in graph.node)
    return Cost(name, macs, sum(prod(tensor.dims) for tensor in view.weights.values()), ends, every)


def _numbers(value: onnx.ValueInfoProto) -> int:
    return prod(dim.dim_value for dim in value.type.tensor_type.shape.dim)


def _macs(view: View, node: NodeProto) -> int:
    """Return the multiply-accumulates of the operators that have many; the rest is counted by its bytes alone."""
    if node.op_type not in ("Conv", "MatMul", "Gemm", "Einsum"):
        return 0
    shapes = [view.shape(name) for name in node.input[:2]]
    output = view.shape(node.output[0])
    if output is None or None in shapes:
        return 0
    first, second = (tuple(shape) for shape in shapes if shape is not None)
    if node.op_type == "Conv":
        return prod(output) * prod(second[1:])
    if node.op_type == "Einsum":
        equation = next(item.s.decode() for item in node.attribute if item.name == "equation")
        letters = equation.replace(" ", "").partition("->")[0].split(",")
        return prod(
            {**dict(zip(letters[0], first, strict=True)), **dict(zip(letters[1], second, strict=True))}.values()
        )
    turned = any(item.name == "transA" and item.i for item in node.attribute)
    return prod(output) * first[0 if turned else -1]


def costs(bundle: Bundle) -> list[Cost]:
    """Return the cost of every graph of a bundle, in running order."""
    return [cost_of(name, bundle.graph(name)) for name in bundle.graphs]


def total(found: list[Cost]) -> Cost:
    """Return the sum: the whole frame."""
    return Cost("all", *(sum(getattr(one, key) for one in found) for key in ("macs", "weights", "ends", "every")))


def table(found: list[Cost]) -> list[str]:
    """Return two Markdown tables: what each graph costs, and the predictions."""
    lines = ["| graph | GMAC | weights M | moved at least M | moved at most M |", "|---|--:|--:|--:|--:|"]
    for one in (*found, total(found)):
        millions = (one.weights, one.weights + one.ends, one.every)
        lines.append(f"| {one.graph} | {one.macs / 1e9:.3f} | " + " | ".join(f"{n / 1e6:.2f}" for n in millions) + " |")
    lines += ["", "| PREDICTION, ms a frame, no engine can be faster than the first | FP16 | INT8 |", "|---|--:|--:|"]
    for board in BOARDS:
        cells = []
        for precision in WIDTHS:
            low, high = (
                1000 * sum(times) for times in zip(*(one.seconds(board, precision) for one in found), strict=True)
            )
            cells.append(f"{low:.2f} to {high:.2f}")
        lines.append(f"| {board.name} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Read the command line and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", type=Path, help="default: the newest under runs/")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = costs(open_bundle(options.bundle or newest_bundle()))
    print("\n".join(table(found)))
    if options.json:
        values: list[dict[str, Any]] = [
            {
                **vars(one),
                "predicted_ms": {
                    board.name: {p: [1000 * t for t in one.seconds(board, p)] for p in WIDTHS} for board in BOARDS
                },
            }
            for one in found
        ]
        atomic_write(options.json, json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    main()
