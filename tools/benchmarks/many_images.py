"""Many images at once: does a batch axis pay, and what do images side by side bring (docs/experiments/precision.md).

    python tools/benchmarks/many_images.py BUNDLE [--batch 1 4 16] [--turns 10] [--images FOLDER] [--jobs 1 2] [--precision fp32]

First the milliseconds of CPU time an image that each graph takes with so many images in a batch, in one thread and in turns, the
20th percentile of the turns; a bundle of preset `fast`. Teacher and EfficientAD are the bundle's graphs with a larger first axis.
LAViT gets so many times as many masks of one image, a little less than as many images would be. Tokenizer and memory are
exported anew for the batch, the tokenizer with other weights. INT8 stands beside it where the bundle has it, but for the tokenizer.
With `--images` the images of a folder are judged as `edge-ad evaluate` does, with so many jobs in turns: images a second, CPU
time an image, and whether all scores are the same; 0 is one image after the other on all cores.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edge_ad.bundle import Bundle, open_bundle
from edge_ad.bundle.graphs import LAVIT, bound_constants
from edge_ad.data.datasets import TestItem
from edge_ad.data.images import list_images
from edge_ad.deployment.derive import derive
from edge_ad.engines.offline import Workers, open_workers
from edge_ad.engines.onnxruntime import OrtBackend
from edge_ad.engines.pipeline import Pipeline
from edge_ad.evaluation.figures import judge_all

QUIET = 20  # percentile of times
MEASURED = ("teacher", "efficientad", "memory", "tokenizer", LAVIT)
Feed = Mapping[str, NDArray[Any]]


def with_batch(payload: bytes, count: int, inputs: Iterable[str]) -> bytes:
    """Return a graph whose ``inputs`` and outputs have a first axis of ``count`` in the place of 1."""
    model = onnx.load_model_from_string(payload)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}

    def enlarge(name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
        if name in constants:
            value = numpy_helper.to_array(constants[name])
            constants[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(change(value)), name))

    def shape(value: NDArray[Any]) -> NDArray[Any]:
        return np.array([count, *value[1:]], np.int64) if len(value) > 1 and value[0] == 1 else value

    def copies(value: NDArray[Any]) -> NDArray[Any]:
        return np.repeat(value, count, axis=0) if value.ndim == 4 and value.shape[0] == 1 else value

    for node in model.graph.node:
        if node.op_type in ("Reshape", "Resize") and len(node.input) > 1:
            enlarge(node.input[-1], shape)
        if node.op_type == "Concat":
            for name in node.input:
                enlarge(name, copies)
    for value in (*(one for one in model.graph.input if one.name in set(inputs)), *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = count
    del model.graph.value_info[:]
    return bytes(model.SerializeToString())


def with_masks(payload: bytes, count: int, masks: tuple[int, int]) -> bytes:
    """Return LAViT's graph for ``count`` times as many ``masks`` (R, cells) of one image."""
    model, (number, cells) = onnx.load_model_from_string(payload), masks
    shapes = {name for node in model.graph.node if node.op_type in ("Reshape", "Expand") for name in node.input[1:]}
    for tensor in model.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.dtype == np.int64 and value.shape == (number, 1):  # rows of CLS and of HIST
            value = np.arange(cells + 1, cells + 1 + number * count)[:, None] * np.int64(value.any())
        elif tensor.name in shapes and list(value[:2]) != [1, 1]:
            rows = [cells + 1 + number * count if side == cells + 1 + number else side for side in value.tolist()]
            value = np.array([side * count if _is_of_masks(side, number) else side for side in rows], np.int64)
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    next(one for one in model.graph.input if one.name == "masks").type.tensor_type.shape.dim[0].dim_value = number * count
    del model.graph.value_info[:]
    return bytes(model.SerializeToString())


def _is_of_masks(side: int, masks: int) -> bool:
    return side in (masks, 6 * masks) or (side > 1000 and side % masks == 0)  # 6 heads of preset `fast`


def tokenizer(bundle: Bundle, tokens: Sequence[int]) -> bytes:
    """Return a tokenizer of preset `fast` with random weights for ``tokens`` [N, C, h, w]."""
    import torch

    from edge_ad.export.graphs import TokenizerGraph
    from edge_ad.models.build import build_tokenizer
    from edge_ad.presets.presets import FAST

    network = build_tokenizer(FAST, tokens[1], bundle.image_size).eval()
    for quantiser in (network.top, *network.levels):
        quantiser.temperature = 1.0
    return _exported(TokenizerGraph(network), [torch.randn(*tokens)], ["tokens"], ["codes", "map_structure", "shares"])


def memory(payload: bytes, values: Feed, count: int) -> bytes:
    """Return the Gaussians of cells for a batch: one product a region with the cells of all images."""
    import torch
    from torch.nn import functional as F

    held = onnx.load_model_from_string(payload).graph.initializer
    whitening = next(numpy_helper.to_array(one) for one in held if len(one.dims) == 4)
    features, *constants = (np.array(values[name]) for name in ("features", "memory_mean", "memory_roots"))

    class Cells(torch.nn.Module):
        def forward(self, features: torch.Tensor, mean: torch.Tensor, roots: torch.Tensor) -> torch.Tensor:
            away = F.conv2d(features, torch.from_numpy(whitening.copy())) - mean
            images, depth, rows, columns = away.shape
            blocks = away.reshape(images, depth, rows // 2, 2, columns // 2, 2).permute(2, 4, 1, 0, 3, 5)
            distances = (roots @ blocks.reshape(len(roots), depth, -1)).square().sum(1).sqrt()
            maps = distances.reshape(rows // 2, columns // 2, images, 2, 2).permute(2, 0, 3, 1, 4)
            return maps.reshape(images, 1, rows, columns)

    examples = [torch.from_numpy(one) for one in (np.repeat(features[:1], count, axis=0), *constants)]
    return _exported(Cells(), examples, ["features", "memory_mean", "memory_roots"], ["map_memory"])


def _exported(module: Any, examples: Sequence[Any], inputs: list[str], outputs: list[str]) -> bytes:
    import onnxsim
    import torch

    program = torch.onnx.export(
        module.eval(), tuple(examples), dynamo=True, opset_version=20, input_names=inputs, output_names=outputs, verbose=False
    )
    assert program is not None
    model, _ = onnxsim.simplify(program.model_proto)
    model.ir_version = 10
    return bytes(model.SerializeToString())


def values_of(bundle: Bundle, count: int) -> dict[str, NDArray[Any]]:
    """Return all tensors of ``count`` golden images, one after the other, and the constants of the bundle."""
    rows: list[dict[str, NDArray[Any]]] = []
    with Pipeline(bundle, threads=1, all_branches=True) as pipeline:
        names = {name for engine in pipeline.engines.values() for name in engine.outputs}
        for number in range(count):
            pipeline.infer(bundle.golden.images[number % len(bundle.golden.images)])
            rows.append({name: pipeline.tensor(name) for name in (*names, "image")})
    constants = bound_constants(bundle.masks, bundle.statistics, bundle.references.arrays())
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]} | dict(constants)


def batch_job(bundle: Bundle, name: str, payload: bytes, count: int, values: Feed) -> Callable[[], object]:
    """Return one run of a graph with ``count`` images in a batch, in one thread."""
    feed = {key: value[:count] if len(value) and key not in bundle.references.arrays() else value for key, value in values.items()}
    if name == LAVIT:
        feed |= {key: values[key][:1] for key in ("tokens", "codes", "shares") if key in values}
        feed["masks"] = np.tile(values["masks"], (count, 1))
        payload = payload if count == 1 else with_masks(payload, count, values["masks"].shape)
    elif name == "tokenizer":
        payload = tokenizer(bundle, feed["tokens"].shape)
    elif name == "memory":
        payload = payload if count == 1 else memory(payload, values, count)
    elif count > 1:
        payload = with_batch(payload, count, ("image", "features", "tokens"))
    session = OrtBackend(1).load(name, payload).session
    own = {one.name: feed[one.name] for one in session.get_inputs()}
    return lambda: session.run(None, own)


def measure_batches(bundle: Bundle, batches: Sequence[int], turns: int) -> dict[tuple[str, str], list[float]]:
    """Return milliseconds of CPU time an image by graph and precision, for each number of images in a batch."""
    lower: Mapping[str, bytes] = {} if bundle.quantisation is None else derive(bundle, "int8")
    most, results = max(batches), {}
    values = values_of(bundle, most)
    for name in (one for one in MEASURED if one in bundle.graphs):
        for precision, payload in (("FP32", bundle.graph(name)), ("INT8", lower.get(name))):
            if payload is None or (precision == "INT8" and name == "tokenizer"):
                continue
            jobs = [batch_job(bundle, name, payload, count, values) for count in batches]
            times: list[list[float]] = [[] for _ in batches]
            for _ in range(turns + 1):
                for count, job, row in zip(batches, jobs, times, strict=True):
                    began = time.process_time()
                    for _ in range(most // count):
                        job()
                    row.append((time.process_time() - began) * 1000.0 / (most // count * count))
            results[name, precision] = [float(np.percentile(row[1:], QUIET)) for row in times]
    return results


def judge_folder(bundle: Bundle, paths: Sequence[Path], precision: str, jobs: int) -> tuple[float, float, str]:
    """Return images a second, milliseconds of CPU time an image, and a hash of all scores and maps.

    0 ``jobs`` are one image after the other on all cores, as one camera of a run has it.
    """
    items = [TestItem(path, "good", "good", bits=bundle.image_bits) for path in paths]
    graphs = None if precision == "fp32" else derive(bundle, precision)
    with contextlib.ExitStack() as stack:
        if jobs:
            workers = stack.enter_context(open_workers(bundle, "onnxruntime", precision, jobs=jobs, graphs=graphs))
        else:
            workers = Workers([stack.enter_context(Pipeline(bundle, precision=precision, graphs=graphs))])
        began, worked = time.perf_counter(), time.process_time()
        scores = judge_all(workers, items, geometry=bundle.geometry)
        taken, worked = time.perf_counter() - began, time.process_time() - worked
    digest = hashlib.sha256(b"".join(array.tobytes() for array in (scores.raw, scores.score, *scores.maps))).hexdigest()
    return len(items) / taken, worked * 1000.0 / len(items), digest


def main() -> int:
    """Measure and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4, 16], help="images in a batch; 0: measure no batches")
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--images", type=Path, help="a folder of images to judge side by side")
    parser.add_argument("--jobs", type=int, nargs="+", default=[0, 1, 2], help="0: one image on all cores")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "int8"), help="of --images")
    asked = parser.parse_args()
    bundle = open_bundle(asked.bundle)
    if all(asked.batch):
        print(f"| ms an image, in a batch of | {' | '.join(map(str, asked.batch))} |\n|---|{'--:|' * len(asked.batch)}")
        for (name, precision), row in measure_batches(bundle, asked.batch, asked.turns).items():
            print(f"| {name} {precision} | {' | '.join(f'{value:.2f}' for value in row)} |", flush=True)
    if asked.images is not None:
        paths = list_images(asked.images)
        print("| jobs | images a second | CPU ms an image |\n|--:|--:|--:|")
        turns = [[judge_folder(bundle, paths, asked.precision, jobs) for jobs in asked.jobs] for _ in range(asked.turns)]
        for number, jobs in enumerate(asked.jobs):
            rates, worked, _ = zip(*(turn[number] for turn in turns), strict=True)
            print(f"| {jobs} | {np.median(rates):.2f} | {np.percentile(worked, QUIET):.1f} |")
        same = len({digest for turn in turns for _, _, digest in turn}) == 1
        print(f"\n{len(paths)} images; scores and maps are {'the same bit for bit' if same else 'NOT the same'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
