"""The mailbox of a triggered line: in order, each part once, late ones told."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_ad.camera.frames import BadFrame, End, Frame
from edge_ad.camera.mailbox import MAX_WAITING, Delivery, Mailbox

PICTURE = np.zeros((2, 2, 3), np.uint8)


def called(index: int, age_s: float = 0.0) -> Frame:
    return Frame(PICTURE, index, time.monotonic() - age_s, 0.0, "cam", f"part {index}")


def taken(mailbox: Mailbox) -> list[Frame | BadFrame]:
    results = []
    while isinstance(item := mailbox.take(), Delivery):
        results.append(item.frame)
    return results


def test_frames_come_out_in_order_with_their_parts() -> None:
    mailbox = Mailbox(freshest=False, deadline_s=60.0)
    for index in range(5):
        assert mailbox.put(called(index))
    assert [(frame.index, frame.part) for frame in taken(mailbox)] == [(i, f"part {i}") for i in range(5)]
    assert (mailbox.captured, mailbox.overwritten, mailbox.lost) == (5, 0, 0)


def test_a_frame_beyond_its_deadline_is_late_and_keeps_its_part() -> None:
    mailbox = Mailbox(freshest=True, deadline_s=1.0)
    assert not mailbox.freshest, "a triggered line drops nothing"
    mailbox.put(called(0, age_s=2.0))
    mailbox.put(called(1))
    late, fresh = taken(mailbox)
    assert isinstance(late, BadFrame)
    assert late.reason.startswith("late: ")
    assert (late.index, late.part) == (0, "part 0")
    assert isinstance(fresh, Frame)


def test_without_room_the_oldest_picture_goes_but_not_its_part() -> None:
    mailbox = Mailbox(freshest=False, deadline_s=60.0, depth=3)
    for index in range(7):
        mailbox.put(called(index))
    result = taken(mailbox)
    assert [frame.part for frame in result] == [f"part {index}" for index in range(7)]
    assert [isinstance(frame, Frame) for frame in result] == [False] * 4 + [True] * 3


def test_memory_is_bounded_even_if_nobody_takes() -> None:
    mailbox = Mailbox(freshest=False, deadline_s=60.0, depth=2)
    for index in range(MAX_WAITING + 100):
        mailbox.put(called(index))
    mailbox.finish(End())
    result = taken(mailbox)
    assert len(result) == MAX_WAITING
    assert mailbox.overwritten == 100
    assert mailbox.captured == len(result) + mailbox.overwritten


@pytest.mark.parametrize(("freshest", "deadline_s"), [(True, None), (False, None), (False, 60.0)])
def test_the_same_frame_never_comes_out_twice(freshest: bool, deadline_s: float | None) -> None:
    mailbox = Mailbox(freshest, deadline_s=deadline_s)
    indices = []
    for index in (0, 0, 1, 1, 0, 3, 2, 4):
        mailbox.put(called(index))
        indices += [frame.index for frame in taken(mailbox)]
    assert indices == [0, 1, 3, 4]
    assert (mailbox.captured, mailbox.overwritten, mailbox.lost) == (8, 4, 1)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=60), st.sampled_from([None, 60.0]))
def test_every_frame_is_accounted_for_and_order_holds(steps: list[tuple[bool, int]], deadline_s: float | None) -> None:
    mailbox = Mailbox(freshest=True, deadline_s=deadline_s, depth=3)
    index, seen = 0, []
    for take, gap in steps:
        if take:
            item = mailbox.take()
            seen += [item.frame.index] if isinstance(item, Delivery) else []
        else:
            index += gap
            mailbox.put(called(index))
            index += 1
    waiting = [frame.index for frame in taken(mailbox)]
    assert seen + waiting == sorted(set(seen + waiting))
    assert mailbox.captured == len(seen) + len(waiting) + mailbox.overwritten
    assert mailbox.captured + mailbox.lost == index


def test_discard_keeps_the_account() -> None:
    mailbox = Mailbox(freshest=False, deadline_s=60.0)
    for index in range(3):
        mailbox.put(called(index))
    mailbox.discard()
    assert taken(mailbox) == []
    assert (mailbox.captured, mailbox.overwritten) == (3, 3)
