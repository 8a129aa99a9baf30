"""How long a verdict stands: the rule of the guard, without clocks or wires."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from edge_ad.outputs.lines import Lines

Kind = Literal["verdict", "idle", "busy", "held", "alarm"]
KINDS: frozenset[str] = frozenset({"verdict", "idle", "busy", "held", "alarm"})
HEARTBEAT_S = 0.25


@dataclass(frozen=True)
class Message:
    """What the loop tells: ``at`` is the monotonic second at which it was true, on this machine."""

    kind: Kind
    at: float
    camera: int = 0
    verdict: str = ""
    passed: bool = False
    part: str = ""


@dataclass
class _Camera:
    alive_at: float | None = None
    verdict_at: float | None = None
    passed: bool = False
    verdict: str = ""
    busy: bool = False


@dataclass
class Hold:
    """Turns messages and the time into lines.

    A pass stands for ``hold_s`` seconds after its verdict at most, and falls at once when its camera sees no part or
    the next one. Any message keeps its camera alive for ``hold_s``. With several cameras all must be alive and pass.
    """

    hold_s: float
    cameras: int = 1
    alarm: bool = False
    alarm_waiting: bool = False
    alarm_number: int = 0
    sequence: int = 0
    part: str = ""
    verdict: str = ""
    _states: list[_Camera] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._states = [_Camera() for _ in range(self.cameras)]

    def take(self, message: Message) -> None:
        """Take in one message; one about a camera that does not exist changes nothing."""
        if not 0 <= message.camera < self.cameras or message.kind == "alarm":
            return
        state = self._states[message.camera]
        state.alive_at = message.at
        state.busy = message.kind == "busy"
        if message.kind == "verdict":
            state.verdict_at, state.passed, state.verdict = message.at, message.passed, message.verdict
            self.sequence = (self.sequence + 1) & 0xFFFF
            self.part, self.verdict = message.part, message.verdict
        elif message.kind in ("idle", "busy"):
            state.verdict_at = None

    def lamp(self, lit: bool, waiting: bool, number: int) -> None:
        """Set the alarm lines."""
        self.alarm, self.alarm_waiting, self.alarm_number = lit, waiting, number

    def lines(self, now: float) -> Lines:
        """Return what must stand on the lines at ``now``."""
        alive = all(self._fresh(state.alive_at, now) for state in self._states)
        valid = alive and all(self._fresh(state.verdict_at, now) for state in self._states)
        told_fault = any(self._fresh(s.verdict_at, now) and s.verdict == "NONE" for s in self._states)
        return Lines(
            passed=valid and all(state.passed for state in self._states),
            fault=not alive or told_fault,
            result_valid=valid,
            ready=alive,
            busy=alive and any(state.busy for state in self._states),
            alarm=self.alarm,
            alarm_waiting=self.alarm_waiting,
            heartbeat=alive and int(now / HEARTBEAT_S) % 2 == 1,
            verdict=self.verdict,
            sequence=self.sequence,
            alarm_number=self.alarm_number,
            part=self.part,
        )

    def next_change(self, now: float) -> float:
        """Return the seconds until the lines may change by themselves."""
        ends = [
            moment + self.hold_s - now
            for state in self._states
            for moment in (state.alive_at, state.verdict_at)
            if moment is not None and now - moment <= self.hold_s
        ]
        return max(0.0, min([HEARTBEAT_S - now % HEARTBEAT_S, *ends]))

    def _fresh(self, moment: float | None, now: float) -> bool:
        return moment is not None and now - moment <= self.hold_s
