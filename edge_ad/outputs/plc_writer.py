"""The second guarded process: writes into a PLC by a library that blocks, fed by the guard.

The guard must wait for nobody and needs nothing but the standard library; whatever a library for S7 or EtherNet/IP does,
it does it here. What the guard sent last counts for STALE_S; when it is silent for longer, or its pipe closes, a reject
is written. One thread: between two requests to the PLC the latest message is taken. Reports, one JSON object a line, go to
the standard output and never block.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from edge_ad.outputs.channels import OutputAddress
from edge_ad.outputs.plc_map import (
    ALARM_WORD,
    ANSWER_S,
    PASS_BIT,
    PRODUCT_STATE_WORD,
    Plc,
    PlcRefused,
    make_plc,
    rejected,
    requests_in,
    without_pass,
)
from edge_ad.outputs.signals import BITS, PRODUCT_ADDRESS, REGISTERS, Edges, Order, OutputSignals, Trigger

STALE_S = 0.5
CYCLE_S = 0.05
FIRST_PAUSE_S = 0.1
MAX_PAUSE_S = 2.0
MAX_MISREADS = 3
MAX_INPUT = 65_536

Report = Callable[[dict[str, Any]], None]


class Inbox:
    """The latest message of the guard, from a pipe that is never waited for: number, time, words, requests taken."""

    def __init__(self, pipe: int, clock: Callable[[], float] = time.monotonic) -> None:
        os.set_blocking(pipe, False)
        self._pipe = pipe
        self._clock = clock
        self._rest = b""
        self._words = OutputSignals().registers()
        self._at = float("-inf")
        self.number = 0
        self.taken = 0
        self.closed = False

    def take(self, wait_s: float = 0.0) -> None:
        """Take in what has come, after waiting for ``wait_s`` seconds at most when nothing has."""
        if self.closed or not select.select([self._pipe], [], [], wait_s)[0]:
            return
        data = os.read(self._pipe, MAX_INPUT)
        self.closed = not data
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-MAX_INPUT:]
        for line in lines:
            with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
                self._parse(json.loads(line))

    def words(self) -> tuple[int, ...]:
        """Return what must stand now: a reject when the guard is gone or was silent for too long."""
        alive = not self.closed and 0.0 <= self._clock() - self._at <= STALE_S
        return self._words if alive else rejected(self._words)

    def _parse(self, record: dict[str, Any]) -> None:
        words = tuple(int(word) & 0xFFFF for word in record["words"])
        if len(words) == REGISTERS:
            self.number, self.taken = int(record["number"]), int(record["taken"])
            self._at, self._words = float(record["at"]), words


class PlcWriter:
    """Writes what the inbox says, reads it back with the requests of the PLC, and connects again after a fault.

    A request of the PLC is reported and counted. Until the guard has taken it in, nothing passes: what the guard sent
    before is not about this call.
    """

    def __init__(self, plc: Plc, inbox: Inbox, report: Report) -> None:
        self._plc = plc
        self._inbox = inbox
        self._report = report
        self._edges = Edges()
        self._reported = 0  # requests
        self._part: tuple[int, ...] = ()  # of the last call
        self._code = 0  # of the product that the PLC showed last
        self._misreads = 0

    def run(self) -> None:
        """Write until the guard is gone, and a reject as the last thing."""
        pause = FIRST_PAUSE_S
        while not self._inbox.closed:
            try:
                self._report({"kind": "connecting"})
                self._plc.open()
            except Exception as error:  # a library is foreign code: whatever it raises, the PLC is tried again
                self._failed(f"it cannot be reached ({_words(error)})")
            else:
                if self._connected():
                    pause = FIRST_PAUSE_S
            with contextlib.suppress(Exception):
                self._plc.close()
            self._rest(pause)
            pause = min(2 * pause, MAX_PAUSE_S)

    def _connected(self) -> bool:
        """Write until the connection is lost; return whether the PLC has taken anything."""
        self._report({"kind": "connected"})
        self._edges, self._code = Edges(), 0
        self._misreads = 0
        cycles = 0
        try:
            words = self._plc.read()  # what is asked now may be older than the connection; what follows a write is not
            _, self._part = requests_in(words)
            self._ask(words)
            while not self._inbox.closed:
                self._cycle()
                cycles += 1
                self._inbox.take(CYCLE_S)
            self._plc.write(self._inbox.words())
        except PlcRefused as error:
            self._failed(str(error))
        except Exception as error:
            self._failed(f"the connection broke ({_words(error)})")
        self._requested({"kind": "unavailable"})
        return cycles > 0

    def _cycle(self) -> None:
        self._inbox.take()
        if self._inbox.words()[0] & PASS_BIT:
            self._ask(self._plc.read())  # a new call takes the pass back before it is written
        number, words = self._inbox.number, self._due()
        self._plc.write(words)
        seen = self._plc.read()
        wrong = _difference(words, seen)
        self._misreads = self._misreads + 1 if wrong else 0
        if self._misreads >= MAX_MISREADS or (seen[0] & PASS_BIT and not words[0] & PASS_BIT):
            self._failed(f"it shows {wrong} than was written: somebody else writes there")
        self._report({"kind": "written", "number": number, "well": not wrong})
        self._ask(seen)

    def _due(self) -> tuple[int, ...]:
        words = self._inbox.words()
        return words if self._inbox.taken == self._reported else without_pass(words)

    def _ask(self, words: Sequence[int]) -> None:
        bits, part = requests_in(words)
        if self._inbox.words()[PRODUCT_STATE_WORD] and words[PRODUCT_ADDRESS] != self._code:
            self._code = words[PRODUCT_ADDRESS]
            self._requested({"kind": "choose", "code": self._code})
        looks = [bits]
        if bits[1]:
            if part != self._part:  # another part, though the bit was not seen to fall in between
                looks.insert(0, (bits[0], 0, *bits[2:]))
            self._part = part
        for request in [edge for look in looks for edge in self._edges.look(look, part, words[ALARM_WORD])]:
            if isinstance(request, Trigger):
                self._requested({"kind": "trigger", "part": request.part})
            elif isinstance(request, Order):
                self._requested({"kind": "order", "order": request.kind})
            else:
                self._requested({"kind": "acknowledge", "alarm": words[ALARM_WORD]})

    def _requested(self, record: dict[str, Any]) -> None:
        self._reported += 1
        self._report({**record, "count": self._reported})

    def _failed(self, why: str) -> None:
        self._report({"kind": "failed", "text": why[:400]})

    def _rest(self, seconds: float) -> None:
        ends = time.monotonic() + seconds
        while not self._inbox.closed and (left := ends - time.monotonic()) > 0:
            self._inbox.take(left)


def _difference(words: Sequence[int], seen: Sequence[int]) -> str:
    """Return what a PLC shows otherwise than it was written; empty when nothing."""
    other = words[0] ^ seen[0]
    names = [name for bit, name in enumerate(BITS) if other >> bit & 1]
    if names:
        return f"another {' and '.join(names)}"
    return "another result" if tuple(words) != tuple(seen[: len(words)]) else ""


def _words(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {ANSWER_S:g} s"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def write_report(record: dict[str, Any]) -> None:
    """Tell the guard something; what it does not read is dropped, because nothing may block here.

    A request that is dropped keeps its number: nothing passes before the guard has taken in a later one.
    """
    with contextlib.suppress(OSError):
        os.write(1, (json.dumps(record) + "\n").encode())  # shorter than PIPE_BUF: all or nothing


def main() -> None:
    """Run as a process: the argument is the address as JSON."""
    logging.getLogger().addHandler(logging.NullHandler())  # libraries log what is reported here anyway
    os.set_blocking(1, False)
    inbox = Inbox(0)
    plc = make_plc(OutputAddress(**json.loads(sys.argv[1])))
    PlcWriter(plc, inbox, write_report).run()


if __name__ == "__main__":
    main()
