"""DFSC and the hard loss on tensors small enough to work out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from edge_ad.models.dfsc import dfsc_loss
from edge_ad.models.efficientad import EfficientAD, hard_loss
from edge_ad.models.quantile import sampled_quantile
from edge_ad.models.settings import DfscMode, DfscSettings, EfficientADSettings


def pair(distances: list[float], shape: tuple[int, ...] = (1, 1, 2, 2)) -> tuple[Tensor, Tensor]:
    """A teacher of zeros and an autoencoder whose squared distances are given."""
    drawn = torch.tensor(distances).sqrt().reshape(shape).requires_grad_()
    return torch.zeros(shape, requires_grad=True), drawn


# Distances 0, 1, 4, 9 with quantile 0.7: rank floor(0.7 * 3) = 2, so the limit is 4; similar 0 and 1, novel 4 and 9.
# Margin 6: hinges 2 and 0, mean 1, half of them active. Weight 10.
BY_HAND: list[tuple[DfscMode, float, float]] = [
    ("split", (0 + 1) / 2 + 10 * (2 + 0) / 2, 0.5),
    ("additive", (0 + 1 + 4 + 9) / 4 + 10 * (2 + 0) / 2, 0.5),
    ("off", (0 + 1 + 4 + 9) / 4, 0.0),
    ("location", (0 + 1) / 2 + 10 * (2 + 0) / 2, 0.5),  # one channel: locations are elements
]


@pytest.mark.parametrize(("mode", "loss", "active"), BY_HAND)
def test_modes_by_hand(mode: DfscMode, loss: float, active: float) -> None:
    found = dfsc_loss(*pair([0, 1, 4, 9]), DfscSettings(mode, quantile=0.7, margin=6.0, weight=10.0))
    assert found.loss.item() == pytest.approx(loss, rel=1e-6)
    assert float(found.active) == active


def test_location_splits_the_mean_over_channels() -> None:
    """Channels (0, 1, 4, 9) and (8, 3, 2, 5) mean (4, 2, 3, 7): the limit at 0.7 is 4; similar 2, 3, novel 4, 7."""
    teacher, drawn = pair([0, 1, 4, 9, 8, 3, 2, 5], (1, 2, 2, 2))
    found = dfsc_loss(teacher, drawn, DfscSettings("location", quantile=0.7, margin=5.0, weight=1.0))
    assert found.loss.item() == pytest.approx((2 + 3) / 2 + (1 + 0) / 2, rel=1e-6)


def test_each_picture_has_its_own_limit() -> None:
    """Distances of the second picture are 100 times the first's: with one limit for both, only they would be novel."""
    teacher, drawn = pair([0, 1, 4, 9, 0, 100, 400, 900], (2, 1, 2, 2))
    found = dfsc_loss(teacher, drawn, DfscSettings("split", quantile=0.7, margin=10.0, weight=1.0))
    assert found.loss.item() == pytest.approx((0 + 1 + 0 + 100) / 4 + (6 + 1 + 0 + 0) / 4, rel=1e-6)
    assert float(found.active) == 0.5


def test_gradient_reaches_the_autoencoder_only_and_has_the_right_sign() -> None:
    teacher, drawn = pair([0.25, 1, 4, 9])
    dfsc_loss(teacher, drawn, DfscSettings("split", quantile=0.7, margin=6.0, weight=1.0)).loss.backward()
    assert teacher.grad is None
    assert drawn.grad is not None
    # d/da of mean(a^2) over two similar ones is a; of the hinge 6 - a^2 over two novel ones -a where it is active.
    torch.testing.assert_close(drawn.grad.flatten(), torch.tensor([0.5, 1.0, -2.0, 0.0]))


@pytest.mark.parametrize(("margin", "active"), [(3.9, 0.0), (4.0, 0.0), (4.1, 0.5), (9.1, 1.0)])
def test_the_hinge_ends_at_the_margin(margin: float, active: float) -> None:
    settings = DfscSettings("split", quantile=0.7, margin=margin, weight=1000.0)
    found = dfsc_loss(*pair([0, 1, 4, 9]), settings)
    assert float(found.active) == active
    if not active:
        assert found.loss.item() == pytest.approx(0.5)


@given(
    st.lists(st.floats(0, 100, width=32), min_size=1, max_size=60),
    st.sampled_from([0.0, 0.1, 0.5, 0.75, 0.9, 0.99, 0.999, 1.0]),
)
def test_quantile_is_numpys_lower(values: list[float], q: float) -> None:
    rows = torch.tensor([values, values[::-1]])
    expected = np.quantile(np.array(values, np.float32), q, method="lower")
    assert sampled_quantile(rows, q).tolist() == [expected, expected]


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.999])
def test_hard_loss_against_numpy(quantile: float) -> None:
    distance = torch.rand(3, 4, 5, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    rows = distance.detach().numpy().reshape(3, -1)
    limits = np.quantile(rows, quantile, axis=1, method="lower", keepdims=True)
    loss = hard_loss(distance, quantile)
    assert loss.item() == pytest.approx(rows[rows >= limits].mean(), rel=1e-6)
    loss.backward()
    assert distance.grad is not None
    np.testing.assert_array_equal(distance.grad.numpy().reshape(3, -1) > 0, rows >= limits)


class Constant(torch.nn.Module):
    """Answers every picture with the same features, one learned number a channel."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.values = torch.nn.Parameter(torch.tensor(values, dtype=torch.float32))

    def forward(self, image: Tensor) -> Tensor:
        return self.values.view(1, -1, 1, 1).expand(len(image), -1, 2, 2)


SETTINGS = replace(EfficientADSettings(), hard_quantile=0.6, dfsc=DfscSettings("off"))


def test_maps_by_hand() -> None:
    """Local: mean over channels of (teacher - first half)^2; global: of (autoencoder - second half)^2."""
    model = EfficientAD(Constant([1, 2, 3, 5]), Constant([4, 4]))
    features = torch.tensor([0.0, 5.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    local, paired = model(torch.zeros(1, 3, 8, 8), features)
    assert local.shape == paired.shape == (1, 1, 2, 2)
    assert local.unique().tolist() == [(1 + 9) / 2]
    assert paired.unique().tolist() == [(1 + 1) / 2]


@pytest.mark.parametrize(
    ("plain", "penalty", "student"),
    [
        (None, False, 9.0),  # features of the jittered picture: differences 1 and 3; hard: the half of 9
        (2.0, False, 1.0),  # features 2, 2 of the plain picture: differences 1 and 0; hard: the half of 1
        (2.0, True, 1.0 + (1 + 4) / 2),  # and the first half on pictures of other things
    ],
)
def test_losses_by_hand(plain: float | None, penalty: bool, student: float) -> None:
    model, pixels = EfficientAD(Constant([1, 2, 3, 5]), Constant([4, 4])), torch.zeros(2, 3, 8, 8)
    jittered = torch.tensor([0.0, 5.0]).view(1, 2, 1, 1).expand(2, 2, 2, 2)
    first = None if plain is None else (pixels, torch.full((2, 2, 2, 2), plain))
    losses = model.losses(first, (pixels, jittered), pixels if penalty else None, SETTINGS)
    assert float(losses.student.detach()) == pytest.approx(student)
    assert float(losses.autoencoder.detach()) == pytest.approx((16 + 1) / 2)
    assert float(losses.pair.detach()) == pytest.approx((1 + 1) / 2)
    assert float(losses.total.detach()) == pytest.approx(student + 8.5 + 1.0)


def test_the_pair_loss_moves_both_networks() -> None:
    """The autoencoder is not detached in it, as in the published implementations."""
    model, pixels = EfficientAD(Constant([1, 2, 3, 5]), Constant([4, 4])), torch.zeros(1, 3, 8, 8)
    model.losses(None, (pixels, torch.zeros(1, 2, 2, 2)), None, SETTINGS).pair.backward()
    student, autoencoder = (network.values.grad for network in (model.student, model.autoencoder))
    assert student is not None
    assert autoencoder is not None
    assert student.tolist() == [0, 0, -1, 1]
    assert autoencoder.tolist() == [1, -1]
