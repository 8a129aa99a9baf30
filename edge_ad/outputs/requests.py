"""What a PLC asks of the inspector: to judge a part, to acknowledge an alarm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge_ad.outputs.lines import registers_text

ACKNOWLEDGE_BIT, TRIGGER_BIT = 16, 17
REQUEST_BITS = (ACKNOWLEDGE_BIT, TRIGGER_BIT)
PART_ADDRESS = 32  # sixteen registers with the id of the part to judge
PART_COUNT = 16


@dataclass(frozen=True)
class Acknowledge:
    """All alarms up to this number were seen."""

    number: int


@dataclass(frozen=True)
class Trigger:
    """A part is in place; its id may be empty. ``at``: the monotonic second of the edge, None for now."""

    part: str
    at: float | None = None


@dataclass(frozen=True)
class Released:
    """The trigger line fell."""


@dataclass(frozen=True)
class Lost:
    """The wire that calls for parts was cut: calls may have been missed."""


Request = Acknowledge | Trigger | Released | Lost
OnRequest = Callable[[Request], None]


class Edges:
    """Turns the request bits of a PLC into requests: one for each change from 0 to 1.

    What the bits show first is taken as old, so that nothing happens because the inspector was started.
    """

    def __init__(self) -> None:
        self._last: tuple[bool, bool] | None = None

    def look(self, bits: Sequence[int], part: Sequence[int], alarm_number: int) -> list[Request]:
        """Return the requests in new values of (acknowledge, trigger) and of the part registers."""
        now = (bool(bits[0]), bool(bits[1]))
        last, self._last = self._last, now
        if last is None:
            return []
        found: list[Request] = []
        if now[0] and not last[0]:
            found.append(Acknowledge(alarm_number))
        if now[1] and not last[1]:
            found.append(Trigger(registers_text(list(part))))
        return found
