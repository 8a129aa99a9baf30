"""Layers whose result depends on the whole batch, and the step of one process among several."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from edge_ad.models.vector_quantiser import VectorQuantiser
from edge_ad.training.distributed import Shard, Team

Losses = dict[str, Tensor]


class SharedDropout(nn.Dropout):
    """Dropout that draws for the whole batch and keeps its own rows, so that the draws are those of one process."""

    team: Team
    shard: Shard

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements of this process' rows."""
        if not self.training or self.p == 0.0:
            return x
        if len(x) != len(range(*self.shard.rows.indices(self.shard.total))):
            raise ValueError(f"a batch of {len(x)} rows reached a dropout that expects {self.shard.rows}")
        ones = torch.ones(self.shard.total, *x.shape[1:], dtype=x.dtype, device=x.device)
        if x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
            ones = ones.contiguous(memory_format=torch.channels_last)  # the order in which numbers are drawn
        return x * F.dropout(ones, self.p)[self.shard.rows]


class SharedQuantiser(VectorQuantiser):
    """A codebook that sees what all processes see, so that it moves like one: not at once, but when the step is settled."""

    team: Team
    shard: Shard
    seen: list[tuple[SharedQuantiser, Tensor, Tensor]]

    def _seed(self, z: Tensor) -> None:
        super()._seed(self.team.gather(z, self.shard))

    def _move(self, rows: Tensor, ids: Tensor) -> None:
        self.seen.append((self, rows, ids))

    def whole(self, rows: Tensor) -> Tensor:
        """Return the rows f32 (M, D) of all processes from this one's, in the order of the batch."""
        cells = len(rows) // len(range(*self.shard.rows.indices(self.shard.total)))
        return self.team.gather(rows.reshape(-1, cells, rows.shape[1]), self.shard).flatten(0, 1)


def begin_move(seen: list[tuple[SharedQuantiser, Tensor, Tensor]], losses: Losses, team: Team) -> Callable[[], Losses]:
    """Tell all processes in one message what codebooks have ``seen`` and the ``losses``, while the step goes on.

    What is returned waits for it, moves the codebooks, and gives the mean of each loss over the processes. Every message that
    is waited for at once has all processes wait for the slowest. A share of 0 counts nothing.
    """
    tallies = [torch.cat([hits[:, None], total], dim=1) for hits, total in (one.tally(*rest) for one, *rest in seen)]
    rows_count = bool(seen and seen[0][0].shard.share)
    parts = [value.detach().flatten().to(team.device, torch.float32) for value in losses.values()]
    parts += [tally.flatten() * rows_count for tally in tallies]
    sum_of = team.begin_sum(torch.cat(parts))

    def settle() -> Losses:
        told = torch.split(sum_of(), [part.numel() for part in parts])
        _move(seen, told[len(losses) :])
        means = zip(losses.items(), told, strict=False)
        return {name: total.view_as(value) / team.size for (name, value), total in means}

    return settle


def _move(seen: list[tuple[SharedQuantiser, Tensor, Tensor]], told: Sequence[Tensor]) -> None:
    for (layer, rows, _), part in zip(seen, told, strict=True):
        both = part.view(len(layer.codebook), -1)
        layer.follow(both[:, 0], both[:, 1:])
        if bool((dead := layer.dead()).any()):
            layer.revive(dead, layer.whole(rows))


_SHARED: dict[type[nn.Module], type[nn.Module]] = {nn.Dropout: SharedDropout, VectorQuantiser: SharedQuantiser}


class _OwnShare(nn.Module):
    """How a recipe learns as a module, each value weighted so that the mean over the processes is the whole batch's."""

    def __init__(self, module: nn.Module, learn: Callable[[Any], Losses], team: Team, shard: Shard) -> None:
        super().__init__()
        self.module, self.learn, self.team = module, learn, team
        self.weight = shard.share * team.size
        self.seen: list[tuple[SharedQuantiser, Tensor, Tensor]] = []

    def forward(self, batch: Any) -> Losses:
        self.seen.clear()  # of the step before
        losses = {name: value * self.weight for name, value in self.learn(batch).items()}
        self.told = begin_move(self.seen, losses, self.team)
        return losses

    def settle(self, losses: Losses) -> Losses:
        return self.told()


class Step(NamedTuple):
    """How a step is done: ``learn`` from a batch, go backward, ``settle`` what the losses are."""

    learn: Callable[[Any], Losses]
    settle: Callable[[Losses], Losses]


@contextmanager
def shared(recipe: Any, team: Team) -> Iterator[Step]:
    """Yield the recipe's own step, or in a team one that averages gradients and losses over the processes."""
    if team.size == 1:
        yield Step(recipe.learn, lambda losses: losses)
        return
    shard = team.shard(recipe.schedule.batch)
    changed = [(layer, type(layer)) for layer in recipe.module.modules() if type(layer) in _SHARED]
    own = _OwnShare(recipe.module, recipe.learn, team, shard)
    for layer, kind in changed:
        layer.__class__ = _SHARED[kind]
        layer.team, layer.shard = team, shard
        if isinstance(layer, SharedQuantiser):
            layer.seen = own.seen
    try:
        with warnings.catch_warnings():
            # The name of 2.13 for what all versions allowed here know as broadcast_buffers.
            warnings.simplefilter("ignore", FutureWarning)
            learn = DistributedDataParallel(own, broadcast_buffers=False, gradient_as_bucket_view=True)
        yield Step(learn, own.settle)
    finally:
        for layer, kind in changed:
            if isinstance(layer, SharedQuantiser):
                del layer.seen
            layer.__class__ = kind
            del layer.team, layer.shard
