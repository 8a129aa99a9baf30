"""The block of a PLC that is written and read as a whole (S7, EtherNet/IP): the Modbus map in 48 words, requests included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from edge_ad.outputs.channels import OutputAddress
from edge_ad.outputs.signals import BITS, PART_ADDRESS, PART_COUNT, REGISTERS, REQUEST_BITS

WORDS = PART_ADDRESS + PART_COUNT  # 0 to 23 are written by edge-ad, 30 to 47 by the PLC
REQUEST_WORD = PART_ADDRESS - 1  # bit 0 acknowledges, 1 calls for a part, 2 pauses, 3 resumes
PASS_BIT, FAULT_BIT, VALID_BIT, ALARM_BIT = (1 << BITS.index(name) for name in ("pass", "fault", "result_valid", "alarm"))
ALARM_WORD = 3
PRODUCT_STATE_WORD = 6
ANSWER_S = 0.5


class PlcRefused(Exception):
    """The PLC answers, and does not take or give the block."""


class Plc(Protocol):
    """A connection to the block of one PLC; every method may block for a few times ANSWER_S, ``open`` for longer.

    Anything but PlcRefused that they raise means that the connection is lost.
    """

    def open(self) -> None:
        """Connect."""

    def write(self, words: Sequence[int]) -> None:
        """Write words 0 to 23 in one request; return when the PLC has confirmed them."""

    def read(self) -> tuple[int, ...]:
        """Return all words of the block, read in one request."""

    def close(self) -> None:
        """Hang up; also after a fault."""


def make_plc(address: OutputAddress) -> Plc:
    """Return the connection of an address, not opened yet; needs the package of its protocol."""
    if address.kind == "s7":
        from edge_ad.outputs.s7 import S7DataBlock

        return S7DataBlock(address)
    from edge_ad.outputs.enip import LogixTag

    return LogixTag(address)


def requests_in(words: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return what the PLC asks: the bits (acknowledge, trigger, pause, resume) and the words of the part id."""
    bits = tuple(words[REQUEST_WORD] >> index & 1 for index in range(len(REQUEST_BITS)))
    return bits, tuple(words[PART_ADDRESS : PART_ADDRESS + PART_COUNT])


def rejected(words: Sequence[int]) -> tuple[int, ...]:
    """Return what a dead inspector shows: a fault, and the lamp as it was."""
    return (FAULT_BIT | words[0] & ALARM_BIT, *(0,) * (REGISTERS - 1))


def without_pass(words: Sequence[int]) -> tuple[int, ...]:
    """Return the words with `pass` and `result valid` taken back."""
    return (words[0] & ~(PASS_BIT | VALID_BIT), *words[1:REGISTERS])
