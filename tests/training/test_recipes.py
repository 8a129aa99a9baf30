"""What one step of each recipe asks of its network, and what it asks of unseen normal images."""

from __future__ import annotations

import io
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edge_ad.models.build import build_lavit, build_tokenizer
from edge_ad.models.lavit import lavit_loss
from edge_ad.presets.networks import DfscSettings
from edge_ad.presets.presets import Augmentation, Preset
from edge_ad.training.augment import to_pixels
from edge_ad.training.loop import Arithmetic, Diverged, Trace, choose_arithmetic, fit
from edge_ad.training.recipes import (
    EfficientADRecipe,
    LavitRecipe,
    MarginWarmUp,
    TokenizerRecipe,
    codebook_report,
    encode,
    encode_all,
    learn_cells,
)
from edge_ad.training.run_folder import RunFolder
from edge_ad.utils.progress import Progress
from tests.data.folders import picture
from tests.fixtures.tiny_presets import TINY, TINY_PAPER, untrained

CPU = Arithmetic(torch.device("cpu"), low_precision=False)
CHANNELS, CELLS = 12, 64
GOODS = np.stack([picture(seed, (128, 128)) for seed in range(5)])


def tokens(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, CHANNELS, 8, 8, generator=torch.Generator().manual_seed(seed))


def lavit_recipe(unseen: int = 3) -> LavitRecipe:
    torch.manual_seed(0)
    codes = torch.randint(0, TINY.hvq.codes, (40, 4, CELLS))
    other = torch.randint(0, TINY.hvq.codes, (unseen, 4, CELLS))
    return LavitRecipe(build_lavit(TINY, CHANNELS), TINY, (tokens(40), codes), (tokens(unseen, 1), other), arithmetic=CPU)


def test_the_tokenizer_is_asked_about_all_unseen_goods() -> None:
    torch.manual_seed(0)
    recipe = TokenizerRecipe(build_tokenizer(TINY, CHANNELS), TINY.tokenizer_schedule, tokens(40), tokens(50, 1), arithmetic=CPU)
    losses = recipe.learn(recipe.draw(np.random.default_rng(0)))
    assert set(recipe.watch(losses)) == {"loss", "commitment", "perplexity"}
    used = recipe.watch({"use": torch.tensor([0.75, 0.0, 0.25])})["perplexity"]
    assert float(used) == pytest.approx(0.75**-0.75 * 0.25**-0.25)
    recipe.model.eval()
    out = recipe.model(tokens(50, 1))
    flat = tokens(50, 1).reshape(50, CHANNELS, CELLS).permute(0, 2, 1)
    expected = float((out.reconstruction - flat).square().mean().detach() + 0.25 * out.commitment.detach())
    with torch.no_grad():
        assert recipe.validate() == pytest.approx(expected, rel=1e-5)


def test_codes_do_not_depend_on_batching() -> None:
    torch.manual_seed(0)
    model = build_tokenizer(TINY, CHANNELS).train()
    together = encode(model, tokens(40), CPU)
    assert not model.training
    assert together.shape == (40, 4, CELLS)
    assert torch.equal(together[37:], encode(model, tokens(40)[37:], CPU))


def test_masks_of_training_have_the_preset_s_shares() -> None:
    recipe, rng = lavit_recipe(), np.random.default_rng(0)
    seen: list[int] = []
    predict = recipe.model.forward

    def spy(tokens: torch.Tensor, masks: torch.Tensor, masked: int) -> torch.Tensor:
        assert (masks.sum(dim=1) == masked).all()
        seen.append(masked)
        return predict(tokens, masks, masked)

    recipe.model.forward = spy  # type: ignore[method-assign]
    for _ in range(20):
        recipe.learn(recipe.draw(rng))
    assert set(seen) == {round(0.226 * CELLS), round(0.4 * CELLS)}


def test_lavit_on_unseen_goods_is_a_mean_over_goods_and_four_masks() -> None:
    recipe = lavit_recipe(unseen=40)  # more than one chunk
    recipe.model.eval()
    assert recipe.bank.sum(dim=1).tolist() == [round(0.4 * CELLS)] * 4
    losses = []
    with torch.no_grad():
        for mask in recipe.bank:
            inside = torch.nonzero(mask).flatten()
            for good in range(40):
                names = recipe.unseen_codes[good][:, inside]
                target = torch.stack([torch.bincount(row, minlength=TINY.hvq.codes) / len(inside) for row in names])
                predicted = recipe.model(recipe.unseen_tokens[good : good + 1], mask[None])
                losses.append(float((predicted - target).abs().sum()))
        assert recipe.validate() == pytest.approx(np.mean(losses), rel=1e-5)


def test_the_constant_predictor_is_the_mean_histogram_of_the_goods() -> None:
    recipe = lavit_recipe()
    share = torch.stack([torch.bincount(recipe.codes[:, v].flatten(), minlength=TINY.hvq.codes) for v in range(4)])
    share = share / share.sum(dim=1, keepdim=True)
    losses = []
    for mask in recipe.bank:
        inside = torch.nonzero(mask).flatten()
        for good in recipe.unseen_codes[:, :, inside]:
            target = torch.stack([torch.bincount(row, minlength=TINY.hvq.codes) / len(inside) for row in good])
            losses.append(float(lavit_loss(share[None], target[None])))
    assert recipe.constant_loss() == pytest.approx(np.mean(losses), rel=1e-4)


def test_the_constant_predictor_by_mask_knows_where_it_looks() -> None:
    """Where every good has the same codes, the mean histogram behind each mask is right, the one of the whole is not."""
    recipe = lavit_recipe()
    recipe.codes = torch.arange(CELLS).div(8, rounding_mode="floor").expand(40, 4, CELLS).contiguous()
    recipe.unseen_codes = recipe.codes[:3]
    assert recipe.constant_loss_by_mask() == pytest.approx(0.0, abs=1e-5)
    assert recipe.constant_loss() > 0.5


def test_codebooks_are_reported_by_level() -> None:
    torch.manual_seed(0)
    model = build_tokenizer(TINY, CHANNELS)
    ids, top = encode_all(model, tokens(5), CPU)
    result = codebook_report(model, ids, top)
    assert list(result) == ["top", "3", "2", "1", "0"]
    for position, level in enumerate(("3", "2", "1", "0")):
        assert result[level]["used"] == len(ids[:, position].unique())
    assert result["top"]["used"] + result["top"]["unused"] == TINY.hvq.codes


def test_cells_of_the_logic_map_are_learned_from_unseen_goods() -> None:
    recipe = lavit_recipe(unseen=4)
    model, bank = recipe.model.eval(), recipe.bank
    learn_cells(model, bank, recipe.codes, (recipe.unseen_tokens, recipe.unseen_codes), arithmetic=CPU)
    shares = [(recipe.codes[:, 2, 5] == code).float().mean().item() for code in range(TINY.hvq.codes)]
    assert model.usual[2, 5].tolist() == pytest.approx(shares)
    with torch.no_grad():
        pairs = zip(recipe.unseen_tokens, recipe.unseen_codes, strict=True)
        maps = torch.stack([model.judge(one[None], ids, bank)[1] for one, ids in pairs])
    torch.testing.assert_close(model.cell_mean, maps.mean(dim=0))
    expected = np.maximum(maps.numpy().std(axis=0, ddof=1), 0.2 * maps.numpy().std(axis=0, ddof=1).mean())
    np.testing.assert_allclose(model.cell_std.numpy(), np.maximum(expected, 1e-3), rtol=1e-5)
    assert model.stand_out(model.cell_mean + 3.0 * model.cell_std).tolist() == pytest.approx([1.0] * CELLS, abs=1e-4)
    assert model.stand_out(model.cell_mean).abs().max() == 0.0


def efficientad_recipe(preset: Preset, others: Any = None) -> EfficientADRecipe:
    networks = untrained(preset)
    networks.teacher.requires_grad_(False)
    return EfficientADRecipe(networks.efficientad, networks.teacher, preset, GOODS, unseen=GOODS[:3], others=others, arithmetic=CPU)


def test_features_of_pictures_that_never_move_are_computed_once() -> None:
    recipe = efficientad_recipe(TINY_PAPER)
    assert recipe.cache is not None
    chosen = np.array([3, 0])
    kept = recipe._features(torch.zeros(2, 3, 128, 128), chosen)  # the pixels are not even looked at
    torch.testing.assert_close(
        kept, recipe.teacher(to_pixels(GOODS[chosen], CPU.device)).features, rtol=2e-3, atol=2e-3
    )


@pytest.mark.parametrize(
    "preset",
    [
        TINY,
        replace(TINY, augmentation=Augmentation(0.0, 0.0, 0.0)),
        replace(TINY_PAPER, augmentation=TINY.augmentation),
    ],
)
def test_features_of_pictures_that_change_are_not_kept(preset: Preset) -> None:
    assert efficientad_recipe(preset).cache is None


@pytest.mark.parametrize("preset", [TINY, TINY_PAPER], ids=["tiny", "paper"])
def test_a_step_trains_student_and_autoencoder_only(preset: Preset) -> None:
    recipe = efficientad_recipe(preset)
    losses = recipe.learn(recipe.draw(np.random.default_rng(0)))
    losses["loss"].backward()
    assert set(recipe.watch(losses)) == {"loss", "student", "autoencoder", "pair", "hinge_active", "novel_distance"}
    assert losses["loss"].item() == pytest.approx(
        sum(losses[name].item() for name in ("student", "autoencoder", "pair"))
    )
    for network in (recipe.model.student, recipe.model.autoencoder):
        assert all(parameter.grad is not None for parameter in network.parameters())
    assert all(parameter.grad is None for parameter in recipe.teacher.parameters())


def test_the_penalty_asks_for_silence_on_other_pictures() -> None:
    others = np.stack([picture(900, (128, 128))] * 2)
    recipe = efficientad_recipe(TINY, others)
    np.testing.assert_array_equal(recipe.draw(np.random.default_rng(0)).others, others)  # half a batch of four
    scrambled = efficientad_recipe(TINY).draw(np.random.default_rng(0)).others
    assert scrambled is not None
    assert scrambled.shape == (2, 128, 128, 3)
    assert efficientad_recipe(replace(TINY, penalty=False)).draw(np.random.default_rng(0)).others is None


def test_penalty_pictures_are_grey_three_times_in_ten() -> None:
    others = np.stack([picture(900, (128, 128))])
    recipe, rng = efficientad_recipe(TINY_PAPER, others), np.random.default_rng(0)
    assert recipe.settings.cropped_penalty
    drawn = [recipe.draw(rng).others for _ in range(200)]
    grey = sum(bool((one[..., 0] == one[..., 1]).all()) for one in drawn if one is not None)
    assert 40 < grey < 80  # 60 expected, deviation 6.5


def with_dfsc(**values: Any) -> Preset:
    return replace(TINY, efficientad=replace(TINY.efficientad, dfsc=DfscSettings(**values)))


# Twenty steps: the rate rises in the first 2, windows are of 2, the latest is 10. The means of the windows at step 7 are
# (6 + 5) / 2 and 5, which differ by 9 %, at step 8 both are 5. Falling by 1 a step, the last two are 12 and 11.
WARM_UPS = [
    ([9, 9, 8, 6, 5, 5, 5, 5, 5], 8, 5.0),
    ([9, 9, 9, 9, 9, 9], 6, 9.0),  # alike from the first step on, which does not count before the rate has risen
    ([100, 80, 9, 9, 9, 9], 6, 9.0),
    (list(range(20, 8, -1)), 10, 11.5),
]


@pytest.mark.parametrize(("medians", "step", "median"), WARM_UPS)
def test_a_margin_is_frozen_where_the_median_stalls(medians: list[float], step: int, median: float) -> None:
    preset = with_dfsc(warm_margin=1.5, warm_window=0.1, warm_share=0.5, warm_change=0.02)
    warm_up = MarginWarmUp.of(replace(preset, efficientad_schedule=replace(preset.efficientad_schedule, steps=20)), 5)
    assert warm_up is not None
    for value in medians[:step]:
        assert (warm_up.step, warm_up.settled()) == (0, None)
        warm_up.see(value, 0.0)
    assert (warm_up.step, warm_up.margin) == (step, 1.5 * median)
    assert warm_up.settled() is None  # nothing was done with it yet
    for active in (0.75, 0.25):
        warm_up.see(0.0, active)
    settled = warm_up.settled()
    assert settled is not None
    assert settled.values == {"step": step, "margin": 1.5 * median, "median": median, "active": 0.5, "first_active": 0.75}
    assert f"margin {1.5 * median:g}, 1.5 times" in settled.message
    assert f"frozen after step {step}; 75% of the novel" in settled.message


@pytest.mark.parametrize("mode", ["drop", "off"])
def test_without_a_hinge_there_is_no_warm_up(mode: str) -> None:
    assert MarginWarmUp.of(with_dfsc(mode=mode, warm_margin=1.0), 5) is None


def warm(path: Path, stop_at: int = 0) -> tuple[EfficientADRecipe, Trace]:
    """Train four steps, of which two are the warm-up, and stop once before the end."""
    preset = with_dfsc(quantile=0.9, warm_margin=2.0, warm_share=0.5, warm_window=0.25)
    schedule = replace(preset.efficientad_schedule, steps=4, rate=1e-5, validate_every=0)
    recipe = efficientad_recipe(replace(preset, efficientad_schedule=schedule))
    learn, steps = recipe.learn, 0

    def stopping(batch: Any) -> dict[str, torch.Tensor]:
        nonlocal steps
        steps += 1
        if steps == stop_at:
            os.kill(os.getpid(), signal.SIGINT)
        return learn(batch)

    recipe.learn = stopping  # type: ignore[method-assign]
    folder = RunFolder(path)
    folder.begin("mark")
    return recipe, fit(recipe, 4, folder, 0, progress=Progress(shown=False))


def test_a_warm_up_freezes_the_same_margin_through_a_stop(tmp_path: Path) -> None:
    """The median is that of the second step, its window; twice it leaves most of the highest tenth below the margin."""
    recipe, trace = warm(tmp_path / "whole")
    assert trace.settled["step"] == 2
    assert trace.settled["margin"] == pytest.approx(2 * trace.settled["median"], rel=1e-6)
    assert 0.5 < trace.settled["first_active"] <= 1.0
    assert recipe.settings.dfsc.margin == pytest.approx(trace.settled["margin"], abs=1e-6)
    for stop_at in (1, 2, 3):
        with pytest.raises(KeyboardInterrupt):
            warm(tmp_path / str(stop_at), stop_at)
        resumed, again = warm(tmp_path / str(stop_at))
        assert again == trace
        for name, value in resumed.module.state_dict().items():
            assert torch.equal(value, recipe.module.state_dict()[name]), name


def driven(recipe: EfficientADRecipe, distance: float) -> None:
    """Push the autoencoder's answer away from everything the teacher says."""
    recipe.model.autoencoder.head.bias.data.add_(distance)


def test_three_steps_beyond_the_bound_are_a_divergence() -> None:
    recipe = efficientad_recipe(with_dfsc(kappa=1.5))
    rng = np.random.default_rng(0)
    for _ in range(5):
        assert "bound" not in recipe.watch(recipe.learn(recipe.draw(rng)))  # healthy
    driven(recipe, 1e4)
    for _ in range(2):
        recipe.watch(recipe.learn(recipe.draw(rng)))
    with pytest.raises(
        Diverged, match=r"the DFSC hinge diverges: .*margin 1.5 times the quantile.*beginning again as plain"
    ):
        recipe.watch(recipe.learn(recipe.draw(rng)))
    recipe.fall_back()
    recipe.watch(recipe.learn(recipe.draw(rng)))
    assert recipe.settings.dfsc.mode == "off"


def test_a_single_step_beyond_the_bound_is_forgiven() -> None:
    recipe, rng = efficientad_recipe(TINY), np.random.default_rng(0)
    for distance in (1e4, -1e4, 1e4, -1e4):
        driven(recipe, distance)
        recipe.watch(recipe.learn(recipe.draw(rng)))


@pytest.mark.slow
def test_a_margin_that_runs_away_ends_in_plain_efficientad(tmp_path: Path) -> None:
    """A relative margin with a fast rate diverges for real; the training says so and begins again without the hinge."""
    steps, weight = 60, 1000.0
    preset = with_dfsc(kappa=4.0, weight=weight)
    preset = replace(preset, efficientad_schedule=replace(preset.efficientad_schedule, rate=0.05, clip=0.0))
    recipe, folder, output = efficientad_recipe(preset), RunFolder(tmp_path), io.StringIO()
    folder.begin("mark")
    trace = fit(recipe, steps, folder, 0, progress=Progress(stream=output))
    assert "the DFSC hinge diverges" in trace.fell_back
    assert "the DFSC hinge diverges" in output.getvalue()
    assert recipe.settings.dfsc.mode == "off"
    assert trace.course[-1]["step"] == steps
    assert trace.means["hinge_active"] == 0.0
    assert all(torch.isfinite(value).all() for value in recipe.module.state_dict().values())


def test_arithmetic_is_reported() -> None:
    assert choose_arithmetic(False).name.endswith("float32")
    assert CPU.name == "cpu float32"
    cheaper = Arithmetic(torch.device("cpu"), low_precision=True)
    assert cheaper.name == "cpu bfloat16"
    one = torch.ones(2, 2)
    for arithmetic, kind in ((CPU, torch.float32), (cheaper, torch.bfloat16)):
        with arithmetic.autocast():
            assert (one @ one).dtype is kind
