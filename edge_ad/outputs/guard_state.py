"""How long a verdict stands: the rule of the guard, without clocks or wires."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from edge_ad.outputs.signals import PRODUCT_STATES, OutputSignals

Kind = Literal["verdict", "idle", "busy", "held", "alarm"]
KINDS: frozenset[str] = frozenset({"verdict", "idle", "busy", "held", "alarm"})
HEARTBEAT_S = 0.25
EVERY_CAMERA = -1  # of a verdict on a part that all cameras saw


@dataclass(frozen=True)
class Message:
    """What the loop tells: ``at`` is the monotonic second at which it was true, on this machine.

    ``call``: the monotonic second of the trigger that called for the part of a verdict, None without a trigger.
    """

    kind: Kind
    at: float
    camera: int = 0
    verdict: str = ""
    passed: bool = False
    part: str = ""
    call: float | None = None


@dataclass
class _Camera:
    alive_at: float | None = None
    verdict_at: float | None = None
    fault_at: float | None = None
    passed: bool = False
    busy: bool = False
    answered: float | None = None  # the call that the last verdict answers


@dataclass
class GuardState:
    """Turns messages, triggers and the time into lines.

    A pass stands for ``hold_s`` seconds after its verdict at most, and falls at once when its camera sees no part or
    the next one. Any message keeps its camera alive for ``hold_s``. With several cameras all must be alive and pass.

    Where a trigger calls for parts (``calls``), the call takes back whatever stands, and only a verdict on the latest
    call counts: one on an earlier call is too late, whatever it says.

    While the line is ``paused`` nothing is ready, valid or passes, and nothing is a fault but silence; alarm and heartbeat
    go on. What stood when a pause begins or ends is taken back.

    Where the station has products nothing passes but while one is active and no request of a PLC is open: what was judged
    before a change is about another product.
    """

    hold_s: float
    cameras: int = 1
    calls: bool = False
    alarm: bool = False
    alarm_waiting: bool = False
    alarm_number: int = 0
    sequence: int = 0
    part: str = ""
    verdict: str = ""
    superseded: int = 0
    call: float | None = None
    level: bool = False  # whether the trigger line is still up
    paused: bool = False
    challenge: bool = False
    locked: bool = False
    sent_at: float = 0.0  # of the last verdict
    product: int = 0
    product_state: str = ""
    asked: int = 0  # the number of the last request for a product
    answered: int = 0
    _states: list[_Camera] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._states = [_Camera() for _ in range(self.cameras)]

    def take(self, message: Message) -> None:
        """Take in one message; one about a camera that does not exist changes nothing."""
        if message.camera == EVERY_CAMERA and message.kind == "verdict":
            for state in self._states:
                state.alive_at, state.busy = message.at, False
            self._verdict(self._states, message)
            return
        if not 0 <= message.camera < self.cameras or message.kind == "alarm":
            return
        state = self._states[message.camera]
        state.alive_at = message.at
        state.busy = message.kind == "busy"
        if message.kind == "verdict":
            self._verdict([state], message)
        elif message.kind in ("idle", "busy"):
            state.verdict_at = state.fault_at = None

    def trigger(self, at: float) -> None:
        """A part was called for: nothing that stands is about it. An older call than the last one changes nothing."""
        if self.call is not None and at <= self.call:
            return
        self.call = at
        self._take_back()

    def forget(self) -> None:
        """Whether a part was called for is not known any more: nothing passes before the next call."""
        self.call = None
        self._take_back()

    def pause(self, paused: bool) -> None:
        """Begin or end a pause: a call from before it is answered by nothing that comes after it."""
        if paused != self.paused:
            self.paused = paused
            self.forget()

    def ask_product(self, number: int) -> None:
        """A PLC asks for a product: nothing passes before the request of this number is answered."""
        self.asked = number
        self._take_back()

    def show_product(self, code: int, state: str, answered: int) -> None:
        """Take in which product is judged, and the last request that this answers."""
        if (code, state) != (self.product, self.product_state) or self.changing:
            self._take_back()
        self.product, self.product_state, self.answered = code, state, max(answered, self.answered)

    @property
    def changing(self) -> bool:
        """Whether a PLC waits for the product that it asked for."""
        return self.product_state != "" and self.asked > self.answered

    def lamp(self, lit: bool, waiting: bool, number: int) -> None:
        """Set the alarm lines."""
        self.alarm, self.alarm_waiting, self.alarm_number = lit, waiting, number

    def signals(self, now: float) -> OutputSignals:
        """Return what must stand on the lines at ``now``."""
        state = "changing" if self.changing else self.product_state
        code = self.product if state == "active" else 0
        return replace(self._signals(now), product=code, product_state=PRODUCT_STATES[state])

    def _signals(self, now: float) -> OutputSignals:
        alive = all(self._fresh(state.alive_at, now) for state in self._states)
        standing = OutputSignals(
            alarm=self.alarm,
            alarm_waiting=self.alarm_waiting,
            heartbeat=alive and int(now / HEARTBEAT_S) % 2 == 1,
            verdict=self.verdict,
            sequence=self.sequence,
            alarm_number=self.alarm_number,
            part=self.part,
            challenge=self.challenge,
            locked=self.locked,
        )
        if self.paused:
            return replace(standing, fault=not alive, paused=True)
        valid = alive and all(self._fresh(state.verdict_at, now) for state in self._states)
        told_fault = any(self._fresh(state.fault_at, now) for state in self._states)
        pending = self.calls and self.call is not None and any(s.answered != self.call for s in self._states)
        return replace(
            standing,
            passed=valid and not self.locked and self._is_chosen() and all(state.passed for state in self._states),
            fault=not alive or told_fault,
            result_valid=valid,
            ready=alive,
            busy=alive and (pending or any(state.busy for state in self._states)),
            strobe=valid and self.calls and self.level,
            sent_at=self.sent_at,
        )

    def _is_chosen(self) -> bool:
        return self.product_state in ("", "active") and not self.changing

    def next_change(self, now: float) -> float:
        """Return the seconds until the lines may change by themselves."""
        ends = [
            moment + self.hold_s - now
            for state in self._states
            for moment in (state.alive_at, state.verdict_at, state.fault_at)
            if self._fresh(moment, now) and moment is not None
        ]
        return max(0.0, min([HEARTBEAT_S - now % HEARTBEAT_S, *ends]))

    def _verdict(self, states: Sequence[_Camera], message: Message) -> None:
        """Take in one verdict, on what these cameras saw."""
        if self.calls and (self.call is None or message.call != self.call):
            self.superseded += message.call is not None
            for state in states:
                if message.call is None and not message.passed:  # a camera at fault, whatever part is in place
                    state.verdict_at, state.fault_at = None, message.at
            return
        passed = message.passed and self._is_chosen()
        for state in states:
            state.verdict_at, state.passed, state.answered = message.at, passed, message.call
            state.fault_at = message.at if message.verdict == "NONE" else None
        self.sequence = (self.sequence + 1) & 0xFFFF
        self.part, self.verdict, self.sent_at = message.part, message.verdict, message.at

    def _take_back(self) -> None:
        for state in self._states:
            state.verdict_at, state.passed, state.answered = None, False, None

    def _fresh(self, moment: float | None, now: float) -> bool:
        # A moment to come would never grow old.
        return moment is not None and 0.0 <= now - moment <= self.hold_s
