"""Several pictures at a time on one CPU: pipelines over the same sessions, each on its share of the cores (ours).

A picture on one core takes longer than on all of them, but graphs as small as ours leave cores waiting for each other:
several pictures side by side, as of cameras or tiles, take less time than the same ones in turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from edge_ad.engines.cores import physical_cores
from edge_ad.engines.onnxruntime import OrtBackend
from edge_ad.engines.pipeline import Inference, Pipeline
from edge_ad.errors import BadInput


class Streams:
    """Infers pictures side by side, one on each of ``pipelines`` at a time; ``close`` waits for those under way.

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
        """Begin with ``image`` u8 [H, W, 3] as soon as a stream is free; the result raises what ``Pipeline.infer`` does."""
        return self._pool.submit(self._infer, image)

    def infer(self, image: NDArray[np.uint8]) -> Inference:
        """Run one picture and wait for it."""
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
