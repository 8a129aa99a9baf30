"""What a bundle says of every labelled image of a test set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edge_ad.data.datasets import Kind, TestItem
from edge_ad.data.images import Image, read_image, resize
from edge_ad.errors import DeviceFault
from edge_ad.scoring import BRANCHES

Floats = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]


class ImageResult(Protocol):
    """What one inference gives, as far as it matters here."""

    @property
    def raw(self) -> Floats: ...
    @property
    def score(self) -> float: ...
    @property
    def map(self) -> Floats: ...


class Judge(Protocol):
    """Whatever judges one image u8[H,W,3] of ``image_size`` and shows what it computed; the pipeline does."""

    @property
    def image_size(self) -> tuple[int, int]: ...
    @property
    def branches(self) -> Sequence[str]: ...
    def infer(self, image: Image) -> ImageResult: ...
    def tensor(self, name: str) -> npt.NDArray[Any]: ...


@dataclass(frozen=True, eq=False)
class TestScores:
    """Per image: its item, ``raw`` f32[N,B], fused ``score`` f32[N], ``maps`` f32[h,w] each, ``sizes`` (H, W) of the
    file, and the ``logic`` maps f32[n,n], none when that branch was not computed.
    """

    __test__ = False

    items: tuple[TestItem, ...]
    raw: Floats
    score: Floats
    maps: tuple[Floats, ...]
    sizes: tuple[tuple[int, int], ...]
    logic: tuple[Floats, ...] = ()

    def of(self, kind: Kind) -> npt.NDArray[np.intp]:
        """Return the indices of the images of a kind."""
        return np.flatnonzero([item.kind == kind for item in self.items])


def judge_all(judge: Judge, items: Sequence[TestItem], progress: Progress | None = None) -> TestScores:
    """Return the scores of all ``items``, read one at a time; ``progress`` is told how many of how many are done.

    Raises BadInput for an image that cannot be read, DeviceFault for a score or a map that is not finite.
    """
    raw = np.zeros((len(items), len(BRANCHES)), np.float32)
    score = np.zeros(len(items), np.float32)
    maps: list[Floats] = []
    sizes: list[tuple[int, int]] = []
    logic: list[Floats] = []
    for index, item in enumerate(items):
        image = read_image(item.path, item.bits)
        result = judge.infer(resize(image, judge.image_size))
        if not (np.isfinite(result.score) and np.isfinite(result.map).all()):
            raise DeviceFault(
                f"the score or map of {item.path} is not a finite number: the engine is faulty; rebuild it"
            )
        raw[index], score[index] = result.raw, result.score
        maps.append(np.array(result.map, np.float32))
        sizes.append((image.shape[0], image.shape[1]))
        if "logic" in judge.branches:
            logic.append(np.array(judge.tensor("map_logic")[0, 0], np.float32))
        if progress is not None:
            progress(index + 1, len(items))
    return TestScores(tuple(items), raw, score, tuple(maps), tuple(sizes), tuple(logic))
