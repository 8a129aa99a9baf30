"""The journal: what is appended is read again, torn lines cost themselves alone."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_ad.events import Event
from edge_ad.store.journal import (
    Entry,
    Journal,
    append_lines,
    day_of,
    event_line,
    files,
    locked,
    mark_line,
    open_day,
    parse,
    state_line,
    tail,
)
from tests.store.test_store import row

numbers = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(max_size=30)
rows = st.builds(
    Event,
    id=texts,
    camera=texts,
    frame=st.none() | st.integers(0, 10**9),
    part=st.none() | texts,
    time=numbers,
    verdict=st.sampled_from(("OK", "WARN", "NG", "NONE")),
    score=st.none() | numbers,
    z=st.dictionaries(texts, numbers, max_size=3),
    latency_ms=st.none() | numbers,
    reason=st.none() | texts,
)


@given(st.integers(0, 2**62), rows)
def test_an_event_is_read_as_it_was_written(sequence: int, one: Event) -> None:
    assert parse(event_line(sequence, one).encode()) == Entry(one, sequence)


def test_what_is_not_finite_is_left_out() -> None:
    one = row(1, score=math.nan, z={"logic": math.inf, "local": 2.0})
    read = parse(event_line(3, one).encode()).event
    assert read is not None
    assert read.score is None
    assert read.z == {"local": 2.0}


@given(st.binary(max_size=80))
def test_any_bytes_are_no_entry(data: bytes) -> None:
    assert parse(data) == Entry()


LINE = event_line(7, row(1))


@pytest.mark.parametrize(
    "changes",
    [
        {"id": 3},
        {"camera": None},
        {"time": "x"},
        {"time": None},
        {"verdict": "GOOD"},
        {"z": []},
        {"z": {"a": "b"}},
        {"score": "1"},
    ],
)
def test_an_event_with_a_wrong_field_is_passed_over(changes: dict[str, object]) -> None:
    assert parse(json.dumps({**json.loads(LINE), **changes}).encode()) == Entry()


@given(st.integers(0, len(LINE) - 1))
def test_a_torn_line_is_passed_over(length: int) -> None:
    assert parse(LINE[:length].encode()) == Entry()


def test_a_torn_append_spoils_no_other_line(tmp_path: Path) -> None:
    handle = open_day(tmp_path, "2026-03-01")
    append_lines(handle, ["one"])
    os.write(handle, b"tw")
    append_lines(handle, ["three", "four"])
    os.close(handle)
    assert (tmp_path / "2026-03-01.jsonl").read_text() == "one\ntw\nthree\nfour\n"


def test_the_end_of_the_journal_reports_numbers_counters_and_alarms(tmp_path: Path) -> None:
    assert tail(tmp_path) is None
    folder = tmp_path / "journal"
    folder.mkdir()
    (folder / "2026-03-01.jsonl").write_text(
        "\n".join([event_line(9, row(1)), state_line({"cam": {"captured": 4}}, {"cam": {"phase": "alarm"}}, 1.0)])
        + "\n"
    )
    (folder / "2026-03-02.jsonl").write_text(f"{event_line(11, row(2))}\n{event_line(10, row(3))}\n{{torn")
    result = tail(tmp_path)
    assert result is not None
    assert result.sequence == 11
    assert result.counters == {"cam": {"captured": 4}}
    assert result.latches == {"cam": {"phase": "alarm"}}


def test_a_journal_that_is_open_cannot_be_locked(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(["line"])
    with locked(tmp_path) as alone:
        assert not alone
    journal.close()
    with locked(tmp_path) as alone:
        assert alone


def test_every_day_has_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_772_409_599.0]  # 2026-03-01T23:59:59Z
    monkeypatch.setattr("edge_ad.store.journal.time.time", lambda: now[0])
    journal = Journal(tmp_path)
    journal.append(["a"])
    now[0] += 1
    journal.append(["b"])
    journal.close()
    assert [path.name for path in files(tmp_path)] == ["2026-03-02.jsonl", "2026-03-01.jsonl"]
    assert [path.read_text() for path in files(tmp_path)] == ["b\n", "a\n"]
    assert day_of(now[0]) == "2026-03-02"


def test_marks(tmp_path: Path) -> None:
    assert parse(mark_line("id", "good", "me", 2.0).encode()).mark == {
        "event": "id",
        "mark": "good",
        "by": "me",
        "at": 2.0,
    }
    assert parse(mark_line("id", None, "me", 2.0).encode()).mark is not None
    assert parse(b'{"event":"id","mark":"great","by":"me","at":1}') == Entry()
