"""Measure what FP16 and INT8 change in the verdicts of a bundle: flips, z errors and AUROC over thousands of images, and speed.

    python tools/benchmarks/measure_precision.py BUNDLE GOODS --count 2000 --out precision.json [--labelled DATA] [--timed 60]

Images are the normal images in GOODS, jittered views of them and synthetic anomalies, half and half, made one by one from their
number and the seed. Raw scores go to <out>.made.jsonl as they are measured; the same command goes on where it stopped.
`int8-tensorrt` is the graph that TensorRT compiles, computed as it is written with sums in FP32: its numbers, not its speed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_ad.bundle import Bundle, open_bundle
from edge_ad.data.datasets import load_dataset, load_test
from edge_ad.data.images import read_image
from edge_ad.data.prepared import prepare_files
from edge_ad.data.synthetic_anomalies import KINDS, make_anomaly
from edge_ad.deployment.derive import derive
from edge_ad.deployment.int8 import derive_int8, measuring_backend, recipe_of
from edge_ad.deployment.loss import Loss, loss
from edge_ad.deployment.validation_images import evenly, jitter
from edge_ad.engines.pipeline import Pipeline
from edge_ad.errors import BadInput, EdgeAdError
from edge_ad.geometry.geometry import Geometry, Prepared
from edge_ad.utils.files import atomic_write

Image = NDArray[np.uint8]
OTHERS = 32  # normal images that stay in memory to take patches from


class Pictures:
    """Image number n of ``count``: a good, a jittered view or an anomaly, always the same for the same seed."""

    def __init__(self, folder: Path, geometry: Geometry, count: int, seed: int) -> None:
        goods = load_dataset(folder, 0).normal
        paths = sorted((*goods.fit, *goods.normalise, *goods.threshold))
        self.paths = prepare_files(paths, geometry).paths  # of those whose part is located
        self.geometry, self.count, self.seed = geometry, count, seed
        self.others = [self._good(int(index)) for index in evenly(len(self.paths), OTHERS)]

    def anomalous(self, number: int) -> bool:
        """The second half are anomalies."""
        return number >= self.count - self.count // 2

    def make(self, number: int) -> Image:
        """Return the image u8 [H, W, 3]."""
        rng = np.random.default_rng([self.seed, number])
        good = self._good(number % len(self.paths))
        if self.anomalous(number):
            return make_anomaly(good, self.others, rng, KINDS[number % len(KINDS)])[0]
        return good if number < len(self.paths) else jitter(good, rng)

    def _good(self, index: int) -> Image:
        prepared = self.geometry.prepare(read_image(self.paths[index]))
        assert isinstance(prepared, Prepared)
        return prepared.image


def variants(bundle: Bundle) -> dict[str, dict[str, bytes]]:
    """Return the graphs that are exchanged, by precision."""
    result: dict[str, dict[str, bytes]] = {"fp32": {}, "fp16": derive(bundle, "fp16")}
    if bundle.quantisation is not None:
        recipe = recipe_of(bundle)
        result["int8"] = derive_int8(bundle, recipe, "cpu")
        result["int8-tensorrt"] = derive_int8(bundle, recipe, "tensorrt")
    return result


def pipelines(bundle: Bundle, threads: int | None) -> dict[str, Pipeline]:
    """Open a pipeline with all branches for each precision."""
    return {
        name: Pipeline(
            bundle,
            precision=name,
            backend=measuring_backend(graphs.values(), threads),
            graphs=graphs,
            all_branches=True,
        )
        for name, graphs in variants(bundle).items()
    }


def measured(path: Path, header: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the lines of an earlier run of the same measurement; BadInput when they are of another one."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(header) + "\n")
        return []
    lines = path.read_text().splitlines()
    if not lines or json.loads(lines[0]) != header:
        raise BadInput(f"{path} belongs to another measurement; remove it or give another --out")
    rows = []
    for line in lines[1:]:
        try:
            rows.append(json.loads(line))
        except ValueError:  # cut off in the middle of a line
            break
    return rows


def score(path: Path, opened: Mapping[str, Pipeline], images: Iterator[tuple[str, bool, Image]], skip: int) -> None:
    """Append a line of raw scores for every image beyond the first ``skip``."""
    began, done = time.monotonic(), 0
    with path.open("a") as stream:
        for number, (name, anomalous, image) in enumerate(images):
            if number < skip:
                continue
            raw = {key: [float(v) for v in pipeline.infer(image).raw] for key, pipeline in opened.items()}
            stream.write(json.dumps({"name": name, "anomalous": anomalous, "raw": raw}) + "\n")
            stream.flush()
            done += 1
            if done % 20 == 0:
                print(f"{number + 1} images, {(time.monotonic() - began) / done:.2f} s each", file=sys.stderr)


def figures(rows: list[dict[str, Any]], bundle: Bundle) -> dict[str, Any]:
    """Return losses by precision against fp32."""
    anomalous = np.array([row["anomalous"] for row in rows])
    tables = {name: np.array([row["raw"][name] for row in rows], np.float32) for name in rows[0]["raw"]}
    message = {}
    for name, raw in tables.items():
        if name != "fp32":
            held = loss(tables["fp32"], raw, anomalous, bundle.statistics, thresholds=bundle.thresholds, everyone=True)
            message[name] = plain(held)
    return message


def plain(held: Loss) -> dict[str, Any]:
    """Return a loss as plain values."""
    branches = {
        row.branch: {
            "bias_z": row.bias,
            "rms_z": row.rms,
            "largest_z": row.largest,
            "auroc_fp32": row.auroc_reference,
            "auroc": row.auroc,
            "auroc_change": row.auroc_change,
        }
        for row in held.rows
    }
    return {
        "images": held.images,
        "flips": held.flips,
        "far_flips": held.far_flips,
        "far_flip_rate": held.rate,
        "expected_flips": held.expected,
        "branches": branches,
    }


def speed(opened: Mapping[str, Pipeline], image: Image, times: int) -> dict[str, Any]:
    """Return the median milliseconds of every graph and of the frame by precision, taken in turns, and fp32's multiple."""
    laps: dict[str, dict[str, list[float]]] = {name: {} for name in opened}
    for turn in range(times + 3):
        for name, pipeline in opened.items():
            stages = pipeline.infer(image).stages_ms
            for stage, value in {**stages, "frame": sum(stages.values())}.items():
                if turn >= 3:
                    laps[name].setdefault(stage, []).append(value)
    medians = {name: {stage: float(np.median(v)) for stage, v in table.items()} for name, table in laps.items()}
    ratios = {
        name: {stage: medians["fp32"][stage] / max(value, 1e-6) for stage, value in table.items()}
        for name, table in medians.items()
    }
    return {"ms": medians, "times_faster_than_fp32": ratios}


def labelled(folder: Path, geometry: Geometry) -> Iterator[tuple[str, bool, Image]]:
    """Yield the inputs of a labelled test set, without parts that are not located."""
    for item in load_test(folder).test:
        prepared = geometry.prepare(read_image(item.path))
        if isinstance(prepared, Prepared):
            yield item.path.name, item.kind != "good", prepared.image


def main() -> int:
    """Parse, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("goods", type=Path)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path("precision.json"))
    parser.add_argument("--labelled", type=Path)
    parser.add_argument("--timed", type=int, default=60)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=5)
    asked = parser.parse_args()
    try:
        return measure(asked)
    except EdgeAdError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def measure(asked: argparse.Namespace) -> int:
    """Do what the arguments ask."""
    bundle = open_bundle(asked.bundle)
    opened = pipelines(bundle, asked.threads)
    pictures = Pictures(asked.goods, bundle.geometry, asked.count, asked.seed)
    result: dict[str, Any] = {"bundle": bundle.sha256, "name": bundle.name, "goods": len(pictures.paths)}
    sets = {"made": ((str(n), pictures.anomalous(n), pictures.make(n)) for n in range(asked.count))}
    if asked.labelled is not None:
        sets["labelled"] = labelled(asked.labelled, bundle.geometry)
    for name, images in sets.items():
        path = asked.out.with_name(f"{asked.out.name}.{name}.jsonl")
        count, seed = (asked.count, asked.seed) if name == "made" else (None, None)
        header = {"bundle": bundle.sha256, "precisions": sorted(opened), "count": count, "seed": seed}
        score(path, opened, images, len(measured(path, header)))
        result[name] = figures(measured(path, header), bundle)
    result["speed"] = speed(opened, pictures.make(0), asked.timed)
    atomic_write(asked.out, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
