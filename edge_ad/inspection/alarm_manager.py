"""From verdicts to the outputs: alarms, acknowledges, and what the guard is told."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from edge_ad.camera.frames import Source
from edge_ad.config import AlarmTable
from edge_ad.inspection.alarm import AlarmState, on_acknowledge, on_part, on_time, rejects, sign_of
from edge_ad.inspection.judge import InspectionResult, is_of_change, worst_result
from edge_ad.inspection.observers import Observer
from edge_ad.inspection.part_tracking import CycleState
from edge_ad.outputs.guard_state import EVERY_CAMERA, Message

if TYPE_CHECKING:
    from edge_ad.inspection.products import Product

SaveAlarmState = Callable[[str, Mapping[str, Any]], None]


class OutputGuard(Protocol):
    """What the alarm manager needs of a guard."""

    def send(self, message: Message) -> None:
        """Tell something about a camera."""

    def lamp(self, lit: bool, waiting: bool, number: int) -> None:
        """Tell how the alarm stands."""

    def check(self) -> None:
        """Raise DeviceFault when the outputs cannot be held any more."""


class AlarmManager(Observer):
    """Sits first in the order of effects: the outputs get every verdict straight from memory.

    Each camera has an alarm of its own; the lamp is on while any of them is lit. Alarms are numbered over all cameras,
    so that an acknowledge of number n touches none that came later. A part that came during a change of product
    is rejected, and says nothing for or against an alarm. ``latches`` are the states of an earlier process by
    camera, ``save`` is called with each change of one. While ``withheld`` gives a reason nothing passes. While ``paused``
    nothing passes either, and no part raises an alarm or ends one: what stood stands, and an acknowledge counts.
    ``on_sent`` is called with every verdict and the second at which it went out.
    """

    def __init__(
        self,
        cameras: Sequence[str],
        rule: AlarmTable,
        guard: OutputGuard | None,
        *,
        latches: Mapping[str, Mapping[str, Any]] | None = None,
        save: SaveAlarmState | None = None,
        clock: Callable[[], float] = time.monotonic,
        withheld: Callable[[], str | None] = lambda: None,
        paused: Callable[[], bool] = lambda: False,
        on_sent: Callable[[InspectionResult, float], None] = lambda result, at: None,
    ) -> None:
        self._on_sent = on_sent
        self._paused = paused
        self._withheld = withheld
        self._rule = rule
        self._guard = guard
        self._save = save
        self._clock = clock
        self._indices = {name: index for index, name in enumerate(cameras)}
        known = latches or {}
        self.states = {
            name: AlarmState.from_json(known[name], clock()) if name in known else AlarmState() for name in cameras
        }
        self.number = max((state.number for state in self.states.values()), default=0)
        self._acknowledged: deque[int] = deque()
        self._lamp: tuple[bool, bool, int] | None = None
        self._show()

    @property
    def lit(self) -> bool:
        """Whether any alarm is lit."""
        return any(state.lit for state in self.states.values())

    def acknowledge(self, number: int) -> None:
        """All alarms up to ``number`` were seen; from any thread, done with the next tick."""
        self._acknowledged.append(number)

    def on_results(self, results: Sequence[InspectionResult], source: Source) -> None:
        """Bring out the worst verdict: an output has one place for a frame, whatever lies in it."""
        self.on_result(worst_result(results), source)

    def on_result(self, result: InspectionResult, source: Source) -> None:
        """Bring out a verdict, then what it means for the alarm."""
        event, now, paused = result.event, self._clock(), self._paused()
        name = next(iter(self.states)) if result.views else source.name  # a part of several cameras has one alarm
        if self._guard is not None:
            passed = not (rejects(self._rule, event.verdict) or paused) and self._withheld() is None
            index = EVERY_CAMERA if result.views else self._indices[name]
            self._guard.send(
                Message("verdict", now, index, event.verdict, passed, event.part or "", result.called_at)
            )
        self._on_sent(result, now)
        if paused or is_of_change(event.reason):
            return
        sign = sign_of(self._rule, event.verdict, event.score)
        self._set(name, on_part(self.states[name], self._rule, sign, now, number=self.number + 1))
        for other, state in list(self.states.items()) if result.views else ():
            if other != name and state.phase != "quiet":  # an outage of that view raised it, and parts end it
                self._set(other, replace(state, streak=0) if sign == "bad" else on_part(state, self._rule, sign, now))

    def on_cycle(self, camera: str, state: CycleState) -> None:
        """Tell that a camera sees frames but nothing to judge."""
        if self._guard is not None:
            self._guard.send(Message(state, self._clock(), self._indices[camera]))

    def on_product(self, product: Product) -> None:
        """Follow the alarm rule of another product; alarms go on."""
        self._rule = product.settings.alarm

    def on_tick(self) -> None:
        """Let time pass and take in acknowledges; DeviceFault when the outputs cannot be held any more."""
        if self._guard is not None:
            self._guard.check()
        now = self._clock()
        while self._acknowledged:
            number = self._acknowledged.popleft()
            for name, state in self.states.items():
                self._set(name, on_acknowledge(state, self._rule, number, now))
        for name, state in self.states.items():
            self._set(name, on_time(state, self._rule, now))

    def close(self) -> None:
        """The guard is closed by whom it belongs to."""

    def _set(self, camera: str, state: AlarmState) -> None:
        before = self.states[camera]
        if state == before:
            return
        self.states[camera] = state
        self.number = max(self.number, state.number)
        if self._save is not None:
            self._save(camera, state.to_json())
        if (state.phase, state.number) != (before.phase, before.number):
            self._show()

    def _show(self) -> None:
        lamp = (self.lit, any(state.waiting for state in self.states.values()), self.number)
        if self._guard is not None and lamp != self._lamp:
            self._guard.lamp(*lamp)
        self._lamp = lamp
