"""One training over several processes: which of them this is, which rows of a batch are its own, what all of them know.

torchrun starts the processes (so does anything else that sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT). All draw
the same whole batch from the same generator and each learns from its own rows of it, so that the sum over the processes
is the step of one.

The run folder of a training over several processes: the first one alone touches it, the others are told.

Layers whose result depends on the whole batch, and the step of one process among several.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from edge_ad.errors import BadInput, DeviceFault
from edge_ad.models.vector_quantiser import CodebookUpdate, VectorQuantiser
from edge_ad.training.run_folder import RunFolder, choose_folder

GROUP_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
PATIENCE = timedelta(hours=1)  # the first process may still be exporting one category when the others begin the next
_CPU = torch.device("cpu")
_TORN = ("gloo", "nccl", "connection", "peer", "socket", "timed out", "timeout")


@dataclass(frozen=True)
class Shard:
    """The rows of a batch of ``total`` that process ``rank`` of ``size`` learns from, in order and without gaps.

    Where there are fewer rows than processes, the last ones look at row 0 too, with a ``share`` of 0: each of them must
    have a gradient to give.
    """

    total: int
    rank: int = 0
    size: int = 1

    def count(self, rank: int) -> int:
        """Return how many rows are a process' own."""
        return self.total // self.size + (rank < self.total % self.size)

    @property
    def rows(self) -> slice:
        """The rows to look at; at least one."""
        count = self.count(self.rank)
        start = self.rank * (self.total // self.size) + min(self.rank, self.total % self.size)
        return slice(start, start + count) if count else slice(0, 1)

    @property
    def share(self) -> float:
        """What part of the batch they are."""
        return self.count(self.rank) / self.total


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of one training. Every method but ``shard`` must be called by all of them; alone it costs nothing.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default=_CPU)

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes the log, the checkpoints and the bundle."""
        return self.rank == 0

    def shard(self, total: int) -> Shard:
        """Return this process' rows of a batch."""
        return Shard(total, self.rank, self.size)

    def values(self, own: list[float]) -> NDArray[np.float64]:
        """Return what every process says, f64 [size, len(own)]."""
        if self.size == 1:
            return np.array([own], np.float64)
        rows = self._all(torch.tensor(own, dtype=torch.float64, device=self.device))
        return np.asarray(torch.stack(rows).cpu().numpy())

    def begin_any(self, flag: bool) -> Callable[[], bool]:
        """Ask whether any process says yes; what is returned waits for the answer."""
        answer = self.begin_sum(torch.tensor([float(flag)], device=self.device))
        return lambda: bool(answer())

    def begin_sum(self, own: Tensor) -> Callable[[], Tensor]:
        """Begin to add up everybody's ``own``, in its place; what is returned waits for the sum."""
        work = dist.all_reduce(own, async_op=True) if self.size > 1 else None

        def wait() -> Tensor:
            if work is not None:
                work.wait()
            return own

        return wait

    def gather(self, rows: Tensor, shard: Shard) -> Tensor:
        """Return the whole batch from everybody's ``rows`` of it, in its order."""
        if self.size == 1:
            return rows
        padded = rows.new_zeros(max(1, shard.count(0)), *rows.shape[1:])
        padded[: len(rows)] = rows
        return torch.cat([part[: shard.count(rank)] for rank, part in enumerate(self._all(padded))])

    def from_lead(self, ask: Callable[[], bytes | None]) -> bytes | None:
        """Return what ``ask`` gives in the first process; its BadInput is raised in all of them."""
        if self.size == 1:
            return ask()
        fault: BadInput | None = None
        answer: bytes | None = None
        if self.is_main_process:
            try:
                answer = ask()
            except BadInput as error:
                fault, answer = error, str(error).encode()
        refused, absent, length = self._reported([fault is not None, answer is None, len(answer or b"")])
        if not absent:
            answer = self._sent(answer or b"", length)
        if refused:
            raise fault or BadInput((answer or b"").decode())
        return answer

    @contextmanager
    def together(self, stage: str) -> Iterator[None]:
        """Turn the loss of another process into one sentence (DeviceFault)."""
        try:
            yield
        except RuntimeError as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            if self.size == 1 or not any(word in reason.lower() for word in _TORN):
                raise
            raise DeviceFault(
                f"process {self.rank} of {self.size} lost the others while training {stage} ({reason[:120]}): "
                "the same command goes on from the last checkpoint"
            ) from error

    def _all(self, own: Tensor) -> list[Tensor]:
        tensors = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(tensors, own.contiguous())
        return tensors

    def _reported(self, numbers: list[int]) -> list[int]:
        tensor = torch.tensor(numbers, dtype=torch.int64, device=self.device)
        dist.broadcast(tensor, src=0)
        return [int(number) for number in tensor]

    def _sent(self, data: bytes, length: int) -> bytes:
        own = data if self.is_main_process else bytes(length)
        tensor = torch.frombuffer(bytearray(own), dtype=torch.uint8).to(self.device) if length else torch.empty(0)
        if length:
            dist.broadcast(tensor, src=0)
        return tensor.cpu().numpy().tobytes()


ALONE = ProcessGroup()


def join() -> ProcessGroup:
    """Return this process' place among those that were started together; ``ALONE`` where nothing says so.

    Processes with GPUs take one each and speak NCCL, others gloo. BadInput for more processes than GPUs.
    """
    if not all(name in os.environ for name in GROUP_VARIABLES) or os.environ["WORLD_SIZE"] == "1":
        return ALONE
    if not dist.is_available():
        raise BadInput("this torch was built without torch.distributed: train in one process, or install another build")
    device = _own_gpu() if torch.cuda.is_available() else _CPU
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
        atexit.register(_leave)
    return ProcessGroup(dist.get_rank(), dist.get_world_size(), device)


def is_main_process() -> bool:
    """Whether this process is the only one or the first of its training."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


def _own_gpu() -> torch.device:
    local, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= gpus:
        raise BadInput(
            f"process {local + 1} of this machine has no GPU of its own, there are {gpus}: start at most {gpus} with "
            "--nproc-per-node, or set CUDA_VISIBLE_DEVICES= to train on the CPU"
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


@dataclass(frozen=True)
class GroupFolder(RunFolder):
    """A RunFolder that only the first process of ``group`` reads and writes."""

    group: ProcessGroup = ALONE

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other trainings from this folder: the first process does; its BadInput is raised in all."""
        owner = super().locked
        with contextlib.ExitStack() as stack:
            self.group.from_lead(lambda: stack.enter_context(owner()))
            yield

    def begin(self, mark: str) -> bool:
        """Start or resume, and tell all processes which it is."""
        begin = super().begin
        return self.group.from_lead(lambda: b"resumed" if begin(mark) else b"new") == b"resumed"

    def log(self, entry: Mapping[str, Any]) -> None:
        """Append one object to train.jsonl."""
        if self.group.is_main_process:
            super().log(entry)

    def save(self, name: str, state: Mapping[str, Any]) -> None:
        """Write tensors and plain values under ``name``."""
        if self.group.is_main_process:
            super().save(name, state)

    def load(self, name: str) -> dict[str, Any] | None:
        """Read what ``save`` wrote, in all processes, wherever they run."""
        load = super().load
        data = self.group.from_lead(lambda: _packed(load(name)))
        if data is None:
            return None
        state: dict[str, Any] = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
        return state

    def finish(self) -> None:
        """Remove the checkpoints."""
        if self.group.is_main_process:
            super().finish()


def group_folder(group: ProcessGroup, out: Path | None, mark: str) -> RunFolder:
    """Return the folder of the training with this ``mark``; BadInput where the processes see different normal images or
    settings.
    """
    if group.size == 1:
        return choose_folder(out, mark)
    message = group.from_lead(lambda: f"{mark} {choose_folder(out, mark).path}".encode())
    theirs, _, path = (message or b"").decode().partition(" ")
    if theirs != mark:
        raise BadInput(
            f"process {group.rank} sees other normal images, settings or hardware than process 0: "
            "give every machine the same folder of normal images, options and version"
        )
    return GroupFolder(Path(path), group)


def _packed(state: dict[str, Any] | None) -> bytes | None:
    if state is None:
        return None
    stream = io.BytesIO()
    torch.save(state, stream)
    return stream.getvalue()


Losses = dict[str, Tensor]


class SharedDropout:
    """Hooks by which a dropout draws for the whole batch, so that its draws are those of one process.

    Before the layer the rows of this process are put into a batch of zeros, behind it they are cut out again.
    """

    def __init__(self, layer: nn.Dropout, shard: Shard) -> None:
        self._shard = shard
        self._handles = [layer.register_forward_pre_hook(self._fill), layer.register_forward_hook(self._cut)]

    def remove(self) -> None:
        """Leave the layer as it was."""
        for handle in self._handles:
            handle.remove()

    @staticmethod
    def _drops(layer: nn.Dropout) -> bool:
        return layer.training and layer.p > 0.0

    def _fill(self, layer: nn.Dropout, inputs: tuple[Tensor]) -> tuple[Tensor]:
        (x,) = inputs
        if not self._drops(layer):
            return inputs
        first, last, _ = self._shard.rows.indices(self._shard.total)
        if len(x) != last - first:
            raise ValueError(f"a batch of {len(x)} rows reached a dropout that expects {self._shard.rows}")
        before, behind = x.new_zeros(first, *x.shape[1:]), x.new_zeros(self._shard.total - last, *x.shape[1:])
        whole = torch.cat([before, x, behind])
        if x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
            whole = whole.contiguous(memory_format=torch.channels_last)  # the order in which numbers are drawn
        return (whole,)

    def _cut(self, layer: nn.Dropout, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        return output[self._shard.rows] if self._drops(layer) else output


@dataclass
class SharedUpdate(CodebookUpdate):
    """Lets a codebook see what all processes see: it moves like one, not at once, but when the step is settled."""

    group: ProcessGroup
    shard: Shard
    seen: list[tuple[VectorQuantiser, Tensor, Tensor]] = field(default_factory=list)

    def seed_rows(self, z: Tensor) -> Tensor:
        """Return the vectors of all processes."""
        return self.group.gather(z, self.shard)

    def move(self, layer: VectorQuantiser, rows: Tensor, ids: Tensor) -> None:
        """Remember what the layer saw until the step is settled."""
        self.seen.append((layer, rows, ids))

    def whole(self, rows: Tensor) -> Tensor:
        """Return the rows f32 (M, D) of all processes from this one's, in the order of the batch."""
        cells = len(rows) // len(range(*self.shard.rows.indices(self.shard.total)))
        return self.group.gather(rows.reshape(-1, cells, rows.shape[1]), self.shard).flatten(0, 1)


def begin_move(update: SharedUpdate, losses: Losses) -> Callable[[], Losses]:
    """Send all processes in one message what the codebooks saw and the ``losses``, while the step goes on.

    What is returned waits for it, moves the codebooks, and gives the mean of each loss over the processes. Every
    message that is waited for at once has all processes wait for the slowest. A share of 0 counts nothing.
    """
    group, seen = update.group, list(update.seen)
    tallies = [torch.cat([hits[:, None], total], dim=1) for hits, total in (one.tally(*rest) for one, *rest in seen)]
    parts = [value.detach().flatten().to(group.device, torch.float32) for value in losses.values()]
    parts += [tally.flatten() * bool(update.shard.share) for tally in tallies]
    sum_of = group.begin_sum(torch.cat(parts))

    def settle() -> Losses:
        sums = torch.split(sum_of(), [part.numel() for part in parts])
        for (layer, rows, _), part in zip(seen, sums[len(losses) :], strict=True):
            _move(update, layer, rows, part.view(len(layer.codebook), -1))
        means = zip(losses.items(), sums, strict=False)
        return {name: total.view_as(value) / group.size for (name, value), total in means}

    return settle


def _move(update: SharedUpdate, layer: VectorQuantiser, rows: Tensor, tally: Tensor) -> None:
    layer.follow(tally[:, 0], tally[:, 1:])
    if bool((dead := layer.dead()).any()):
        layer.revive(dead, update.whole(rows))


class _OwnShare(nn.Module):
    """How a recipe learns as a module, each value weighted so that the mean over the processes is the whole batch's."""

    def __init__(self, module: nn.Module, learn: Callable[[Any], Losses], group: ProcessGroup, shard: Shard) -> None:
        super().__init__()
        self.module, self.learn = module, learn
        self.weight = shard.share * group.size
        self.update = SharedUpdate(group, shard)

    def forward(self, batch: Any) -> Losses:
        self.update.seen.clear()  # of the step before
        losses = {name: value * self.weight for name, value in self.learn(batch).items()}
        self.move_means = begin_move(self.update, losses)
        return losses

    def settle(self, losses: Losses) -> Losses:
        return self.move_means()


class Step(NamedTuple):
    """How a step is done: ``learn`` from a batch, go backward, ``settle`` what the losses are."""

    learn: Callable[[Any], Losses]
    settle: Callable[[Losses], Losses]


@contextmanager
def shared(recipe: Any, group: ProcessGroup) -> Iterator[Step]:
    """Yield the recipe's own step, or in a group one that averages gradients and losses over the processes."""
    if group.size == 1:
        yield Step(recipe.learn, lambda losses: losses)
        return
    shard = group.shard(recipe.schedule.batch)
    own = _OwnShare(recipe.module, recipe.learn, group, shard)
    layers = list(recipe.module.modules())
    quantisers = [layer for layer in layers if isinstance(layer, VectorQuantiser)]
    dropouts = [SharedDropout(layer, shard) for layer in layers if isinstance(layer, nn.Dropout)]
    for layer in quantisers:
        layer.update = own.update
    try:
        with warnings.catch_warnings():
            # The name of 2.13 for what all versions allowed here know as broadcast_buffers.
            warnings.simplefilter("ignore", FutureWarning)
            learn = DistributedDataParallel(own, broadcast_buffers=False, gradient_as_bucket_view=True)
        yield Step(learn, own.settle)
    finally:
        for layer in quantisers:
            layer.update = CodebookUpdate()
        for dropout in dropouts:
            dropout.remove()
