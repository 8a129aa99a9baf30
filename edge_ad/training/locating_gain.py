"""What locating the parts brings: synthetic anomalies told apart in the cut-outs and in whole images, before any training.

The branch ``memory`` learns the normal images once as the geometry cuts them out and once whole, in all its variants.
Anomalies are drawn on the cut-outs of unseen normal images and put back into the originals, so that both see the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from edge_ad.data.images import read_image
from edge_ad.data.prepared import PreparedImages, prepare_files
from edge_ad.data.synthetic_anomalies import FADES, synthetic
from edge_ad.geometry.cut_out import Transform
from edge_ad.geometry.geometry import Geometry, Prepared
from edge_ad.geometry.pose import Image, NotLocated
from edge_ad.models.build import AnyTeacher
from edge_ad.presets.presets import Preset
from edge_ad.scoring.memory import Array
from edge_ad.scoring.weights import Trial
from edge_ad.training.augment import to_pixels
from edge_ad.training.images import Images, with_faded
from edge_ad.training.memory import CHUNK, MEMORY, MemoryCandidates, learn_memory

ANOMALIES = 68  # four of each kind
MIN_UNSEEN, MAX_UNSEEN = 4, 32

Scores: TypeAlias = NDArray[np.float64]
Inputs: TypeAlias = Sequence[Prepared | NotLocated]


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
        anomalies, kinds = synthetic(cuts.images, ANOMALIES, self.seed, located.part_mask())
        geometries = (located, whole)
        normal, shown = self._inputs(geometries, cuts, anomalies)
        memories = [self._memory(prepare_files(learn, geometry, self.bits).images) for geometry in geometries]
        scores, anomalous = (self._all_scores(memories, rows) for rows in (normal, shown))
        return _gain(Trial(scores, anomalous, _in_order(kinds, len(cuts)), self.seed), len(cuts))

    def _inputs(
        self, geometries: Sequence[Geometry], cuts: PreparedImages, anomalies: Images
    ) -> tuple[list[Inputs], list[Inputs]]:
        """Return what each geometry makes of the frames, and of them with the anomalies that were drawn on the cut-outs of
        the first: all at full strength, then all at each of FADES.
        """
        shares = (1.0, *FADES)
        normal: list[Inputs] = []
        shown: dict[float, list[Inputs]] = {share: [] for share in shares}
        for index, path in enumerate(cuts.paths):
            frame = geometries[0].region_of(read_image(path, self.bits))
            normal.append([geometry.prepare(frame) for geometry in geometries])
            located = normal[-1][0]
            assert isinstance(located, Prepared)
            for number in range(index, len(anomalies), len(cuts)):
                change = anomalies[number].astype(np.float32) - cuts.images[index]
                for share in shares:
                    damaged = _drawn_back(frame, share * change, located.transform)
                    shown[share].append([geometry.prepare(damaged) for geometry in geometries])
        return normal, [row for rows in shown.values() for row in rows]

    def _memory(self, learned: Images) -> MemoryCandidates:
        every = replace(self.preset, memory=replace(self.preset.memory, variant="auto"))
        memory = learn_memory(self.teacher, every, len(learned), learned, seed=self.seed, device=self.device)
        assert memory is not None
        return memory

    def _all_scores(self, memories: Sequence[MemoryCandidates], rows: Sequence[Inputs]) -> Scores:
        """Return scores f64 [N, V] of N rows, of each the input of every memory's own geometry; one memory beside the other."""
        columns = [self._scores(memory, [row[number] for row in rows]) for number, memory in enumerate(memories)]
        return np.concatenate(columns, axis=1)

    def _scores(self, memory: MemoryCandidates, inputs: Inputs) -> Scores:
        """Return scores f64 [N, V] by each variant; a part that was not located scores above all others."""
        seen = [index for index, one in enumerate(inputs) if isinstance(one, Prepared)]
        images = np.stack([one.image for one in inputs if isinstance(one, Prepared)])
        rows = []
        for start in range(0, len(images), CHUNK):
            pixels = to_pixels(images[start : start + CHUNK], self.device)
            with torch.no_grad():
                rows.append(memory.read(pixels, self.teacher(pixels))[MEMORY])
        values = np.concatenate(rows).astype(np.float64)
        result = np.tile(values.max(axis=0) + 1, (len(inputs), 1))
        result[seen] = values
        return result


def _in_order(kinds: Sequence[str], images: int) -> tuple[str, ...]:
    """Return the kinds of anomalies in the order of ``_inputs``: image by image, strength by strength."""
    return with_faded([kinds[number] for index in range(images) for number in range(index, len(kinds), images)], FADES)


def _drawn_back(frame: Image, change: Array, transform: Transform) -> Image:
    """Return a frame with a change f32[h,w,3] of its cut-out added where it lies in the frame."""
    high, wide = frame.shape[:2]
    around = cv2.warpAffine(change, transform.inverse[:2], (wide, high), borderMode=cv2.BORDER_CONSTANT)
    return np.asarray(np.rint(np.clip(frame + around, 0, 255)), np.uint8)


def _gain(trial: Trial, images: int) -> LocatingGain:
    """Compare the better variant of both geometries; the first half of the columns is located, the other whole."""
    alone = np.eye(trial.count)
    located, whole = (max(half, key=trial.macro) for half in np.split(alone, 2))
    harms = trial.supports(whole, located, trial.count)
    return LocatingGain(trial.macro(located), trial.macro(whole), trial.noise(located, whole), images, harms)
