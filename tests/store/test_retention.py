"""What goes when there is too much, in which order, and what never goes."""

from __future__ import annotations

import shutil
import sqlite3
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from pydantic import ValidationError

from edge_ad.config import RecordTable
from edge_ad.errors import DeviceFault
from edge_ad.events import Event
from edge_ad.store import Store
from edge_ad.store.journal import event_line, files, parse
from edge_ad.store.reader import Reader, set_mark
from edge_ad.store.recovery import rebuild, set_metadata
from edge_ad.store.retention import GB, sweep
from edge_ad.store.schema import StoredImage
from tests.fixtures.loopback import until
from tests.store.test_recovery import page, picture
from tests.store.test_store import row

DAY = 86_400.0
NO_LIMIT = RecordTable(keep_days=1e6, keep_gb=1e6, free_gb=0.0)


def make(folder: Path, events: list[Event]) -> Path:
    """Store the events, each with an image."""
    path, evidence = folder / "line.sqlite", folder / "line.evidence"
    store = Store(path, evidence=evidence)
    for event in events:
        store.record(event)
        store.add_image(picture(evidence, event))
    assert until(lambda: store.committed == len(events))
    assert store.close(60.0)
    return path


def left(path: Path) -> tuple[list[str], list[str]]:
    """The ids of events and of events with images that are still there, oldest first; index and files agree."""
    evidence = path.with_suffix(".evidence")
    with Reader(path) as reader:
        events = list(reversed(reader.events(limit=10_000)))
    named = {name for event in events for name in event.images}
    assert named == {str(name.relative_to(evidence)) for name in evidence.rglob("*.jpg")}
    return [event.id for event in events], [event.id for event in events if event.images]


def aged(number: int, verdict: str, days: float) -> Event:
    return row(number, verdict, id=f"{verdict}{number}", time=time.time() - days * DAY)


AGED = [aged(0, "OK", 9), aged(1, "NG", 8), aged(2, "NG", 7), aged(3, "OK", 2), aged(4, "NG", 1), aged(5, "OK", 0)]


def test_age(tmp_path: Path) -> None:
    path = make(tmp_path, AGED)
    set_mark(path, "NG1", "good", "test")
    swept = sweep(path, path.with_suffix(".evidence"), RecordTable(keep_days=3, keep_gb=1e6, free_gb=0.0))
    assert left(path) == (["NG1", "OK3", "NG4", "OK5"], ["NG1", "OK3", "NG4", "OK5"])
    assert (swept.events, swept.images, swept.short) == (2, 2, None)


def test_a_clock_that_was_never_set_reports_no_age(tmp_path: Path) -> None:
    path = make(tmp_path, [row(0, id="early", time=1000.0), aged(1, "OK", 9), aged(2, "OK", 0)])
    sweep(path, path.with_suffix(".evidence"), RecordTable(keep_days=3, keep_gb=1e6, free_gb=0.0))
    assert left(path) == (["early", "OK2"], ["early", "OK2"])


def test_what_an_output_has_not_got_yet_keeps_its_letter_but_not_its_event(tmp_path: Path) -> None:
    path = make(tmp_path, AGED)
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO outbox SELECT 'mqtt', sequence, id, verdict, 'text' FROM event WHERE id = 'NG1'")
    connection.close()
    sweep(path, path.with_suffix(".evidence"), RecordTable(keep_days=3, keep_gb=1e6, free_gb=0.0))
    assert left(path)[0] == ["OK3", "NG4", "OK5"]
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT id, line FROM outbox").fetchall() == [("NG1", "text")]
    connection.close()


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (6, ["OK0", "NG1", "NG2", "OK3", "NG4", "OK5"]),
        (5, ["NG1", "NG2", "OK3", "NG4", "OK5"]),
        (4, ["NG1", "NG2", "NG4", "OK5"]),
        (3, ["NG1", "NG2", "NG4"]),
        (2, ["NG1", "NG4"]),
        (1, ["NG1"]),
    ],
)
def test_size_takes_pictures_of_ok_first_then_the_oldest_and_marked_ones_last(
    tmp_path: Path, images: int, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_ad.store.retention.BATCH", 1)
    path = make(tmp_path, AGED)
    set_mark(path, "NG1", "bad", "test")
    evidence = path.with_suffix(".evidence")
    size = max(name.stat().st_size for name in evidence.rglob("*.jpg"))
    rest = used(path) - size * len(AGED)
    sweep(path, evidence, RecordTable(keep_days=1e6, keep_gb=(rest + size * (images + 0.5)) / GB, free_gb=0.0))
    assert left(path) == ([event.id for event in AGED], expected)


def test_lossless_images_go_before_all_others_and_those_of_marked_events_stay(tmp_path: Path) -> None:
    path = make(tmp_path, AGED)
    store, evidence = Store(path, evidence=path.with_suffix(".evidence")), path.with_suffix(".evidence")
    for event in AGED[1:5]:
        name = f"{event.id}.png"
        (evidence / name).write_bytes(bytes(1000))
        store.add_image(StoredImage(name, event.id, event.verdict, event.time, 1000))
    assert store.close(60.0)
    set_mark(path, AGED[1].id, "good", "anna")
    sweep(path, evidence, NO_LIMIT.model_copy(update={"lossless_gb": 2000 / GB}))
    assert sorted(name.stem for name in evidence.glob("*.png")) == ["NG1", "NG4", "OK3"], "the oldest unmarked one went"
    sweep(path, evidence, NO_LIMIT.model_copy(update={"lossless_gb": 0.0}))
    assert [name.stem for name in evidence.glob("*.png")] == ["NG1"]
    assert len(left(path)[1]) == len(AGED), "all others are there"


def used(path: Path) -> int:
    evidence = path.with_suffix(".evidence")
    return path.stat().st_size + sum(name.stat().st_size for name in evidence.rglob("*") if name.is_file())


def test_beyond_pictures_whole_days_go_and_todays_and_marked_events_stay(tmp_path: Path) -> None:
    path = make(tmp_path, AGED)
    evidence = path.with_suffix(".evidence")
    set_mark(path, "NG1", "bad", "test")
    (today,) = files(evidence)
    lines = today.read_text().splitlines()
    old = [line for line in lines if '"sequence"' in line][:4]
    (today.parent / "2026-01-01.jsonl").write_text("\n".join(old) + "\n")
    today.write_text("\n".join(line for line in lines if line not in old) + "\n")
    swept = sweep(path, evidence, RecordTable(keep_days=1e6, keep_gb=1e-9, free_gb=0.0))
    assert left(path) == (["NG1", "NG4", "OK5"], [])
    assert "allowed" in (swept.short or "")
    assert files(evidence) == [today]
    ids = [entry.event.id for entry in map(parse, today.read_bytes().splitlines()) if entry.event]
    assert ids == ["NG4", "OK5", "NG1"]
    path.unlink()  # what stayed can still be brought back, its mark too
    rebuild(path, evidence)
    with Reader(path) as reader:
        assert {event.id: event.mark for event in reader.events()} == {"NG1": "bad", "NG4": None, "OK5": None}


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_for_free_space_pictures_go_and_events_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path, AGED)
    set_mark(path, "NG1", "bad", "test")
    evidence = path.with_suffix(".evidence")
    monkeypatch.setattr("edge_ad.store.retention.BATCH", 1)
    # A disk of which each image takes 1 GB; 2 GB are free beside them.
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _: Usage(0, 0, int((2 + 6 - len(list(evidence.rglob("*.jpg")))) * 1e9))
    )
    swept = sweep(path, evidence, RecordTable(keep_days=1e6, keep_gb=1e6, free_gb=6.0))
    assert left(path) == ([event.id for event in AGED], ["NG1", "NG4"])
    assert swept.short is None
    swept = sweep(path, evidence, RecordTable(keep_days=1e6, keep_gb=1e6, free_gb=60.0))
    assert left(path)[1] == ["NG1"]
    assert "must stay free" in (swept.short or "")


STRICT = RecordTable(keep_days=1e-9, keep_gb=1e-9, free_gb=1e6)


def test_nothing_goes_while_the_index_is_lost_damaged_or_being_made_anew(tmp_path: Path) -> None:
    path = make(tmp_path, AGED)
    evidence = path.with_suffix(".evidence")
    before = sorted(evidence.rglob("*"))
    with sqlite3.connect(path) as connection:
        set_metadata(connection, "rebuild", "1")
    connection.close()
    assert sweep(path, evidence, STRICT).images == 0
    copy = path.read_bytes()
    for damage in (page, lambda name: name.write_bytes(b"rubbish" * 1000)):
        path.write_bytes(copy)
        damage(path)
        with pytest.raises(DeviceFault, match="nothing is deleted"):
            sweep(path, evidence, STRICT)
    path.unlink()
    sweep(path, evidence, STRICT)
    assert sorted(evidence.rglob("*")) == before


def test_a_damaged_index_names_no_file_of_somebody_else(tmp_path: Path) -> None:
    path = make(tmp_path, AGED[:1])
    evidence = path.with_suffix(".evidence")
    others = [tmp_path / "other.jpg", evidence / "notes.txt"]
    for other in others:
        other.write_text("mine")
    with sqlite3.connect(path) as connection:
        for name in ("../other.jpg", str(others[0]), "notes.txt"):
            connection.execute("INSERT INTO image VALUES (?, 'OK0', 'OK', 1.6e9, 1)", (name,))
    connection.close()
    sweep(path, evidence, STRICT)
    assert all(other.exists() for other in others)
    assert not list(evidence.rglob("*.jpg"))


def test_folders_of_pictures_go_when_they_are_empty(tmp_path: Path) -> None:
    path = make(tmp_path, AGED)
    evidence = path.with_suffix(".evidence")
    sweep(path, evidence, STRICT)
    assert [name.name for name in evidence.iterdir()] == ["journal"]


def test_without_need_nothing_goes(tmp_path: Path) -> None:
    path = make(tmp_path, AGED)
    swept = sweep(path, path.with_suffix(".evidence"), NO_LIMIT)
    assert (swept.images, swept.events, swept.bytes, swept.short) == (0, 0, 0, None)


@pytest.mark.parametrize("changes", [{"keep_days": 0}, {"keep_gb": -1}, {"free_gb": -0.1}])
def test_limits_that_make_no_sense(changes: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="greater than"):
        RecordTable(**changes)


def test_a_line_of_the_journal_is_what_the_index_has(tmp_path: Path) -> None:
    path = make(tmp_path, AGED)
    with Reader(path) as reader:
        rows = reversed(reader.events())
        lines = [event_line(row.sequence, row) for row in rows]
    written = [
        line for line in files(path.with_suffix(".evidence"))[0].read_text().splitlines() if '"sequence"' in line
    ]
    assert written == lines


def shifted(monkeypatch: pytest.MonkeyPatch, days: float) -> None:
    """Set the wall clock so many days ahead."""
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + days * DAY)


STEADY = RecordTable(keep_days=90, keep_gb=1e6, free_gb=0.0)


@pytest.mark.parametrize("elapsed_s", [None, 60.0], ids=["at a start", "while it runs"])
@pytest.mark.parametrize("swept_before", [False, True])
def test_a_clock_ten_years_ahead_deletes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elapsed_s: float | None, swept_before: bool
) -> None:
    path = make(tmp_path, [aged(number, "NG", number / 60) for number in range(50)])
    evidence = path.with_suffix(".evidence")
    before = left(path)
    if swept_before:
        assert sweep(path, evidence, STEADY, elapsed_s=elapsed_s).clock is None
    shifted(monkeypatch, 3650)
    for _ in range(3):
        swept = sweep(path, evidence, STEADY, elapsed_s=elapsed_s)
        assert (swept.images, swept.events, swept.bytes) == (0, 0, 0)
        assert swept.clock is not None
        assert "3650 days" in swept.clock
    store = Store(path, evidence=evidence)  # the line goes on, with the wrong time in its events
    store.record(aged(99, "NG", 0))
    assert store.close(60.0)
    assert sweep(path, evidence, STEADY).events == 0
    assert set(before[0]) <= set(left(path)[0])


def test_what_is_old_goes_though_the_clock_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time that is seen to pass counts: 91 days by the steady clock make an event older than 90 days."""
    path = make(tmp_path, [aged(0, "NG", 5), aged(1, "NG", 0)])
    evidence = path.with_suffix(".evidence")
    sweep(path, evidence, STEADY)
    shifted(monkeypatch, 3650)
    gone = [sweep(path, evidence, STEADY, check=False, elapsed_s=DAY).events for _ in range(88)]
    assert gone.index(1) in (84, 85)  # 5 days old at the start, and 85 more
    assert left(path)[0] == ["NG1"]


@pytest.mark.parametrize(("standstill", "goes"), [(20, 1), (60, 0)])
def test_a_standstill_counts_as_far_as_it_is_an_ordinary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, standstill: float, goes: int
) -> None:
    path = make(tmp_path, [aged(0, "NG", 80), aged(1, "NG", 1)])
    evidence = path.with_suffix(".evidence")
    assert sweep(path, evidence, STEADY).events == 0
    shifted(monkeypatch, standstill)
    assert sweep(path, evidence, STEADY).events == goes


def test_the_last_day_of_a_record_never_goes_for_its_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path, [aged(0, "NG", 3), aged(1, "NG", 0.5), aged(2, "NG", 0)])
    evidence = path.with_suffix(".evidence")
    monkeypatch.setattr("edge_ad.store.retention.MAX_STANDSTILL_S", 1e9)
    shifted(monkeypatch, 20)
    limits = RecordTable(keep_days=10, keep_gb=1e6, free_gb=0.0)
    for _ in range(12):  # a day more each time, as while the machine runs
        sweep(path, evidence, limits, elapsed_s=2 * DAY)
    assert left(path)[0] == ["NG1", "NG2"]


def test_a_clock_that_was_ahead_and_is_set_right_is_followed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path, [])
    evidence = path.with_suffix(".evidence")
    evidence.mkdir(exist_ok=True)
    with monkeypatch.context() as ahead:
        shifted(ahead, 3650)
        assert sweep(path, evidence, STEADY).clock is None  # the first time that an empty record hears
    store = Store(path, evidence=evidence)
    store.record(aged(0, "NG", 0))
    assert store.close(60.0)
    sweep(path, evidence, STEADY)
    sweep(path, evidence, STEADY, elapsed_s=60.0)
    shifted(monkeypatch, 3650)
    assert sweep(path, evidence, STEADY).clock is not None
