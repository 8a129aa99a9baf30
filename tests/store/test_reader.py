"""Reading a store while it is written: filters, pages, counts, marks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_ad.errors import BadInput
from edge_ad.store import Store, StoredImage
from edge_ad.store.reader import Bucket, EventFilter, Reader, set_mark
from tests.fixtures.loopback import until
from tests.store.test_store import row

EVENTS = [
    row(0, "OK", id="a0", camera="left", score=0.5),
    row(1, "NG", id="a1", camera="left", score=6.0),
    row(2, "NONE", id="b2", camera="right", score=None, z={}),
    row(3, "WARN", id="b3", camera="right", score=3.0),
    row(4, "NG", id="c4", camera="right", score=9.0),
]


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """A store that is open for writing, with a question mark in its name."""
    name = tmp_path / "line ?#%41.sqlite"
    store = Store(name, evidence=tmp_path / "evidence")
    for event in EVENTS:
        store.record(event, {"captured": event.frame or 0})
    store.save_alarm_state("left", {"phase": "alarm"})
    store.add_image(StoredImage("day/b_map.jpg", "a1", "NG", 1.0, 10))
    store.add_image(StoredImage("day/b.jpg", "a1", "NG", 1.0, 10))
    assert until(lambda: store.committed == len(EVENTS))
    yield name
    store.close()


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        (EventFilter(), ["c4", "b3", "b2", "a1", "a0"]),
        (EventFilter(camera="left"), ["a1", "a0"]),
        (EventFilter(verdicts=("NG",)), ["c4", "a1"]),
        (EventFilter(verdicts=("NG", "WARN"), camera="right"), ["c4", "b3"]),
        (EventFilter(since=1e9 + 1, until=1e9 + 3), ["b2", "a1"]),
        (EventFilter(part="3"), ["b3"]),
        (EventFilter(min_score=3.0), ["c4", "b3", "a1"]),
        (EventFilter(mark="good"), ["a1"]),
        (EventFilter(mark="bad"), ["b2"]),
        (EventFilter(mark="any"), ["b2", "a1"]),
        (EventFilter(mark="any", verdicts=("NG",)), ["a1"]),
    ],
)
def test_filters(path: Path, wanted: EventFilter, ids: list[str]) -> None:
    set_mark(path, "a1", "good", "test")
    set_mark(path, "b2", "bad", "test")
    with Reader(path) as reader:
        assert [event.id for event in reader.events(wanted)] == ids


def test_an_event_is_as_it_was_recorded(path: Path) -> None:
    with Reader(path) as reader:
        event = reader.event("a1")
        assert event is not None
        added = {"sequence": 2, "mark": None, "mark_name": None, "images": ("day/b.jpg", "day/b_map.jpg"), "lossless": None}
        assert {**vars(EVENTS[1]), **added} == vars(event)
        assert reader.event("zz") is None
        assert reader.evidence == path.parent / "evidence"


def test_pages(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_ad.store.reader.PAGE", 2)
    with Reader(path) as reader:
        first = reader.events(limit=2)
        second = reader.events(limit=2, before=first[-1].sequence)
        assert [event.id for event in first + second] == ["c4", "b3", "b2", "a1"]
        assert [event.id for event in reader.every()] == ["c4", "b3", "b2", "a1", "a0"]
        assert [event.id for event in reader.every(limit=3)] == ["c4", "b3", "b2"]
        assert reader.ids("b") == ["b2", "b3"]
        assert reader.ids("b", 1) == ["b2"]


def test_counts_counters_and_latches(path: Path) -> None:
    with Reader(path) as reader:
        assert reader.counts(2.0, 1e9, 1e9 + 4) == [
            Bucket(1e9, {"OK": 1, "NG": 1}),
            Bucket(1e9 + 2, {"NONE": 1, "WARN": 1}),
        ]
        assert reader.counters() == {"left": {"captured": 1}, "right": {"captured": 4}}
        assert reader.latches() == {"left": {"phase": "alarm"}}
        with pytest.raises(BadInput, match="bucket_s"):
            reader.counts(0, 0, 1)


def test_a_mark_is_taken_away_and_refused(path: Path) -> None:
    set_mark(path, "a1", "good", "test")
    set_mark(path, "a1", "bad", "test")
    with Reader(path) as reader:
        result = reader.event("a1")
        assert result is not None
        assert result.mark == "bad"
        set_mark(path, "a1", None, "test")
        assert not reader.events(EventFilter(mark="any"))
    with pytest.raises(BadInput, match="no event 'zz'"):
        set_mark(path, "zz", "good", "test")
    with pytest.raises(BadInput, match="great"):
        set_mark(path, "a1", "great", "test")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="no store"):
        set_mark(path.with_name("none"), "a1", "good", "test")


def test_a_file_that_is_not_there_or_no_store(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no store"):
        Reader(tmp_path / "line.sqlite")
    other = tmp_path / "other.sqlite"
    other.write_bytes(b"text" * 1000)
    with Reader(other) as reader, pytest.raises(BadInput, match="cannot be read"):
        reader.events()
    assert other.read_bytes() == b"text" * 1000


def test_a_replaced_file_is_read_anew(path: Path) -> None:
    with Reader(path) as reader:
        assert len(reader.events()) == 5
        for name in (path.name, path.name + "-wal", path.name + "-shm"):
            path.with_name(name).rename(path.with_name(f"moved-{name}"))
        fresh = Store(path)
        fresh.record(EVENTS[0])
        assert fresh.close(60.0)
        assert [event.id for event in reader.events()] == ["a0"]


def test_several_threads_read_at_once(path: Path) -> None:
    faults: list[BaseException] = []

    def read(reader: Reader) -> None:
        try:
            for _ in range(50):
                assert len(reader.events()) == 5
        except BaseException as error:
            faults.append(error)

    with Reader(path) as reader:
        threads = [threading.Thread(target=read, args=(reader,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not faults
