"""The store: what is committed is there again, after a close, a lock and a disk that refuses."""

from __future__ import annotations

import sqlite3
import threading
import uuid
from pathlib import Path
from typing import Any

import pytest

from edge_ad.errors import BadInput
from edge_ad.events import Event
from edge_ad.store import Store
from edge_ad.store import store as store_module
from edge_ad.store.schema import COLUMNS, MIGRATIONS, connect, event_of, version_of
from tests.fixtures.loopback import until


def row(number: int = 0, verdict: str = "OK", **changes: Any) -> Event:
    values: dict[str, Any] = {
        "id": str(uuid.uuid4()),
        "camera": "cam",
        "frame": number,
        "part": str(number),
        "time": 1e9 + number,
        "verdict": verdict,
        "score": 1.25,
        "z": {"logic": 0.5},
        "latency_ms": 12.5,
        "reason": None,
    }
    return Event(**{**values, **changes})


def rows_in(path: Path) -> list[Event]:
    with sqlite3.connect(path) as connection:
        names = ", ".join(COLUMNS)
        result = connection.execute(f"SELECT {names} FROM event ORDER BY sequence").fetchall()
    return [event_of(values) for values in result]


def test_events_counters_and_alarms_are_there_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "line.sqlite"
    store = Store(path)
    written = [row(1), row(2, "NG", reason="logic: z 4"), row(3, "NONE", frame=None, part=None, score=None, z={})]
    for number, one in enumerate(written):
        store.record(one, {"captured": number + 1})
    store.save_alarm_state("cam", {"phase": "quiet"})
    store.save_alarm_state("cam", {"phase": "latched", "number": 3})
    assert store.close(60.0)
    assert rows_in(path) == written
    again = Store(path)
    assert again.counters == {"cam": {"captured": 3}}
    assert again.latches == {"cam": {"phase": "latched", "number": 3}}
    again.close()


def test_the_file_is_in_wal_mode_and_fully_synchronous(tmp_path: Path) -> None:
    connection = connect(tmp_path / "line.sqlite")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert version_of(connection) == len(MIGRATIONS)
    connection.close()


def test_migrations_run_once_and_a_newer_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "line.sqlite"
    connect(path).close()
    connection = connect(path)
    assert [version for (version,) in connection.execute("SELECT version FROM migration")] == list(range(1, len(MIGRATIONS) + 1))
    connection.execute("INSERT INTO migration VALUES (99, 0)")
    connection.close()
    with pytest.raises(BadInput, match="version 99"):
        Store(path)


def test_a_failed_migration_leaves_the_version_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "line.sqlite"
    connect(path).close()
    broken = (*MIGRATIONS, "CREATE TABLE extra (id INTEGER); CREATE TABLE event (id INTEGER)")
    monkeypatch.setattr("edge_ad.store.schema.MIGRATIONS", broken)
    with pytest.raises(BadInput, match="already exists"):
        connect(path)
    monkeypatch.undo()
    connection = connect(path)
    assert version_of(connection) == len(MIGRATIONS)
    assert not connection.execute("SELECT name FROM sqlite_master WHERE name = 'extra'").fetchall()
    connection.close()


@pytest.mark.parametrize(
    "content", [b"no database at all, but long enough to be looked at" * 40, b"SQLite format 3\0rubbish"]
)
def test_a_file_that_was_no_store_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "line.sqlite"
    path.write_bytes(content)
    with pytest.raises(BadInput, match="move it away"):
        Store(path)
    assert path.read_bytes() == content


def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE customers (id INTEGER)")
    with pytest.raises(BadInput, match="another program"):
        Store(path)
    with pytest.raises(BadInput, match="opened"):
        Store(tmp_path / "other.sqlite" / "line.sqlite")


def test_events_are_reported_only_after_they_are_on_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "line.sqlite"
    seen: list[bool] = []
    store = Store(path, lambda rows: seen.extend(one in rows_in(path) for one in rows))
    for number in range(50):
        store.record(row(number))
    store.close()
    assert seen == [True] * 50


def test_the_same_event_twice_is_stored_once(tmp_path: Path) -> None:
    store = Store(tmp_path / "line.sqlite")
    one = row(1)
    store.record(one)
    store.record(one)
    store.close()
    assert rows_in(tmp_path / "line.sqlite") == [one]


def test_a_locked_file_is_waited_for_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "line.sqlite"
    store = Store(path)
    assert store._connection is not None
    store._connection.execute("PRAGMA busy_timeout = 20")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    written = [row(number) for number in range(5)]
    for one in written:
        store.record(one)
    assert until(lambda: store.fault is not None)
    assert "locked" in (store.fault or "")
    other.execute("ROLLBACK")
    other.close()
    assert until(lambda: store.committed == 5)
    assert store.fault is None
    store.close()
    assert rows_in(path) == written


def test_while_the_disk_refuses_ok_goes_first_and_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MAX_WAITING", 4)
    path = tmp_path / "line.sqlite"
    store = Store(path)
    gate = threading.Event()
    commit = store._commit
    monkeypatch.setattr(store, "_commit", lambda batch: gate.wait(10) and commit(batch))
    store.record(row(0))  # taken by the thread, which then waits
    assert until(lambda: not store._waiting)
    for number, verdict in enumerate(["NG", "OK", "NG", "OK", "NG", "NG", "NG"], start=1):
        store.record(row(number, verdict))
    assert store.dropped == store.dropped_of["cam"] == 3
    gate.set()
    store.close()
    assert [one.frame for one in rows_in(path)] == [0, 3, 5, 6, 7]


def test_first_starts_on_one_new_store_do_not_disturb_each_other(tmp_path: Path) -> None:
    for number in range(20):
        path, together = tmp_path / f"{number}.sqlite", threading.Barrier(6)
        faults: list[BaseException] = []

        def open_it(path: Path = path, together: threading.Barrier = together, faults: list[BaseException] = faults) -> None:
            together.wait()
            try:
                connect(path).close()
            except BaseException as error:
                faults.append(error)

        threads = [threading.Thread(target=open_it) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert faults == []
        with sqlite3.connect(path) as connection:
            assert version_of(connection) == len(MIGRATIONS)
