"""Which cells of normal images a bundle remembers: chosen from the learned ones, the variant by unseen ones.

The banks see only the normal images that the networks learn from, and small movements of them. Whether a cell is
compared with all remembered ones or with those of its own region is decided by the unseen normal images and the
synthetic anomalies, as the weights of the branches are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edge_ad.deployment.validation_images import spread
from edge_ad.models.build import AnyTeacher, build_memory, memory_regions
from edge_ad.models.memory import Memory
from edge_ad.presets.networks import Size
from edge_ad.presets.presets import Preset
from edge_ad.scoring.memory import Array, Regions, distances, remember, whitening_of
from edge_ad.scoring.weights import Trial
from edge_ad.training.augment import to_pixels
from edge_ad.training.images import FADES, Images, ScoringImages

MAX_IMAGES = 128  # normal images and moved copies that cells are chosen from: more say little new
CHUNK = 16
LOCAL, GLOBAL = "local", "global"


@dataclass(frozen=True)
class Remembered:
    """The memory of a bundle, and what its report says of it."""

    memory: Memory
    report: dict[str, Any]

    @property
    def message(self) -> str:
        """One line for the terminal."""
        cells, variant = self.report["cells"], self.report["variant"]
        regions = self.memory.regions
        where = f"for each of {regions.counts[0]} x {regions.counts[1]} regions" if variant == LOCAL else "for all cells"
        figures = "".join(f"; AUROC {name} {value:.3f}" for name, value in self.report.get("auroc", {}).items())
        return f"{cells} remembered cells {where}{figures}"


def learn_memory(
    teacher: AnyTeacher, preset: Preset, images: ScoringImages, copies: Images, *, seed: int, device: torch.device
) -> Remembered | None:
    """Return the memory of the normal images, learned from ``copies`` u8 [N, H, W, 3] (the originals first); None where
    the preset has none.

    With the variant ``auto`` that of regions is taken where it is better by more than the noise of the comparison.
    """
    size: Size = (copies.shape[1], copies.shape[2])
    allowed = memory_regions(preset, size)
    if not allowed:
        return None
    learned = copies[: max(len(images.fit), MAX_IMAGES)]
    features = np.concatenate(list(_features(teacher, spread(learned, MAX_IMAGES), device)))
    centre, matrix = whitening_of(features.reshape(-1, features.shape[-1]), preset.memory.width)
    white = (features - centre) @ matrix.T
    banks = {name: remember(white, regions, preset.memory.cells, seed) for name, regions in allowed.items()}
    measure = _Measure(teacher, preset, (centre, matrix), banks, allowed, device)
    variant, report = _choose(measure, images, seed) if len(banks) > 1 else (next(iter(banks)), {})
    memory = build_memory(preset, teacher.channels, allowed[variant], banks[variant].shape[1])
    memory.set(centre, matrix, banks[variant])
    described = {"variant": variant, "cells": int(banks[variant].shape[1]), "regions": asdict(allowed[variant])}
    return Remembered(memory.eval(), {**described, **report})


@dataclass(frozen=True)
class _Measure:
    """Raw scores of images by each variant."""

    teacher: AnyTeacher
    preset: Preset
    whitening: tuple[Array, Array]
    banks: Mapping[str, Array]
    regions: Mapping[str, Regions]
    device: torch.device

    def scores(self, images: Images) -> NDArray[np.float64]:
        """Return f64 [N, V]: the mean of the highest cells of the map, as the fusion takes it."""
        centre, matrix = self.whitening
        top = self.preset.fusion.top_of("memory")
        rows = []
        for features in _features(self.teacher, images, self.device):
            white = np.asarray((features - centre) @ matrix.T, np.float32)
            maps = [distances(white, bank, self.regions[name]).reshape(len(white), -1) for name, bank in self.banks.items()]
            rows.append(np.stack([np.sort(values, axis=1)[:, -top:].mean(axis=1) for values in maps], axis=1))
        return np.concatenate(rows).astype(np.float64)


def _choose(measure: _Measure, images: ScoringImages, seed: int) -> tuple[str, dict[str, Any]]:
    """Return the better variant and the figures that decided."""
    normal = measure.scores(images.normalise)
    shares = FADES if images.origins else ()
    anomalies = np.concatenate([measure.scores(shown) for shown in (images.anomalies, *map(images.faded, shares))])
    kinds = (*images.kinds, *(f"{kind} at {share:g}" for share in shares for kind in images.kinds))
    names = list(measure.banks)
    trial = Trial(normal, anomalies, kinds, seed)
    only = {name: np.eye(len(names))[number] for number, name in enumerate(names)}
    gained, noise = trial.gain(only[LOCAL], only[GLOBAL])
    figures = {name: round(trial.macro(weight), 4) for name, weight in only.items()}
    report = {"auroc": figures, "gain_by_regions": round(gained, 4), "noise": round(noise, 4)}
    return (LOCAL if gained > noise else GLOBAL), report


def _features(teacher: AnyTeacher, images: Images, device: torch.device) -> Iterator[Array]:
    """Yield the teacher's features f32 [n, h, w, C] of a few images at a time."""
    for start in range(0, len(images), CHUNK):
        with torch.no_grad():
            features = teacher(to_pixels(images[start : start + CHUNK], device)).features
        yield np.ascontiguousarray(features.permute(0, 2, 3, 1).float().cpu().numpy())
