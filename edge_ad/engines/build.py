"""Engines for this device: derived from the bundle's FP32 graphs, proven on its golden images, then made current."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from calibration.half import to_half
from edge_ad.bundle import Bundle
from edge_ad.engines import artefacts, wiring
from edge_ad.engines.backends import check_backend, check_precision
from edge_ad.engines.parity import TOLERANCE, Parity, compare
from edge_ad.engines.pipeline import Pipeline
from edge_ad.engines.tensorrt_build import build_engine, strongly_typed
from edge_ad.errors import BadInput, GateRefused, require

ALWAYS_FP32 = ("fusion",)  # score arithmetic stays FP32 in every precision
_WARM_UPS = 3
_TIMED = 20


@dataclass(frozen=True)
class BuildReport:
    """What a build came to.

    ``precisions`` by graph; ``latency_ms`` p50 of a whole frame by precision; ``refusal`` says which graph to change,
    and is None when the engine was accepted; ``folder`` is where it lies, None when it was refused.
    """

    backend: str
    precision: str
    bundle: Path
    precisions: dict[str, str]
    parity: Parity
    latency_ms: dict[str, float]
    refusal: str | None
    folder: Path | None

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON; an error that is not a finite number becomes null."""
        return {
            "backend": self.backend,
            "precision": self.precision,
            "bundle": str(self.bundle),
            "graphs": self.precisions,
            "tolerance": TOLERANCE,
            "error_z": {row.branch: row.error_z if np.isfinite(row.error_z) else None for row in self.parity.rows},
            "golden_images": self.parity.images,
            "verdict_flips": self.parity.flips,
            "latency_ms_p50": self.latency_ms,
            "accepted": self.refusal is None,
            "refusal": self.refusal,
            "engine": None if self.folder is None else str(self.folder),
        }


def build(
    bundle: Bundle,
    precision: str,
    backend: str = "onnxruntime",
    keep_fp32: Collection[str] = (),
    threads: int | None = None,
) -> BuildReport:
    """Derive the graphs, replay the golden images, and make the engine current if the parity gate accepts it.

    ``keep_fp32`` names graphs that stay FP32. An unknown name, precision or backend raises BadInput. On tensorrt every
    graph is compiled, and then GateRefused tells that this version cannot prove the engine.
    """
    check_precision(precision)
    check_backend(backend)
    _check_graph_names(bundle, keep_fp32)
    graphs = derive(bundle, precision, keep_fp32)
    if backend == "tensorrt":
        _compile_all(require("tensorrt", extra="gpu", needed_by="--backend tensorrt"), bundle, graphs, precision)
    with Pipeline(bundle, threads=threads) as reference, _candidate(bundle, precision, graphs, threads) as candidate:
        parity = compare(candidate, bundle)
        latency = _latency(bundle, {"fp32": reference, precision: candidate})
        engine_backend = candidate.backend
    refusal = None if parity.accepted else explain(bundle, precision, graphs, threads)
    folder = None
    if refusal is None:
        files = _files(bundle, precision, graphs)
        folder = artefacts.store(bundle, engine_backend, precision, files, sorted(keep_fp32))
        artefacts.make_current(bundle, backend, precision)
    precisions = {name: precision if name in graphs else "fp32" for name in bundle.graphs}
    return BuildReport(backend, precision, bundle.path, precisions, parity, latency, refusal, folder)


def derive(bundle: Bundle, precision: str, keep_fp32: Collection[str] = ()) -> dict[str, bytes]:
    """Return the graphs in ``precision`` by name; those that stay FP32 are absent, so an fp32 build derives nothing."""
    if precision == "fp32":
        return {}
    kept = {*ALWAYS_FP32, *keep_fp32}
    return {name: to_half(bundle.graph(name)) for name in bundle.graphs if name not in kept}


def _files(bundle: Bundle, precision: str, graphs: dict[str, bytes]) -> dict[str, bytes]:
    """Return the graphs to store: all of them, but none in fp32, where onnxruntime runs the bundle's own."""
    if precision == "fp32":
        return {}
    return {name: graphs.get(name) or bundle.graph(name) for name in bundle.graphs}


def explain(bundle: Bundle, precision: str, graphs: dict[str, bytes], threads: int | None = None) -> str:
    """Say which graphs of a refused engine to keep in FP32, found by restoring the most helpful one first."""
    restored: list[str] = []
    suspects = [name for name in wiring.needed_graphs(graphs, bundle.statistics.active) if name in graphs]
    while suspects:
        trials = {name: _without(bundle, precision, graphs, [*restored, name], threads) for name in suspects}
        best = min(suspects, key=lambda name: trials[name].badness)
        restored.append(best)
        suspects.remove(best)
        if trials[best].accepted:
            names = " and ".join(restored)
            options = " ".join(f"--keep-fp32 {name}" for name in restored)
            return (
                f"the {precision} engine is too far from the FP32 reference because of {names}: "
                f"change {names} from {precision} to fp32 with `edge-ad build-engine --{precision} {options}`"
            )
    return (
        "the engine is too far from the stored reference even with every graph in fp32: "
        "the golden scores do not fit this version of the backend; train the bundle again"
    )


def _without(
    bundle: Bundle, precision: str, graphs: dict[str, bytes], restored: Iterable[str], threads: int | None
) -> Parity:
    rest = {name: data for name, data in graphs.items() if name not in set(restored)}
    with _candidate(bundle, precision, rest, threads) as pipeline:
        return compare(pipeline, bundle)


def _candidate(bundle: Bundle, precision: str, graphs: dict[str, bytes], threads: int | None) -> Pipeline:
    return Pipeline(bundle, precision=precision, graphs=graphs, threads=threads)


def _check_graph_names(bundle: Bundle, names: Iterable[str]) -> None:
    for name in names:
        if name not in bundle.graphs:
            raise BadInput(f"--keep-fp32 {name!r} is not a graph of {bundle.path}; it has {', '.join(bundle.graphs)}")


def _latency(bundle: Bundle, pipelines: dict[str, Pipeline]) -> dict[str, float]:
    """Return the median milliseconds of a frame; the pipelines take turns, so that both see the same machine."""
    images = bundle.golden.images
    times: dict[str, list[float]] = {name: [] for name in pipelines}
    for turn in range(_WARM_UPS + _TIMED):
        for name, pipeline in pipelines.items():
            start = perf_counter()
            pipeline.infer(images[turn % len(images)])
            times[name].append((perf_counter() - start) * 1000.0)
    return {name: float(np.median(values[_WARM_UPS:])) for name, values in times.items()}


def _compile_all(trt: Any, bundle: Bundle, graphs: dict[str, bytes], precision: str) -> None:
    """Compile every graph with TensorRT, then refuse: without a replay there is no proof, so nothing is kept."""
    for name in bundle.graphs:
        cast = graphs.get(name) if strongly_typed(trt) else None
        build_engine(trt, cast or bundle.graph(name), precision if name in graphs else "fp32", name)
    raise GateRefused(
        f"TensorRT {trt.__version__} compiles every graph of {bundle.path} in {precision}, but this version cannot "
        "replay golden images on it, so the engines are not proven and not kept; use --backend onnxruntime"
    )
