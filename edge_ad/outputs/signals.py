"""What stands on the output lines at one moment, as bits and as registers.

What a PLC asks of the inspector: to judge a part, to acknowledge an alarm.

Whether an output takes what is brought out, told when that changes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

VERDICT_CODES = {"": 0, "OK": 1, "WARN": 2, "NG": 3, "NONE": 4}
PART_REGISTERS = 16  # two ASCII characters each
REGISTERS = 8 + PART_REGISTERS
BITS = ("pass", "fault", "result_valid", "ready", "busy", "alarm", "alarm_waiting", "heartbeat")
PRODUCT_STATES = {"": 0, "active": 1, "changing": 2, "fault": 3, "none": 4}  # '' without products
MODES = ("paused", "challenge", "locked")  # bits of register 4, the lowest first


@dataclass(frozen=True)
class OutputSignals:
    """The output lines. The default is what a dead inspector shows: reject, fault, not ready.

    ``passed``: a fresh verdict lets the part pass (energised = good). ``fault``: the inspector cannot judge.
    ``result_valid``: a verdict stands. ``ready``: the inspector lives and sees frames. ``busy``: a part is being
    looked at. ``alarm``, ``alarm_waiting``: the lamp, and whether it waits for an acknowledge. ``verdict``,
    ``sequence`` (0 to 65535) and ``part`` tell the last result and stay when it is no longer valid. ``strobe`` (pins
    only): the trigger line is up, and a verdict on the part that it called for stands. ``paused``: somebody has paused
    the line, which is neither a fault nor ready. ``challenge``: known parts are asked for; ``locked``: nothing passes
    because of one. ``sent_at``: the monotonic second at which the inspector sent the verdict; no line shows it.
    ``product``: the code of what is judged; ``product_state``: of PRODUCT_STATES.
    """

    passed: bool = False
    fault: bool = True
    result_valid: bool = False
    ready: bool = False
    busy: bool = False
    alarm: bool = False
    alarm_waiting: bool = False
    heartbeat: bool = False
    verdict: str = ""
    sequence: int = 0
    alarm_number: int = 0
    part: str = ""
    strobe: bool = False
    paused: bool = False
    challenge: bool = False
    locked: bool = False
    sent_at: float = 0.0
    product: int = 0
    product_state: int = 0

    def bits(self) -> tuple[bool, ...]:
        """Return the bits in the order of ``BITS``."""
        return (
            self.passed,
            self.fault,
            self.result_valid,
            self.ready,
            self.busy,
            self.alarm,
            self.alarm_waiting,
            self.heartbeat,
        )

    def registers(self) -> tuple[int, ...]:
        """Return 24 registers: the bits as a word, verdict code, sequence, alarm number, mode, code of the product and its
        state, one spare, 32 letters.
        """
        word = sum(1 << index for index, bit in enumerate(self.bits()) if bit)
        head = (
            word,
            VERDICT_CODES.get(self.verdict, 4),
            self.sequence & 0xFFFF,
            self.alarm_number & 0xFFFF,
            sum(1 << index for index, name in enumerate(MODES) if getattr(self, name)),
            self.product & 0xFFFF,
            self.product_state,
            0,
        )
        return head + text_registers(self.part, PART_REGISTERS)


def text_registers(text: str, count: int) -> tuple[int, ...]:
    """Return ASCII text as registers, high byte first, cut or filled with zeros."""
    raw = text.encode("ascii", "replace")[: 2 * count].ljust(2 * count, b"\0")
    return tuple(raw[index] << 8 | raw[index + 1] for index in range(0, 2 * count, 2))


def registers_text(registers: tuple[int, ...] | list[int]) -> str:
    """Return the printable ASCII text in registers, up to the first zero."""
    raw = b"".join((value & 0xFFFF).to_bytes(2, "big") for value in registers).split(b"\0")[0]
    return "".join(char for char in raw.decode("ascii", "replace") if char.isprintable())


ACKNOWLEDGE_BIT, TRIGGER_BIT, PAUSE_BIT, RESUME_BIT = 16, 17, 18, 19
REQUEST_BITS = (ACKNOWLEDGE_BIT, TRIGGER_BIT, PAUSE_BIT, RESUME_BIT)
FIRST_REQUEST_BITS = 2  # what a PLC has that was set up before there was a pause
PRODUCT_ADDRESS = 30  # the code of the product that the PLC asks for, 0 for none
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
class Unavailable:
    """The wire that calls for parts was cut: calls may have been missed."""


@dataclass(frozen=True)
class Order:
    """What else a PLC asks of the run: ``kind`` is that of a request (pause, resume)."""

    kind: str


@dataclass(frozen=True)
class Taken:
    """An output has the verdict that was sent at ``sent_at``: the PLC confirmed the write or has read it, or pins read as set."""

    sent_at: float


@dataclass(frozen=True)
class Choose:
    """The code of the product that is to be judged."""

    code: int


Request = Acknowledge | Trigger | Released | Unavailable | Order | Taken | Choose
OnRequest = Callable[[Request], None]


class Edges:
    """Turns the request bits of a PLC into requests: one for each change from 0 to 1.

    What the bits show first is taken as old, so that nothing happens because the inspector was started.
    """

    def __init__(self) -> None:
        self._last: tuple[bool, ...] | None = None

    def look(self, bits: Sequence[int], part: Sequence[int], alarm_number: int) -> list[Request]:
        """Return the requests in new values of (acknowledge, trigger, pause, resume) and of the part registers.

        Bits that a PLC does not have are 0. A pause comes before what else rises with it, a resume after it, and only
        while the pause bit is 0.
        """
        now = tuple(bool(bit) for bit in (*bits, 0, 0)[: len(REQUEST_BITS)])
        last, self._last = self._last, now
        if last is None:
            return []
        acknowledged, called, paused, resumed = (bit and not before for bit, before in zip(now, last, strict=True))
        results: list[Request] = [Order("pause")] if paused else []
        if acknowledged:
            results.append(Acknowledge(alarm_number))
        if called:
            results.append(Trigger(registers_text(list(part))))
        return [*results, Order("resume")] if resumed and not now[2] else results


SETTLE_S = 1.0


class ChannelHealth:
    """The state of one output: proven by the first success, at fault from a failure until it has been well for a
    second.

    ``report`` is called with the fault (None: well) whenever that changes, and with the first success.
    """

    def __init__(self, report: Callable[[str | None], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._report = report
        self._clock = clock
        self._failed_at = 0.0
        self.fault: str | None = None
        self.proven = False
        self.failures = 0

    def failed(self, why: str) -> None:
        """Count a failure; the first one is told, and one of another sort than before."""
        self.failures += 1
        self._failed_at = self._clock()
        if why != self.fault:
            self.fault = why
            self._report(why)

    def well(self) -> None:
        """Take note of a success."""
        first, self.proven = not self.proven, True
        recovered = self.fault is not None and self._clock() - self._failed_at >= SETTLE_S
        if recovered or (first and self.fault is None):
            self.fault = None
            self._report(None)
