"""The guard and the protocol from part to verdict, model-checked against an oracle in a time of its own.

A pass on any wire implies: a fresh OK for the part that is in place, from a camera that is alive, and nothing that took it back.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from edge_ad.outputs import gpio as gpio_channel
from edge_ad.outputs.channels import parse_output
from edge_ad.outputs.guard import REFRESH_S, Guard
from edge_ad.outputs.guard_state import GuardState
from edge_ad.outputs.modbus_codec import read_request, write_bits_request, write_registers_request
from edge_ad.outputs.signals import text_registers
from tests.outputs.board import FAULTS, STANDIN, Board

pytestmark = pytest.mark.any_version

HOLD_S = 0.5
PASSES: Counter[str] = Counter()  # samples with a pass, by machine
ALLOWED_S = 0.05
PASS, STROBE, TRIGGER = 17, 18, 4
TICK_S = 0.01
WAITS = st.sampled_from([0.0, 0.01, 0.05, 0.2, 0.3, 0.49, 0.52, 0.6, 1.2])
DELAYS = st.sampled_from([0.0, 0.0, 0.0, 0.01, 0.2])
CAMERAS = st.sampled_from([0, 0, 0, 1])
GOOD = st.sampled_from([True, True, True, False])


class Time:
    """A clock that tests set, and timers that ring by it; ``late`` timers wait."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[list[Any]] = []

    def clock(self) -> float:
        return self.now

    def later(self, seconds: float, call: Callable[[], None]) -> Any:
        timer = [self.now + seconds, call]
        self.timers.append(timer)

        class Handle:
            @staticmethod
            def cancel() -> None:
                with contextlib.suppress(ValueError):
                    self.timers.remove(timer)

        return Handle

    def pass_by(self, seconds: float) -> None:
        ends = self.now + seconds
        while due := [timer for timer in self.timers if timer[0] <= ends]:
            first = min(due, key=lambda timer: timer[0])
            self.timers.remove(first)
            self.now = max(self.now, first[0])
            first[1]()
        self.now = ends


class Pipe:
    """What the guard tells goes into a pipe; nobody reads one that is full, and it takes nothing."""

    def __init__(self) -> None:
        self.full = False
        self.calls: list[dict[str, Any]] = []

    def report(self, record: dict[str, Any]) -> None:
        if not self.full and record["kind"] == "trigger":
            self.calls.append(record)


class GuardMachine(RuleBasedStateMachine):
    """PLCs, a loop with cameras, a board and time, against the guard; the oracle knows each part's truth."""

    @initialize(cameras=st.sampled_from([1, 1, 2]), trigger=st.sampled_from(["modbus", "gpio", "software", ""]))
    def begin(self, cameras: int, trigger: str) -> None:
        self.time, self.pipe = Time(), Pipe()
        self.cameras, self.trigger = cameras, trigger
        self.folder = tempfile.TemporaryDirectory()
        self.board = Board(Path(self.folder.name))
        os.environ["STANDIN_GPIO"] = self.board.environment["STANDIN_GPIO"]
        self.loop = asyncio.new_event_loop()
        addresses = [
            parse_output("modbus-server://127.0.0.1:0"),
            parse_output(f"gpio:///dev/gpiochip0?pass={PASS}&strobe={STROBE}&trigger={TRIGGER}"),
        ]
        hold = GuardState(HOLD_S, cameras, calls=bool(trigger))
        through = trigger if trigger in ("modbus", "gpio") else ""
        self.guard = Guard(
            hold, addresses, self.pipe.report, trigger=through, clock=self.time.clock, call_later=self.time.later
        )
        self.loop.run_until_complete(self.guard.open())
        self.server: Any = self.guard._channels[0]
        self.pins: Any = self.guard._channels[1]
        # The oracle: what a pass may rest on, and what was last heard of each camera.
        self.parts = 0
        self.call: float | None = None
        self.answers: dict[int, tuple[bool, float]] = {}
        self.alive: dict[int, float] = {}
        self.open_calls: list[tuple[int, float]] = []
        self.glitch = False

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.loop.run_until_complete(self.guard.close(0.0))
            self.loop.close()
            self.board.close()
            self.folder.cleanup()

    def take(self, record: dict[str, Any]) -> None:
        self.guard.take(record)

    def supersede(self) -> None:
        self.answers.clear()

    @rule(wait=WAITS)
    def time_passes(self, wait: float) -> None:
        self.time.pass_by(wait)
        self.glitch = self.glitch and wait <= REFRESH_S

    @rule(full=st.booleans())
    def the_pipe_fills_or_is_read(self, full: bool) -> None:
        self.pipe.full = full

    @precondition(lambda self: self.trigger == "modbus")
    @rule()
    def a_plc_calls(self) -> None:
        self.time.pass_by(TICK_S)
        self.parts += 1
        self.server.answer(write_registers_request(32, text_registers(str(self.parts), 16)))
        self.server.answer(write_bits_request(17, (False,)))
        self.server.answer(write_bits_request(17, (True,)))
        self.call = self.time.now
        self.open_calls.append((self.parts, self.call))
        self.supersede()

    @precondition(lambda self: self.trigger == "gpio")
    @rule(noticed=st.booleans())
    def a_line_calls(self, noticed: bool) -> None:
        """An edge that the event loop has not noticed yet still counts before any pass that comes after it."""
        self.time.pass_by(TICK_S)
        self.parts += 1
        self.board.edge(TRIGGER, at=self.time.now)
        self.call = int(self.time.now * 1e9) / 1e9
        self.open_calls.append((self.parts, self.call))
        if noticed:
            self.pins.look()
            self.guard.refresh()
        else:
            self.time.pass_by(REFRESH_S + TICK_S)
        self.supersede()

    @precondition(lambda self: self.trigger == "gpio")
    @rule()
    def a_line_falls(self) -> None:
        self.board.edge(TRIGGER, rising=False, at=self.time.now)
        self.pins.look()
        self.guard.refresh()
        assert not self.board.level(STROBE)

    @precondition(lambda self: self.trigger == "software")
    @rule()
    def a_program_calls(self) -> None:
        self.time.pass_by(TICK_S)
        self.parts += 1
        self.call = self.time.now
        self.open_calls.append((self.parts, self.call))
        self.take({"kind": "called", "at": self.call})
        self.supersede()

    @precondition(lambda self: self.open_calls)
    @rule(data=st.data(), camera=CAMERAS, good=GOOD, delay=DELAYS)
    def a_called_part_is_judged(self, data: st.DataObject, camera: int, good: bool, delay: float) -> None:
        """On any call so far, in any order; ``delay``: the message was so long on its way."""
        part, call = data.draw(st.sampled_from(self.open_calls[-3:][::-1]))
        self._verdict(camera, good, str(part), call, delay)

    @rule(twice=st.booleans())
    def a_good_part_is_called_and_judged(self, twice: bool) -> None:
        """What other rules then attack; ``twice``: the verdict before it comes after its call."""
        calls = {"modbus": self.a_plc_calls, "gpio": lambda: self.a_line_calls(True), "software": self.a_program_calls}
        if self.trigger:
            calls[self.trigger]()
        chosen = self.open_calls[-2:-1] if twice and self.trigger else self.open_calls[-1:]
        part, call = chosen[0] if chosen else (0, None)
        for camera in range(self.cameras):
            self._verdict(camera, True, str(part), call, 0.0)

    @rule(camera=CAMERAS, good=GOOD, delay=DELAYS)
    def a_part_without_a_call_is_judged(self, camera: int, good: bool, delay: float) -> None:
        self._verdict(camera, good, "seen", None, delay)

    def _verdict(self, camera: int, good: bool, part: str, call: float | None, delay: float) -> None:
        at = self.time.now
        self.time.pass_by(delay)
        word = "OK" if good else "NG"
        self.take(
            {"kind": "verdict", "at": at, "camera": camera, "verdict": word, "passed": good, "part": part, "call": call}
        )
        if camera < self.cameras:
            self.alive[camera] = at
            if not self.trigger or call == self.call:
                self.answers[camera] = (good, at)
            elif call is None and not good:
                self.answers.pop(camera, None)

    @rule(kind=st.sampled_from(["idle", "busy", "held"]), camera=CAMERAS)
    def a_camera_sees_no_new_part(self, kind: str, camera: int) -> None:
        self.take({"kind": kind, "at": self.time.now, "camera": camera})
        if camera < self.cameras:
            self.alive[camera] = self.time.now
            if kind != "held":
                self.answers.pop(camera, None)

    @rule(record=st.sampled_from([
        {"kind": "verdict", "at": 1e12, "camera": 0, "verdict": "OK", "passed": True, "part": "x", "call": None},
        {"kind": "verdict", "at": float("nan"), "camera": 0, "verdict": "OK", "passed": True, "part": "x", "call": 1e12},
        {"kind": "ping", "number": 3}, {"kind": "nonsense"}, {"kind": "held"},
    ]))  # fmt: skip
    def a_garbled_message_comes(self, record: dict[str, Any]) -> None:
        with contextlib.suppress(TypeError, KeyError, ValueError):  # as the reader of the pipe does
            self.take(dict(record))
        if record["kind"] == "verdict":
            self.answers.pop(0, None) if not self.trigger else None
            self.alive.pop(0, None)

    @rule(
        fault=st.sampled_from(["set", "get", "request", "reconfigure", "stuck"]),
        times=st.sampled_from([0, 1, 3]),
    )
    def the_chip_fails(self, fault: str, times: int) -> None:
        self.board.fail(fault, times)

    @rule(fault=st.sampled_from(["set", "get", "stuck"]))
    def the_chip_fails_for_good(self, fault: str) -> None:
        self.board.fail(fault, -1)

    @rule()
    def the_chip_is_well_again(self) -> None:
        for fault in FAULTS:
            self.board.fail(fault, 0)

    @rule()
    def a_level_flips(self) -> None:
        self.board.force(PASS, True)
        self.glitch = True  # until the next refresh

    @rule(requests=st.lists(st.binary(min_size=1, max_size=12), max_size=5))
    def a_peer_sends_anything(self, requests: list[bytes]) -> None:
        for pdu in requests:
            before = list(self.server._bits[16:18])
            if self.trigger == "modbus" and pdu[0] in (5, 15):
                continue  # a call by another door; the rule above makes them
            self.server.answer(pdu)
            assert self.trigger == "modbus" or before is not None

    @precondition(lambda self: self.trigger == "modbus")
    @rule()
    def the_wire_is_cut(self) -> None:
        from edge_ad.outputs.signals import Unavailable

        self.guard._request(Unavailable(), True)
        self.call = None
        self.supersede()

    def due(self) -> bool:
        """Whether a pass may stand now."""
        if self.trigger and self.call is None:
            return False
        return all(
            camera in self.answers
            and self.answers[camera][0]
            and self.time.now - self.answers[camera][1] <= HOLD_S + ALLOWED_S
            and camera in self.alive
            and self.time.now - self.alive[camera] <= HOLD_S + ALLOWED_S
            for camera in range(self.cameras)
        )

    @invariant()
    def a_pass_is_due(self) -> None:
        if not hasattr(self, "guard"):
            return
        read = self.server.answer(read_request(2, 0, 8))[2] & 1
        level = self.board.level(PASS)
        assert not read or self.due()
        assert self.glitch or not level or self.due()
        PASSES[type(self).__name__] += bool(read)


class Stuck(GuardMachine):
    """The same with timers that never ring: a reader still sees no old pass."""

    @rule(wait=WAITS)
    def time_passes(self, wait: float) -> None:
        self.time.now += wait

    @invariant()
    def a_pass_is_due(self) -> None:
        if hasattr(self, "guard"):
            read = self.server.answer(read_request(2, 0, 8))[2] & 1
            assert not read or self.due()
            PASSES[type(self).__name__] += bool(read)


def setup_module() -> None:
    for name in ("gpiod", "gpiod.line"):
        sys.modules.pop(name, None)
    sys.path.insert(0, str(STANDIN))
    gpio_channel.time.monotonic()  # the channel's own clock paces its tries alone


def teardown_module() -> None:
    sys.path.remove(str(STANDIN))
    for name in ("gpiod", "gpiod.line"):
        sys.modules.pop(name, None)
    os.environ.pop("STANDIN_GPIO", None)


SETTINGS = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)


def check(machine: type[GuardMachine]) -> None:
    """Run a machine; one in which nothing ever passes proves nothing."""
    PASSES.clear()
    run_state_machine_as_test(machine, settings=SETTINGS)
    assert PASSES[machine.__name__] > 100


def test_a_pass_is_always_due() -> None:
    check(GuardMachine)


def test_a_reader_sees_no_old_pass_though_no_timer_rings() -> None:
    check(Stuck)
