"""When the lamp goes on and when it goes off: the alarm of one camera as a pure state machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, Literal

from edge_ad.config import AlarmTable
from edge_ad.errors import BadInput
from edge_ad.events import Verdict

Phase = Literal["quiet", "pending", "alarm", "acknowledged", "latched", "held"]
PHASES: tuple[Phase, ...] = ("quiet", "pending", "alarm", "acknowledged", "latched", "held")
LIT: frozenset[Phase] = frozenset({"alarm", "acknowledged", "latched", "held"})

# What one part says: it speaks for an alarm, for its end, or for neither (hysteresis).
Sign = Literal["bad", "between", "clear"]


def raise_counts(rule: AlarmTable) -> tuple[int, int]:
    """Return N and M of ``raise_parts``; BadInput unless 1 <= N <= M <= 1000."""
    count, _, of = rule.raise_parts.partition("/")
    if not 1 <= int(count) <= int(of) <= 1000:
        raise BadInput(f"alarm raise is {rule.raise_parts}: write N/M with 1 <= N <= M <= 1000")
    return int(count), int(of)


def rejects(rule: AlarmTable, verdict: Verdict) -> bool:
    """Whether a part with this verdict is to be rejected."""
    return verdict in ("NG", "NONE") or (verdict == "WARN" and rule.warn_rejects)


def sign_of(rule: AlarmTable, verdict: Verdict, score: float | None) -> Sign:
    """Return what a part says."""
    if rejects(rule, verdict):
        return "bad"
    low = rule.clear_below is None or (score is not None and score <= rule.clear_below)
    return "clear" if verdict == "OK" and low else "between"


@dataclass(frozen=True)
class AlarmState:
    """Where an alarm stands.

    quiet: nothing. pending: bad parts, too few. alarm: lit, not acknowledged, cause there. acknowledged: lit, cause
    there. latched: lit, cause gone, acknowledge missing. held: lit for the minimum on-time only. ``number`` counts
    alarms and names the last one, ``recent`` the bad flags of the last parts, ``streak`` clear parts in a row,
    ``lit_at`` the monotonic second of the last alarm.
    """

    phase: Phase = "quiet"
    number: int = 0
    recent: tuple[bool, ...] = ()
    streak: int = 0
    _: KW_ONLY
    lit_at: float = 0.0

    @property
    def lit(self) -> bool:
        """Whether the lamp is on."""
        return self.phase in LIT

    @property
    def waiting(self) -> bool:
        """Whether somebody must acknowledge."""
        return self.phase in ("alarm", "latched")

    def to_json(self) -> dict[str, Any]:
        """Return what must survive a restart; a monotonic time does not."""
        return {"phase": self.phase, "number": self.number, "recent": list(self.recent), "streak": self.streak}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], now: float) -> AlarmState:
        """Build from ``to_json`` of an earlier process: a lit alarm begins its minimum on-time again."""
        try:
            phase, number, streak = value["phase"], int(value["number"]), int(value["streak"])
            recent = tuple(bool(flag) for flag in value["recent"])
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(
                f"the stored alarm {value!r:.120} cannot be read; delete it from the table `latch`"
            ) from error
        if phase not in PHASES:
            raise BadInput(f"the stored alarm has the unknown phase {phase!r}; allowed are {', '.join(PHASES)}")
        return cls(phase, number, recent, streak, lit_at=now)


def on_part(state: AlarmState, rule: AlarmTable, sign: Sign, now: float, *, number: int | None = None) -> AlarmState:
    """Return the state after one part. ``number`` is the one a new alarm gets (default: the next)."""
    raise_n, raise_m = raise_counts(rule)
    recent = (*state.recent, sign == "bad")[-raise_m:]
    streak = state.streak + 1 if sign == "clear" else 0 if sign == "bad" else state.streak
    state = replace(state, recent=recent, streak=streak)
    if sign == "bad" and sum(recent) >= raise_n:
        return _raised(state, now, state.number + 1 if number is None else number)
    if state.phase in ("quiet", "pending"):
        return replace(state, phase="pending" if any(recent) else "quiet")
    if state.phase in ("alarm", "acknowledged") and streak >= rule.clear_after:
        waits = state.phase == "alarm" and rule.latch
        state = replace(state, phase="latched" if waits else "held", recent=())
    return on_time(state, rule, now)


def on_acknowledge(state: AlarmState, rule: AlarmTable, number: int, now: float) -> AlarmState:
    """Return the state after somebody acknowledged all alarms up to ``number``; a newer one is not touched.

    The parts that raised the alarm are forgotten: what is bad from now on counts towards a new alarm.
    """
    if not state.waiting or number < state.number:
        return state
    phase: Phase = "acknowledged" if state.phase == "alarm" else "held"
    return on_time(replace(state, phase=phase, recent=()), rule, now)


def on_time(state: AlarmState, rule: AlarmTable, now: float) -> AlarmState:
    """Return the state at ``now``: an alarm that is only held goes out after its minimum on-time."""
    if state.phase == "held" and now - state.lit_at >= rule.min_on_s:
        return replace(state, phase="pending" if any(state.recent) else "quiet")
    return state


def _raised(state: AlarmState, now: float, number: int) -> AlarmState:
    """An alarm that is lit and not acknowledged goes on; everywhere else this is a new one."""
    if state.phase == "alarm":
        return state
    return replace(state, phase="alarm", number=number, streak=0, lit_at=now)
