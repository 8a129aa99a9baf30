"""LAViT: the shortened last block, masks, histograms and the map, each against an independent computation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from edge_ad.models.lavit import LaViT, batch_histograms, code_histograms, lavit_loss, logic_map
from edge_ad.presets.networks import LavitSettings

SMALL = LavitSettings(width=12, depth=3, heads=3, layer_scale=0.5, attention_dropout=0.0)
GRID, CHANNELS, CODES = 4, 5, 7


def network(seed: int = 0, drop_masked: bool = False) -> LaViT:
    torch.manual_seed(seed)
    model = LaViT(CHANNELS, GRID, CODES, replace(SMALL, drop_masked=drop_masked), masked=6).eval()
    for parameter in model.parameters():
        parameter.data.normal_(0.0, 0.5)
    return model


def masks(count: int, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    result = np.zeros((count, GRID * GRID), np.float32)
    for row in result:
        row[rng.choice(GRID * GRID, 6, replace=False)] = 1.0
    return torch.from_numpy(result)


def test_the_shortened_last_block_is_exact() -> None:
    model, tokens, mask = network(), torch.randn(2, CHANNELS, GRID, GRID), masks(2)
    flat = tokens.reshape(2, CHANNELS, -1).permute(0, 2, 1)
    cells = torch.where(mask[..., None] > 0, model.mask_token.expand(2, 16, -1), model.embed(flat))
    x = torch.cat([model.extra.expand(2, -1, -1), cells], dim=1) + model.position
    for block in model.blocks:
        x = block(x)  # all rows
    logits = model.head(model.norm(x))[:, 1]  # [CLS, HIST, cells]: the second answers
    expected = torch.softmax(logits.reshape(2, 4, CODES), dim=-1)
    torch.testing.assert_close(model(tokens, mask), expected)


def test_without_masked_cells_the_sequence_is_what_is_seen_and_hist_knows_where_the_rest_lies() -> None:
    model, tokens, mask = network(drop_masked=True), torch.randn(2, CHANNELS, GRID, GRID), masks(2)
    expected = []
    for one, hidden in zip(tokens, mask, strict=True):
        seen = [cell for cell in range(GRID * GRID) if hidden[cell] == 0]
        cells = [model.embed(one[:, cell // GRID, cell % GRID]) + model.position[0, 2 + cell] for cell in seen]
        behind = sum(model.where.weight[:, cell] for cell in range(GRID * GRID) if hidden[cell] == 1)
        hist = model.extra[0, 1] + model.position[0, 1] + behind * 16 / 6
        x = torch.stack([model.extra[0, 0] + model.position[0, 0], hist, *cells])[None]
        for block in model.blocks:
            x = block(x)
        expected.append(torch.softmax(model.head(model.norm(x))[0, 1].reshape(4, CODES), dim=-1))
    torch.testing.assert_close(model(tokens, mask), torch.stack(expected))


def test_masks_of_another_size_are_named() -> None:
    model, tokens = network(drop_masked=True), torch.randn(1, CHANNELS, GRID, GRID)
    mask = torch.zeros(1, GRID * GRID)
    mask[0, :3] = 1.0
    before = model(tokens, mask, masked=3)
    behind = mask.reshape(1, 1, GRID, GRID)
    torch.testing.assert_close(model(tokens + 9.0 * behind, mask, masked=3), before, rtol=0, atol=0)


@pytest.mark.parametrize("drop", [False, True])
def test_what_is_masked_does_not_matter_and_what_is_seen_does(drop: bool) -> None:
    model, tokens, mask = network(drop_masked=drop), torch.randn(1, CHANNELS, GRID, GRID), masks(1)
    behind = mask.reshape(1, 1, GRID, GRID)
    before = model(tokens, mask)
    torch.testing.assert_close(model(tokens + 100.0 * behind, mask), before, rtol=0, atol=0)
    assert (model(tokens + 1.0 * (1 - behind), mask) - before).abs().max() > 1e-3


@pytest.mark.parametrize("drop", [False, True])
def test_one_picture_through_many_masks_equals_one_by_one(drop: bool) -> None:
    """Also in a batch of copies, where nothing is shared between the masks."""
    model, tokens, bank = network(drop_masked=drop), torch.randn(1, CHANNELS, GRID, GRID), masks(3)
    together = model(tokens, bank)
    assert together.shape == (3, 4, CODES)
    torch.testing.assert_close(together.sum(dim=-1), torch.ones(3, 4))
    torch.testing.assert_close(together, model(tokens.expand(3, -1, -1, -1), bank))
    for number in range(3):
        torch.testing.assert_close(together[number : number + 1], model(tokens, bank[number : number + 1]))


def test_masks_share_the_work_before_the_first_block_and_the_last_block_does_that_of_one_row() -> None:
    """Products of 3 masks, 12 rows each, of which 20 differ. A projection of a row takes 144, a product of two rows 12.

    The first block: queries, keys and values of 20 rows instead of 36. The last: a row instead of all becomes keys and
    values, and then for each mask 3 heads times 12 x 12 products bring queries and means to the size of a cell.
    """
    model, tokens, bank = network(drop_masked=True), torch.randn(1, CHANNELS, GRID, GRID), masks(3)

    def products(images: Tensor) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(images, bank)
        return counter.get_total_flops() // 2

    apart, together = products(tokens.expand(3, -1, -1, -1)), products(tokens)
    embedded = 2 * 16 * CHANNELS * 12  # of two images more
    first = 3 * (36 - 20) * 144
    last = 36 * 2 * 144 - 3 * (2 * 144) - 3 * 2 * 12 * (3 - 1) * 12
    assert apart - together == embedded + first + last


def test_parameters_and_initial_values_of_the_published_size() -> None:
    """1x1 convolution, CLS, HIST, mask token, 578 positions, 4 BEiT blocks, LayerNorm, head on HIST."""
    d, hidden = 512, 2048
    block = 2 * 2 * d + (d * d + d) + d * d + 2 * (d * d + d) + (d * hidden + hidden) + (hidden * d + d) + 2 * d
    expected = (384 * d + d) + 2 * d + d + 578 * d + 4 * block + 2 * d + (d * 4 * 512 + 4 * 512)
    model = LaViT(384, 24, 512, LavitSettings())
    assert sum(parameter.numel() for parameter in model.parameters()) == expected
    assert expected == pytest.approx(14.16e6, abs=5e3)
    assert model.blocks[0].attention.key.bias is None
    assert model.blocks[3].scale1.unique().tolist() == [pytest.approx(1e-4)]
    assert model.position.detach().abs().max() <= 0.02
    for depth, one in enumerate(model.blocks, start=1):
        limit = 0.02 / np.sqrt(2 * depth)
        assert one.down.weight.abs().max().item() == pytest.approx(limit, rel=1e-2)
        assert one.attention.project.weight.abs().max().item() == pytest.approx(limit, rel=1e-2)


def brute(ids: Tensor, mask: Tensor) -> np.ndarray:
    """Histograms [R, levels, codes] by counting: one image's ids [levels, N], masks [R, N]."""
    result = np.zeros((len(mask), len(ids), CODES))
    for r, row in enumerate(mask.tolist()):
        for level, names in enumerate(ids.tolist()):
            for name, inside in zip(names, row, strict=True):
                result[r, level, name] += inside / sum(row)
    return result


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_histograms_by_counting(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    ids, bank = torch.randint(0, CODES, (4, 16), generator=generator), masks(3, seed)
    expected = brute(ids, bank)
    result = code_histograms(ids, bank, CODES)
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(batch_histograms(ids.expand(3, 4, 16), bank, CODES).numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(result.sum(dim=-1).numpy(), 1.0, atol=1e-6)


def test_the_order_behind_the_mask_does_not_matter() -> None:
    ids = torch.randint(0, CODES, (4, 16), generator=torch.Generator().manual_seed(0))
    mask = masks(1)
    inside = torch.nonzero(mask[0]).flatten()
    shuffled = ids.clone()
    shuffled[:, inside] = ids[:, inside.flip(0)]
    assert not torch.equal(ids, shuffled)
    torch.testing.assert_close(code_histograms(shuffled, mask, CODES), code_histograms(ids, mask, CODES))


def one_hot(*codes: int) -> Tensor:
    return torch.eye(CODES)[list(codes)][None]


@pytest.mark.parametrize(
    ("predicted", "target", "loss"),
    [
        (one_hot(0, 1, 2, 3), one_hot(0, 1, 2, 3), 0.0),
        (one_hot(0, 1, 2, 3), one_hot(1, 2, 3, 4), 8.0),  # nothing in common: 2 a level
        (one_hot(0, 1, 2, 3), one_hot(0, 1, 2, 4), 2.0),
        (torch.full((1, 4, CODES), 1 / CODES), one_hot(0, 0, 0, 0), 4 * 2 * (CODES - 1) / CODES),
        (one_hot(0, 1, 2, 3).repeat(2, 1, 1), torch.cat([one_hot(0, 1, 2, 3), one_hot(1, 2, 3, 4)]), 4.0),
    ],
)
def test_loss_by_hand(predicted: Tensor, target: Tensor, loss: float) -> None:
    assert lavit_loss(predicted, target).item() == pytest.approx(loss, abs=1e-6)


def test_logic_map_by_hand() -> None:
    """Behind the mask stand codes 0, 0, 1; a third of each of 0, 1, 2 was expected.

    Code 0 is in excess by 1/3, which its two cells share out of 2/3: 1/2 each. Code 2 is missed by 1/3, which every masked
    cell carries. The cell outside the mask carries nothing.
    """
    ids, mask = torch.tensor([[0, 0, 1, 2]]), torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    target, predicted = torch.tensor([[[2 / 3, 1 / 3, 0.0]]]), torch.full((1, 1, 3), 1 / 3)
    result = logic_map(ids, mask, predicted, target)
    torch.testing.assert_close(result, torch.tensor([1 / 2 + 1 / 3, 1 / 2 + 1 / 3, 1 / 3, 0.0]))
    # Spread over the three masked cells it is the whole L1 distance, 1/3 + 1/3.
    assert result.sum().item() / 3 == pytest.approx(2 / 3)


def test_logic_map_averages_over_the_masks_that_cover_a_cell() -> None:
    """Two masks with all of the distance in one: the cell that both cover carries half of it."""
    ids = torch.tensor([[0, 1, 1, 2]])
    bank = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0]])
    target = code_histograms(ids, bank, 3)
    predicted = target.clone()
    predicted[0] = torch.tensor([[1.0, 0.0, 0.0]])  # the first mask hides one 0 and one 1; only 0 was expected
    result = logic_map(ids, bank, predicted, target)
    # First mask: code 1 in excess by all of its 1/2: 1 for cell 1; code 0 missed by 1/2: 1/2 for cells 0 and 1.
    torch.testing.assert_close(result, torch.tensor([1 / 2, (1 + 1 / 2) / 2, 0.0, 0.0]))


def test_what_is_missing_is_blamed_on_its_usual_place_and_what_is_too_much_on_an_unusual_one() -> None:
    """All four cells are hidden and show code 0; half of them should show code 1, which normal images have in cells 2 and 3.

    Code 1 is missed by 1/2: cells 2 and 3 carry 1/4 each of the four cells' worth. Code 0 is in excess by 1/2: it is usual
    in cells 0 and 1 (weight 0.02 each) and unheard of in cells 2 and 3 (weight 1.02 each).
    """
    ids, mask = torch.zeros(1, 4, dtype=torch.int64), torch.ones(1, 4)
    usual = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]])
    target, predicted = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.5, 0.5]]])
    result = logic_map(ids, mask, predicted, target, usual=usual) / 4
    missing, excess = 0.5 * 1.001 / 2.004, 0.5 * 1.02 / 2.08
    expected = torch.tensor([0.5 * 0.02 / 2.08 + 0.5 * 0.001 / 2.004] * 2 + [missing + excess] * 2)
    torch.testing.assert_close(result, expected)
    assert result.sum().item() == pytest.approx(1.0)  # the L1 distance


def test_usual_codes_by_counting() -> None:
    model = network()
    ids = torch.randint(0, CODES, (6, 4, 16), generator=torch.Generator().manual_seed(0))
    model.set_usual(ids)
    for level in range(4):
        for cell in range(16):
            counts = torch.bincount(ids[:, level, cell], minlength=CODES) / 6
            torch.testing.assert_close(model.usual[level, cell], counts)


def test_logic_map_points_at_the_part_that_is_too_much() -> None:
    ids, bank = torch.zeros(4, 16, dtype=torch.int64), masks(8)
    predicted = code_histograms(ids, bank, CODES)
    cell = int(bank.sum(dim=0).argmax())
    ids[:, cell] = 3
    result = logic_map(ids, bank, predicted, code_histograms(ids, bank, CODES))
    assert int(result.argmax()) == cell
