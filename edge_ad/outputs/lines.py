"""What stands on the output lines at one moment, as bits and as registers."""

from __future__ import annotations

from dataclasses import dataclass

VERDICT_CODES = {"": 0, "OK": 1, "WARN": 2, "NG": 3, "NONE": 4}
PART_REGISTERS = 16  # two ASCII characters each
REGISTERS = 8 + PART_REGISTERS
BITS = ("pass", "fault", "result_valid", "ready", "busy", "alarm", "alarm_waiting", "heartbeat")


@dataclass(frozen=True)
class Lines:
    """The output lines. The default is what a dead inspector shows: reject, fault, not ready.

    ``passed``: a fresh verdict lets the part pass (energised = good). ``fault``: the inspector cannot judge.
    ``result_valid``: a verdict stands. ``ready``: the inspector lives and sees frames. ``busy``: a part is being
    looked at. ``alarm``, ``alarm_waiting``: the lamp, and whether it waits for an acknowledge. ``verdict``,
    ``sequence`` (0 to 65535) and ``part`` tell the last result and stay when it is no longer valid. ``strobe`` (pins
    only): the trigger line is up, and a verdict on the part that it called for stands.
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
        """Return 24 registers: the bits as a word, verdict code, sequence, alarm number, four spare, 32 letters."""
        word = sum(1 << place for place, bit in enumerate(self.bits()) if bit)
        head = (
            word,
            VERDICT_CODES.get(self.verdict, 4),
            self.sequence & 0xFFFF,
            self.alarm_number & 0xFFFF,
            0,
            0,
            0,
            0,
        )
        return head + text_registers(self.part, PART_REGISTERS)


def text_registers(text: str, count: int) -> tuple[int, ...]:
    """Return ASCII text as registers, high byte first, cut or filled with zeros."""
    raw = text.encode("ascii", "replace")[: 2 * count].ljust(2 * count, b"\0")
    return tuple(raw[place] << 8 | raw[place + 1] for place in range(0, 2 * count, 2))


def registers_text(registers: tuple[int, ...] | list[int]) -> str:
    """Return the printable ASCII text in registers, up to the first zero."""
    raw = b"".join((value & 0xFFFF).to_bytes(2, "big") for value in registers).split(b"\0")[0]
    return "".join(char for char in raw.decode("ascii", "replace") if char.isprintable())
