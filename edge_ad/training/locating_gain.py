"""What locating the parts brings: synthetic anomalies told apart in the cut-outs and in whole images, before any training.

The teacher's cells of normal images are remembered as the branch ``memory`` does, once as the geometry cuts them out and
once in whole images. Anomalies are drawn on the cut-outs of unseen normal images and put back into the originals, so that
both see the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from edge_ad.data.images import read_image
from edge_ad.data.prepared import prepare_files
from edge_ad.geometry.cut_out import Transform
from edge_ad.geometry.geometry import Geometry, Prepared
from edge_ad.geometry.pose import Image
from edge_ad.models.build import AnyTeacher
from edge_ad.presets.presets import Preset
from edge_ad.scoring.memory import Array, Regions, distances, remember, whitening_of
from edge_ad.scoring.pooling import highest_mean
from edge_ad.scoring.weights import Trial
from edge_ad.training.augment import to_pixels
from edge_ad.training.images import FADES, Images, synthetic, with_faded

ANOMALIES = 68  # four of each kind
MIN_UNSEEN, MAX_UNSEEN = 4, 32
CHUNK = 16

Float = NDArray[np.float64]
Scorer = Callable[[Images], Float]


@dataclass(frozen=True)
class LocatingGain:
    """The macro AUROC with the parts ``located`` and in ``whole`` images, the standard error of their difference, and
    whether whole images are better beyond doubt.
    """

    located: float
    whole: float
    noise: float
    images: int
    harms: bool

    def __str__(self) -> str:
        return (
            f"synthetic anomalies of {self.images} unseen normal images: AUROC {self.located:.3f} located, {self.whole:.3f} in "
            f"whole images (their difference is known to {self.noise:.3f})"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for the report."""
        return {"located": round(self.located, 4), "whole": round(self.whole, 4), "noise": round(self.noise, 4)}


@dataclass(frozen=True)
class LocatingTrial:
    """What the gain is measured with: the teacher, the preset's memory and pooling, and how the files are read."""

    teacher: AnyTeacher
    preset: Preset
    device: torch.device
    bits: int
    seed: int

    def measure(
        self, located: Geometry, whole: Geometry, learn: Sequence[Path], unseen: Sequence[Path]
    ) -> LocatingGain | None:
        """Return the gain by anomalies of the ``unseen`` normal images; None where fewer than MIN_UNSEEN are located."""
        cuts = prepare_files(unseen[:MAX_UNSEEN], located, self.bits)
        if len(cuts) < MIN_UNSEEN:
            return None
        anomalies, kinds = synthetic(cuts.images, ANOMALIES, self.seed)
        geometries = (located, whole)
        normal: list[Float] = []
        shown: list[Float] = []
        for geometry in geometries:
            scorers = self._scorers(prepare_files(learn, geometry, self.bits).images)
            inputs = [self._input(geometry, frame) for frame in self._frames(cuts.paths)]
            damaged = [self._input(geometry, frame) for frame in self._damaged(located, cuts.paths, cuts.images, anomalies)]
            for scorer in scorers:
                normal.append(_scores(scorer, inputs))
                shown.append(_scores(scorer, damaged))
        trial = Trial(np.stack(normal, axis=1), np.stack(shown, axis=1), with_faded(_in_order(kinds, len(cuts)), FADES), self.seed)
        return _gain(trial, len(cuts))

    def _scorers(self, learned: Images) -> tuple[Scorer, ...]:
        """Return scores by the cells of everywhere and by those of the same region."""
        features = np.concatenate(list(self._features(learned)))
        centre, matrix = whitening_of(features.reshape(-1, features.shape[-1]), self.preset.memory.width)
        settings, top = self.preset.memory, self.preset.fusion.top_of("memory")
        grid = (features.shape[1], features.shape[2])

        def white(cells: Array) -> Array:
            return np.asarray((cells - centre) @ matrix.T, np.float32)

        def scorer(regions: Regions) -> Scorer:
            banks = remember(white(features), regions, settings.cells, self.seed)

            def score(images: Images) -> Float:
                maps = [distances(white(cells), banks, regions) for cells in self._features(images)]
                flat = np.concatenate(maps).reshape(len(images), -1)
                return highest_mean(flat, min(top, flat.shape[1])).astype(np.float64)

            return score

        return scorer(Regions.whole(grid)), scorer(Regions.local(grid, settings.region, settings.overlap))

    def _features(self, images: Images) -> Iterator[Array]:
        for start in range(0, len(images), CHUNK):
            with torch.no_grad():
                features = self.teacher(to_pixels(images[start : start + CHUNK], self.device)).features
            yield np.ascontiguousarray(features.permute(0, 2, 3, 1).float().cpu().numpy())

    def _frames(self, paths: Sequence[Path]) -> Iterator[Image]:
        return (read_image(path, self.bits) for path in paths)

    def _damaged(self, located: Geometry, paths: Sequence[Path], cuts: Images, anomalies: Images) -> Iterator[Image]:
        """Yield the frames with the anomalies drawn into them: all at full strength, then all at each of FADES."""
        for share in (1.0, *FADES):
            for index, frame in enumerate(self._frames(paths)):
                prepared = located.prepare(frame)
                assert isinstance(prepared, Prepared)
                for number in range(index, len(anomalies), len(cuts)):
                    change = anomalies[number].astype(np.float32) - cuts[index]
                    yield _drawn_back(frame, share * change, prepared.transform)

    @staticmethod
    def _input(geometry: Geometry, frame: Image) -> Image | None:
        prepared = geometry.prepare(frame)
        return prepared.image if isinstance(prepared, Prepared) else None


def _in_order(kinds: Sequence[str], images: int) -> list[str]:
    """Return the kinds of anomalies in the order in which ``_damaged`` yields them: image by image."""
    return [kinds[number] for index in range(images) for number in range(index, len(kinds), images)]


def _drawn_back(frame: Image, change: Array, transform: Transform) -> Image:
    """Return a frame with a change f32[h,w,3] of its cut-out added where it lies in the frame."""
    high, wide = frame.shape[:2]
    around = cv2.warpAffine(change, transform.inverse[:2], (wide, high), borderMode=cv2.BORDER_CONSTANT)
    return np.asarray(np.rint(np.clip(frame + around, 0, 255)), np.uint8)


def _scores(scorer: Scorer, inputs: Sequence[Image | None]) -> Float:
    """Return the scores of inputs; a part that was not located scores above all others."""
    seen = [index for index, image in enumerate(inputs) if image is not None]
    result = np.zeros(len(inputs))
    result[seen] = scorer(np.stack([image for image in inputs if image is not None]))
    result[[index for index in range(len(inputs)) if index not in set(seen)]] = result.max() + 1
    return result


def _gain(trial: Trial, images: int) -> LocatingGain:
    """Compare the better bank of both geometries; the columns are located (two banks), then whole (two banks)."""
    alone = np.eye(4)
    located, whole = (max(pair, key=trial.macro) for pair in (alone[:2], alone[2:]))
    return LocatingGain(
        trial.macro(located), trial.macro(whole), trial.noise(located, whole), images, trial.supports(whole, located, 4)
    )
