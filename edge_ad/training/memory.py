"""What a bundle remembers of the cells of normal images: learned from those of the training, the variant by unseen ones.

Banks and Gaussians see only the normal images that the networks learn from, and small movements of them. Whether a cell is
compared with all remembered ones, with those of its own region or with a Gaussian of its place is decided by the unseen
normal images and the synthetic anomalies, as the weights of the branches are (``choices``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edge_ad.deployment.validation_images import spread
from edge_ad.models.build import AnyTeacher, build_gaussians, build_memory, memory_regions
from edge_ad.models.memory import CellGaussians, Memory
from edge_ad.models.teachers import TeacherOutput
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
from edge_ad.training.choices import chosen_variant, describe_figures
from edge_ad.training.images import Images

MAX_IMAGES = 128  # normal images and moved copies that cells are chosen from, and as many views: more say little new
CHUNK = 16
GAUSSIAN, MEMORY = "gaussian", "memory"

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
        figures = f"; {describe_figures(self.report)}" if "auroc" in self.report else ""
        return f"{f'{cells} remembered cells' if cells else 'a Gaussian'} for {where}{figures}"


@dataclass(frozen=True)
class _Candidate:
    """One variant: the distances f32 [N, h, w] of whitened cells f32 [N, h, w, D], its module and what is reported."""

    distances: Callable[[Array], Array]
    module: Callable[[], Memory | CellGaussians]
    report: dict[str, Any]


@dataclass(frozen=True)
class MemoryCandidates:
    """The variants of a memory that learned, the default first; ``top`` of its map's highest cells make a raw score."""

    whitening: Whitening
    variants: Mapping[str, _Candidate]
    top: int

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the variants."""
        return tuple(self.variants)

    def read(self, pixels: Tensor, described: TeacherOutput) -> dict[str, Array]:
        """Return raw scores f32 [n, V] of a batch by each variant."""
        white = whitened(cells_of(described.features), self.whitening)
        maps = [one.distances(white).reshape(len(white), -1) for one in self.variants.values()]
        return {MEMORY: np.stack([highest_mean(values, self.top) for values in maps], axis=1)}

    def chosen(self, trial: Trial | None) -> Learned:
        """Return the variant that a trial supports; without one the first."""
        name, figures = (self.names[0], {}) if trial is None else chosen_variant(trial, self.names)
        chosen = self.variants[name]
        return Learned(chosen.module().eval(), {"variant": name, **chosen.report, **figures})


def learn_memory(
    teacher: AnyTeacher,
    preset: Preset,
    normal_images: int,
    copies: Images,
    *,
    views: Images | None = None,
    seed: int,
    device: torch.device,
) -> MemoryCandidates | None:
    """Return the memory of the normal images by each variant that the preset allows, learned from ``copies`` u8 [N, H, W, 3]
    (the ``normal_images`` originals first) and from disturbed ``views`` of them; None where the preset has none.
    """
    size: Size = (copies.shape[1], copies.shape[2])
    allowed = memory_regions(preset, size)
    if not allowed:
        return None
    learned = spread(copies[: max(normal_images, MAX_IMAGES)], MAX_IMAGES)
    if views is not None:
        learned = np.concatenate([learned, spread(views, MAX_IMAGES)])
    features = np.concatenate(list(_features(teacher, learned, device)))
    whitening = whitening_of(features.reshape(-1, features.shape[-1]), preset.memory.width)
    white = whitened(features, whitening)
    variants = {
        name: _gaussian(preset, teacher, whitening, white, regions=regions)
        if name == GAUSSIAN
        else _bank(preset, teacher, whitening, white, regions=regions, seed=seed)
        for name, regions in allowed.items()
    }
    return MemoryCandidates(whitening, variants, preset.fusion.top_of(MEMORY))


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
        lambda white: gaussian_distances(white, (mean, roots), regions), module, {"images": len(white), "regions": asdict(regions)}
    )


def whitened(features: Array, whitening: Whitening) -> Array:
    """Return features f32 [..., C] about a centre [C], by a matrix [D, C]: f32 [..., D]."""
    centre, matrix = whitening
    return np.asarray((features - centre) @ matrix.T, np.float32)


def _features(teacher: AnyTeacher, images: Images, device: torch.device) -> Iterator[Array]:
    """Yield the teacher's features f32 [n, h, w, C] of a few images at a time."""
    for start in range(0, len(images), CHUNK):
        with torch.no_grad():
            yield cells_of(teacher(to_pixels(images[start : start + CHUNK], device)).features)


def cells_of(features: Tensor) -> Array:
    """Return features f32 (n, C, h, w) as cells f32 [n, h, w, C]."""
    return np.ascontiguousarray(features.permute(0, 2, 3, 1).float().cpu().numpy())
