"""The logic map of a LAViT that was really trained points at a part that is missing.

Scenes are token grids: ground everywhere, and three parts of 2 x 2 cells, each in one of two places of its own region. What
each cell shows is its code in all levels, so no tokenizer is needed.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from edge_ad.evaluation.figures import mass_factor
from edge_ad.models.lavit import LaViT, bank_of, block_mask
from edge_ad.presets.networks import LavitSettings, MaskSettings
from edge_ad.training.loop import Arithmetic
from edge_ad.training.recipes import batch_histograms, lavit_loss, learn_cells

GRID, CODES, LEVELS = 8, 4, 2
CPU = Arithmetic(torch.device("cpu"), low_precision=False)
PLACES = {1: ((0, 0), (2, 0)), 2: ((0, 5), (1, 6)), 3: ((5, 2), (6, 4))}


def scene(rng: np.random.Generator, missing: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return codes i64 [8, 8] and the cells where part ``missing`` would have been."""
    codes, gone = np.zeros((GRID, GRID), np.int64), np.zeros((GRID, GRID), bool)
    for part, places in PLACES.items():
        row, column = places[int(rng.integers(2))]
        if part == missing:
            gone[row : row + 2, column : column + 2] = True
        else:
            codes[row : row + 2, column : column + 2] = part
    return codes, gone


def tokens_of(codes: np.ndarray) -> Tensor:
    """Return f32 (N, 4, 8, 8): one channel a code."""
    return torch.eye(CODES)[torch.from_numpy(codes)].permute(0, 3, 1, 2)


def levels_of(codes: np.ndarray) -> Tensor:
    return torch.from_numpy(codes.reshape(len(codes), 1, -1)).expand(-1, LEVELS, -1).contiguous()


def trained(steps: int = 250) -> tuple[LaViT, Tensor]:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    settings = LavitSettings(width=32, depth=2, heads=4, layer_scale=0.5, attention_dropout=0.0)
    model = LaViT(CODES, GRID, CODES, settings, levels=LEVELS)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        codes = np.stack([scene(rng)[0] for _ in range(32)])
        masks = torch.from_numpy(np.stack([block_mask(rng, GRID, 20, 6).reshape(-1) for _ in codes]).astype(np.float32))
        loss = lavit_loss(model(tokens_of(codes), masks), batch_histograms(levels_of(codes), masks, CODES))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    bank = torch.from_numpy(bank_of(MaskSettings(share=20 / 64, least_share=6 / 64, count=24), GRID))
    unseen = np.stack([scene(np.random.default_rng(1000 + seed))[0] for seed in range(40)])
    learned = np.stack([scene(rng)[0] for _ in range(200)])
    learn_cells(model, bank, levels_of(learned), (tokens_of(unseen), levels_of(unseen)), arithmetic=CPU)
    return model, bank


@pytest.mark.slow
def test_a_trained_map_points_at_the_missing_part() -> None:
    model, bank = trained()
    factors, scores = [], {"good": [], "missing": []}
    with torch.no_grad():
        for seed in range(30):
            for part in (0, 1 + seed % 3):
                codes, gone = scene(np.random.default_rng(5000 + seed), part)
                score, cells = model.judge(tokens_of(codes[None]), levels_of(codes[None])[0], bank)
                scores["missing" if part else "good"].append(float(score))
                if part:
                    heat = model.stand_out(cells).reshape(GRID, GRID).numpy()
                    factors.append(mass_factor(heat, gone))
    assert np.mean(factors) >= 3.0  # a missing part covers 4 of 64 cells: 16 is the most
    assert np.mean(scores["missing"]) > np.mean(scores["good"])
