"""The loop on a linear regression: it learns, logs, keeps the best, and a stopped training is the same training."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_ad.presets.presets import Schedule
from edge_ad.training.loop import COURSE, Diverged, Settled, defer_interrupt, fit
from edge_ad.training.run_folder import RunFolder
from edge_ad.utils.progress import Progress

SCHEDULE = Schedule(60, 8, 0.1, weight_decay=0.0, validate_every=10)
QUIET = Progress(shown=False)


class Regression:
    """y = 2 x + 1 with a buffer that moves in every forward pass, as codebooks do."""

    name = "regression"

    def __init__(self, schedule: Schedule = SCHEDULE, stop_at: int = 0) -> None:
        torch.manual_seed(0)
        self.module: nn.Module = nn.Linear(1, 1)
        self.module.register_buffer("seen", torch.zeros(1))
        self.schedule, self.stop_at = schedule, stop_at
        self.steps, self.drawn = 0, 0

    def draw(self, rng: np.random.Generator) -> NDArray[np.float32]:
        self.drawn += 1
        return rng.uniform(-1, 1, (self.schedule.batch, 1)).astype(np.float32)

    def learn(self, batch: NDArray[np.float32]) -> dict[str, Tensor]:
        self.steps += 1
        x = torch.from_numpy(batch)
        noise = 0.01 * torch.randn(len(x), 1)
        self.module.seen += x.abs().sum()
        if self.steps == self.stop_at:
            os.kill(os.getpid(), signal.SIGINT)
        loss = (self.module(x) - 2 * x - 1 - noise).square().mean()
        return {"loss": loss, "noise": noise.abs().mean()}

    def validate(self) -> float:
        assert not self.module.training
        weight, bias = self.module.weight.item(), self.module.bias.item()
        return (weight - 2) ** 2 + (bias - 1) ** 2


def begun(path: Path) -> RunFolder:
    folder = RunFolder(path)
    folder.begin("mark")
    return folder


def state(recipe: Regression) -> dict[str, list[float]]:
    return {name: value.flatten().tolist() for name, value in recipe.module.state_dict().items()}


def test_it_learns_and_logs(tmp_path: Path) -> None:
    recipe, folder = Regression(), begun(tmp_path)
    trace = fit(recipe, 60, folder, 0, progress=QUIET)
    assert recipe.validate() < 0.05
    assert recipe.drawn == 60
    assert not recipe.module.training
    entries = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    losses = [entry for entry in entries if "loss" in entry]
    assert [entry["step"] for entry in losses] == [10, 20, 30, 40, 50, 60]
    assert {entry["stage"] for entry in entries} == {"regression"}
    assert all(set(entry) == {"time", "stage", "step", "loss", "noise"} for entry in losses)
    assert losses[-1]["loss"] < losses[0]["loss"] / 10
    assert trace.loss == losses[-1]["loss"]
    asked = [[entry["step"], entry["unseen_goods"]] for entry in entries if "unseen_goods" in entry]
    assert [list(pair) for pair in trace.validations] == asked
    assert [step for step, _ in asked] == [10, 20, 30, 40, 50, 60]


@pytest.mark.parametrize("stop_at", [1, 17, 20, 60])
def test_ctrl_c_and_the_same_call_again_give_the_same_network(tmp_path: Path, stop_at: int) -> None:
    whole = Regression()
    expected = fit(whole, 60, begun(tmp_path / "whole"), 3, progress=QUIET)
    folder, stopped = begun(tmp_path / "stopped"), Regression(stop_at=stop_at)
    with pytest.raises(KeyboardInterrupt):
        fit(stopped, 60, folder, 3, progress=QUIET)
    assert stopped.steps == stop_at
    resumed = Regression()
    resumed.module.weight.data.fill_(99.0)  # the checkpoint brings the weights
    result = fit(resumed, 60, folder, 3, progress=QUIET)
    assert resumed.steps == 60 - stop_at
    assert state(resumed) == state(whole)
    assert result == expected


def test_an_error_in_the_middle_of_a_step_saves_nothing_half_done(tmp_path: Path) -> None:
    """A second Ctrl-C ends the step at once; what it began must not be in a checkpoint."""
    folder, stopped, whole = begun(tmp_path / "stopped"), Regression(), Regression()
    learn = stopped.learn

    def interrupted(batch: NDArray[np.float32]) -> dict[str, Tensor]:
        if stopped.steps == 4:
            learn(batch)
            raise KeyboardInterrupt
        return learn(batch)

    stopped.learn = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        fit(stopped, 60, folder, 0, progress=QUIET)
    resumed = Regression()
    fit(resumed, 60, folder, 0, progress=QUIET)
    fit(whole, 60, begun(tmp_path / "whole"), 0, progress=QUIET)
    assert state(resumed) == state(whole)


def test_an_interrupt_while_a_batch_is_waited_for_loses_no_step(tmp_path: Path) -> None:
    recipe, draw, threads = Regression(), Regression.draw, set(threading.enumerate())

    def broken(rng: np.random.Generator) -> NDArray[np.float32]:
        if recipe.drawn == 4:
            raise KeyboardInterrupt("while step 5 is drawn")
        return draw(recipe, rng)

    recipe.draw = broken  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt, match="while step 5 is drawn"):
        fit(recipe, 60, begun(tmp_path), 0, progress=QUIET)
    assert set(threading.enumerate()) <= threads
    resumed, whole = Regression(), Regression()
    fit(resumed, 60, begun(tmp_path), 0, progress=QUIET)
    fit(whole, 60, begun(tmp_path / "whole"), 0, progress=QUIET)
    assert resumed.steps == 56
    assert state(resumed) == state(whole)


def test_a_finished_stage_is_loaded_not_trained(tmp_path: Path) -> None:
    folder, first, again = begun(tmp_path), Regression(), Regression()
    trace = fit(first, 60, folder, 0, progress=QUIET)
    again.module.weight.data.fill_(99.0)
    assert fit(again, 60, folder, 0, progress=QUIET) == trace
    assert again.steps == 0
    assert state(again) == state(first)


def test_seeds_differ(tmp_path: Path) -> None:
    one, same, other = Regression(), Regression(), Regression()
    for number, (recipe, seed) in enumerate(((one, 1), (same, 1), (other, 2))):
        fit(recipe, 20, begun(tmp_path / str(number)), seed, progress=QUIET)
    assert state(one) == state(same)
    assert state(one) != state(other)


def test_the_best_state_on_unseen_goods_is_kept(tmp_path: Path) -> None:
    recipe, weights = Regression(), []
    answers = iter([3.0, 1.0, 2.0, 1.5, 4.0, 5.0])

    def validate() -> float:
        weights.append(recipe.module.weight.item())
        return next(answers)

    recipe.validate = validate  # type: ignore[method-assign]
    trace = fit(recipe, 60, begun(tmp_path), 0, progress=QUIET)
    assert (trace.best_step, trace.best) == (20, 1.0)
    assert recipe.module.weight.item() == weights[1]
    assert weights[1] != weights[-1]


def test_without_validation_the_last_state_stays(tmp_path: Path) -> None:
    recipe = Regression(Schedule(5, 8, 0.1))
    recipe.validate = lambda: pytest.fail("nobody asked")  # type: ignore[method-assign]
    assert fit(recipe, 5, begun(tmp_path), 0, progress=QUIET).best_step == 0


def test_a_loss_that_is_not_finite_is_loud(tmp_path: Path) -> None:
    recipe = Regression(Schedule(60, 8, 0.1))
    recipe.learn = lambda batch: {"loss": recipe.module.weight.sum() * math.nan}  # type: ignore[method-assign]
    with pytest.raises(FloatingPointError, match="the loss of regression is nan at step 1:"):
        fit(recipe, 60, begun(tmp_path), 0, progress=QUIET)
    assert not (tmp_path / "train.jsonl").exists()


class Runaway(Regression):
    """Diverges at step 25 unless it is in its safe form; the safe form learns y = 2 x + 1 as before."""

    def __init__(self, stop_at: int = 0) -> None:
        super().__init__(stop_at=stop_at)
        self.safe, self.total = False, 0

    def fall_back(self) -> None:
        self.safe, self.steps = True, 0

    def learn(self, batch: NDArray[np.float32]) -> dict[str, Tensor]:
        self.total += 1
        if not self.safe and self.steps == 24:
            raise Diverged("it runs away; beginning again")
        return super().learn(batch)


def test_a_divergence_begins_again_in_the_safe_form(tmp_path: Path) -> None:
    recipe, folder, plain = Runaway(), begun(tmp_path / "run"), Regression()
    trace = fit(recipe, 60, folder, 0, progress=QUIET)
    expected = fit(plain, 60, begun(tmp_path / "plain"), 0, progress=QUIET)
    assert recipe.total == 25 + 60
    assert trace.fell_back == "it runs away; beginning again"
    assert state(recipe) == state(plain)  # from the first weights, with a fresh optimiser and the same draws
    assert trace.validations == expected.validations
    again = Runaway()
    assert fit(again, 60, folder, 0, progress=QUIET) == trace
    assert again.total == 0


def test_a_training_stopped_after_it_began_again_stays_safe(tmp_path: Path) -> None:
    folder, stopped, whole = begun(tmp_path / "run"), Runaway(stop_at=30), Regression()
    with pytest.raises(KeyboardInterrupt):
        fit(stopped, 60, folder, 0, progress=QUIET)
    resumed = Runaway()
    trace = fit(resumed, 60, folder, 0, progress=QUIET)
    fit(whole, 60, begun(tmp_path / "whole"), 0, progress=QUIET)
    assert resumed.safe
    assert resumed.total == 30
    assert trace.fell_back
    assert state(resumed) == state(whole)


def test_a_recipe_without_a_safe_form_lets_the_divergence_go_up(tmp_path: Path) -> None:
    recipe = Regression()

    def learn(batch: NDArray[np.float32]) -> dict[str, Tensor]:
        raise Diverged("it runs away")

    recipe.learn = learn  # type: ignore[method-assign]
    with pytest.raises(Diverged, match="it runs away"):
        fit(recipe, 60, begun(tmp_path), 0, progress=QUIET)


class Setting(Regression):
    """Sets a value after step 25 and says so from step 26 on; it has the best answer to unseen images before."""

    def __init__(self, stop_at: int = 0) -> None:
        super().__init__(stop_at=stop_at)
        self.seen: list[float] = []

    def learn(self, batch: NDArray[np.float32]) -> dict[str, Tensor]:
        losses = super().learn(batch)
        self.seen.append(round(float(losses["noise"]), 6))
        return losses

    def validate(self) -> float:
        return float(len(self.seen))

    def settled(self) -> Settled | None:
        return Settled("it is set", {"value": self.seen[24]}) if len(self.seen) > 25 else None

    def state(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]


def test_what_a_recipe_sets_is_logged_once_and_the_best_state_is_one_trained_with_it(tmp_path: Path) -> None:
    recipe, output = Setting(), io.StringIO()
    trace = fit(recipe, 60, begun(tmp_path), 0, progress=Progress(stream=output))
    entries = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert [(one["step"], one["settled"]) for one in entries if "settled" in one] == [(26, {"value": recipe.seen[24]})]
    assert output.getvalue().count("regression: it is set") == 1
    assert trace.settled == {"value": recipe.seen[24]}
    assert trace.best_step == 30


@pytest.mark.parametrize("stop_at", [20, 25, 26, 40])
def test_what_a_recipe_sets_survives_a_stop(tmp_path: Path, stop_at: int) -> None:
    whole = fit(Setting(), 60, begun(tmp_path / "whole"), 0, progress=QUIET)
    folder, resumed = begun(tmp_path / "stopped"), Setting()
    with pytest.raises(KeyboardInterrupt):
        fit(Setting(stop_at), 60, folder, 0, progress=QUIET)
    assert fit(resumed, 60, folder, 0, progress=QUIET) == whole
    assert resumed.steps == 60 - stop_at


def test_the_trace_keeps_the_course_and_the_means_of_what_is_logged(tmp_path: Path) -> None:
    trace = fit(Regression(Schedule(1000, 8, 0.1)), 1000, begun(tmp_path), 0, progress=QUIET)
    entries = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert trace.logged == len(entries) == 100
    assert trace.means["noise"] == pytest.approx(np.mean([entry["noise"] for entry in entries]), rel=1e-6)
    assert [point["step"] for point in trace.course] == [10, *range(60, 1001, 50), 1000][: len(trace.course)]
    assert trace.course[-1]["step"] == 1000
    assert len(trace.course) <= COURSE + 1
    logged = {entry["step"]: entry["loss"] for entry in entries}
    assert all(point["loss"] == logged[point["step"]] for point in trace.course)


def test_gradients_are_clipped(tmp_path: Path) -> None:
    def moved(clip: float) -> float:
        recipe = Regression(Schedule(1, 8, 1.0, weight_decay=0.0, clip=clip, adam_w=False))
        recipe.learn = lambda batch: {"loss": 1e-9 * recipe.module.weight.sum()}  # type: ignore[method-assign]
        before = recipe.module.weight.item()
        fit(recipe, 1, begun(tmp_path / str(clip)), 0, progress=QUIET)
        return before - recipe.module.weight.item()

    # Adam's first step is rate * g / (g + 1e-8): with g = 1e-9 a tenth or so, clipped to 1e-12 nearly nothing.
    assert moved(0.0) == pytest.approx(1 / 11, rel=1e-2)
    assert abs(moved(1e-12)) < 1e-3


def test_ctrl_c_is_held_back_once_and_the_handler_comes_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with contextlib.suppress(KeyboardInterrupt), defer_interrupt() as check:
        check()
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            check()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_training_in_another_thread_needs_no_signal(tmp_path: Path) -> None:
    recipe = Regression()
    thread = threading.Thread(target=lambda: fit(recipe, 60, begun(tmp_path), 0, progress=QUIET))
    thread.start()
    thread.join()
    assert recipe.validate() < 0.05
