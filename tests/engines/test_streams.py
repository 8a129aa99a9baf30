"""Images inferred side by side: the same results, shared sessions, and a sentence where it cannot be."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_ad.bundle import Bundle
from edge_ad.engines import selection as module
from edge_ad.engines.onnxruntime import OrtEngine
from edge_ad.engines.pipeline import Inference, Pipeline
from edge_ad.engines.selection import Streams, open_pipelines, shared_backend
from edge_ad.errors import BadInput
from tests.fixtures.tiny_bundle import tiny_image
from tests.inspection.line import Arithmetic


class Meeting(Arithmetic):
    """A pipeline that gives a result only while ``barrier.parties`` of its kind are asked at the same time."""

    def __init__(self, barrier: threading.Barrier) -> None:
        super().__init__()
        self.barrier = barrier

    def infer(self, image: NDArray[np.uint8]) -> Inference:
        self.barrier.wait(timeout=60.0)
        return super().infer(image)


def test_every_picture_gets_the_result_that_it_gets_alone(
    tiny_bundle: Bundle, tiny_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "physical_cores", lambda: 3)
    images = [tiny_image(seed, blob=seed % 3 == 0) for seed in range(12)]
    pipelines = list(open_pipelines(tiny_bundle, "onnxruntime", "fp32", 3))
    streams = Streams(pipelines)
    try:
        results = [one.result() for one in [streams.submit(image) for image in images]]
        for image, one in zip(images, results, strict=True):
            alone = tiny_pipeline.infer(image)
            np.testing.assert_array_equal(one.raw, alone.raw)
            np.testing.assert_array_equal(one.map, alone.map)
            assert one.score == alone.score
        np.testing.assert_array_equal(streams.infer(images[3]).raw, results[3].raw)
    finally:
        streams.close()
        for pipeline in pipelines:
            pipeline.close()


def test_the_weights_are_there_once_and_the_tensors_for_each(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "physical_cores", lambda: 5)
    first, second = open_pipelines(tiny_bundle, "onnxruntime", "fp32", 2)
    with first, second:
        assert first.backend is second.backend
        assert getattr(first.backend, "threads") == 2, "five cores for two streams"  # noqa: B009
        for name, engine in first.engines.items():
            other = second.engines[name]
            assert isinstance(engine, OrtEngine)
            assert isinstance(other, OrtEngine)
            assert engine.session is other.session
            for tensor in (*engine.inputs, *engine.outputs):
                assert engine.bound(tensor).address != other.bound(tensor).address


def test_streams_work_at_the_same_time() -> None:
    barrier = threading.Barrier(3)
    streams = Streams([Meeting(barrier) for _ in range(3)])  # type: ignore[misc]
    waiting = [streams.submit(np.zeros((16, 16, 3), np.uint8)) for _ in range(6)]
    assert [one.result(timeout=60.0).score for one in waiting] == [0.0] * 6
    streams.close()


def test_an_error_reaches_the_one_who_asked_and_frees_the_stream() -> None:
    def score(call: int) -> float:
        if call == 0:
            raise RuntimeError("out of memory")
        return float(call)

    broken = Arithmetic(score)
    infer = broken.infer

    def counting(image: NDArray[np.uint8]) -> Inference:
        try:
            return infer(image)
        except RuntimeError:
            broken.calls += 1
            raise

    broken.infer = counting  # type: ignore[method-assign]
    streams = Streams([broken])  # type: ignore[list-item]
    image = np.zeros((16, 16, 3), np.uint8)
    with pytest.raises(RuntimeError, match="out of memory"):
        streams.infer(image)
    assert streams.infer(image).score == 1.0
    streams.close()


@pytest.mark.parametrize(
    ("backend", "count", "words"),
    [
        ("onnxruntime", 0, "--streams is 0, but must be 1 to 4"),
        ("onnxruntime", 5, "--streams is 5, but must be 1 to 4, the physical cores"),
        ("tensorrt", 2, "--streams runs on onnxruntime, not on tensorrt: leave it out"),
    ],
)
def test_what_cannot_be_streams(backend: str, count: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "physical_cores", lambda: 4)
    with pytest.raises(BadInput, match=words):
        shared_backend(backend, count)
