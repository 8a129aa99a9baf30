"""Block-wise masks with an exact number of masked cells.

Bao et al., BEiT (arXiv 2106.08254), algorithm 1, in the exact-count form that LADMIM's code uses (methods section 3.5).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edge_ad.presets.networks import MaskSettings

ASPECT = math.log(1 / 0.3)
CANDIDATES = 128


def block_mask(rng: np.random.Generator, grid: int, cells: int, minimum: int) -> NDArray[np.bool_]:
    """Return a bool (grid, grid) mask with exactly ``cells`` true cells made of blocks of at least ``minimum`` cells.
    """
    mask = np.zeros((grid, grid), dtype=bool)
    missing = cells
    while missing > 0:
        added = _add_block(rng, mask, missing, minimum)
        if added == 0:
            break
        missing -= added
    return _fix_count(rng, mask, cells)


def mask_bank(seed: int, count: int, grid: int, cells: int, minimum: int) -> NDArray[np.float32]:
    """Return ``count`` seeded masks as f32 (count, grid * grid) of 0 and 1, kept in the bundle and used for every
    frame.

    Each is the one of CANDIDATES draws that hides most cells hidden least often so far: what no mask hides, LAViT never
    judges.
    """
    rng = np.random.default_rng(seed)
    masks: list[NDArray[np.bool_]] = []
    hidden = np.zeros(grid * grid)
    for _ in range(count):
        drawn = [block_mask(rng, grid, cells, minimum).reshape(-1) for _ in range(CANDIDATES)]
        masks.append(min(drawn, key=lambda mask: float(hidden[mask].sum())))
        hidden += masks[-1]
    return np.stack(masks).astype(np.float32)


def bank_of(settings: MaskSettings, grid: int, count: int | None = None) -> NDArray[np.float32]:
    """Return the bank that ``settings`` describe on a grid, or only its first ``count`` masks."""
    minimum = round(settings.least_share * grid * grid)
    return mask_bank(settings.seed, count or settings.count, grid, settings.masked_cells(grid), minimum)


def _add_block(rng: np.random.Generator, mask: NDArray[np.bool_], missing: int, minimum: int) -> int:
    grid = mask.shape[0]
    for _ in range(10):
        area = rng.uniform(min(minimum, missing), missing)
        aspect = math.exp(rng.uniform(-ASPECT, ASPECT))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if not (0 < height < grid and 0 < width < grid):
            continue
        top, left = int(rng.integers(0, grid - height + 1)), int(rng.integers(0, grid - width + 1))
        block = mask[top : top + height, left : left + width]
        fresh = height * width - int(np.count_nonzero(block))
        if 0 < fresh <= missing:
            block[:] = True
            return fresh
    return 0


def _fix_count(rng: np.random.Generator, mask: NDArray[np.bool_], cells: int) -> NDArray[np.bool_]:
    flat = mask.reshape(-1)
    surplus = int(flat.sum()) - cells
    pool = np.flatnonzero(flat if surplus > 0 else ~flat)
    flat[rng.choice(pool, size=abs(surplus), replace=False)] = surplus < 0
    return mask
