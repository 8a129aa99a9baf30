"""Many images side by side: in order, bounded, with the same scores whatever their number, and ended by an error or Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_ad.bundle import Bundle
from edge_ad.engines.offline import AHEAD, Workers, in_order, open_workers
from edge_ad.engines.pipeline import Pipeline
from edge_ad.errors import BadInput
from tests.fixtures.tiny_bundle import tiny_image

PATIENCE_S = 60.0  # for what another thread does on a loaded machine


def _plain(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return image


def _everything(pipeline: Pipeline, image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
    result = pipeline.infer(image)
    return result.raw, np.float32(result.score)[None], result.map, pipeline.tensor("map_logic"), pipeline.tensor("pooled")


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_scores_are_the_same_bit_for_bit_whatever_the_number_of_jobs(
    jobs: int, tiny_bundle: Bundle, tiny_pipeline: Pipeline
) -> None:
    images = [tiny_image(seed, blob=seed % 3 == 0) for seed in range(11)]
    with open_workers(tiny_bundle, "onnxruntime", "fp32", jobs=jobs, all_branches=True) as workers:
        judged = list(workers.map(images, _plain, _everything))
    with open_workers(tiny_bundle, "onnxruntime", "fp32", jobs=1, all_branches=True) as workers:
        alone = [_everything(workers.first, image) for image in images]
    for image, one, other in zip(images, judged, alone, strict=True):
        for value, wanted in zip(one, other, strict=True):
            np.testing.assert_array_equal(value, wanted)
        np.testing.assert_array_equal(one[0], tiny_pipeline.infer(image).raw)


def test_all_jobs_work_at_the_same_time_and_results_keep_their_order() -> None:
    barrier = threading.Barrier(3)

    def judge(own: object, number: int) -> int:
        barrier.wait(PATIENCE_S)
        return number * number

    workers = Workers([object(), object(), object()])
    assert list(workers.map(range(9), lambda number: number, judge)) == [number * number for number in range(9)]


def test_each_judge_has_one_image_at_a_time() -> None:
    busy: set[int] = set()

    def judge(own: int, number: int) -> int:
        assert own not in busy
        busy.add(own)
        time.sleep(0.001)
        busy.remove(own)
        return own

    assert set(Workers([7, 8]).map(range(40), lambda number: number, judge)) <= {7, 8}


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_no_more_items_are_taken_than_threads_and_a_few(threads: int) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(50):
            taken.append(number)
            yield number

    for done, _ in enumerate(in_order(lambda number: number, items(), threads), start=1):
        assert len(taken) - done < threads + AHEAD


def test_a_single_judge_stays_in_the_thread_of_its_caller_while_others_read() -> None:
    """As a GPU asks for: its context belongs to a thread."""
    readers, judges = set(), set()

    def prepare(number: int) -> int:
        readers.add(threading.get_ident())
        return number

    def judge(own: object, number: int) -> int:
        judges.add(threading.get_ident())
        return number

    assert list(Workers([object()], readers=3).map(range(20), prepare, judge)) == list(range(20))
    assert judges == {threading.get_ident()}
    assert threading.get_ident() not in readers


@pytest.mark.parametrize("jobs", [1, 4])
def test_the_first_bad_item_is_named_and_nothing_is_left_behind(jobs: int) -> None:
    began: list[int] = []

    def prepare(number: int) -> int:
        began.append(number)
        if number in (5, 6, 7):
            raise BadInput(f"{number}.png cannot be read")
        return number

    before, done = threading.active_count(), []
    results = Workers([object()] * jobs).map(range(100), prepare, lambda own, number: done.append(number))
    with pytest.raises(BadInput, match=r"^5\.png cannot be read$"):
        list(results)
    assert sorted(done)[:5] == [0, 1, 2, 3, 4]
    assert len(began) <= 5 + jobs + AHEAD, "the rest is dropped"
    assert threading.active_count() == before


def test_an_iterator_that_is_left_ends_its_threads() -> None:
    before = threading.active_count()
    results = in_order(lambda number: number, range(1000), 4)
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_ctrl_c_ends_the_program_at_once() -> None:
    """What is under way is waited for; what has not begun is not started."""
    program = (
        "import time\n"
        "from edge_ad.engines.offline import in_order\n"
        "for number in in_order(lambda number: (time.sleep(0.05), number)[1], range(100_000), 2):\n"
        "    print(number, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "0\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode != 0
    assert errors.rstrip().endswith("KeyboardInterrupt")
