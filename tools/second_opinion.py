"""A second opinion on INT8: nvidia-modelopt on the same graph and pictures, beside ours.

    python tools/second_opinion.py GRAPH.onnx PICTURES.npz [--out modelopt.onnx]

PICTURES holds one array a graph input, pictures along the first axis. modelopt is no dependency and pins packages of its own:
run this in an environment with `pip install nvidia-modelopt[onnx]` and this package installed beside it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from calibration.collect import collect
from calibration.quantise import quantise
from calibration.verify import relative_errors


def placement(data: bytes) -> dict[str, int]:
    """Count, by operator type, the nodes that read a dequantised tensor."""
    graph = onnx.load_model_from_string(data).graph
    dequantised = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    found = Counter(node.op_type for node in graph.node if dequantised.intersection(node.input))
    return dict(sorted(found.items()))


def by_modelopt(path: Path, arrays: dict[str, Any], out: Path) -> bytes:
    """Quantise with modelopt's defaults on the CPU and return the model."""
    module = importlib.import_module("modelopt.onnx.quantization")
    module.quantize(
        str(path),
        quantize_mode="int8",
        calibration_data=arrays,
        calibration_method="entropy",
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=str(out),
    )
    return out.read_bytes()


def main() -> int:
    """Print both placements and errors as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graph", type=Path)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--out", type=Path, default=Path("modelopt.onnx"))
    asked = parser.parse_args()
    with np.load(asked.pictures, allow_pickle=False) as held:
        arrays = {name: held[name] for name in held.files}
    count = min(len(array) for array in arrays.values())
    feeds = [{name: array[index : index + 1] for name, array in arrays.items()} for index in range(count)]
    model = asked.graph.read_bytes()
    told: dict[str, Any] = {}
    variants = {"edge-ad": lambda: quantise(model, collect(model, feeds))}
    variants["modelopt"] = lambda: by_modelopt(asked.graph, arrays, asked.out)
    for name, make in variants.items():
        try:
            data = make()
        except ImportError as error:
            print(f"error: {name} is not installed ({error}): pip install 'nvidia-modelopt[onnx]'", file=sys.stderr)
            return 2
        told[name] = {"reads_8_bit": placement(data), "relative_error": relative_errors(model, data, feeds[:16])}
    print(json.dumps(told, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
