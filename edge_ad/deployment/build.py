"""Engines for this device: derived from the bundle's FP32 graphs, proven on its own images, then made current.

Makes the engines of a bundle on one backend: all of them in a precision, or one in FP32 to compare with. A child of a bundle may
have the engine of its parent, proven again in its own scores.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from calibration.quantise import greatest_weight
from edge_ad.bundle import Bundle, graphs, open_bundle
from edge_ad.config import EngineTable
from edge_ad.deployment.derive import TypedGraph, compile_typed, derive, typed_graphs
from edge_ad.deployment.gate import Gate, explain_int8, measure_gate
from edge_ad.deployment.int8 import TARGET, Recipe, recipe_of
from edge_ad.engines import engine_store
from edge_ad.engines.backends import check_backend, check_precision, open_backend
from edge_ad.engines.benchmark import side_by_side, slower
from edge_ad.engines.parity import TOLERANCE, Parity, compare
from edge_ad.engines.pipeline import Pipeline
from edge_ad.engines.protocol import Backend
from edge_ad.engines.tensorrt.backend import TrtBackend
from edge_ad.engines.tensorrt.build import BuildOptions, TimingCache, free_memory
from edge_ad.engines.tensorrt.progress import Report
from edge_ad.engines.tensorrt.versions import strongly_typed
from edge_ad.errors import BadInput, EdgeAdError


class EngineFactory(Protocol):
    """What a build needs to know of a backend."""

    @property
    def backend(self) -> Backend:
        """The backend that the engines are for."""
        ...

    @property
    def precisions(self) -> dict[str, str]:
        """The precision of every graph, once they are made."""
        ...

    def make(self) -> dict[str, bytes]:
        """Return the engines by graph name."""
        ...

    def full(self, name: str) -> bytes:
        """Return the engine of one graph in FP32."""
        ...

    def files(self, engines: Mapping[str, bytes]) -> dict[str, bytes]:
        """Return what to store."""
        ...


class OrtEngineFactory:
    """Engines of onnxruntime are graphs; those that stay FP32 are the bundle's own."""

    def __init__(
        self, bundle: Bundle, precision: str, keep_fp32: Collection[str], recipe: Recipe | None, *, threads: int | None
    ) -> None:
        self.backend = open_backend("onnxruntime", threads)
        self.precisions: dict[str, str] = {}
        self._bundle, self._precision, self._keep, self._recipe = bundle, precision, keep_fp32, recipe

    def make(self) -> dict[str, bytes]:
        """Return the graphs by name."""
        derived = derive(self._bundle, self._precision, self._keep, self._recipe)
        self.precisions = {name: self._precision if name in derived else "fp32" for name in self._bundle.graphs}
        return {name: derived[name] if name in derived else self._bundle.graph(name) for name in self._bundle.graphs}

    def full(self, name: str) -> bytes:
        """Return the graph in the bundle."""
        return self._bundle.graph(name)

    def files(self, engines: Mapping[str, bytes]) -> dict[str, bytes]:
        """Return all graphs, but none in fp32, where onnxruntime runs the bundle's own."""
        return {} if self._precision == "fp32" else dict(engines)


class TrtEngineFactory:
    """Engines of TensorRT are compiled for the device of ``backend``, with a timing cache of that device."""

    def __init__(
        self,
        bundle: Bundle,
        precision: str,
        keep_fp32: Collection[str],
        recipe: Recipe | None,
        *,
        backend: TrtBackend,
        level: int | None,
        report: Report,
    ) -> None:
        self.backend = backend
        self.precisions: dict[str, str] = {}
        self._bundle, self._precision, self._keep, self._recipe = bundle, precision, keep_fp32, recipe
        self._level, self._report = level, report

    def make(self) -> dict[str, bytes]:
        """Return the serialised engines of all graphs by name."""
        strong = strongly_typed(self.backend.trt)
        graphs = typed_graphs(self._bundle, self._precision, strong, self._keep, recipe=self._recipe)
        self.precisions = {name: graph.precision for name, graph in graphs.items()}
        return compile_typed(self.backend.trt, graphs, self._options(), self._report)

    def full(self, name: str) -> bytes:
        """Return the serialised engine of one graph in FP32."""
        graphs = {name: TypedGraph(self._bundle.graph(name), "fp32")}
        return compile_typed(self.backend.trt, graphs, self._options(), self._report)[name]

    def files(self, engines: Mapping[str, bytes]) -> dict[str, bytes]:
        """Return all engines."""
        return dict(engines)

    def _options(self) -> BuildOptions:
        device = self.backend.device
        with device.active():
            # An integrated GPU shares the memory of the host, and CUDA counts what the page cache holds as taken.
            free = free_memory() if device.integrated else device.free_memory()
        return BuildOptions(self._level, free, TimingCache(self.backend.version, f"{device.name}-sm{device.sm}"))


def open_factory(
    bundle: Bundle,
    precision: str,
    backend: str,
    keep_fp32: Collection[str],
    *,
    recipe: Recipe | None,
    threads: int | None = None,
    level: int | None = None,
    report: Report = lambda text: None,
) -> EngineFactory:
    """Return what makes engines for ``backend``; its packages and its device are asked for at once."""
    if backend == "tensorrt":
        return TrtEngineFactory(bundle, precision, keep_fp32, recipe, backend=TrtBackend(), level=level, report=report)
    return OrtEngineFactory(bundle, precision, keep_fp32, recipe, threads=threads)


_NARROW = 7  # bits of a weight where sums saturate


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """What a build came to.

    ``precisions`` by graph; ``latency_ms`` p50 of a whole frame by precision; ``refusal`` says which graph to change,
    and is None when the engine was accepted; ``folder`` is where it lies, None when it was refused. ``gate`` is what
    was measured of an int8 engine, which it alone decides about; ``weight_bits`` are those of its weights on a CPU.
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
    weight_bits: int | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What the owner should know of this processor: weights of fewer bits, and a precision that gains no time."""
        results = []
        if self.weight_bits == _NARROW:
            results.append("weights have 7 bits: on this processor sums of 8-bit products saturate (x86 without VNNI)")
        if self.backend == "onnxruntime" and self.precision in self.latency_ms:
            results += slower(self.precision, self.latency_ms[self.precision], self.latency_ms["fp32"])
        return tuple(results)

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
            "weight_bits": self.weight_bits,
            "notes": list(self.notes),
            "accepted": self.refusal is None,
            "refusal": self.refusal,
            "engine": None if self.folder is None else str(self.folder),
            "gate": None if self.gate is None else self.gate.to_json(),
        }


def build(
    bundle: Bundle,
    precision: str,
    backend: str = "onnxruntime",
    settings: EngineTable = EngineTable(),
    *,
    threads: int | None = None,
    report: Report = lambda text: None,
) -> BuildReport:
    """Derive the graphs, replay the golden images, and make the engine current if its gate accepts it.

    ``settings`` are those beside precision and backend, which are named; ``report`` gets the progress of a long build.
    fp16 and fp32 are accepted by parity on the golden images, int8 by the gate on the bundle's proof images. An unknown
    name, precision or backend, and int8 from a bundle that was never calibrated raise BadInput, a device that does not
    build DeviceFault. Nothing is written unless the engine is accepted.
    """
    check_precision(precision)
    check_backend(backend)
    keep_fp32, level = settings.keep_fp32, settings.optimisation_level
    _check_graph_names(bundle, keep_fp32)
    recipe = recipe_of(bundle, settings.plan) if precision == "int8" else None
    factory = open_factory(bundle, precision, backend, keep_fp32, recipe=recipe, threads=threads, level=level, report=report)
    engines = factory.make()
    gate, refusal = None, None
    with Pipeline(bundle, threads=threads) as reference, _open(bundle, precision, factory, engines) as candidate:
        parity = compare(candidate, bundle)
        latency = side_by_side(bundle, {"fp32": reference, precision: candidate})
        if recipe is not None:
            gate = measure_gate(candidate, reference, bundle, settings.max_flip, labelled=settings.labelled)
            refusal = gate.refused and explain_int8(
                bundle, recipe, TARGET[backend], gate.refused, reference=reference, max_flip=settings.max_flip
            )
    if recipe is None and not parity.accepted:
        refusal = explain(bundle, precision, factory, engines)
    folder = None
    if refusal is None:
        folder = engine_store.store(bundle, factory.backend, precision, factory.files(engines), kept_fp32=sorted(keep_fp32))
        engine_store.make_current(bundle, backend, precision)
    bits = greatest_weight(TARGET[backend]).bit_length() + 1 if recipe is not None else None
    return BuildReport(
        backend=backend,
        precision=precision,
        bundle=bundle.path,
        precisions=factory.precisions,
        parity=parity,
        latency_ms=latency,
        refusal=refusal,
        folder=folder,
        gate=gate,
        weight_bits=bits,
    )


def explain(bundle: Bundle, precision: str, factory: EngineFactory, engines: Mapping[str, bytes]) -> str:
    """Say which graphs of a refused engine to keep in FP32, found by restoring the most helpful one first."""
    restored: dict[str, bytes] = {}
    lowered = {name for name, value in factory.precisions.items() if value != "fp32"}
    suspects = [name for name in graphs.needed_graphs(bundle.graphs, bundle.statistics.active) if name in lowered]
    full = {name: factory.full(name) for name in suspects}
    while suspects:
        trials = {
            name: _parity(bundle, precision, factory, {**engines, **restored, name: full[name]}) for name in suspects
        }
        best = min(suspects, key=lambda name: trials[name].badness)
        restored[best] = full[best]
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


def _open(bundle: Bundle, precision: str, factory: EngineFactory, engines: Mapping[str, bytes]) -> Pipeline:
    return Pipeline(bundle, precision=precision, backend=factory.backend, graphs=engines)


def _parity(bundle: Bundle, precision: str, factory: EngineFactory, engines: Mapping[str, bytes]) -> Parity:
    with _open(bundle, precision, factory, engines) as pipeline:
        return compare(pipeline, bundle)


def _check_graph_names(bundle: Bundle, names: Iterable[str]) -> None:
    for name in names:
        if name not in bundle.graphs:
            raise BadInput(f"--keep-fp32 {name!r} is not a graph of {bundle.path}; it has {', '.join(bundle.graphs)}")


def reuse_engine(parent_path: Path, child: Bundle) -> str | None:
    """Make the parent's current engine that of ``child`` if it fits and passes; return a sentence, None without an engine."""
    try:
        parent = open_bundle(parent_path)
        current = engine_store.current(parent)
        if current is None or parent.path == child.path:
            return None
        reason = _take_over(parent, child, current)
    except EdgeAdError as error:
        current, reason = None, str(error)
    if current is not None and reason is None:
        images = len(child.golden.images)
        return f"engine: {current.backend} {current.precision} of the parent, proven again on {images} golden images"
    return f"no engine was taken over from the parent ({reason}); run `edge-ad build-engine`"


def _take_over(parent: Bundle, child: Bundle, current: engine_store.Current) -> str | None:
    """Copy, prove, and make current; return why not, and leave nothing then."""
    engine_store.copy(parent, child, current)
    try:
        reason = _refusal(child, current)
        if reason is None:
            engine_store.make_current(child, current.backend, current.precision)
            return None
    except BaseException:
        engine_store.remove(child, current)
        raise
    engine_store.remove(child, current)
    return reason


def _refusal(child: Bundle, current: engine_store.Current) -> str | None:
    with Pipeline(child, precision=current.precision, backend=current.backend) as engine:
        if current.precision != "int8":
            return None if compare(engine, child).accepted else "it is too far from the reference in the new scores"
        with Pipeline(child) as reference:
            return measure_gate(engine, reference, child).refused
