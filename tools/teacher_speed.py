"""How much faster is a teacher alone in INT8 on this processor? `python tools/teacher_speed.py GOODS [--threads 1 2]`

Exports the teachers of the presets with the weights that ship, measures ranges on goods, quantises all of each graph for
`cpu` and times FP32 and INT8 in turns, with sessions as `edge-ad run` opens them. It wants an idle machine with VNNI.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray

from calibration.collect import collect
from calibration.quantise import quantise
from edge_ad.data.images import list_images, read_image, resize
from edge_ad.engines.onnxruntime import OrtBackend, OrtEngine
from edge_ad.export.graphs import TeacherGraph
from edge_ad.export.onnx_export import export_graph
from edge_ad.presets import preset_named
from edge_ad.training.teacher import load_teacher

GOODS = 24
WARM = 3
OUTPUTS = ("features", "tokens", "pooled")


def main() -> None:
    """Read the command line and print a row of the table for each preset and number of threads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("goods", type=Path, help=f"a folder of pictures, of which {GOODS} are used")
    parser.add_argument("--presets", nargs="+", default=["paper", "fast"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--turns", type=int, default=40)
    options = parser.parse_args()
    paths = list_images(options.goods)[:GOODS]
    if not paths:
        parser.error(f"{options.goods} holds no picture: name a folder with pictures of good parts")
    print("| teacher | threads | FP32, ms | INT8, ms | times faster |\n|---|--:|--:|--:|--:|")
    for name in options.presets:
        preset = preset_named(name)
        images = [resize(read_image(path), (preset.image_side, preset.image_side)) for path in paths]
        graphs = both(name, images)
        for threads in options.threads:
            plain, short = (median(laps) for laps in taken(graphs, images[0], threads, options.turns))
            cells = f"{plain:.2f} | {short:.2f} | {plain / short:.2f}"
            print(f"| `{preset.teacher.kind}` of `{name}` | {threads} | {cells} |", flush=True)


def both(name: str, images: list[NDArray[np.uint8]]) -> tuple[bytes, bytes]:
    """Return a preset's teacher in FP32, and all of it in INT8 with ranges from u8 [H, W, 3] pictures."""
    preset = preset_named(name)
    outputs = tuple(key for key in OUTPUTS if key != "tokens" or not preset.teacher.token_side)
    teacher = load_teacher(preset, None, torch.device("cpu"))
    example = torch.from_numpy(images[0][None])
    plain = export_graph("teacher", TeacherGraph(teacher, outputs), [example], ("image",), outputs).model
    ranges = collect(plain, ({"image": image[None]} for image in images))
    return plain, quantise(plain, ranges, "cpu")


def taken(
    graphs: tuple[bytes, bytes], image: NDArray[np.uint8], threads: int, turns: int
) -> tuple[list[float], list[float]]:
    """Return the milliseconds of a run of each graph, in turns."""
    backend = OrtBackend(threads)
    laps: tuple[list[float], list[float]] = ([], [])
    opened = [ready(backend, graph, image) for graph in graphs]
    for turn in range(WARM + turns):
        for engine, own in zip(opened, laps, strict=True):
            began = time.perf_counter()
            engine.run()
            if turn >= WARM:
                own.append((time.perf_counter() - began) * 1000.0)
    return laps


def ready(backend: OrtBackend, graph: bytes, image: NDArray[np.uint8]) -> OrtEngine:
    """Return an engine that looks at one picture."""
    engine = backend.load("teacher", graph)
    for specs in (engine.inputs, engine.outputs):
        for spec in specs.values():
            tensor = backend.allocate(spec)
            if spec.name == "image":
                tensor.write(image[None])
            engine.bind(spec.name, tensor)
    return engine


if __name__ == "__main__":
    main()
