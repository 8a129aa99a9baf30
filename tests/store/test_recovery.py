"""A lost or damaged index is moved aside, never deleted, and made anew."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_ad.config import RecordTable
from edge_ad.errors import BadInput, DeviceFault
from edge_ad.events import Event
from edge_ad.store import Store, StoredImage
from edge_ad.store.journal import event_line, files, parse
from edge_ad.store.reader import EventFilter, Reader, set_mark
from edge_ad.store.recovery import MARGIN, damage_of, is_ours, rebuild, remake
from edge_ad.store.retention import MaintenanceThread
from edge_ad.store.schema import with_comment
from tests.fixtures.loopback import until
from tests.store.test_store import row

JPEG = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
EVENTS = 300


def picture(evidence: Path, event: Event, ending: str = "") -> StoredImage:
    """Write an image of an event as `edge-ad run` does."""
    name = f"2026-03-01/cam/{event.frame or 0:06d}{ending}.jpg"
    (evidence / name).parent.mkdir(parents=True, exist_ok=True)
    data = with_comment(JPEG, event_line(0, event))
    (evidence / name).write_bytes(data)
    return StoredImage(name, event.id, event.verdict, event.time, len(data))


@pytest.fixture
def line(tmp_path: Path) -> Path:
    """A record of 300 events, one marked, ten with an image; returns its folder."""
    path, evidence = tmp_path / "line.sqlite", tmp_path / "line.evidence"
    store = Store(path, evidence=evidence)
    for number in range(EVENTS):
        event = row(number, ("OK", "NG")[number % 2], id=f"event-{number}")
        store.record(event, {"captured": number})
        if number < 10:
            store.add_image(picture(evidence, event))
    store.save_alarm_state("cam", {"phase": "latched", "number": 7})
    assert until(lambda: store.committed == EVENTS)
    assert store.close(60.0)
    set_mark(path, "event-5", "bad", "somebody")
    set_mark(path, "event-6", "bad", "somebody")
    set_mark(path, "event-6", None, "somebody")
    return tmp_path


def header(path: Path) -> None:
    path.write_bytes(bytes(100) + path.read_bytes()[100:])


def page(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.seek(2 * 4096)
        stream.write(os.urandom(4096))


def no_database(path: Path) -> None:
    path.write_bytes(b"no database at all" * 1000)


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


WAYS: list[Callable[[Path], None]] = [header, page, no_database, cut_short, empty, Path.unlink]


def facts(path: Path) -> tuple[object, ...]:
    """What a store tells, in its order."""
    with Reader(path) as reader:
        events = reader.events(limit=1000)
        return events, reader.counters(), reader.latches()


@pytest.mark.usefixtures("stderr_log")
@pytest.mark.parametrize("damage", WAYS)
def test_a_run_goes_on_and_the_keeper_brings_all_back(
    line: Path, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    path, evidence = line / "line.sqlite", line / "line.evidence"
    before = facts(path)
    damage(path)
    left = path.read_bytes() if path.exists() else b""
    store = Store(path, evidence=evidence)
    assert store.fault is None
    assert store.latches == {"cam": {"phase": "latched", "number": 7}}
    assert store.counters == {"cam": {"captured": EVENTS - 1}}
    new = row(1000, id="new")
    store.record(new)
    assert until(lambda: store.committed == 1)
    maintenance = MaintenanceThread(path, evidence, RecordTable(keep_days=1e6, free_gb=0.0))
    assert until(lambda: maintenance.rounds)
    maintenance.close()
    assert store.close(60.0)
    events, counters, latches = facts(path)
    assert isinstance(events, list)
    assert (events[0].id, events[0].sequence) == ("new", EVENTS + MARGIN + 1)
    assert (events[1:], counters, latches) == before
    moved = [name.read_bytes() for name in line.glob("line.sqlite.damaged-*Z")]
    assert moved == [left] or (not left and moved in ([], [b""]))
    message = capsys.readouterr().err
    assert ("damaged" if left else "lost") in message
    assert "complete again: 300 events, 1 marks and 10 images brought back" in message
    quiet = Store(path, evidence=evidence)
    assert quiet.close(60.0)
    assert capsys.readouterr().err == ""


def test_pictures_alone_bring_their_events_back(line: Path) -> None:
    path, evidence = line / "line.sqlite", line / "line.evidence"
    path.unlink()
    for name in files(evidence):
        name.unlink()
    (evidence / "2026-03-01" / "cam" / "torn.jpg").write_bytes(JPEG[:30])
    _, done = remake(path, evidence)
    assert (done.events, done.images, done.unreadable) == (10, 10, 1)
    with Reader(path) as reader:
        assert [event.id for event in reader.events()] == [f"event-{number}" for number in reversed(range(10))]
        assert reader.events()[0].images == ("2026-03-01/cam/000009.jpg",)


def test_a_rebuild_that_was_cut_off_goes_on(line: Path) -> None:
    path, evidence = line / "line.sqlite", line / "line.evidence"
    path.unlink()
    for _ in range(2):  # begun, then killed before the maintenance thread came to it
        assert Store(path, evidence=evidence).close(60.0)
    maintenance = MaintenanceThread(path, evidence, RecordTable(keep_days=1e6, free_gb=0.0))
    assert until(lambda: maintenance.rounds)
    maintenance.close()
    with Reader(path) as reader:
        assert len(reader.events(limit=1000)) == EVENTS


def test_what_a_kill_left_behind_is_taken_in_or_cleared(line: Path) -> None:
    path, evidence = line / "line.sqlite", line / "line.evidence"
    stray = row(42, "NG", id="event-42")
    picture(evidence, stray)
    half, fresh = (evidence / "2026-03-01" / "cam" / f".{name}.jpg.x1y2" for name in ("half", "fresh"))
    for name in (half, fresh):
        name.write_bytes(JPEG[:20])
    os.utime(half, (1e9, 1e9))
    maintenance = MaintenanceThread(path, evidence, RecordTable(keep_days=1e6, free_gb=0.0))
    assert until(lambda: maintenance.rounds)
    maintenance.close()
    assert maintenance.fault is None
    with Reader(path) as reader:
        result = reader.event("event-42")
    assert result is not None
    assert result.images == ("2026-03-01/cam/000042.jpg",)
    assert (half.exists(), fresh.exists()) == (False, True)


def test_a_complete_index_is_left_as_it_is(line: Path) -> None:
    before = facts(line / "line.sqlite")
    message, done = remake(line / "line.sqlite", line / "line.evidence")
    assert message is None
    assert (done.events, done.marks, done.images) == (0, 0, 0)
    assert facts(line / "line.sqlite") == before


def test_a_rebuild_while_a_run_writes(line: Path) -> None:
    path, evidence = line / "line.sqlite", line / "line.evidence"
    store = Store(path, evidence=evidence)
    store.record(row(1, id="now"))
    assert until(lambda: store.committed == 1)
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM event WHERE sequence < 100")
    connection.close()
    message, done = remake(path, evidence)
    assert (message, done.events) == (None, 99)
    store.close()


def test_a_damaged_index_in_use_is_not_moved(line: Path) -> None:
    path, evidence = line / "line.sqlite", line / "line.evidence"
    store = Store(path, evidence=evidence)
    store.record(row(1))
    assert until(lambda: store.committed == 1)
    page(path)
    with pytest.raises(DeviceFault, match="damaged and in use"):
        remake(path, evidence)
    store.close()
    with pytest.raises(BadInput, match="neither journal nor image"):
        remake(path, line / "elsewhere")


def rot(path: Path) -> None:
    """Spoil every page but the first, as a dying card does."""
    path.write_bytes(path.read_bytes()[:4096] + os.urandom(path.stat().st_size - 4096))


@pytest.mark.parametrize("damage", [rot, Path.unlink])
def test_an_index_that_breaks_while_it_is_used_is_replaced(line: Path, damage: Callable[[Path], None]) -> None:
    path, evidence = line / "line.sqlite", line / "line.evidence"
    store = Store(path, evidence=evidence)
    store.record(row(1, id="before"))
    assert until(lambda: store.committed == 1)
    assert store._connection is not None
    store._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store._connection.execute("PRAGMA shrink_memory")
    damage(path)
    store.record(row(2, id="after"))
    assert until(lambda: store.committed == 2)
    assert store.fault is None
    rebuild(path, evidence)
    assert store.close(60.0)
    with Reader(path) as reader:
        results = [event.id for event in reader.events(EventFilter(), 1000)]
    assert results[:2] == ["after", "before"]
    assert len(results) == EVENTS + 2


def test_a_check_that_takes_too_long_reports_nothing(line: Path) -> None:
    page(line / "line.sqlite")
    assert damage_of(line / "line.sqlite") is not None
    assert damage_of(line / "line.sqlite", 0.0) in (None, damage_of(line / "line.sqlite"))
    assert is_ours(line / "line.sqlite")
    assert not is_ours(line / "nothing")


def test_a_lost_journal_is_written_again(line: Path) -> None:
    path, evidence = line / "line.sqlite", line / "line.evidence"
    for name in files(evidence):
        name.unlink()
    store = Store(path, evidence=evidence)
    assert until(lambda: sum(name.read_bytes().count(b'"sequence"') for name in files(evidence)) == EVENTS)
    store.close()


def sequences_in(evidence: Path) -> set[int]:
    """Return the sequences of the events in the journal."""
    lines = (line for name in files(evidence) for line in name.read_bytes().splitlines())
    return {entry.sequence for entry in map(parse, lines) if entry.event is not None}


def folder_removed(evidence: Path) -> None:
    shutil.rmtree(evidence)


def folder_moved(evidence: Path) -> None:
    evidence.rename(evidence.with_name("moved"))


def folder_replaced(evidence: Path) -> None:
    shutil.rmtree(evidence)
    (evidence / "journal").mkdir(parents=True)


def journal_removed(evidence: Path) -> None:
    shutil.rmtree(evidence / "journal")


def day_removed(evidence: Path) -> None:
    for name in files(evidence):
        name.unlink()


REMOVALS: list[Callable[[Path], None]] = [folder_removed, folder_moved, folder_replaced, journal_removed, day_removed]


@pytest.mark.usefixtures("stderr_log")
@pytest.mark.parametrize("remove", REMOVALS)
@pytest.mark.parametrize("events", [0, 1], ids=["while nothing comes", "while events come"])
def test_a_journal_that_is_removed_while_it_is_used_is_made_again(
    line: Path, remove: Callable[[Path], None], events: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("edge_ad.store.journal_writer.LOOK_S", 0.2, raising=False)
    path, evidence = line / "line.sqlite", line / "line.evidence"
    store = Store(path, evidence=evidence)
    store.record(row(EVENTS, id="first of this run"))
    assert until(lambda: len(sequences_in(evidence)) == EVENTS + 1)
    remove(evidence)
    for number in range(events):
        store.record(row(EVENTS + 1 + number, id=f"after-{number}"))
    assert until(lambda: len(sequences_in(evidence)) == EVENTS + 1 + events)
    assert store.close(60.0)
    assert "was removed while it was in use" in capfd.readouterr().err

    path.unlink()  # and then the index is lost, too
    for name in ("line.sqlite-wal", "line.sqlite-shm"):
        (line / name).unlink(missing_ok=True)
    _, rebuilt = remake(path, evidence)
    assert (rebuilt.events, rebuilt.marks) == (EVENTS + 1 + events, 1)


def test_a_day_that_is_removed_comes_back_and_older_days_stay(
    line: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("edge_ad.store.journal_writer.LOOK_S", 0.2, raising=False)
    path, evidence = line / "line.sqlite", line / "line.evidence"
    (today,) = files(evidence)
    today.rename(today.with_name("2026-01-01.jsonl"))  # what was recorded long ago, with times of long ago
    store = Store(path, evidence=evidence)
    for number in range(5):
        store.record(row(EVENTS + number, id=f"today-{number}", time=time.time()))
    assert until(lambda: len(sequences_in(evidence)) == EVENTS + 5)
    files(evidence)[0].unlink()
    assert until(lambda: len(sequences_in(evidence)) == EVENTS + 5)
    assert store.close(60.0)
    assert files(evidence)[0].read_bytes().count(b'"sequence"') == 5  # the older ones were not written twice


def test_a_journal_that_is_lost_between_two_runs_gets_its_marks_again(line: Path) -> None:
    path, evidence = line / "line.sqlite", line / "line.evidence"
    shutil.rmtree(evidence)
    store = Store(path, evidence=evidence)
    assert until(lambda: len(sequences_in(evidence)) == EVENTS)
    assert store.close(60.0)
    path.unlink()
    assert remake(path, evidence)[1].marks == 1
