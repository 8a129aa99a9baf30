"""The seeded split of the good parts: what is fitted, what normalises and weighs, and what sets the threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

MIN_NORMAL_IMAGES = 10
"""Fewer normal images than this are refused: no part of the split would say anything."""

SHARES = (0.70, 0.15, 0.15)
"""Shares of fit, normalise and threshold where a folder brings no split of its own."""

HELD_BACK = 0.12
"""Share of the training normal images held back for normalising where the folder brings its own validation normal images."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class NormalSplit:
    """Three disjoint sets of good images.

    ``fit`` trains; ``normalise`` gives mean, standard deviation, weights and the moment to stop; ``threshold`` takes
    part in nothing before the thresholds are set.
    """

    fit: tuple[Path, ...]
    normalise: tuple[Path, ...]
    threshold: tuple[Path, ...]


def split_groups(groups: Sequence[Sequence[Item]], wanted: Sequence[int], seed: int) -> tuple[list[Item], ...]:
    """Deal ``groups`` out, seeded, into len(wanted) + 1 lists: first the rest, then one list for each wanted size.

    No group is torn. A group too large for what a list still wants goes to the rest; a list that stays empty that way
    gets the smallest group of the rest, as long as the rest keeps one. Where the groups do not suffice for all lists,
    their items are dealt singly, because a split is needed more than its purity.
    """
    order = np.random.default_rng(seed).permutation(len(groups))
    dealt: list[list[Sequence[Item]]] = [[] for _ in wanted]
    rest: list[Sequence[Item]] = []
    for index in order:
        group = groups[int(index)]
        fitting = (k for k, size in enumerate(wanted) if _count(dealt[k]) + len(group) <= size)
        target = next(fitting, None)
        (rest if target is None else dealt[target]).append(group)
    for k, size in enumerate(wanted):
        if size > 0 and not dealt[k] and len(rest) > 1:
            smallest = min(rest, key=len)
            rest.remove(smallest)
            dealt[k].append(smallest)
    if any(size > 0 and not part for size, part in zip(wanted, dealt, strict=True)) and max(map(len, groups)) > 1:
        return split_groups([[item] for group in groups for item in group], wanted, seed)
    return tuple([item for group in part for item in group] for part in [rest, *dealt])


def split_all(groups: Sequence[Sequence[Path]], seed: int) -> NormalSplit:
    """Return a seeded split of all normal images by SHARES (at least 2 in each small part), near-duplicate groups kept
    whole.
    """
    count = _count(groups)
    wanted = [max(2, round(share * count)) for share in SHARES[1:]]
    fit, normalise, threshold = split_groups(groups, wanted, seed)
    return _sorted_split(fit, normalise, threshold)


def split_training(groups: Sequence[Sequence[Path]], threshold: Sequence[Path], seed: int) -> NormalSplit:
    """Return a split whose ``threshold`` is given and whose ``normalise`` is HELD_BACK of the training normal images
    (at least 2).
    """
    fit, normalise = split_groups(groups, [max(2, round(HELD_BACK * _count(groups)))], seed)
    return _sorted_split(fit, normalise, threshold)


def _count(groups: Sequence[Sequence[Item]]) -> int:
    return sum(len(group) for group in groups)


def _sorted_split(fit: Sequence[Path], normalise: Sequence[Path], threshold: Sequence[Path]) -> NormalSplit:
    return NormalSplit(tuple(sorted(fit)), tuple(sorted(normalise)), tuple(sorted(threshold)))
