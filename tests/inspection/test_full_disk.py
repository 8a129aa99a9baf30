"""A disk that fills up, on a real small one: verdicts and outputs go on, images stop first, events last, all resumes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_ad.config import AlarmTable, Config, RecordTable
from edge_ad.events import Event
from edge_ad.inspection.alarm_manager import AlarmManager
from edge_ad.inspection.evidence import Evidence, StoreObserver
from edge_ad.inspection.judge import Judge
from edge_ad.inspection.loop import Loop
from edge_ad.inspection.observers import EventCallback
from edge_ad.inspection.view import View
from edge_ad.outputs.guard_state import Message
from edge_ad.store import Store
from edge_ad.store.journal import files, parse
from edge_ad.store.reader import Reader
from edge_ad.store.retention import evidence_folder
from tests.fixtures.loopback import until
from tests.inspection.line import THRESHOLDS, WEIGHT, Arithmetic, Script
from tests.store.test_store import row

MEGABYTE = 10**6
FRAMES = 160


class Ballast:
    """A file that leaves just so much of a disk."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "ballast"

    def leave(self, free: int) -> None:
        with self._path.open("ab") as stream:
            while True:
                status = os.statvfs(stream.fileno())
                more = status.f_bavail * status.f_frsize - free
                if more <= 0:
                    return
                stream.write(bytes(min(more, 65536)))
                stream.flush()

    def drop(self) -> None:
        self._path.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "edge-ad-test", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"no disk can be mounted here: {error}")
    if done.returncode != 0:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


class Wires:
    """Fast outputs that only count."""

    def __init__(self) -> None:
        self.verdicts = 0

    def send(self, message: Message) -> None:
        self.verdicts += message.kind == "verdict"

    def lamp(self, lit: bool, waiting: bool, number: int) -> None:
        pass

    def check(self) -> None:
        pass


def check_messages(output: str) -> None:
    """Images are given up first, and both faults are taken back."""
    order = ["no images are kept, events go on", "events cannot be stored", "events are stored again"]
    places = [output.find(words) for words in order]
    assert -1 not in places
    assert places == sorted(places)
    assert "images are kept again" in output


@pytest.mark.usefixtures("stderr_log")
def test_a_disk_that_fills_up_and_is_freed_again(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, ballast, wires = disk / "line.sqlite", Ballast(disk), Wires()
    settings = RecordTable(free_gb=0.004)
    store = Store(path, evidence=evidence_folder(settings, path))
    evidence = Evidence(store, settings, View())
    messages: list[Event] = []
    pictures_at: dict[str, int] = {}

    def few_left() -> None:
        assert until(lambda: evidence.written == 40)
        ballast.leave(int(3.5 * MEGABYTE))

    def none_left() -> None:
        assert until(lambda: store.committed == 80)  # events are stored while images are not
        assert until(lambda: evidence.fault is not None)
        assert store.fault is None
        pictures_at["full"] = evidence.written
        ballast.leave(0)
        # What the log has room for inside its file still fits.
        with pytest.raises(OSError, match="No space"):
            (disk / "more").write_bytes(bytes(MEGABYTE))

    def freed() -> None:
        (disk / "more").unlink()
        ballast.drop()
        assert until(lambda: store.committed == 140)

    steps: dict[int, Callable[[], None]] = {40: few_left, 80: none_left, 140: freed}

    def heard(event: Event) -> None:
        messages.append(event)
        if len(messages) in steps:
            steps[len(messages)]()
        if len(messages) == 120:
            assert until(lambda: store.fault is not None and "full" in store.fault)

    sink = StoreObserver(store, lambda name: loop.account(name), evidence)
    alarm_manager = AlarmManager(["cam"], AlarmTable(), wires, latches=store.latches, save=store.save_alarm_state)
    judge = Judge(Arithmetic(lambda _: 5.0), THRESHOLDS, WEIGHT, 1000.0)
    loop = Loop(judge, [Script(range(FRAMES))], [alarm_manager, sink, EventCallback(heard)], Config())
    loop.run()
    assert until(lambda: store.committed == FRAMES)
    assert until(lambda: evidence.written + sum(evidence.dropped.values()) == FRAMES)
    assert evidence.fault is None
    sink.close()
    assert len(messages) == wires.verdicts == FRAMES
    assert store.dropped == 0
    with Reader(path) as reader:
        events = list(reversed(reader.events(limit=FRAMES + 1)))
        assert [event.id for event in events] == [event.id for event in messages]
        assert reader.counters()["cam"]["pictures_dropped"] == FRAMES - evidence.written > 0
    pictured = [bool(event.images) for event in events]
    assert all(pictured[:40])
    assert not any(pictured[41:80])
    assert all(pictured[150:])
    assert pictures_at["full"] < 80
    entries = [parse(line) for name in files(disk / "line.evidence") for line in name.read_bytes().splitlines()]
    assert {entry.event.id for entry in entries if entry.event} == {event.id for event in messages}
    check_messages(capsys.readouterr().err)


def test_a_disk_that_is_full_from_the_start(disk: Path) -> None:
    path, ballast = disk / "line.sqlite", Ballast(disk)
    first = Store(path, evidence=disk / "line.evidence")
    first.record(row(1), {"captured": 5})
    first.save_alarm_state("cam", {"phase": "latched"})
    assert until(lambda: first.committed == 1)
    assert first.close(60.0)
    ballast.leave(0)
    with Reader(path) as reader:  # what is there can still be read
        assert [event.frame for event in reader.events()] == [1]
    store = Store(path, evidence=disk / "line.evidence")
    assert (store.counters, store.latches) == ({"cam": {"captured": 5}}, {"cam": {"phase": "latched"}})
    store.record(row(2))
    assert until(lambda: store.fault is not None)
    ballast.drop()
    assert until(lambda: store.committed == 1)
    assert store.fault is None
    assert store.close(60.0)


def test_a_new_store_on_a_full_disk(disk: Path) -> None:
    ballast = Ballast(disk)
    ballast.leave(0)
    store = Store(disk / "line.sqlite", evidence=disk / "line.evidence")
    store.record(row(1))
    assert until(lambda: store.fault is not None)
    ballast.drop()
    assert until(lambda: store.committed == 1)
    assert store.close(60.0)
