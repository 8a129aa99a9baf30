"""Layers whose result depends on the whole batch, and the step of one process among several."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from edge_ad.models.vector_quantiser import VectorQuantiser
from edge_ad.training.distributed import Shard, Team

Learn = Callable[[Any], dict[str, Tensor]]


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
    """A codebook that sees what all processes see, so that it moves like one: not at once, but when `move` is called."""

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


def move(seen: list[tuple[SharedQuantiser, Tensor, Tensor]], team: Team) -> None:
    """Move codebooks by what all processes have ``seen``, told in one message since each one has them wait for each other.

    A share of 0 counts nothing. Forgets what was seen.
    """
    if not seen:
        return
    tallies = [torch.cat([hits[:, None], total], dim=1) for hits, total in (one.tally(*rest) for one, *rest in seen)]
    told = team.sum(torch.cat([tally.flatten() for tally in tallies]) * bool(seen[0][0].shard.share))
    for (layer, rows, _), part in zip(seen, torch.split(told, [tally.numel() for tally in tallies]), strict=True):
        both = part.view(len(layer.codebook), -1)
        layer.follow(both[:, 0], both[:, 1:])
        if bool((dead := layer.dead()).any()):
            layer.revive(dead, layer.whole(rows))
    seen.clear()


_SHARED: dict[type[nn.Module], type[nn.Module]] = {nn.Dropout: SharedDropout, VectorQuantiser: SharedQuantiser}


class _OwnShare(nn.Module):
    """How a recipe learns as a module, each value weighted so that the mean over the processes is the whole batch's."""

    def __init__(self, module: nn.Module, learn: Learn, team: Team, shard: Shard) -> None:
        super().__init__()
        self.module, self.learn, self.team = module, learn, team
        self.weight = shard.share * team.size
        self.seen: list[tuple[SharedQuantiser, Tensor, Tensor]] = []

    def forward(self, batch: Any) -> dict[str, Tensor]:
        self.seen.clear()  # of a step that failed
        losses = {name: value * self.weight for name, value in self.learn(batch).items()}
        move(self.seen, self.team)
        return losses


@contextmanager
def shared(recipe: Any, team: Team) -> Iterator[Learn]:
    """Yield what learns from a batch: the recipe itself, or in a team what averages gradients over the processes."""
    if team.size == 1:
        yield recipe.learn
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
        yield learn
    finally:
        for layer, kind in changed:
            if isinstance(layer, SharedQuantiser):
                del layer.seen
            layer.__class__ = kind
            del layer.team, layer.shard
