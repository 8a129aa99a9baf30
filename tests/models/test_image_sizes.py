"""Networks for images that are no squares: shapes, and that every axis is used for what it is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from edge_ad.models.build import networks
from edge_ad.models.efficientad import AutoEncoder, decoder_sizes
from edge_ad.models.hvq import LearnedPositions
from edge_ad.models.lavit import bank_of, block_mask
from edge_ad.models.standardise import Standardise
from edge_ad.models.teachers import region_means, to_grid
from edge_ad.presets.networks import MaskSettings, Size
from edge_ad.presets.presets import FAST, PAPER, with_teacher
from tests.fixtures.tiny_presets import TINY, untrained

SIZES: tuple[Size, ...] = ((512, 128), (416, 160), (224, 288), (256, 256), (96, 32))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["efficientnet_lite0", "pdn_small"])
def test_every_network_keeps_the_aspect_ratio(size: Size, kind: str) -> None:
    preset = with_teacher(TINY, kind)  # type: ignore[arg-type]
    features, tokens = (size[0] // 8, size[1] // 8), (size[0] // 16, size[1] // 16)
    made = untrained(preset, image_size=size)
    pixels = 255 * torch.rand(1, 3, *size)
    with torch.no_grad():
        out = made.teacher(pixels)
        local, whole = made.efficientad(pixels, out.features)
        ids, error, _ = made.tokenizer.structure_map(out.tokens)
        masks = torch.from_numpy(bank_of(preset.masks, made.lavit.grid))
        raw, cells = made.lavit.judge(out.tokens, ids[0], masks)
    assert out.features.shape[2:] == local.shape[2:] == whole.shape[2:] == features
    assert out.tokens.shape[2:] == error.shape[2:] == made.lavit.grid == tokens
    assert out.pooled.shape == made.teacher(pixels).pooled.shape
    assert cells.shape == (math.prod(tokens),)
    assert masks.sum(dim=1).tolist() == [round(0.4 * math.prod(tokens))] * preset.masks.count
    assert torch.isfinite(raw).all()


@pytest.mark.parametrize("network", ["student", "autoencoder", "tokenizer", "teacher"])
def test_as_many_pixels_take_as_much_work(network: str) -> None:
    square, tall = (networks(FAST, size)[network]["gmac"] for size in ((256, 256), (512, 128)))
    assert tall == pytest.approx(square, rel=0.03)


def test_networks_count_a_published_preset_as_before() -> None:
    assert networks(PAPER) == networks(PAPER, (256, 256))


def test_the_autoencoder_ends_in_one_cell_and_scales_its_decoder() -> None:
    """Encoder 512 x 128 -> 16 x 4 -> 1 x 1; the sizes 3, 8, 15, 32 for 256 pixels are twice and half as many."""
    sizes = decoder_sizes((512, 128), (3, 8, 15, 32), 256)
    assert sizes == ((6, 2), (16, 4), (30, 8), (64, 16))
    assert decoder_sizes((256, 256), (3, 8, 15, 32), 256) == ((3, 3), (8, 8), (15, 15), (32, 32))
    assert decoder_sizes((512, 128)) == ((7, 1), (16, 4), (31, 7), (64, 16), (127, 31), (255, 63))
    shapes: list[Size] = []
    with torch.device("meta"):
        network = AutoEncoder(8, (64, 16), (512, 128), sizes)
        for layer in network.modules():
            if isinstance(layer, torch.nn.Conv2d):
                layer.register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape[2:])))
        network(torch.zeros(1, 3, 512, 128))
    assert shapes[4:6] == [(16, 4), (1, 1)]
    assert shapes[-1] == (64, 16)


def test_positions_are_of_rows_and_of_columns() -> None:
    positions = LearnedPositions((3, 2), 4)
    with torch.no_grad():
        out = positions().reshape(3, 2, 4)
    for row in range(3):
        for column in range(2):
            expected = torch.cat([positions.columns[column], positions.rows[row]])
            torch.testing.assert_close(out[row, column], expected, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(64, 16), (26, 10), (14, 18), (13, 5), (3, 1), (4, 4)])
def test_regions_are_those_of_adaptive_pooling(shape: Size) -> None:
    x = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(region_means(x, 4), F.adaptive_avg_pool2d(x, 4))


@pytest.mark.parametrize("grid", [(8, 2), (16, 4), (32, 8)])
def test_stages_are_brought_to_a_grid_that_is_no_square(grid: Size) -> None:
    x = torch.arange(64, dtype=torch.float32).reshape(1, 1, 16, 4)
    out = to_grid(x, grid)
    assert out.shape[2:] == grid
    assert out.mean().item() == pytest.approx(31.5)


@pytest.mark.parametrize("grid", [(32, 8), (8, 32), (26, 10), (46, 6)])
def test_masks_are_blocks_on_a_narrow_grid_too(grid: Size) -> None:
    """Scattered, 40 % of the cells would part 48 % of all neighbours; blocks that do not fit would be scattered cells."""
    bank = bank_of(MaskSettings(count=20), grid).reshape(-1, *grid).astype(bool)
    pairs = grid[0] * (grid[1] - 1) + (grid[0] - 1) * grid[1]
    parted = [(mask[1:] != mask[:-1]).sum() + (mask[:, 1:] != mask[:, :-1]).sum() for mask in bank]
    assert np.mean(parted) < 0.25 * pairs
    assert (bank.sum(axis=0) > 0).mean() > 0.95


def test_a_mask_lies_as_the_grid_does() -> None:
    """The same draws on a grid of twice the height and half the width give blocks twice as high."""
    tall = [block_mask(np.random.default_rng(seed), (32, 8), 100, 40) for seed in range(40)]
    high, wide = (np.mean([mask.any(axis=axis).sum() for mask in tall]) for axis in (1, 0))
    assert high > 2 * wide


def test_errors_are_standardised_by_place() -> None:
    errors = torch.randn(6, 2, 5, 3, generator=torch.Generator().manual_seed(0))
    errors[:, :, 4] *= 10  # the last row errs most
    module = Standardise(2, (5, 3), whiten=False)
    module.learn(errors)
    assert module.place.shape == (1, 1, 5, 3)
    assert (module.place[0, 0, 0] > module.place[0, 0, 4]).all()
