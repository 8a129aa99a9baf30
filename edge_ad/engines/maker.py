"""Makes the engines of a bundle on one backend: all of them in a precision, or one in FP32 to compare with."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from edge_ad.bundle import Bundle
from edge_ad.engines.backends import open_backend
from edge_ad.engines.derive import TypedGraph, compile_typed, derive, typed_graphs
from edge_ad.engines.int8 import Recipe
from edge_ad.engines.protocol import Backend
from edge_ad.engines.tensorrt import TrtBackend
from edge_ad.engines.tensorrt_build import BuildOptions, free_memory
from edge_ad.engines.tensorrt_progress import Say
from edge_ad.engines.tensorrt_versions import strongly_typed
from edge_ad.engines.timing_cache import TimingCache


class Maker(Protocol):
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


class OrtMaker:
    """Engines of onnxruntime are graphs; those that stay FP32 are the bundle's own."""

    def __init__(
        self, bundle: Bundle, precision: str, keep_fp32: Collection[str], recipe: Recipe | None, threads: int | None
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


class TrtMaker:
    """Engines of TensorRT are compiled for the device of ``backend``, with a timing cache of that device."""

    def __init__(
        self,
        bundle: Bundle,
        precision: str,
        keep_fp32: Collection[str],
        recipe: Recipe | None,
        backend: TrtBackend,
        level: int | None,
        say: Say,
    ) -> None:
        self.backend = backend
        self.precisions: dict[str, str] = {}
        self._bundle, self._precision, self._keep, self._recipe = bundle, precision, keep_fp32, recipe
        self._level, self._say = level, say

    def make(self) -> dict[str, bytes]:
        """Return the serialised engines of all graphs by name."""
        strong = strongly_typed(self.backend.trt)
        graphs = typed_graphs(self._bundle, self._precision, strong, self._keep, self._recipe)
        self.precisions = {name: graph.precision for name, graph in graphs.items()}
        return compile_typed(self.backend.trt, graphs, self._options(), self._say)

    def full(self, name: str) -> bytes:
        """Return the serialised engine of one graph in FP32."""
        graphs = {name: TypedGraph(self._bundle.graph(name), "fp32")}
        return compile_typed(self.backend.trt, graphs, self._options(), self._say)[name]

    def files(self, engines: Mapping[str, bytes]) -> dict[str, bytes]:
        """Return all engines."""
        return dict(engines)

    def _options(self) -> BuildOptions:
        device = self.backend.device
        with device.active():
            # An integrated GPU shares the memory of the host, and CUDA counts what the page cache holds as taken.
            free = free_memory() if device.integrated else device.free_memory()
        return BuildOptions(self._level, free, TimingCache(self.backend.version, f"{device.name}-sm{device.sm}"))


def open_maker(
    bundle: Bundle,
    precision: str,
    backend: str,
    keep_fp32: Collection[str],
    recipe: Recipe | None,
    threads: int | None = None,
    level: int | None = None,
    say: Say = lambda text: None,
) -> Maker:
    """Return what makes engines for ``backend``; its packages and its device are asked for at once."""
    if backend == "tensorrt":
        return TrtMaker(bundle, precision, keep_fp32, recipe, TrtBackend(), level, say)
    return OrtMaker(bundle, precision, keep_fp32, recipe, threads)
