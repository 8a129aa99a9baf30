"""Which engine runs: what is asked for, else the last one that build-engine finished here; never a silent fall-back.

Several images at a time on one CPU: pipelines over the same sessions, each on its share of the cores (ours).

An image on one core takes longer than on all of them, but graphs as small as ours leave cores waiting for each other:
several images side by side, as of cameras or tiles, take less time than the same ones in turn.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from edge_ad.bundle import Bundle
from edge_ad.engines import engine_store
from edge_ad.engines.backends import check_backend, check_precision
from edge_ad.engines.onnxruntime import OrtBackend, physical_cores
from edge_ad.engines.pipeline import Inference, Pipeline
from edge_ad.errors import BadInput
from edge_ad.utils.board import is_jetson

_log = logging.getLogger(__name__)


class Streams:
    """Infers images side by side, one on each of ``pipelines`` at a time; ``close`` waits for those under way.

    The pipelines are the caller's to close, after the streams.
    """

    def __init__(self, pipelines: Sequence[Pipeline]) -> None:
        self.count = len(pipelines)
        self.image_size, self.branches = pipelines[0].image_size, pipelines[0].branches
        self._free: SimpleQueue[Pipeline] = SimpleQueue()
        for pipeline in pipelines:
            self._free.put(pipeline)
        self._pool = ThreadPoolExecutor(self.count, thread_name_prefix="stream")

    def submit(self, image: NDArray[np.uint8]) -> Future[Inference]:
        """Begin with ``image`` u8 [H, W, 3] as soon as a stream is free; the result raises what ``Pipeline.infer``
        does.
        """
        return self._pool.submit(self._infer, image)

    def infer(self, image: NDArray[np.uint8]) -> Inference:
        """Run one image and wait for it."""
        return self.submit(image).result()

    def close(self) -> None:
        """Wait for what is under way and drop what has not begun."""
        self._pool.shutdown(cancel_futures=True)

    def _infer(self, image: NDArray[np.uint8]) -> Inference:
        pipeline = self._free.get()
        try:
            return pipeline.infer(image)
        finally:
            self._free.put(pipeline)


def shared_backend(backend: str, count: int) -> OrtBackend:
    """Return the backend on which ``count`` pipelines share sessions and cores; BadInput where that cannot be."""
    cores = physical_cores()
    if backend != "onnxruntime":
        raise BadInput(f"--streams runs on onnxruntime, not on {backend}: leave it out")
    if not 1 <= count <= cores:
        raise BadInput(f"--streams is {count}, but must be 1 to {cores}, the physical cores of this machine")
    return OrtBackend(cores // count, shared=True)


def open_pipeline(
    bundle: Bundle,
    backend: str | None = None,
    precision: str | None = None,
    all_branches: bool = False,
    *,
    root: Path = Path("/"),
) -> Pipeline:
    """Open the pipeline of ``bundle`` on the engine that ``choose`` names."""
    chosen = choose(bundle, backend, precision, root)
    return Pipeline(bundle, precision=chosen.precision, backend=chosen.backend, all_branches=all_branches)


def open_pipelines(
    bundle: Bundle, backend: str | None = None, precision: str | None = None, count: int = 1
) -> Iterator[Pipeline]:
    """Yield ``count`` pipelines that run side by side (see ``Streams``); one alone is that of ``open_pipeline``."""
    chosen = choose(bundle, backend, precision)
    _log.debug("engines: %s %s, %d side by side", chosen.backend, chosen.precision, count)
    shared = shared_backend(chosen.backend, count) if count != 1 else None
    for _ in range(count):
        yield Pipeline(bundle, precision=chosen.precision, backend=shared or chosen.backend)


def choose(bundle: Bundle, backend: str | None, precision: str | None, root: Path = Path("/")) -> engine_store.Current:
    """Return backend and precision: as asked, else of ``current.json``, else onnxruntime fp32 (logged).

    A Jetson without a finished engine, an unknown name, a missing package and int8 raise BadInput. ``root`` is the root
    of the file system that is looked at for signs of a Jetson.
    """
    if precision is not None:
        check_precision(precision)
    if backend is not None:
        check_backend(backend)
    if backend is not None and precision is not None:
        return engine_store.Current(backend, precision)
    built = engine_store.current(bundle)
    if built is not None and backend in (None, built.backend):
        return engine_store.Current(built.backend, precision or built.precision)
    if built is None and backend is None and is_jetson(root):
        raise BadInput(f"{bundle.path} has no engine for this Jetson: run `edge-ad build-engine --fp16`")
    chosen = engine_store.Current(backend or "onnxruntime", precision or "fp32")
    if precision is None:
        _log.warning(
            "no finished engine of %s fits: running %s %s; `edge-ad build-engine --fp16` makes one",
            bundle.path.name,
            chosen.backend,
            chosen.precision,
        )
    return chosen
