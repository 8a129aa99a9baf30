"""Standardised errors, against an independent computation and in the networks that use them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_ad.models.efficientad import EfficientAD
from edge_ad.models.hvq import HvqTokenizer
from edge_ad.models.standardise import Standardise
from tests.models.test_hvq import CHANNELS, GRID, SMALL


def learned(errors: Tensor) -> Standardise:
    result = Standardise(errors.shape[1], errors.shape[2])
    result.learn(errors)
    return result


def test_errors_stay_as_they_are_until_goods_are_known() -> None:
    errors = torch.randn(2, 5, 4, 4)
    torch.testing.assert_close(Standardise(5, 4)(errors), errors)


def test_two_channels_by_hand() -> None:
    """Variances 4 and 1 become 0.9 * 4 + 0.1 * 2.5 = 3.85 and 1.15; an even grid halves all squares."""
    signs = torch.tensor([[1.0, 1.0, -1.0, -1.0], [1.0, -1.0, 1.0, -1.0]])  # uncorrelated, as over the four images
    errors = (signs * torch.tensor([[2.0], [1.0]])).t()[:, :, None, None].expand(4, 2, 3, 3)
    squares = learned(errors)(errors).square()
    torch.testing.assert_close(squares[:, 0], torch.full((4, 3, 3), 4 / 3.85 / 2))
    torch.testing.assert_close(squares[:, 1], torch.full((4, 3, 3), 1 / 1.15 / 2))


def smoothed(cells: NDArray[np.float64]) -> NDArray[np.float64]:
    """A Gaussian of one cell, cut at three, cell by cell; the rim goes on beyond the edge."""
    side = len(cells)
    result = np.zeros_like(cells)
    for y, x in np.ndindex(side, side):
        total = weight = 0.0
        for dy, dx in np.ndindex(7, 7):
            share = np.exp(-0.5 * ((dy - 3) ** 2 + (dx - 3) ** 2))
            row, column = (int(np.clip(place, 0, side - 1)) for place in (y + dy - 3, x + dx - 3))
            total, weight = total + share * cells[row, column], weight + share
        result[y, x] = total / weight
    return result


def test_squares_are_a_mahalanobis_distance_over_what_is_usual_at_the_place() -> None:
    rng = np.random.default_rng(0)
    mix, louder = rng.normal(size=(3, 3)), np.linspace(0.5, 2.0, 25).reshape(5, 5)
    errors = np.einsum("ij,njhw->nihw", mix, rng.normal(size=(6, 3, 5, 5))) * louder
    rows = errors.transpose(0, 2, 3, 1).reshape(-1, 3)
    covariance = 0.9 * rows.T @ rows / len(rows) + 0.1 * np.trace(rows.T @ rows / len(rows)) / 3 * np.eye(3)
    distance = np.einsum("nihw,ij,njhw->nhw", errors, np.linalg.inv(covariance), errors)
    usual = smoothed(distance.mean(axis=0))
    expected = distance / (1 + usual / usual.mean())
    module = learned(torch.from_numpy(errors).float())
    result = module(torch.from_numpy(errors).float()).square().sum(dim=1)
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-4)


def test_a_network_that_never_errs_gives_finite_numbers() -> None:
    assert learned(torch.zeros(2, 3, 4, 4))(torch.ones(1, 3, 4, 4)).isfinite().all()


class Fixed(nn.Module):
    """Gives the same features for any image."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, image: Tensor) -> Tensor:
        return self.value.expand(len(image), -1, -1, -1)


def test_channels_may_be_left_alone() -> None:
    """Squares 1 and 9 in two places, without neighbours between them: divided by 1 plus 1/5 and 9/5 of their mean."""
    module = Standardise(2, 8, whiten=False)
    errors = torch.ones(1, 2, 8, 8)
    errors[..., 4:] = 3.0
    module.learn(errors)
    result = module(errors).square()
    torch.testing.assert_close(result[0, :, :, 0], torch.full((2, 8), 1 / (1 + 1 / 5)))
    torch.testing.assert_close(result[0, :, :, 7], torch.full((2, 8), 9 / (1 + 9 / 5)))


def test_local_errors_of_a_student_are_whitened_and_global_ones_only_divided() -> None:
    torch.manual_seed(0)
    student, drawn = Fixed(torch.randn(1, 4, 3, 3)), Fixed(torch.randn(1, 2, 3, 3))
    pixels, features = torch.zeros(5, 3, 8, 8), torch.randn(5, 2, 3, 3)
    plain = EfficientAD(student, drawn)
    model = EfficientAD(student, drawn, (Standardise(2, 3), Standardise(2, 3, whiten=False)))
    torch.testing.assert_close(model(pixels, features), plain(pixels, features))
    model.learn_errors([(pixels[:2], features[:2]), (pixels[2:], features[2:])])
    errors = features - student.value[:, :2]
    expected = learned(errors)(errors).square().mean(dim=1, keepdim=True)
    torch.testing.assert_close(model(pixels, features)[0], expected)
    squares = plain(pixels, features)[1]
    usual = smoothed(squares[0, 0].double().numpy())
    torch.testing.assert_close(model(pixels, features)[1], squares / torch.from_numpy(1 + usual / usual.mean()).float())
    plain.learn_errors(iter(()))  # there is nothing to learn, and nothing is looked at


@pytest.mark.parametrize("batches", [1, 2])
def test_the_map_of_structure_is_standardised(batches: int) -> None:
    torch.manual_seed(0)
    model = HvqTokenizer(CHANNELS, GRID, replace(SMALL, standardise=True)).eval()
    features = torch.randn(4, CHANNELS, GRID, GRID)
    with torch.no_grad():
        plain = model.structure_map(features)[1]
        drawn = model(features).reconstruction.transpose(1, 2).reshape(features.shape)
        torch.testing.assert_close(plain, (drawn - features).square().sum(dim=1, keepdim=True).sqrt())
        model.learn_errors(features.chunk(batches))
        result = model.structure_map(features)[1]
    torch.testing.assert_close(result, learned(drawn - features)(drawn - features).square().sum(1, keepdim=True).sqrt())
