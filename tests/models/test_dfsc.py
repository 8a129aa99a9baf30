"""DFSC and the hard loss on tensors small enough to work out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edge_ad.models.efficientad import EfficientAD, dfsc_loss, hard_loss, sampled_quantile
from edge_ad.presets.networks import DfscMode, DfscSettings, EfficientADSettings


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
    ("drop", (0 + 1) / 2, 0.0),
]


@pytest.mark.parametrize(("mode", "loss", "active"), BY_HAND)
def test_modes_by_hand(mode: DfscMode, loss: float, active: float) -> None:
    result = dfsc_loss(*pair([0, 1, 4, 9]), DfscSettings(mode, quantile=0.7, margin=6.0, weight=10.0))
    assert result.loss.item() == pytest.approx(loss, rel=1e-6)
    assert float(result.active) == active


# The limit is 4 (see above), so kappa 1.5 asks for 6, kappa 2 for 8, kappa 3 for 12.
@pytest.mark.parametrize(
    ("kappa", "hinge", "active"), [(1.0, 0.0, 0.0), (1.5, (2 + 0) / 2, 0.5), (3.0, (8 + 3) / 2, 1.0)]
)
def test_a_margin_that_follows_the_quantile(kappa: float, hinge: float, active: float) -> None:
    settings = DfscSettings("split", quantile=0.7, margin=1e9, weight=10.0, kappa=kappa)
    result = dfsc_loss(*pair([0, 1, 4, 9]), settings)
    assert result.loss.item() == pytest.approx((0 + 1) / 2 + 10 * hinge, rel=1e-6)
    assert float(result.active) == active


def test_the_relative_margin_carries_no_gradient() -> None:
    """With kappa 1.5 the hinge of 4 is 6 - a^2; were the margin 1.5 a^2 it would be 0.5 a^2 and pull the other way."""
    teacher, drawn = pair([0.25, 1, 4, 9])
    dfsc_loss(teacher, drawn, DfscSettings("split", quantile=0.7, weight=1.0, kappa=1.5)).loss.backward()
    assert drawn.grad is not None
    torch.testing.assert_close(drawn.grad.flatten(), torch.tensor([0.5, 1.0, -2.0, 0.0]))


def test_dropped_features_have_no_gradient() -> None:
    teacher, drawn = pair([0.25, 1, 4, 9])
    dfsc_loss(teacher, drawn, DfscSettings("drop", quantile=0.7)).loss.backward()
    assert drawn.grad is not None
    torch.testing.assert_close(drawn.grad.flatten(), torch.tensor([0.5, 1.0, 0.0, 0.0]))


def test_novel_distance_and_its_bound() -> None:
    """Novel are 4 and 9. The teacher is 0 everywhere, so the margin bounds: 4 * 6; with a teacher of 3 it is 4 * 9."""
    teacher, drawn = pair([0, 1, 4, 9])
    result = dfsc_loss(teacher, drawn, DfscSettings("split", quantile=0.7, margin=6.0))
    assert (float(result.novel), float(result.bound)) == (pytest.approx(6.5), 24.0)
    assert float(dfsc_loss(teacher + 3.0, drawn, DfscSettings("split", margin=6.0)).bound) == 36.0


def test_the_median_of_novel_distances_is_a_mean_over_pictures() -> None:
    """Novel are 4 and 9, and 400 and 900 in the other image: lower medians 4 and 400, whose mean is 202."""
    teacher, drawn = pair([0, 1, 4, 9, 0, 100, 400, 900], (2, 1, 2, 2))
    result = dfsc_loss(teacher, drawn, DfscSettings("split", quantile=0.7, margin=0.0, warm_margin=1.0))
    assert (float(result.median), float(result.active)) == (pytest.approx(202.0), 0.0)
    assert float(dfsc_loss(teacher, drawn, DfscSettings("split", quantile=0.7)).median) == 0.0


def test_shares_of_a_batch_give_the_median_of_the_whole() -> None:
    """Processes average what each has of a batch, weighted by its images, and must freeze the same margin as one process."""
    teacher, drawn = torch.randn(2, 5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    settings = DfscSettings("split", quantile=0.7, warm_margin=1.0)
    own = [float(dfsc_loss(teacher[rows], drawn[rows], settings).median) for rows in (slice(0, 3), slice(3, 5))]
    assert float(dfsc_loss(teacher, drawn, settings).median) == pytest.approx(0.6 * own[0] + 0.4 * own[1], rel=1e-6)


@settings(deadline=None)
@given(
    st.lists(st.floats(-5, 5, width=32), min_size=8, max_size=8),
    st.lists(st.floats(-1, 1, width=32), min_size=8, max_size=8),
)
def test_an_autoencoder_within_the_teacher_s_range_never_reaches_the_bound(
    features: list[float], drawn: list[float]
) -> None:
    teacher = torch.tensor(features).reshape(1, 2, 2, 2)
    inside = torch.tensor(drawn).reshape(1, 2, 2, 2) * teacher.abs().max()
    result = dfsc_loss(teacher, inside, DfscSettings("split", quantile=0.5))
    assert float(result.novel) <= float(result.bound) * (1 + 1e-6)


def test_location_splits_the_mean_over_channels() -> None:
    """Channels (0, 1, 4, 9) and (8, 3, 2, 5) mean (4, 2, 3, 7): the limit at 0.7 is 4; similar 2, 3, novel 4, 7."""
    teacher, drawn = pair([0, 1, 4, 9, 8, 3, 2, 5], (1, 2, 2, 2))
    result = dfsc_loss(teacher, drawn, DfscSettings("location", quantile=0.7, margin=5.0, weight=1.0))
    assert result.loss.item() == pytest.approx((2 + 3) / 2 + (1 + 0) / 2, rel=1e-6)


def test_each_picture_has_its_own_limit() -> None:
    """Distances of the second image are 100 times the first's: with one limit for both, only they would be novel."""
    teacher, drawn = pair([0, 1, 4, 9, 0, 100, 400, 900], (2, 1, 2, 2))
    result = dfsc_loss(teacher, drawn, DfscSettings("split", quantile=0.7, margin=10.0, weight=1.0))
    assert result.loss.item() == pytest.approx((0 + 1 + 0 + 100) / 4 + (6 + 1 + 0 + 0) / 4, rel=1e-6)
    assert float(result.active) == 0.5


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
    result = dfsc_loss(*pair([0, 1, 4, 9]), settings)
    assert float(result.active) == active
    if not active:
        assert result.loss.item() == pytest.approx(0.5)


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
    """Answers every image with the same features, one learned number a channel."""

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
        (None, False, 9.0),  # features of the jittered image: differences 1 and 3; hard: the half of 9
        (2.0, False, 1.0),  # features 2, 2 of the plain image: differences 1 and 0; hard: the half of 1
        (2.0, True, 1.0 + (1 + 4) / 2),  # and the first half on images of other things
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
