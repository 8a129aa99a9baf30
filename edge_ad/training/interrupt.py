"""Ctrl-C and SIGTERM between two steps, never inside one: codebooks move in the forward pass, so half a step cannot be repeated."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from edge_ad.training.distributed import ALONE, Team


@contextmanager
def held_back(team: Team = ALONE) -> Iterator[Callable[[], None]]:
    """Hold Ctrl-C and SIGTERM back and yield a function that raises KeyboardInterrupt if one came to any of the team.

    A second Ctrl-C raises at once, unless there is a team: torchrun passes on a signal that its processes had already.
    Outside the main thread, where Python delivers no signal, nothing is held back.
    """
    came = False
    asked: Callable[[], bool] = lambda: False  # noqa: E731 -- nobody has asked yet

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal came
        if came and number == signal.SIGINT and team.size == 1:
            raise KeyboardInterrupt
        came = True

    def check(last: bool = False) -> None:
        nonlocal asked
        before, asked = asked, team.begin_any(came)
        # A team learns the answer a step later, so that nobody waits for it.
        if (asked if team.size == 1 or last else before)():
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
