"""The next batch is drawn in a thread of its own while the network learns from this one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from edge_ad.camera.opencv import one_thread

Batch = TypeVar("Batch")


@contextmanager
def prefetched(draw: Callable[[int], Batch], steps: int) -> Iterator[Callable[[int], Batch]]:
    """Yield a function that returns ``draw(step)`` and has one thread begin with the step after it, if below ``steps``.

    Whoever asks for another step than the one begun gets a fresh draw. What ``draw`` raises is raised where its step is
    asked for. The thread has ended when the context is left. OpenCV keeps to one thread meanwhile.
    """
    ahead: dict[int, Future[Batch]] = {}
    with one_thread(), ThreadPoolExecutor(1, "batches") as pool:

        def take(step: int) -> Batch:
            begun = ahead.pop(step, None)
            ahead.clear()
            batch = (begun or pool.submit(draw, step)).result()
            if step + 1 < steps:
                ahead[step + 1] = pool.submit(draw, step + 1)
            return batch

        yield take
