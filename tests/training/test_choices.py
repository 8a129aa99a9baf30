"""What the end of a training chooses: from one pass of the teacher, by the rule of the weights, against nobody's own setting."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edge_ad.models.efficientad import EfficientAD
from edge_ad.models.hvq import HvqTokenizer
from edge_ad.models.standardise import Standardise
from edge_ad.models.teachers import TeacherOutput
from edge_ad.presets.presets import DEMO, FAST, PAPER, Preset, with_values
from edge_ad.scoring.pooling import highest_mean
from edge_ad.scoring.weights import Trial
from edge_ad.training.choices import (
    _versions,
    describe_figures,
    offer_standardise,
    read_trials,
    standardise_readers,
    with_standardised,
)
from edge_ad.training.images import ScoringImages
from tests.models.test_hvq import CHANNELS, GRID, SMALL
from tests.models.test_standardise import Fixed

SIDE = 256  # of the images: 32 x 32 cells of features in the presets
NORMAL, SHOWN = 20, 24


class Teacher(nn.Module):
    """Gives the first pixel of an image in all cells of the features, and counts the images."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, pixels: Tensor) -> TeacherOutput:
        self.seen += len(pixels)
        features = pixels[:, :1, :1, :1].expand(-1, CHANNELS, 32, 32) / 255
        return TeacherOutput(features, features[..., :GRID, :GRID], features[..., 0, 0])


def networks() -> tuple[HvqTokenizer, EfficientAD]:
    torch.manual_seed(0)
    student, drawn = Fixed(torch.randn(1, 2 * CHANNELS, 32, 32)), Fixed(torch.randn(1, CHANNELS, 32, 32))
    return HvqTokenizer(CHANNELS, GRID, SMALL).eval(), EfficientAD(student, drawn)


def offered(preset: Preset = FAST, given: tuple[str, ...] = ()) -> tuple[HvqTokenizer, EfficientAD]:
    """Return networks that learned errors of noise, as far as they may choose."""
    tokenizer, efficientad = networks()
    offer_standardise(preset, given, tokenizer, efficientad, channels=CHANNELS, image_size=(SIDE, SIDE))
    tokenizer.learn_errors([torch.randn(3, CHANNELS, GRID, GRID)])
    efficientad.learn_errors([(torch.zeros(3, 3, 8, 8), torch.randn(3, CHANNELS, 32, 32))])
    return tokenizer, efficientad


def images() -> ScoringImages:
    """Return dark normal images and bright anomalies, of 4 x 4 pixels."""
    dark, bright = (np.arange(low, low + count, dtype=np.uint8) for low, count in ((0, NORMAL), (200, SHOWN)))
    normal, anomalies = (np.tile(row[:, None, None, None], (1, 4, 4, 3)) for row in (dark, bright))
    return ScoringImages(normal, normal, normal, anomalies, ("one", "two") * (SHOWN // 2))


def trial(better: bool) -> Trial:
    """Return a trial in which the standardised reading tells anomalies apart, or none does."""
    rng = np.random.default_rng(0)
    normal, anomalies = rng.normal(size=(60, 2)), rng.normal(size=(60, 2))
    anomalies[:, 1] += 4.0 * better
    return Trial(normal, anomalies, ("one", "two") * 30, 0)


def test_all_readings_come_from_one_pass_of_the_teacher() -> None:
    teacher, (tokenizer, efficientad) = Teacher(), offered()
    readers = standardise_readers(FAST, (), tokenizer, efficientad)
    trials = read_trials(teacher, images(), readers, seed=0, device=torch.device("cpu"))  # type: ignore[arg-type]
    assert set(trials) == {"structure", "local", "global"}
    assert teacher.seen == NORMAL + SHOWN


def test_versions_of_an_image_are_one_image_to_a_trial_and_follow_it() -> None:
    normal = images().normalise
    rows, count = _versions(normal, np.concatenate([normal + 50, normal + 100]))
    assert count == NORMAL
    levels = np.arange(NORMAL)[:, None] + [0, 50, 100]
    np.testing.assert_array_equal(rows[:, 0, 0, 0], levels.ravel())
    many = np.concatenate([normal] * 10)
    rows, count = _versions(many, many + 50)
    assert (len(rows), count) == (128, 64)
    np.testing.assert_array_equal(rows[1::2], rows[::2] + 50)
    assert [len(part) for part in (_versions(many, None)[0], _versions(many, many[:0])[0])] == [128, 128]
    assert _versions(many, None)[1] == 128


@pytest.mark.parametrize("standardised", [False, True])
def test_readings_are_the_scores_of_the_maps_that_the_graphs_give(standardised: bool) -> None:
    tokenizer, efficientad = offered()
    described, pixels = Teacher()(torch.full((2, 3, 8, 8), 90.0)), torch.zeros(2, 3, 8, 8)
    readings: dict[str, Any] = {}
    with torch.no_grad():
        for reader in standardise_readers(FAST, (), tokenizer, efficientad):
            readings |= reader(pixels, described)
        names = ("structure", "local", "global")
        _, report = with_standardised(FAST, {name: trial(standardised) for name in names}, tokenizer, efficientad)
        maps = [tokenizer.structure_map(described.tokens)[1], *efficientad(pixels, described.features)]
    for name, one in zip(names, maps, strict=True):
        expected = highest_mean(one.flatten(1).numpy(), FAST.fusion.top_of(name))
        np.testing.assert_allclose(readings[name][:, int(standardised)], expected, rtol=1e-5)
        assert report[name]["variant"] == ("standardised" if standardised else "plain")


def test_each_map_keeps_what_its_trial_supports_and_the_settings_report_it() -> None:
    tokenizer, efficientad = offered()
    trials = {"structure": trial(False), "local": trial(True), "global": trial(False)}
    preset, report = with_standardised(FAST, trials, tokenizer, efficientad)
    assert tokenizer.standardise is None
    assert efficientad.standardise is not None
    assert [type(one) for one in efficientad.standardise] == [Standardise, nn.Identity]
    assert (preset.hvq.standardise, preset.efficientad.standardise) == (False, True)
    gain, needed = report["local"]["gains"]["standardised over plain"]
    assert gain > needed > 0
    gain, needed = report["global"]["gains"]["standardised over plain"]
    assert gain <= needed


def test_nothing_is_left_where_no_trial_supports_it() -> None:
    tokenizer, efficientad = offered()
    preset, _ = with_standardised(FAST, dict.fromkeys(("structure", "local", "global"), trial(False)), tokenizer, efficientad)
    assert preset == FAST
    assert (tokenizer.standardise, efficientad.standardise) == (None, None)


@pytest.mark.parametrize(
    ("preset", "settings", "free"),
    [
        (FAST, (), {"hvq", "efficientad"}),
        (DEMO, (), {"hvq", "efficientad"}),
        (FAST, ("hvq.standardise=false",), {"efficientad"}),
        (FAST, ("efficientad.standardise=true",), {"hvq"}),
        (FAST, ("choose_standardise=false",), set()),
        (PAPER, (), set()),
        (PAPER, ("choose_standardise=true",), set()),  # its maps become scores in another way
    ],
)
def test_what_a_person_set_stays(preset: Preset, settings: tuple[str, ...], free: set[str]) -> None:
    given = {text.partition("=")[0] for text in settings}
    preset = with_values(preset, settings)
    assert {name for name in ("hvq", "efficientad") if preset.may_standardise(name, given)} == free
    tokenizer, efficientad = networks()
    offer_standardise(preset, given, tokenizer, efficientad, channels=CHANNELS, image_size=(SIDE, SIDE))
    assert (tokenizer.standardise is not None) == ("hvq" in free)
    assert len(standardise_readers(preset, given, tokenizer, efficientad)) == len(free)
    assert with_standardised(preset, {}, tokenizer, efficientad) == (preset, {})


def test_the_log_states_what_a_variant_gained_and_what_it_needed() -> None:
    figures = {"auroc": {"plain": 0.705, "standardised": 0.713}, "gains": {"standardised over plain": [0.008, 0.0391]}}
    assert describe_figures(figures) == "AUROC plain 0.705, standardised 0.713 (+0.008, more than 0.039 needed)"
