"""A preset with another teacher: same grids, and a clear no where the networks do not fit."""

from __future__ import annotations

import pytest

from edge_ad.errors import BadInput
from edge_ad.presets.networks import TeacherKind
from edge_ad.presets.presets import DEMO, FAST, PAPER, Preset, with_teacher


@pytest.mark.parametrize("preset", [DEMO, FAST])
@pytest.mark.parametrize("kind", ["pdn_small", "pdn_medium"])
def test_a_pdn_in_a_preset_of_one_pass_keeps_the_grids(preset: Preset, kind: TeacherKind) -> None:
    settings = with_teacher(preset, kind).teacher
    assert (settings.kind, settings.grid, settings.token_grid, settings.token_side) == (kind, 32, 16, 0)
    assert settings.taps == settings.pooled_taps == ()
    assert with_teacher(with_teacher(preset, kind), "efficientnet_lite0") == preset


def test_the_own_teacher_changes_nothing() -> None:
    assert with_teacher(FAST, "efficientnet_lite0") is FAST
    assert with_teacher(PAPER, "pdn_small") is PAPER


def test_paper_takes_either_pdn_and_nothing_else() -> None:
    assert with_teacher(PAPER, "pdn_medium").teacher.token_side == 224
    with pytest.raises(BadInput, match="preset paper is published with a PDN and cannot use efficientnet_lite0"):
        with_teacher(PAPER, "efficientnet_lite0")
