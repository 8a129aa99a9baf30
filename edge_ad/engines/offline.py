"""Many images that wait, of a folder or a record: judged side by side, results in the order of the images (ours).

Each image is read, cut out and judged on one core by engines of its own over shared weights. Graphs keep a batch of one: on
a processor a batch of 4 or 16 images takes as long an image as one alone (docs/experiments/precision.md).
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Generic, TypeVar

from edge_ad.bundle import Bundle
from edge_ad.engines.onnxruntime import OrtBackend, physical_cores
from edge_ad.engines.pipeline import Pipeline
from edge_ad.engines.selection import choose

MAX_DEFAULT_JOBS = 16  # each takes memory for tensors of its own
AHEAD = 2  # images that wait for their turn beside those under way: one that takes long stops nobody at once

Item = TypeVar("Item")
Prepared = TypeVar("Prepared")
Result = TypeVar("Result")
Judge = TypeVar("Judge", covariant=True)


def default_jobs() -> int:
    """Return how many images are judged side by side unless it is said: the physical cores, at most MAX_DEFAULT_JOBS."""
    return min(physical_cores(), MAX_DEFAULT_JOBS)


def in_order(work: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Yield ``work(item)`` of all ``items`` in their order, made by ``threads`` threads; by the caller's own if that is one.

    At most ``threads`` + AHEAD results are held. What ``work`` raises comes at its item's turn. After an error, after Ctrl-C and
    when the iterator is closed, what has not begun is dropped and what is under way is waited for.
    """
    if threads <= 1:
        yield from map(work, items)
        return
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="image")
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) == threads + AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


class Workers(Generic[Judge]):
    """Judges that share a pile of images; each works on one image at a time. They are the caller's to close.

    One judge alone stays in the caller's thread, as a GPU asks for, while ``readers`` threads prepare the images before it.
    """

    def __init__(self, judges: Sequence[Judge], readers: int = 1) -> None:
        self._judges, self._readers = tuple(judges), readers

    @property
    def first(self) -> Judge:
        """One of the judges: all are alike."""
        return self._judges[0]

    def map(
        self,
        items: Iterable[Item],
        prepare: Callable[[Item], Prepared],
        judge: Callable[[Judge, Prepared], Result],
    ) -> Iterator[Result]:
        """Yield ``judge(one of the judges, prepare(item))`` of all ``items`` in their order; see ``in_order``.

        ``prepare`` may run in any thread. ``judge`` has its judge for itself, with all that it computed for this image.
        """
        if len(self._judges) == 1:
            for prepared in in_order(prepare, items, self._readers):
                yield judge(self.first, prepared)
            return
        free: SimpleQueue[Judge] = SimpleQueue()
        for one in self._judges:
            free.put(one)

        def work(item: Item) -> Result:
            prepared, own = prepare(item), free.get()
            try:
                return judge(own, prepared)
            finally:
                free.put(own)

        yield from in_order(work, items, len(self._judges))


@contextlib.contextmanager
def open_workers(
    bundle: Bundle,
    backend: str | None = None,
    precision: str | None = None,
    *,
    jobs: int | None = None,
    all_branches: bool = False,
    graphs: Mapping[str, bytes] | None = None,
) -> Iterator[Workers[Pipeline]]:
    """Open pipelines that judge ``jobs`` images side by side (default: ``default_jobs``), on the engine that ``choose`` names.

    On onnxruntime each image has one core, whatever their number, so that scores do not depend on it. On a GPU one pipeline
    judges, and ``jobs`` threads read and cut out the images before it. ``all_branches`` and ``graphs`` as for ``Pipeline``.
    """
    chosen, count = choose(bundle, backend, precision), jobs or default_jobs()
    on_cpu = chosen.backend == "onnxruntime"
    shared = OrtBackend(1, shared=True) if on_cpu else chosen.backend
    with contextlib.ExitStack() as stack:
        pipelines = [
            stack.enter_context(
                Pipeline(bundle, precision=chosen.precision, backend=shared, all_branches=all_branches, graphs=graphs)
            )
            for _ in range(count if on_cpu else 1)
        ]
        yield Workers(pipelines, readers=1 if on_cpu else count)
