"""Splits: disjoint, complete, seeded, and near-duplicates never on two sides."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edge_ad.data.datasets import split_all, split_groups, split_training


def _singles(count: int) -> list[list[Path]]:
    return [[Path(f"{index:04}")] for index in range(count)]


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(10, (6, 2, 2)), (20, (14, 3, 3)), (100, (70, 15, 15)), (209, (147, 31, 31))],
)
def test_sizes_of_a_whole_split(count: int, sizes: tuple[int, int, int]) -> None:
    split = split_all(_singles(count), seed=0)
    assert (len(split.fit), len(split.normalise), len(split.threshold)) == sizes


def test_a_given_threshold_set_stays_as_it_is() -> None:
    own = [Path("v2"), Path("v1")]
    split = split_training(_singles(100), own, seed=0)
    assert split.threshold == (Path("v1"), Path("v2"))
    assert len(split.normalise) == 12
    assert len(split.fit) == 88


def test_the_seed_decides() -> None:
    first, again, other = (split_all(_singles(60), seed) for seed in (1, 1, 2))
    assert first == again
    assert first.fit != other.fit


GROUPS = st.lists(st.integers(1, 6), min_size=4, max_size=40)


@settings(deadline=None)
@given(GROUPS, st.lists(st.integers(0, 4), min_size=1, max_size=3), st.integers(0, 5))
def test_every_item_is_dealt_once_and_no_group_is_torn(sizes: list[int], wanted: list[int], seed: int) -> None:
    numbers = iter(range(1000))
    groups = [[next(numbers) for _ in range(size)] for size in sizes]
    assume(len(groups) > sum(wanted) + len(wanted))  # enough groups for every list
    dealt = split_groups(groups, wanted, seed)
    assert len(dealt) == len(wanted) + 1
    assert sorted(item for part in dealt for item in part) == list(range(sum(sizes)))
    for group in groups:
        assert sum(bool(set(group) & set(part)) for part in dealt) == 1


@settings(deadline=None)
@given(GROUPS, st.integers(0, 5))
def test_no_part_that_is_wanted_stays_empty(sizes: list[int], seed: int) -> None:
    numbers = iter(range(1000))
    groups = [[next(numbers) for _ in range(size)] for size in sizes]
    assert all(split_groups(groups, [2, 2], seed)[1:])


def test_too_few_groups_are_dealt_singly() -> None:
    rest, first, second = split_groups([list(range(12))], [2, 3], seed=0)
    assert (len(rest), len(first), len(second)) == (7, 2, 3)


def test_one_group_that_holds_nearly_all_is_dealt_singly() -> None:
    for seed in range(5):
        sizes = [len(part) for part in split_groups([list(range(8)), [8], [9]], [2, 2], seed)]
        assert sizes == [6, 2, 2]
