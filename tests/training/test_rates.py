"""Learning rates, decay and optimisers, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edge_ad.presets.presets import Schedule
from edge_ad.training.loop import decay_at, make_optimiser, rate_at


@pytest.mark.parametrize(
    ("schedule", "step", "rate"),
    [
        (Schedule(100, 1, 2.0, drop_at=0.8), 79, 2.0),
        (Schedule(100, 1, 2.0, drop_at=0.8), 80, 0.2),
        (Schedule(100, 1, 2.0), 0, 0.2),  # warm-up of 10 steps: 1/10, 2/10, ...
        (Schedule(100, 1, 2.0), 9, 2.0),
        (Schedule(100, 1, 2.0), 10, 2.0),
        (Schedule(100, 1, 2.0), 55, 2.0 * (0.02 + 0.98 / 2)),  # half way down the cosine
        (Schedule(100, 1, 2.0, warm_up=0.0), 0, 2.0),
        (Schedule(100, 1, 2.0, floor=0.5), 0, 0.5),  # from the floor to the peak in ten steps
        (Schedule(100, 1, 2.0, floor=0.5), 3, 0.5 + 1.5 * 3 / 9),
        (Schedule(100, 1, 2.0, floor=0.5), 9, 2.0),
        (Schedule(100, 1, 2.0, floor=0.5), 55, (2.0 + 0.5) / 2),
    ],
)
def test_rate_by_hand(schedule: Schedule, step: int, rate: float) -> None:
    assert rate_at(schedule, step, 100) == pytest.approx(rate)


def test_the_cosine_ends_near_a_fiftieth() -> None:
    rates = [rate_at(Schedule(100, 1, 1.0), step, 100) for step in range(100)]
    assert 0.02 < rates[99] < 0.021
    assert rates[10:] == sorted(rates[10:], reverse=True)


@pytest.mark.parametrize(
    ("fading", "step", "decay"), [(False, 99, 0.4), (True, 0, 0.4), (True, 50, 0.2), (True, 100, 0.0)]
)
def test_decay_by_hand(fading: bool, step: int, decay: float) -> None:
    assert decay_at(Schedule(100, 1, 1.0, weight_decay=0.4, fading_decay=fading), step, 100) == pytest.approx(decay)


def test_optimisers() -> None:
    """The coupled decay of Adam joins the gradient; AdamW's does not."""
    for adam_w, kind in ((True, torch.optim.AdamW), (False, torch.optim.Adam)):
        result = make_optimiser(nn.Linear(1, 1), Schedule(1, 1, 3e-4, weight_decay=0.5, adam_w=adam_w))
        assert type(result) is kind
        assert (result.defaults["lr"], result.defaults["weight_decay"]) == (3e-4, 0.5)
