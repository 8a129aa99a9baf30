"""The codebook against brute force and updates worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from edge_ad.models.vector_quantiser import VectorQuantiser, code_use, perplexity, shares_of


def test_nearest_is_the_smallest_squared_distance() -> None:
    torch.manual_seed(0)
    quantiser, z = VectorQuantiser(20, 5).eval(), torch.randn(3, 7, 5) * 2
    expected = ((z[:, :, None] - quantiser.codebook) ** 2).sum(dim=-1).argmin(dim=-1)
    out = quantiser(z)
    assert torch.equal(out.ids, expected)
    torch.testing.assert_close(out.values, quantiser.codebook[expected])


def by_hand(seed_from_data: bool = False) -> VectorQuantiser:
    """Codes (0, 0) and (10, 0) with counts 1 and 1."""
    quantiser = VectorQuantiser(2, 2, seed_from_data=seed_from_data)
    quantiser.codebook.copy_(torch.tensor([[0.0, 0.0], [10.0, 0.0]]))
    quantiser.sums.copy_(quantiser.codebook)
    quantiser.counts.fill_(1.0)
    quantiser.seeded.fill_(True)
    return quantiser


def test_one_moving_average_step() -> None:
    quantiser = by_hand().train()
    out = quantiser(torch.tensor([[[1.0, 0.0], [3.0, 0.0], [9.0, 2.0]]]))
    assert out.ids.tolist() == [[0, 0, 1]]
    # The step answers with the codes before it; the commitment is the mean over the 6 numbers of (code - z)^2.
    torch.testing.assert_close(out.values.detach(), torch.tensor([[[0.0, 0.0], [0.0, 0.0], [10.0, 0.0]]]))
    assert float(out.commitment) == pytest.approx((1 + 0 + 9 + 0 + 1 + 4) / 6)
    counts = [0.99 + 0.01 * 2, 0.99 + 0.01 * 1]
    sums = [[0.01 * 4.0, 0.0], [0.99 * 10 + 0.01 * 9, 0.01 * 2]]
    mass = sum(counts)
    smooth = [(count + 1e-5) / (mass + 2 * 1e-5) * mass for count in counts]
    expected = [[value / share for value in row] for row, share in zip(sums, smooth, strict=True)]
    torch.testing.assert_close(quantiser.counts, torch.tensor(counts))
    torch.testing.assert_close(quantiser.codebook, torch.tensor(expected))


def test_nothing_moves_in_eval_mode() -> None:
    quantiser = by_hand().eval()
    before = {name: value.clone() for name, value in quantiser.state_dict().items()}
    quantiser(torch.randn(2, 5, 2))
    assert all(torch.equal(value, before[name]) for name, value in quantiser.state_dict().items())


def test_gradient_passes_straight_through_and_codes_get_none() -> None:
    quantiser = by_hand().eval()
    z = torch.tensor([[[1.0, 0.0], [9.0, 2.0]]], requires_grad=True)
    out = quantiser(z)
    weights = torch.tensor([[[2.0, 3.0], [5.0, 7.0]]])
    (gradient,) = torch.autograd.grad((out.values * weights).sum(), z, retain_graph=True)
    torch.testing.assert_close(gradient, weights)
    (pull,) = torch.autograd.grad(out.commitment, z)
    torch.testing.assert_close(pull, 2 * torch.tensor([[[1.0, 0.0], [-1.0, 2.0]]]) / 4)
    assert list(quantiser.parameters()) == []


def test_dead_codes_are_revived_from_the_data_only_when_seeded_from_it() -> None:
    rows = torch.full((1, 4, 2), 2.0)
    for from_data in (True, False):
        quantiser = by_hand(from_data).train()
        quantiser.counts[1], quantiser.sums[1] = 0.0, torch.tensor([0.0, 0.0])
        quantiser.codebook[1] = torch.tensor([500.0, 500.0])
        quantiser(rows)
        assert (quantiser.codebook[1].tolist() == [2.0, 2.0]) is from_data
        assert (float(quantiser.counts[1]) == 1.0) is from_data


def test_seeding_takes_codes_from_the_first_batch_once() -> None:
    torch.manual_seed(0)
    quantiser = VectorQuantiser(4, 3, seed_from_data=True).train()
    assert not bool(quantiser.seeded)
    quantiser(100.0 + torch.randn(2, 50, 3))
    assert bool(quantiser.seeded)
    assert float(quantiser.codebook.min()) > 80.0
    quantiser(-100.0 + torch.randn(1, 2, 3))
    assert float(quantiser.codebook.min()) > 50.0  # moved a little, not seeded again


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (torch.arange(8).repeat(3), 8.0),
        (torch.full((10,), 5), 1.0),
        (torch.tensor([0, 0, 0, 1]), math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))),
    ],
)
def test_perplexity(ids: torch.Tensor, expected: float) -> None:
    assert perplexity(shares_of(ids, 8)) == pytest.approx(expected, rel=1e-6)


def test_use_of_a_codebook_by_hand() -> None:
    """Codes 0 and 3 occur equally often: perplexity 2, two used, six not."""
    quantiser = VectorQuantiser(8, 2)
    ids = torch.tensor([[0, 3, 3], [0, 0, 3]])
    assert code_use(ids, quantiser) == {"perplexity": 2.0, "used": 2, "unused": 6, "revived": 0}


@pytest.mark.parametrize("seed_from_data", [True, False])
def test_revived_codes_are_counted(seed_from_data: bool) -> None:
    """Of four codes at most two win; with a decay of a half the others count less than 0.01 after seven steps."""
    torch.manual_seed(0)
    quantiser = VectorQuantiser(4, 2, decay=0.5, seed_from_data=seed_from_data).train()
    for _ in range(12):
        quantiser(torch.tensor([[[0.0, 0.0], [1.0, 1.0]]]).repeat(1, 8, 1))
    assert (int(quantiser.revived) > 0) == seed_from_data


def test_a_soft_choice_shares_by_distance() -> None:
    """Codes at 0 and 10 on a line: at x the squared distances differ by 100 - 20 x, over a temperature of 20."""
    quantiser = by_hand().eval()
    quantiser.temperature = 20.0
    out = quantiser(torch.tensor([[[5.0, 0.0], [6.0, 1.0], [0.0, 0.0]]]))
    second = [1 / (1 + math.exp((100 - 20 * x) / 20)) for x in (5.0, 6.0, 0.0)]
    torch.testing.assert_close(out.values[0, :, 0], torch.tensor([10 * share for share in second]))
    assert out.shares is not None
    torch.testing.assert_close(out.shares[0, :, 1], torch.tensor(second))
    assert out.ids[0, 1:].tolist() == [1, 0]
    assert by_hand().eval()(torch.zeros(1, 1, 2)).shares is None
    training = by_hand().train()
    training.temperature = 20.0
    assert training(torch.tensor([[[6.0, 0.0]]])).shares is None, "training takes the nearest code"


def test_the_lead_of_the_nearest_code() -> None:
    """(1, 0): 1 and 81; (9, 2): 5 and 85."""
    assert by_hand().lead(torch.tensor([[[1.0, 0.0], [9.0, 2.0]]])) == pytest.approx(80.0)
