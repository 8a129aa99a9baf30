"""One training loop for all networks: it steps, logs, validates on unseen normal images, keeps the best, survives a stop.

A recipe may say that its loss diverges. Then the loop starts that network again in the recipe's safe form, once. Ctrl-C
and SIGTERM act between two steps, never inside one: codebooks move in the forward pass, so half a step cannot be
repeated. The next batch is drawn in a thread of its own while the network learns from this one.
"""

from __future__ import annotations

import ctypes
import math
import signal
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from edge_ad.camera.opencv import one_thread
from edge_ad.presets.presets import Schedule
from edge_ad.training.distributed import ALONE, ProcessGroup, Step, join, shared
from edge_ad.training.run_folder import RunFolder, to_cpu
from edge_ad.utils.progress import Progress


@contextmanager
def defer_interrupt(group: ProcessGroup = ALONE) -> Iterator[Callable[[], None]]:
    """Hold Ctrl-C and SIGTERM back and yield a function that raises KeyboardInterrupt if one came to any of the group.

    A second Ctrl-C raises at once, unless there is a group: torchrun passes on a signal that its processes had already.
    Outside the main thread, where Python delivers no signal, nothing is held back.
    """
    came = False
    asked: Callable[[], bool] = lambda: False  # noqa: E731 -- nobody has asked yet

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal came
        if came and number == signal.SIGINT and group.size == 1:
            raise KeyboardInterrupt
        came = True

    def check(last: bool = False) -> None:
        nonlocal asked
        before, asked = asked, group.begin_any(came)
        # A group learns the answer a step later, so that nobody waits for it.
        if (asked if group.size == 1 or last else before)():
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
        check(last=True)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


Batch = TypeVar("Batch")


@contextmanager
def prefetched(draw: Callable[[int], Batch], steps: int) -> Iterator[Callable[[int], Batch]]:
    """Yield a function that returns ``draw(step)`` and has one thread begin with the step after it, if below ``steps``.

    Whoever asks for another step than the one begun gets a fresh draw. What ``draw`` raises is raised where its step is
    asked for. The thread has ended when the context is left. OpenCV keeps to one thread meanwhile.
    """
    ahead: dict[int, Future[Batch]] = {}
    with one_thread(), ThreadPoolExecutor(1, "batches") as pool:

        def take(step: int) -> Batch:
            begun = ahead.pop(step, None)
            ahead.clear()
            batch = (begun or pool.submit(draw, step)).result()
            if step + 1 < steps:
                ahead[step + 1] = pool.submit(draw, step + 1)
            return batch

        yield take


CHECKPOINT_SECONDS = 60.0
LOG_EVERY = 10
COURSE = 20  # points of a training that the bundle's report keeps


class Recipe(Protocol):
    """What the loop trains: a module, its schedule, a step in two halves, and a question to unseen normal images."""

    name: str
    module: nn.Module
    schedule: Schedule

    def draw(self, rng: np.random.Generator) -> Any:
        """Return one batch, without torch and without a change of the recipe: another thread calls it beside ``learn``.
        """
        ...

    def learn(self, batch: Any) -> dict[str, Tensor]:
        """Return means over what ``draw`` gave; ``loss`` is the one to follow down."""
        ...

    def validate(self) -> float:
        """Return the loss of normal images that the network never learned from."""
        ...


class Diverged(Exception):
    """A loss grows without bound; the sentence names it and what is done instead."""


@runtime_checkable
class CanFallBack(Protocol):
    """A recipe with a safe form of its loss."""

    def fall_back(self) -> None:
        """Take the safe form from now on."""
        ...


@runtime_checkable
class Watching(Protocol):
    """A recipe that looks at what the whole batch gave."""

    def watch(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return what to log of the mean over the processes of what ``learn`` gave; may raise Diverged."""
        ...


class Settled(NamedTuple):
    """A sentence for the log and plain values for the report."""

    message: str
    values: dict[str, float]


@runtime_checkable
class Settling(Protocol):
    """A recipe that sets values of its loss from what it sees in its first steps."""

    def settled(self) -> Settled | None:
        """Return what was set and what it does since, None before."""
        ...

    def state(self) -> dict[str, Any]:
        """Return plain values that let a resumed training go on."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what ``state`` returned."""
        ...


@dataclass
class Trace:
    """What came of a training.

    Steps, last loss, the step and value of the best validation, what the losses were at about ``COURSE`` steps, and
    their means over all logged steps. ``fell_back`` is the sentence of a divergence after which it began again,
    ``settled`` what the recipe set in its first steps.
    """

    steps: int
    loss: float = math.nan
    best_step: int = 0
    best: float = math.inf
    validations: list[tuple[int, float]] = field(default_factory=list)
    course: list[dict[str, float]] = field(default_factory=list)
    means: dict[str, float] = field(default_factory=dict)
    logged: int = 0
    fell_back: str = ""
    settled: dict[str, float] = field(default_factory=dict)

    def note(self, step: int, losses: dict[str, float]) -> None:
        """Take in the losses of a logged step."""
        self.logged += 1
        for name, value in losses.items():
            before = self.means.get(name, 0.0)
            self.means[name] = before + (value - before) / self.logged
        if not self.course or step == self.steps or step - self.course[-1]["step"] >= self.steps / COURSE:
            self.course.append({"step": step, **losses})


def rate_at(schedule: Schedule, step: int, steps: int) -> float:
    """Return the learning rate of a step: warm-up then cosine, or constant with one drop to a tenth."""
    if schedule.drop_at:
        return schedule.rate * (0.1 if step >= schedule.drop_at * steps else 1.0)
    warm = max(1, round(schedule.warm_up * steps))
    last = schedule.floor or 0.02 * schedule.rate
    if step < warm:
        first = schedule.floor or schedule.rate / warm
        return first + (schedule.rate - first) * step / max(1, warm - 1) if warm > 1 else schedule.rate
    return last + (schedule.rate - last) * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def decay_at(schedule: Schedule, step: int, steps: int) -> float:
    """Return the weight decay of a step: constant, or along a cosine down to 0."""
    share = 0.5 * (1 + math.cos(math.pi * step / steps)) if schedule.fading_decay else 1.0
    return schedule.weight_decay * share


def fit(recipe: Recipe, steps: int, folder: RunFolder, seed: int, *, progress: Progress, group: ProcessGroup = ALONE) -> Trace:
    """Train ``recipe`` for ``steps`` batches, or load it if a former run finished it, and return the trace.

    Every step draws from a generator seeded by (seed, name, step), so a resumed training is the same training, and the
    next batch can be drawn while the network learns from this one. Ctrl-C and SIGTERM end the step and write a
    checkpoint before they go on up; a second Ctrl-C goes up at once, without one. The processes of a ``group`` share
    every batch; DeviceFault when one of them is lost.
    """
    finished = folder.load(f"{recipe.name}-finished")
    if finished is not None:
        recipe.module.load_state_dict(finished["module"])
        return Trace(**finished["trace"])
    runner = _Runner(recipe, steps, folder, seed, progress=progress, group=group)
    runner.resume()
    try:
        with group.together(recipe.name):
            runner.run()
    except KeyboardInterrupt:
        if runner.whole:
            runner.save()
        progress.log(f"\nstopped at step {runner.done} of {recipe.name}: the same command goes on from there")
        raise
    return runner.finish()


class _Runner:
    def __init__(
        self, recipe: Recipe, steps: int, folder: RunFolder, seed: int, *, progress: Progress, group: ProcessGroup
    ) -> None:
        self.recipe, self.steps, self.folder, self.seed, self.progress = recipe, steps, folder, seed, progress
        self.group = group
        self.step: Step
        self.batch: Callable[[int], tuple[int, Any]] = self._draw
        self.optimiser = make_optimiser(recipe.module, recipe.schedule)
        self.trace = Trace(steps)
        self.best_state: dict[str, Tensor] | None = None
        self.done = 0
        self.first = to_cpu(recipe.module.state_dict()) if isinstance(recipe, CanFallBack) else {}
        self.whole = True  # no step is half done, so the state may be saved

    def resume(self) -> None:
        state = self.folder.load(self.recipe.name)
        if state is None:
            return
        self.recipe.module.load_state_dict(state["module"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.trace, self.best_state, self.done = Trace(**state["trace"]), state["best"], state["done"]
        if self.trace.fell_back and isinstance(self.recipe, CanFallBack):
            self.recipe.fall_back()
        elif isinstance(self.recipe, Settling):
            self.recipe.load_state(state["recipe"])
        self.progress.log(f"{self.recipe.name}: resumed at step {self.done}")

    def run(self) -> None:
        began = saved = time.monotonic()
        first = self.done
        self.recipe.module.train()
        with (
            shared(self.recipe, self.group) as self.step,
            defer_interrupt(self.group) as check,
            prefetched(self._draw, self.steps) as self.batch,
        ):
            while self.done < self.steps:
                try:
                    self._advance()
                except Diverged as fault:
                    self._begin_again(fault)
                if time.monotonic() - saved > CHECKPOINT_SECONDS:
                    self.save()
                    saved = time.monotonic()
                note = f"loss {self.trace.loss:.3f}" if math.isfinite(self.trace.loss) else ""
                self.progress.step(self.recipe.name, self.done, self.steps, began, first=first, note=note)
                check()

    def _advance(self) -> None:
        losses = self._step()
        if isinstance(self.recipe, Watching):
            losses = self.recipe.watch(losses)
        self.trace.loss = self._finite(losses)
        if isinstance(self.recipe, Settling):
            self._note_settled(self.recipe.settled())
        if self.done % LOG_EVERY == 0 or self.done == self.steps:
            self._log(losses)
        self._maybe_validate()
        self.whole = True

    def _note_settled(self, settled: Settled | None) -> None:
        """Log what was set, once, and let the best state be one that was trained with it."""
        if settled is None:
            return
        if not self.trace.settled:
            self.folder.log({"stage": self.recipe.name, "step": self.done, "settled": settled.values})
            self.progress.log(f"{self.recipe.name}: {settled.message}")
            self.trace.best, self.best_state = math.inf, None
        self.trace.settled = settled.values

    def _begin_again(self, fault: Diverged) -> None:
        """Start from the first weights in the recipe's safe form; a second divergence is a fault and goes up."""
        if self.trace.fell_back or not isinstance(self.recipe, CanFallBack):
            raise fault
        self.recipe.fall_back()
        self.recipe.module.load_state_dict(self.first)
        self.optimiser = make_optimiser(self.recipe.module, self.recipe.schedule)
        self.trace, self.best_state, self.done = Trace(self.steps, fell_back=str(fault)), None, 0
        self.folder.log({"stage": self.recipe.name, "step": 0, "fell_back": str(fault)})
        self.progress.log(f"{self.recipe.name}: {fault}")
        self.whole = True
        self.save()

    def _draw(self, step: int) -> tuple[int, Any]:
        """Return the seed of torch and the batch of a step."""
        rng = np.random.default_rng([self.seed, zlib.crc32(self.recipe.name.encode()), step])
        return int(rng.integers(2**62)), self.recipe.draw(rng)

    def _step(self) -> dict[str, Tensor]:
        seed, batch = self.batch(self.done)
        self.whole = False
        torch.manual_seed(seed)
        for group in self.optimiser.param_groups:
            group["lr"] = rate_at(self.recipe.schedule, self.done, self.steps)
            group["weight_decay"] = decay_at(self.recipe.schedule, self.done, self.steps)
        losses = self.step.learn(batch)
        self.optimiser.zero_grad(set_to_none=True)
        losses["loss"].backward()  # type: ignore[no-untyped-call]
        losses = self.step.settle(losses)
        if self.recipe.schedule.clip:
            nn.utils.clip_grad_norm_(self.recipe.module.parameters(), self.recipe.schedule.clip)
        self.optimiser.step()
        self.done += 1
        return losses

    def _log(self, losses: dict[str, Tensor]) -> None:
        values = {name: round(float(value.detach()), 6) for name, value in losses.items()}
        self.folder.log({"stage": self.recipe.name, "step": self.done, **values})
        self.trace.note(self.done, values)

    def _finite(self, losses: dict[str, Tensor]) -> float:
        """Return the loss; one that is not finite must never reach a checkpoint."""
        loss = float(losses["loss"].detach())
        if not math.isfinite(loss):
            values = {name: float(value.detach()) for name, value in losses.items()}
            raise FloatingPointError(f"the loss of {self.recipe.name} is {loss} at step {self.done}: {values}")
        return round(loss, 6)

    def _maybe_validate(self) -> None:
        every = self.recipe.schedule.validate_every
        if not every or (self.done % every and self.done != self.steps):
            return
        self.recipe.module.eval()
        with torch.no_grad():
            value = float(self.group.values([self.recipe.validate()])[0, 0])
        self.recipe.module.train()
        self.trace.validations.append((self.done, round(value, 6)))
        self.folder.log({"stage": self.recipe.name, "step": self.done, "unseen_goods": round(value, 6)})
        if value <= self.trace.best:
            self.trace.best, self.trace.best_step = value, self.done
            self.best_state = to_cpu(self.recipe.module.state_dict())

    def save(self) -> None:
        self.folder.save(
            self.recipe.name,
            {
                "module": self.recipe.module.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "trace": vars(self.trace),
                "best": self.best_state,
                "done": self.done,
                "recipe": self.recipe.state() if isinstance(self.recipe, Settling) else {},
            },
        )

    def finish(self) -> Trace:
        if self.best_state is not None:
            self.recipe.module.load_state_dict(self.best_state)
        self.recipe.module.eval()
        state: dict[str, Any] = {"module": self.recipe.module.state_dict(), "trace": vars(self.trace)}
        self.folder.save(f"{self.recipe.name}-finished", state)
        return self.trace


def make_optimiser(module: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """Return AdamW, or Adam with its coupled decay as EfficientAD was published."""
    kind = torch.optim.AdamW if schedule.adam_w else torch.optim.Adam
    return kind(module.parameters(), lr=schedule.rate, weight_decay=schedule.weight_decay)


@dataclass(frozen=True)
class Arithmetic:
    """The device, whether matrix products may run in bfloat16 (only where the hardware has it), and who trains along.
    """

    device: torch.device
    low_precision: bool
    group: ProcessGroup = ALONE

    def autocast(self) -> AbstractContextManager[object]:
        """Return a context in which matrix products and convolutions use the cheaper type."""
        if not self.low_precision:
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    @property
    def name(self) -> str:
        """Short description for reports, for example ``cpu bfloat16``."""
        return f"{self.device.type} {'bfloat16' if self.low_precision else 'float32'}"


def choose_arithmetic(low_precision: bool) -> Arithmetic:
    """Take a CUDA GPU if there is one, each process of a group its own; bfloat16 only if asked for and native to it.

    From here on the process keeps memory that is freed.
    """
    keep_freed_memory()
    group = join()
    if torch.cuda.is_available():
        device = group.device if group.size > 1 else torch.device("cuda")
        return Arithmetic(device, low_precision and torch.cuda.is_bf16_supported(), group)
    return Arithmetic(torch.device("cpu"), low_precision and _cpu_has_bfloat16(), group)


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of mallopt(3)


def keep_freed_memory() -> bool:
    """Have glibc keep memory that is freed; return whether it does. Elsewhere nothing happens.

    A map of 16 images is larger than what malloc takes from its heap, so every step would get its maps from the kernel and give
    them back: clearing those pages was half of the frozen teacher's time (docs/experiments/training.md).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


def _cpu_has_bfloat16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
