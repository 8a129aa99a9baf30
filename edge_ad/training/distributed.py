"""One training over several processes: which of them this is, which rows of a batch are its own, what all of them know.

torchrun starts the processes (so does anything else that sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT). All draw the
same whole batch from the same generator and each learns from its own rows of it, so that the sum over the processes is
the step of one.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch import distributed as dist

from edge_ad.errors import BadInput, DeviceFault

PLACE = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
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
class Team:
    """The processes of one training. Every method but ``shard`` must be called by all of them; alone it costs nothing."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default=_CPU)

    @property
    def leads(self) -> bool:
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
        if self.leads:
            try:
                answer = ask()
            except BadInput as error:
                fault, answer = error, str(error).encode()
        refused, absent, length = self._told([fault is not None, answer is None, len(answer or b"")])
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
        found = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(found, own.contiguous())
        return found

    def _told(self, numbers: list[int]) -> list[int]:
        tensor = torch.tensor(numbers, dtype=torch.int64, device=self.device)
        dist.broadcast(tensor, src=0)
        return [int(number) for number in tensor]

    def _sent(self, data: bytes, length: int) -> bytes:
        own = data if self.leads else bytes(length)
        tensor = torch.frombuffer(bytearray(own), dtype=torch.uint8).to(self.device) if length else torch.empty(0)
        if length:
            dist.broadcast(tensor, src=0)
        return tensor.cpu().numpy().tobytes()


ALONE = Team()


def join() -> Team:
    """Return this process' place among those that were started together; ``ALONE`` where nothing says so.

    Processes with GPUs take one each and speak NCCL, others gloo. BadInput for more processes than GPUs.
    """
    if not all(name in os.environ for name in PLACE) or os.environ["WORLD_SIZE"] == "1":
        return ALONE
    if not dist.is_available():
        raise BadInput("this torch was built without torch.distributed: train in one process, or install another build")
    device = _own_gpu() if torch.cuda.is_available() else _CPU
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
        atexit.register(_leave)
    return Team(dist.get_rank(), dist.get_world_size(), device)


def leads() -> bool:
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
