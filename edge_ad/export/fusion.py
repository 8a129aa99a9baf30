"""The fusion as a torch module, and the factors by which cells of its maps count in a bundle with zones."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edge_ad.bundle.graphs import FUSION, GRAPHS, MAP_SIDE, ZONE_PREFIX
from edge_ad.geometry.zones import AppliedZones
from edge_ad.presets.networks import Sides, scaled_size, size_of
from edge_ad.presets.presets import FusionSettings

UNPADDED = ("local", "global", "memory")  # maps of the teacher's features, which may lack a border
ZONED = tuple(name.removeprefix(ZONE_PREFIX) for name, _ in GRAPHS[FUSION].references)  # branches with a map


class FusionGraph(nn.Module):
    """Maps and descriptions to raw, z, score and one image of suspicion; every statistic is an input.

    In the paper preset ``structure_side`` and ``structure_pool`` follow HVQ-Trans (upsample to 224, 16 x 16 mean,
    maximum) and ``border`` is the rim of cells that an unpadded PDN cannot see. ``size`` is that of the map, (height,
    width) or the side of a square.
    """

    def __init__(self, settings: FusionSettings, size: Sides = MAP_SIDE) -> None:
        super().__init__()
        self.settings, self.size = settings, size_of(size)

    def forward(
        self,
        map_structure: Tensor,
        map_logic: Tensor,
        map_local: Tensor,
        map_global: Tensor,
        raw_logic: Tensor,
        pooled: Tensor,
        map_memory: Tensor,
        quantiles: Tensor,
        centre: Tensor,
        precision: Tensor,
        mean: Tensor,
        std: Tensor,
        weight: Tensor,
        *factors: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return raw f32 [B], z f32 [B], score f32 [1], map f32 [1, 1, height, width].

        ``factors`` f32 [1, 1, h, w], none or one for each of ``ZONED``, say by how much the cells of a map count.
        """
        if factors:
            maps = (map_structure, map_logic, map_local, map_global, map_memory)
            counted = [one * factor for one, factor in zip(maps, factors, strict=True)]
            map_structure, map_logic, map_local, map_global, map_memory = counted
        away = pooled - centre
        distance = ((away @ precision) * away).sum().clamp_min(0.0).sqrt().reshape(1)
        border = self.settings.border
        raw = torch.cat(
            [
                self._structure(map_structure),
                raw_logic,
                self._peak(map_local, self.settings.top_of("local")),
                self._peak(map_global, self.settings.top_of("global")),
                distance,
                self._peak(map_memory, self.settings.top_of("memory")),
            ]
        )
        z = (raw - mean) / std
        score = _weighted(z, weight).sum().reshape(1)
        images = [
            _weighted(self._image_input(map_structure, quantiles[0], 0), weight[0]),
            _weighted(0.1 * map_logic, weight[1]),
            _weighted(self._image_input(map_local, quantiles[1], border), weight[2]),
            _weighted(self._image_input(map_global, quantiles[2], border), weight[3]),
            _weighted(self._image_input(map_memory, quantiles[3], border), weight[5]),
        ]
        return raw, z, score, self._draw(images)

    def _structure(self, error: Tensor) -> Tensor:
        side, pool = self.settings.structure_side, self.settings.structure_pool
        if side:
            size = scaled_size(side, (error.shape[-2], error.shape[-1]))
            error = F.interpolate(error, size=size, mode="bilinear", align_corners=True)
        if pool > 1:
            error = F.avg_pool2d(error, pool, stride=1)
        return self._peak(error, self.settings.structure_top)

    def _peak(self, error: Tensor, top: int) -> Tensor:
        flat = error.reshape(-1)
        return flat.max().reshape(1) if top == 1 else torch.topk(flat, top).values.mean().reshape(1)

    def _image_input(self, error: Tensor, quantiles: Tensor, border: int) -> Tensor:
        scaled = 0.1 * (error - quantiles[0]) / (quantiles[1] - quantiles[0]).clamp_min(1e-6)
        return F.pad(scaled, (border, border, border, border)) if border else scaled

    def _draw(self, images: Sequence[Tensor]) -> Tensor:
        """Return the sum of images of any sizes in the size of the map; those of one size are added while they are small."""
        sums: dict[torch.Size, Tensor] = {}
        for image in images:
            sums[image.shape] = sums[image.shape] + image if image.shape in sums else image
        drawn = (F.interpolate(image, size=self.size, mode="bilinear", align_corners=False) for image in sums.values())
        return functools.reduce(torch.add, drawn)


def _weighted(value: Tensor, weight: Tensor) -> Tensor:
    """Scale by a weight; a dropped branch may hold anything, even NaN, and must reach neither score nor image."""
    return torch.where(weight > 0, value * weight, torch.zeros_like(value))


def zone_factors(zones: AppliedZones | None, maps: Mapping[str, Tensor], border: int) -> dict[str, Tensor]:
    """Return the factors f32 [1, 1, h, w] of maps f32 [1, 1, h, w] by the names of the inputs; none without zones."""
    factors: dict[str, Tensor] = {}
    for branch in () if zones is None else ZONED:
        height, width = maps[f"map_{branch}"].shape[2:]
        assert zones is not None
        cells = zones.cells((height, width), border if branch in UNPADDED else 0)
        factors[ZONE_PREFIX + branch] = torch.from_numpy(cells[None, None])
    return factors
