"""The thread of an output: order, faults, pauses, refusals, and the end."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from edge_ad.errors import BadInput
from edge_ad.outputs import dispatcher as outlet_module
from edge_ad.outputs.delivery import NotNow, Refused
from edge_ad.outputs.dispatcher import Dispatcher, Transient
from edge_ad.store import Store
from edge_ad.store.outbox import Backlog, DeliveryStats, standings
from tests.fixtures.loopback import until
from tests.outputs.events import event, frames


class Receiver:
    """An output whose calls fail as a script says: a list of errors (None: no error) for `open` and for `deliver`."""

    spooled = True

    def __init__(self, name: str = "receiver:", opens: Sequence[object] = (), delivers: Sequence[object] = ()) -> None:
        self.name = name
        self.got: list[str] = []
        self.calls: list[str] = []
        self._scripts = {"open": list(opens), "deliver": list(delivers)}

    def open(self) -> None:
        self._call("open")

    def deliver(self, line: str) -> None:
        self._call("deliver")
        self.got.append(line)

    def close(self) -> None:
        self.calls.append("close")

    def _call(self, what: str) -> None:
        self.calls.append(what)
        error = self._scripts[what].pop(0) if self._scripts[what] else None
        if isinstance(error, Exception):
            raise error


class Wide(Receiver):
    """An output that takes many at once."""

    def deliver_all(self, lines: Sequence[str]) -> None:
        self._call("deliver")
        self.got += lines


class State(Receiver):
    """An output that shows a state."""

    spooled = False


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlet_module, "FIRST_PAUSE_S", 0.01)


class Messages(logging.Handler):
    """Collects what is logged from INFO on."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []
        self.logger = logging.getLogger("edge_ad.outputs.dispatcher")
        self.logger.setLevel(logging.INFO)
        self.logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())

    def close(self) -> None:
        self.logger.removeHandler(self)
        super().close()


class Line:
    """A store with a dispatcher."""

    def __init__(self, path: Path, *outputs: Receiver, limit: int = 1000) -> None:
        self._log = Messages()
        self.messages = self._log.messages
        self.path = path
        self.dispatcher = Dispatcher(outputs, limit)
        self.store = Store(path, self.dispatcher.committed, self.dispatcher.outbox.add)
        self.dispatcher.start(path)

    def record(self, *numbers: int, verdict: str = "OK") -> None:
        for number in numbers:
            self.store.record(event(number, verdict))

    def stats(self) -> DeliveryStats:
        return self.dispatcher.states()[0].stats

    def close(self) -> None:
        assert self.store.close(10)
        self.dispatcher.close()
        self._log.close()


@pytest.mark.parametrize("kind", [Receiver, Wide])
@pytest.mark.parametrize(
    ("opens", "delivers"),
    [
        ([], []),
        ([OSError("no route"), OSError("no route")], []),
        ([], [None, ConnectionError("gone"), None, TimeoutError()]),
        ([None, ValueError("odd")], [RuntimeError("foreign code"), KeyError("x")]),
        ([], [NotNow(0.0), NotNow(0.01)]),
    ],
)
def test_every_event_arrives_in_order_whatever_fails(
    kind: type[Receiver], opens: list[object], delivers: list[object], tmp_path: Path
) -> None:
    receiver = kind("receiver:", opens, delivers)
    line = Line(tmp_path / "line.sqlite", receiver)
    line.record(*range(120))
    assert until(lambda: len(receiver.got) >= 120)
    assert until(lambda: line.stats().delivered == 120)
    line.close()
    assert frames(receiver.got) == list(range(120))  # nothing twice: each fault came before the receiver had it
    failed = any(isinstance(error, Exception) for error in [*opens, *delivers])
    assert len(line.messages) == 2 * failed or len(line.messages) % 2 == 0
    if failed:
        assert "events wait and are tried again" in line.messages[0]
        assert line.messages[-1] == "output receiver: delivers again"


def test_what_waits_is_delivered_by_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "line.sqlite"
    away = Line(path, Receiver(opens=[OSError("away")] * 1000))
    away.record(0, 1, 2)
    away.close()
    receiver = Receiver()
    line = Line(path, receiver)
    line.record(3)
    assert until(lambda: len(receiver.got) == 4)
    line.close()
    assert frames(receiver.got) == [0, 1, 2, 3]


def test_the_end_delivers_what_it_can_within_its_time(tmp_path: Path) -> None:
    quick, away = Receiver("quick:"), Receiver("away:", opens=[OSError("away")] * 1000)
    line = Line(tmp_path / "line.sqlite", quick, away)
    line.record(*range(30))
    assert line.store.close(10)
    started = time.monotonic()
    line.dispatcher.close()
    assert time.monotonic() - started < 5
    assert len(quick.got) == 30
    assert {result.output: result.waiting for result in standings(line.path)} == {"away:": 30, "quick:": 0}
    assert quick.calls[-1] == "close"


def test_an_output_that_hangs_holds_up_nothing(tmp_path: Path) -> None:
    class Hanging(Receiver):
        def deliver(self, line: str) -> None:
            gate.wait(60)

    gate, other = threading.Event(), Receiver("other:")
    line = Line(tmp_path / "line.sqlite", Hanging("hanging:"), other)
    line.record(*range(10))
    assert until(lambda: len(other.got) == 10)
    assert line.store.close(10)
    started = time.monotonic()
    line.dispatcher.close()
    assert time.monotonic() - started < 5  # a second of patience, not a minute
    gate.set()


def test_a_poisoned_event_is_set_aside_reported_once_and_the_others_pass(tmp_path: Path) -> None:
    receiver = Receiver(delivers=[None, Refused("400 token=abc"), Refused("400 token=def"), None, Refused("413")])
    line = Line(tmp_path / "line.sqlite", receiver)
    line.record(*range(8))
    assert until(lambda: len(receiver.got) == 5)
    assert until(lambda: line.dispatcher.states()[0].stats.waiting == 0)
    result = line.dispatcher.states()[0]
    assert (result.stats.delivered, result.stats.refused, result.fault) == (5, 3, None)
    line.close()
    assert frames(receiver.got) == [0, 3, 5, 6, 7]
    assert len(line.messages) == 2
    assert "400 token=***; such events are set aside" in line.messages[0]


def test_the_state_of_a_fault_is_there_to_be_read(tmp_path: Path) -> None:
    receiver = Receiver(opens=[OSError("mqtt://me:pw@host is away")] * 3)
    line = Line(tmp_path / "line.sqlite", receiver)
    line.record(0)
    assert until(lambda: line.messages)
    assert "pw" not in line.messages[0]
    assert until(lambda: receiver.got)
    assert until(lambda: line.dispatcher.states()[0].fault is None)
    line.close()


def test_letters_that_cannot_be_taken_out_are_not_delivered_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = [sqlite3.OperationalError("disk full")] * 3
    real = Backlog.delivered

    def delivered(self: Backlog, queued_messages: Sequence[object]) -> None:
        if queued_messages and faults:
            raise faults.pop()
        real(self, queued_messages)  # type: ignore[arg-type]

    monkeypatch.setattr(Backlog, "delivered", delivered)
    receiver = Receiver()
    line = Line(tmp_path / "line.sqlite", receiver)
    line.record(*range(5))
    assert until(lambda: line.stats().delivered == 5)
    line.close()
    assert sorted(frames(receiver.got)) == list(range(5))


def test_a_full_backlog_is_reported_once_and_ng_stays(tmp_path: Path) -> None:
    line = Line(tmp_path / "line.sqlite", Receiver(opens=[OSError("away")] * 1000), limit=4)
    for number in range(20):
        line.record(number, verdict="NG" if number % 5 == 0 else "OK")
    line.close()
    backlog = Backlog(line.path, "receiver:")
    assert frames(letter.line for letter in backlog.next(10)) == [0, 5, 10, 15]
    assert backlog.stats().dropped == 16
    backlog.close()
    assert sum("4 events wait" in text for text in line.messages) == 1


def test_an_output_that_is_not_set_any_more_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "line.sqlite"
    before = Line(path, Receiver("old:", opens=[OSError("away")] * 1000))
    before.record(0, 1)
    before.close()
    after = Line(path, Receiver("new:"))
    after.close()
    assert after.messages == [
        "2 events wait for old:, which is no output of this run: `edge-ad outputs drop 'old:'` gives them up"
    ]


def test_a_state_is_shown_after_the_commit_and_not_kept(tmp_path: Path) -> None:
    shown = State("state:")
    line = Line(tmp_path / "line.sqlite", shown)
    line.record(*range(20))
    assert until(lambda: len(shown.got) == 20)
    assert line.dispatcher.states()[0].stats.delivered == 20
    line.close()
    assert frames(shown.got) == list(range(20))
    assert standings(line.path) == []


def test_a_state_that_cannot_follow_forgets_the_oldest() -> None:
    queued_messages = Transient("state:", size=3)
    queued_messages.put([(str(number), "OK", "") for number in range(5)])
    first = queued_messages.next(2)
    assert [letter.id for letter in first] == ["2", "3"]
    queued_messages.put([("5", "OK", "")])
    queued_messages.delivered(first)
    queued_messages.refuse(queued_messages.next(1)[0], "no")
    assert [letter.id for letter in queued_messages.next(9)] == ["5"]
    result = queued_messages.stats()
    assert (result.waiting, result.delivered, result.refused, result.dropped) == (1, 2, 1, 3)


def test_the_same_output_twice_is_refused() -> None:
    with pytest.raises(BadInput, match="named twice"):
        Dispatcher([Receiver(), Receiver()])
