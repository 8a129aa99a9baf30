"""A batch drawn ahead changes no number; its faults come up where it is asked for; its thread ends with the training."""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from edge_ad.models.build import build_tokenizer
from edge_ad.models.pdn import LearningPdn
from edge_ad.presets.presets import Augmentation, Schedule
from edge_ad.training import loop
from edge_ad.training.distillation import DistillationRecipe
from edge_ad.training.images import Photographs
from edge_ad.training.loop import prefetched
from edge_ad.training.recipes import TokenizerRecipe
from edge_ad.training.run_folder import RunFolder
from edge_ad.training.teacher import Source
from edge_ad.utils.progress import Progress
from tests.data.folders import picture, save
from tests.fixtures.tiny_presets import TINY
from tests.training.test_recipes import CHANNELS, CPU, efficientad_recipe, lavit_recipe, tokens

STEPS, STOPPED = 4, 2
QUIET = Progress(shown=False)
# Features of the teacher kept, other images for the penalty, and some of them grey.
STILL = replace(
    TINY,
    augmentation=Augmentation(0.0, 0.0, 0.0),
    efficientad=replace(TINY.efficientad, shared_jitter=False, cropped_penalty=True),
)


def tokenizer_recipe(folder: Path) -> TokenizerRecipe:
    torch.manual_seed(0)
    return TokenizerRecipe(build_tokenizer(TINY, CHANNELS), TINY.tokenizer_schedule, tokens(40), tokens(5, 1), arithmetic=CPU)


def distillation_recipe(folder: Path) -> DistillationRecipe:
    torch.manual_seed(0)
    paths = [save(folder / f"{number}.png", picture(number, (48, 56))) for number in range(4)]
    source = Source(nn.Conv2d(3, 6, 8, 8))
    source.eval().requires_grad_(False)
    source.widths = (6,)
    held_out, schedule = np.stack([picture(9, (128, 128))]), Schedule(STEPS, 2, 1e-3, validate_every=2)
    recipe = DistillationRecipe(
        LearningPdn("small"), source, Photographs(paths), held_out, side=64, schedule=schedule, arithmetic=CPU
    )
    recipe.measure(16, 0)
    return recipe


RECIPES: dict[str, Callable[[Path], Any]] = {
    "tokenizer": tokenizer_recipe,
    "lavit": lambda folder: lavit_recipe(),
    "efficientad": lambda folder: efficientad_recipe(TINY),
    "efficientad of still images": lambda folder: efficientad_recipe(STILL, np.stack([picture(7, (128, 128))] * 2)),
    "teacher": distillation_recipe,
}


def weights(recipe: Any) -> dict[str, bytes]:
    return {name: value.detach().numpy().tobytes() for name, value in recipe.module.state_dict().items()}


def fit(recipe: Any, path: Path) -> loop.Trace:
    folder = RunFolder(path)
    folder.begin("mark")
    return loop.fit(recipe, STEPS, folder, 3, progress=QUIET)


def stop_after(recipe: Any, steps: int) -> None:
    """Have Ctrl-C come in a step."""
    learn, taken = recipe.learn, iter(range(1, STEPS + 1))

    def stopped(batch: Any) -> Any:
        if next(taken) == steps:
            os.kill(os.getpid(), signal.SIGINT)
        return learn(batch)

    recipe.learn = stopped


@pytest.mark.parametrize("name", RECIPES)
def test_drawn_ahead_or_not_it_is_the_same_training(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when it stops and goes on: the second batch was drawn already when the first training ended."""
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    ahead, stopped, resumed, plain = (RECIPES[name](tmp_path / "photographs") for _ in range(4))
    expected = fit(ahead, tmp_path / "ahead")
    stop_after(stopped, STOPPED)
    with pytest.raises(KeyboardInterrupt):
        fit(stopped, tmp_path / "stopped")
    assert fit(resumed, tmp_path / "stopped") == expected
    monkeypatch.setattr(loop, "prefetched", lambda draw, steps: nullcontext(draw))
    assert fit(plain, tmp_path / "plain") == expected
    assert weights(ahead) == weights(resumed) == weights(plain)
    assert len(expected.course) == STEPS


def test_the_next_batch_is_drawn_while_this_one_is_learned() -> None:
    begun = [threading.Event() for _ in range(3)]
    with prefetched(lambda step: begun[step].set(), 3) as take:
        take(0)
        assert begun[1].wait(10)  # and nobody asked for it
        assert not begun[2].is_set()


@pytest.mark.parametrize(
    ("asked", "drawn"), [([0, 1, 2], [0, 1, 2]), ([1], [1, 2]), ([2], [2]), ([0, 1, 0], [0, 1, 2, 0, 1])]
)
def test_what_is_drawn(asked: list[int], drawn: list[int]) -> None:
    """Nothing beyond the last step; what was begun for another step than the one asked for is drawn in vain."""
    results: list[int] = []

    def draw(step: int) -> int:
        results.append(step)
        return step

    with prefetched(draw, 3) as take:
        assert [take(step) for step in asked] == asked
    assert results == drawn


def test_a_fault_comes_up_at_its_step_with_where_it_arose() -> None:
    def draw(step: int) -> int:
        if step == 1:
            raise OSError("the photograph is gone")
        return step

    with prefetched(draw, 3) as take:
        assert take(0) == 0
        with pytest.raises(OSError, match="the photograph is gone") as fault:
            take(1)
    assert "draw" in [frame.name for frame in traceback.extract_tb(fault.value.__traceback__)]


@pytest.mark.parametrize("fault", [KeyboardInterrupt, loop.Diverged])
def test_no_thread_is_left_and_opencv_has_its_own_again(fault: type[BaseException]) -> None:
    threads, before = set(threading.enumerate()), cv2.getNumThreads()

    def training() -> None:
        with prefetched(lambda step: cv2.getNumThreads(), 3) as take:
            assert take(0) == 1
            assert len(set(threading.enumerate()) - threads) == 1
            raise fault

    with pytest.raises(fault):
        training()
    assert set(threading.enumerate()) <= threads
    assert cv2.getNumThreads() == before
