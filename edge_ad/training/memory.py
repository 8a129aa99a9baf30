"""What a bundle remembers of the cells of normal images: learned from those of the training, the variant by unseen ones.

Banks and Gaussians see only the normal images that the networks learn from, and small movements of them. Whether a cell is
compared with all remembered ones, with those of its own region or with a Gaussian of its place is decided by the unseen
normal images and the synthetic anomalies, as the weights of the branches are. For that each anomaly is shown at one strength
only: all at every strength would cost more than all the rest of the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edge_ad.deployment.validation_images import spread
from edge_ad.models.build import AnyTeacher, build_gaussians, build_memory, memory_regions
from edge_ad.models.memory import CellGaussians, Memory
from edge_ad.presets.networks import Size
from edge_ad.presets.presets import Preset
from edge_ad.scoring.memory import (
    Array,
    Regions,
    distances,
    fit_cells,
    gaussian_distances,
    remember,
    whitening_of,
)
from edge_ad.scoring.pooling import highest_mean
from edge_ad.scoring.weights import Trial
from edge_ad.training.augment import to_pixels
from edge_ad.training.images import Images, ScoringImages

MAX_IMAGES = 128  # normal images and moved copies that cells are chosen from: more say little new
MAX_SHOWN = 192  # anomalies that the variant is chosen by
CHUNK = 16
GAUSSIAN = "gaussian"

Whitening = tuple[Array, Array]


@dataclass(frozen=True)
class Learned:
    """The memory of a bundle, and what its report says of it."""

    memory: Memory | CellGaussians
    report: dict[str, Any]

    @property
    def message(self) -> str:
        """One line for the terminal."""
        regions, cells = self.memory.regions, self.report.get("cells")
        where = f"each of {regions.counts[0]} x {regions.counts[1]} regions" if regions.count > 1 else "all cells"
        figures = "".join(f"; AUROC {name} {value:.3f}" for name, value in self.report.get("auroc", {}).items())
        return f"{f'{cells} remembered cells' if cells else 'a Gaussian'} for {where}{figures}"


@dataclass(frozen=True)
class _Candidate:
    """One variant: the distances f32 [N, h, w] of whitened cells f32 [N, h, w, D], its module and what is reported."""

    distances: Callable[[Array], Array]
    module: Callable[[], Memory | CellGaussians]
    report: dict[str, Any]


def learn_memory(
    teacher: AnyTeacher, preset: Preset, images: ScoringImages, copies: Images, *, seed: int, device: torch.device
) -> Learned | None:
    """Return the memory of the normal images, learned from ``copies`` u8 [N, H, W, 3] (the originals first); None where
    the preset has none.

    Of several variants the first is taken, unless another is better by what the rule of the weights supports.
    """
    size: Size = (copies.shape[1], copies.shape[2])
    allowed = memory_regions(preset, size)
    if not allowed:
        return None
    learned = spread(copies[: max(len(images.fit), MAX_IMAGES)], MAX_IMAGES)
    features = np.concatenate(list(_features(teacher, learned, device)))
    whitening = whitening_of(features.reshape(-1, features.shape[-1]), preset.memory.width)
    white = _whitened(features, whitening)
    candidates = {
        name: _gaussian(preset, teacher, whitening, white, regions=regions)
        if name == GAUSSIAN
        else _bank(preset, teacher, whitening, white, regions=regions, seed=seed)
        for name, regions in allowed.items()
    }
    name, figures = next(iter(candidates)), dict[str, Any]()
    if len(candidates) > 1:
        scores = _Scores(teacher, whitening, candidates, top=preset.fusion.top_of("memory"), device=device)
        shown, kinds = images.shown_once(MAX_SHOWN)
        trial = Trial(scores.of(spread(images.normalise, MAX_IMAGES)), scores.of(shown), kinds, seed)
        name, figures = chosen_variant(trial, tuple(candidates))
    chosen = candidates[name]
    return Learned(chosen.module().eval(), {"variant": name, **chosen.report, **figures})


def _bank(
    preset: Preset, teacher: AnyTeacher, whitening: Whitening, white: Array, *, regions: Regions, seed: int
) -> _Candidate:
    banks = remember(white, regions, preset.memory.cells, seed)
    cells = int(banks.shape[1])

    def module() -> Memory:
        memory = build_memory(preset, teacher.channels, regions, cells)
        memory.set(*whitening, banks)
        return memory

    return _Candidate(
        lambda white: distances(white, banks, regions), module, {"cells": cells, "regions": asdict(regions)}
    )


def _gaussian(
    preset: Preset, teacher: AnyTeacher, whitening: Whitening, white: Array, *, regions: Regions
) -> _Candidate:
    mean, roots = fit_cells(white, regions)

    def module() -> CellGaussians:
        gaussians = build_gaussians(preset, teacher.channels, regions)
        gaussians.set(*whitening, mean, roots)
        return gaussians

    return _Candidate(
        lambda white: gaussian_distances(white, (mean, roots), regions), module, {"regions": asdict(regions)}
    )


@dataclass(frozen=True)
class _Scores:
    """Raw scores of images by each variant: the mean of the ``top`` highest cells of the map, as the fusion takes it."""

    teacher: AnyTeacher
    whitening: Whitening
    candidates: Mapping[str, _Candidate]
    top: int
    device: torch.device

    def of(self, images: Images) -> NDArray[np.float64]:
        """Return f64 [N, V]."""
        rows = []
        for features in _features(self.teacher, images, self.device):
            white = _whitened(features, self.whitening)
            maps = [one.distances(white).reshape(len(white), -1) for one in self.candidates.values()]
            rows.append(np.stack([highest_mean(values, self.top) for values in maps], axis=1))
        return np.concatenate(rows).astype(np.float64)


def chosen_variant(trial: Trial, names: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Return which of the variants to take, and the figures that decided: gains over the first, and what they must exceed."""
    alone = np.eye(len(names))
    first, default, others = names[0], alone[0], len(names) - 1
    aurocs = {name: round(trial.macro(weight), 4) for name, weight in zip(names, alone, strict=True)}
    gains = {
        f"{name} over {first}": [round(trial.gain(weight, default)[0], 4), round(trial.needed(weight, default, others), 4)]
        for name, weight in zip(names[1:], alone[1:], strict=True)
    }
    return names[trial.choose(alone)], {"auroc": aurocs, "gains": gains}


def _whitened(features: Array, whitening: Whitening) -> Array:
    centre, matrix = whitening
    return np.asarray((features - centre) @ matrix.T, np.float32)


def _features(teacher: AnyTeacher, images: Images, device: torch.device) -> Iterator[Array]:
    """Yield the teacher's features f32 [n, h, w, C] of a few images at a time."""
    for start in range(0, len(images), CHUNK):
        with torch.no_grad():
            features = teacher(to_pixels(images[start : start + CHUNK], device)).features
        yield np.ascontiguousarray(features.permute(0, 2, 3, 1).float().cpu().numpy())
