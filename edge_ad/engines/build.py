"""Engines for this device: derived from the bundle's FP32 graphs, proven on its own images, then made current."""

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
from edge_ad.engines.gate import Gate, explain_int8, measure_gate
from edge_ad.engines.int8 import DIALECT, Recipe, derive_int8, ranges_of, recipe_of
from edge_ad.engines.parity import TOLERANCE, Parity, compare
from edge_ad.engines.pipeline import Pipeline
from edge_ad.engines.search import MAX_FLIP
from edge_ad.engines.tensorrt_build import build_engine, compile_check, strongly_typed
from edge_ad.errors import BadInput, GateRefused, require

ALWAYS_FP32 = ("fusion",)  # score arithmetic stays FP32 in every precision
_WARM_UPS = 3
_TIMED = 20


@dataclass(frozen=True)
class Int8Options:
    """A plan file instead of the bundle's plan, a labelled test set for the gate, and the share of verdicts that may flip."""

    plan: Path | None = None
    labelled: Path | None = None
    max_flip: float = MAX_FLIP


@dataclass(frozen=True)
class BuildReport:
    """What a build came to.

    ``precisions`` by graph; ``latency_ms`` p50 of a whole frame by precision; ``refusal`` says which graph to change,
    and is None when the engine was accepted; ``folder`` is where it lies, None when it was refused. ``gate`` is what was
    measured of an int8 engine, which it alone decides about.
    """

    backend: str
    precision: str
    bundle: Path
    precisions: dict[str, str]
    parity: Parity
    latency_ms: dict[str, float]
    refusal: str | None
    folder: Path | None
    gate: Gate | None = None

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
            "gate": None if self.gate is None else self.gate.to_json(),
        }


def build(
    bundle: Bundle,
    precision: str,
    backend: str = "onnxruntime",
    keep_fp32: Collection[str] = (),
    threads: int | None = None,
    options: Int8Options | None = None,
) -> BuildReport:
    """Derive the graphs, replay the golden images, and make the engine current if its gate accepts it.

    ``keep_fp32`` names graphs that stay FP32. fp16 and fp32 are accepted by parity on the golden images, int8 by the
    gate on the bundle's proof images. An unknown name, precision or backend, and int8 from a bundle that was never
    calibrated raise BadInput. On tensorrt every graph is compiled, and then GateRefused tells that this version cannot
    prove the engine.
    """
    check_precision(precision)
    check_backend(backend)
    _check_graph_names(bundle, keep_fp32)
    chosen = options or Int8Options()
    recipe = recipe_of(bundle, chosen.plan) if precision == "int8" else None
    if backend == "tensorrt":
        _compile_all(
            require("tensorrt", extra="gpu", needed_by="--backend tensorrt"), bundle, precision, keep_fp32, recipe
        )
    graphs = derive(bundle, precision, keep_fp32, recipe)
    gate = None
    with Pipeline(bundle, threads=threads) as reference, _candidate(bundle, precision, graphs, threads) as candidate:
        parity = compare(candidate, bundle)
        latency = _latency(bundle, {"fp32": reference, precision: candidate})
        engine_backend = candidate.backend
        if recipe is not None:
            gate = measure_gate(candidate, reference, bundle, chosen.max_flip, chosen.labelled)
            refusal = gate.refused and explain_int8(
                bundle, recipe, DIALECT[backend], gate.refused, reference, chosen.max_flip
            )
        else:
            refusal = None if parity.accepted else explain(bundle, precision, graphs, threads)
    folder = None
    if refusal is None:
        files = _files(bundle, precision, graphs)
        folder = artefacts.store(bundle, engine_backend, precision, files, sorted(keep_fp32))
        artefacts.make_current(bundle, backend, precision)
    precisions = {name: precision if name in graphs else "fp32" for name in bundle.graphs}
    return BuildReport(backend, precision, bundle.path, precisions, parity, latency, refusal, folder, gate)


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
        return derive_int8(bundle, recipe or recipe_of(bundle), DIALECT["onnxruntime"], keep_fp32=keep_fp32)
    kept, ranges = {*ALWAYS_FP32, *keep_fp32}, ranges_of(bundle)
    return {name: to_half(bundle.graph(name), ranges=ranges.get(name)) for name in bundle.graphs if name not in kept}


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


def _compile_all(trt: Any, bundle: Bundle, precision: str, keep_fp32: Collection[str], recipe: Recipe | None) -> None:
    """Compile every graph with TensorRT, then refuse: without a replay there is no proof, so nothing is kept."""
    for name, data in typed_graphs(bundle, precision, strongly_typed(trt), keep_fp32, recipe).items():
        build_engine(trt, data, precision, name)
    raise GateRefused(
        f"TensorRT {trt.__version__} compiles every graph of {bundle.path} in {precision}, but this version cannot "
        "replay golden images on it, so the engines are not proven and not kept; use --backend onnxruntime"
    )


def typed_graphs(
    bundle: Bundle, precision: str, strong: bool, keep_fp32: Collection[str] = (), recipe: Recipe | None = None
) -> dict[str, bytes]:
    """Return all graphs by name as TensorRT wants them, typed themselves for ``strong`` typing, else in FP32."""
    graphs = {name: bundle.graph(name) for name in bundle.graphs}
    if precision == "fp32" or (precision == "fp16" and not strong):
        return graphs
    if precision == "fp16":
        return graphs | derive(bundle, precision, keep_fp32)
    typing = "fp16" if strong else "fp32"
    rest = derive(bundle, "fp16", keep_fp32) if strong else {}
    return graphs | rest | derive_int8(bundle, recipe or recipe_of(bundle), "tensorrt", typing, keep_fp32)


def check_compiles(bundle: Bundle, precision: str, recipe: Recipe | None = None) -> dict[str, int]:
    """Compile all graphs with TensorRT for RTX, which needs no GPU, in both typings; return sizes in bytes by name.

    BadInput or DeviceFault names the graph that does not compile.
    """
    sizes = {}
    for typing, strong in (("weak", False), ("strong", True)):
        for name, data in typed_graphs(bundle, precision, strong, recipe=recipe).items():
            sizes[f"{name} ({typing} typing)"] = compile_check(data, precision, name)
    return sizes
