"""The outbox: committed with the events, emptied after delivery, bounded, and OK goes before NG."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_ad.errors import BadInput
from edge_ad.events import Event
from edge_ad.store import Store
from edge_ad.store.outbox import MAX_REFUSED, Backlog, DeliveryStats, Outbox, QueuedMessage, drop, retry, standings
from edge_ad.store.schema import connect

RANK = {"OK": 0, "WARN": 1, "NONE": 2, "NG": 3}


def row(number: int, verdict: str = "OK") -> Event:
    return Event("cam", number, str(number), 1e9, verdict, 1.0, {}, 2.0, None, f"id-{number}")


def line(event: Event) -> str:
    return f"line {event.id}"


def store_with(path: Path, outputs: tuple[str, ...], limit: int = 1000, **options: Any) -> Store:
    return Store(path, with_commit=Outbox(outputs, limit, line).add, **options)


def put(path: Path, outputs: tuple[str, ...], rows: list[Event], limit: int = 1000) -> None:
    store = store_with(path, outputs, limit)
    for one in rows:
        store.record(one)
    assert store.close(10)


def test_every_output_gets_every_event_in_the_order_of_commits(tmp_path: Path) -> None:
    path = tmp_path / "line.sqlite"
    put(path, ("a", "b"), [row(number) for number in range(5)])
    put(path, ("b",), [row(5)])
    for output, count in (("a", 5), ("b", 6)):
        backlog = Backlog(path, output)
        queued_messages = backlog.next(100)
        assert [(one.id, one.line) for one in queued_messages] == [(f"id-{n}", f"line id-{n}") for n in range(count)]
        assert [one.sequence for one in queued_messages] == sorted(one.sequence for one in queued_messages)
        assert backlog.next(2) == queued_messages[:2]
        backlog.close()


def test_delivered_letters_go_and_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "line.sqlite"
    put(path, ("a", "b"), [row(number) for number in range(5)])
    backlog = Backlog(path, "a")
    backlog.delivered(backlog.next(3))
    backlog.delivered([])
    assert [one.id for one in backlog.next(10)] == ["id-3", "id-4"]
    assert (backlog.stats().waiting, backlog.stats().delivered) == (2, 3)
    backlog.close()
    assert {result.output: result.waiting for result in standings(path)} == {"a": 2, "b": 5}


def test_events_and_letters_are_committed_together_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "line.sqlite"
    connection = connect(path)
    outbox = Outbox(("a",), 10, line)
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO event (id, camera, time, verdict, z) VALUES ('id-1', 'cam', 0, 'OK', '{}')")
    outbox.add(connection, [row(1)])
    connection.execute("ROLLBACK")
    assert not connection.execute("SELECT 1 FROM outbox").fetchall()
    assert not connection.execute("SELECT 1 FROM outlet").fetchall()
    connection.close()


def test_a_commit_that_fails_and_comes_again_leaves_one_letter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_ad.store.store.RETRY_S", 0.01)
    path = tmp_path / "line.sqlite"
    outbox = Outbox(("a",), 10, line)
    faults = [sqlite3.OperationalError("disk full")] * 2

    def add(connection: sqlite3.Connection, rows: list[Event]) -> None:
        outbox.add(connection, rows)
        if faults:
            raise faults.pop()

    store = Store(path, with_commit=add)
    store.record(row(1))
    while store.committed < 1:
        pass
    assert store.close(60.0)
    backlog = Backlog(path, "a")
    assert [one.id for one in backlog.next(10)] == ["id-1"]
    assert backlog.stats().waiting == 1
    backlog.close()


@given(
    st.lists(st.lists(st.sampled_from(["OK", "WARN", "NG", "NONE"]), min_size=1, max_size=12), max_size=6),
    st.integers(1, 8),
)
def test_beyond_the_limit_the_least_important_go_oldest_first(batches: list[list[str]], limit: int) -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    from edge_ad.store.schema import MIGRATIONS

    for migration in MIGRATIONS:
        connection.executescript(migration)
    outbox = Outbox(("a",), limit, line)
    model: list[tuple[int, str]] = []
    dropped = dict.fromkeys(RANK, 0)
    number = 0
    for batch in batches:
        rows = [row(number + place, verdict) for place, verdict in enumerate(batch)]
        number += len(batch)
        connection.executemany(
            "INSERT INTO event (id, camera, time, verdict, z) VALUES (?, 'cam', 0, ?, '{}')",
            [(one.id, one.verdict) for one in rows],
        )
        outbox.add(connection, rows)
        model += [(int(one.id[3:]), one.verdict) for one in rows]
        while len(model) > limit:
            worst = min(model, key=lambda one: (RANK[one[1]], one[0]))
            model.remove(worst)
            dropped[worst[1]] += 1
    kept = connection.execute("SELECT id, verdict FROM outbox ORDER BY sequence").fetchall()
    assert [(int(one[3:]), verdict) for one, verdict in kept] == model
    counts = connection.execute(
        "SELECT waiting, dropped_OK, dropped_WARN, dropped_NONE, dropped_NG FROM outlet"
    ).fetchall()
    assert counts == ([(len(model), *(dropped[name] for name in RANK))] if batches else [])
    assert outbox.full == ({"a"} if sum(dropped.values()) else set())
    connection.close()


def test_a_refused_letter_is_set_aside_and_can_be_tried_again_at_its_place(tmp_path: Path) -> None:
    path = tmp_path / "line.sqlite"
    put(path, ("a",), [row(number) for number in range(3)])
    backlog = Backlog(path, "a")
    backlog.refuse(backlog.next(1)[0], "400 Bad Request")
    assert [one.id for one in backlog.next(10)] == ["id-1", "id-2"]
    result = backlog.stats()
    assert (result.waiting, result.refused, result.dropped) == (2, 1, 0)
    assert retry(path, "a") == 1
    assert [one.id for one in backlog.next(10)] == ["id-0", "id-1", "id-2"]
    assert (backlog.stats().waiting, backlog.stats().refused) == (3, 0)
    backlog.close()


def test_what_is_set_aside_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_ad.store.outbox.MAX_REFUSED", 2)
    assert MAX_REFUSED > 2
    path = tmp_path / "line.sqlite"
    put(path, ("a",), [row(number) for number in range(4)])
    backlog = Backlog(path, "a")
    for letter in backlog.next(4):
        backlog.refuse(letter, "no")
    assert backlog.stats().refused == 4
    assert retry(path, "a") == 2
    assert [one.id for one in backlog.next(10)] == ["id-2", "id-3"]
    backlog.close()


def test_a_backlog_can_be_given_up_and_the_record_stays(tmp_path: Path) -> None:
    path = tmp_path / "line.sqlite"
    put(path, ("a", "b"), [row(0), row(1, "NG")])
    assert drop(path, "a") == 2
    assert drop(path, "a") == 0
    result = {one.output: (one.waiting, one.dropped) for one in standings(path)}
    assert result == {"a": (0, 2), "b": (2, 0)}
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM event").fetchone() == (2,)


def test_letters_that_were_dropped_on_the_way_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "line.sqlite"
    put(path, ("a",), [row(0), row(1)])
    backlog = Backlog(path, "a")
    queued_messages = backlog.next(10)
    drop(path, "a")
    backlog.delivered(queued_messages)
    backlog.refuse(QueuedMessage(queued_messages[0].sequence, "id-0", "OK", "x"), "no")
    assert backlog.stats().waiting == 0
    backlog.close()


def test_a_store_that_is_not_there_yet_or_was_replaced(tmp_path: Path) -> None:
    path = tmp_path / "line.sqlite"
    backlog = Backlog(path, "a")
    with pytest.raises(sqlite3.Error, match="unable to open"):
        backlog.next(1)
    with pytest.raises(BadInput, match="cannot be read"):
        standings(path)
    assert not path.exists()  # making one is left to the store
    put(path, ("a",), [row(0)])
    assert [one.id for one in backlog.next(9)] == ["id-0"]
    path.rename(tmp_path / "damaged")
    for part in ("-wal", "-shm"):
        path.with_name(path.name + part).unlink(missing_ok=True)
    put(path, ("a",), [row(1)])
    assert [one.id for one in backlog.next(9)] == ["id-1"]
    assert Backlog(path, "unknown").stats() == DeliveryStats("unknown")
    backlog.close()
