"""The audit trail: a chain whose first broken record is named, across processes, kills, retention and earlier versions."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_ad.cli.app import main
from edge_ad.store import audit
from edge_ad.store.actions import Action, ActionLog, actions_path
from edge_ad.store.audit import Head, kept_heads, verify
from edge_ad.store.challenges import ChallengeRecords, challenges_folder, key_path, make_key, read_key

EARLIER = '{"kind":"pause","by":"anna","origin":"command","reason":"lens","time":1.0,"details":{}}\n'


def filled(path: Path, count: int = 4, heads: Path | None = None) -> ActionLog:
    log = ActionLog(path, heads)
    for number in range(1, count + 1):
        log.append(Action("mark", "änna", "dashboard", f"part {number}", float(number), {"event": f"e{number}"}))
    return log


def edit(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))


def test_hash_is_sha256_of_the_canonical_record_and_the_one_before(tmp_path: Path) -> None:
    filled(tmp_path / "a.jsonl", 2)
    first, second = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    digest = second["details"]["chain"].pop("hash")
    text = json.dumps(second, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    assert digest == hashlib.sha256(text.encode()).hexdigest()
    assert second["details"]["chain"] == {"number": 2, "previous": first["details"]["chain"]["hash"]}
    assert first["details"]["chain"]["previous"] == hashlib.sha256(b"").hexdigest()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda lines: [*lines[:1], lines[1].replace("part 2", "part 9"), *lines[2:]], "record 2 (mark) was changed"),
        (lambda lines: [lines[0], *lines[2:]], "record 3 (mark) follows record 1: record 2 is missing"),
        (lambda lines: [*lines[:2], "no JSON\n", *lines[3:]], "record 4 (mark) follows record 2: record 3 is missing"),
        (lambda lines: [lines[1], lines[0], *lines[2:]], "record 1 (mark) follows record 2"),
        (lambda lines: lines[1:], "record 2 is the first, but no record says"),
        (lambda lines: lines[:3], "record 4 is missing: the index names record 4, but record 3 is the newest"),
        (lambda lines: [], "record 1 is missing: the index names record 4, but no record is here"),
        (lambda lines: [EARLIER, *lines], "record 1 does not follow the lines of the earlier version"),
        (lambda lines: [lines[0].replace('"time":1.0', '"time":NaN'), *lines[1:]], "record 1 (mark) was changed"),
        (lambda lines: [lines[0].replace('"number":1', '"number":Infinity'), *lines[1:]], "record 2 is the first"),
        (lambda lines: lines, None),
    ],
)
def test_first_broken_record_is_named(tmp_path: Path, change: Callable[[list[str]], list[str]], fault: str | None) -> None:
    path = tmp_path / "a.jsonl"
    head = filled(path).head()
    assert head is not None
    edit(path, change)
    result = verify(path, {"the index": head}).fault
    assert result == fault or (fault is not None and result is not None and result.startswith(fault))


@pytest.mark.parametrize(("details", "kept"), [({"bundle": "teil-\udcff.edgead"}, True), ({"warn": float("inf")}, False)])
def test_what_an_action_is_about_raises_nothing_and_breaks_no_chain(tmp_path: Path, details: dict[str, object], kept: bool) -> None:
    log = filled(tmp_path / "a.jsonl")
    assert log.keep(Action("replace", "anna", "command", "lot 7", 9.0, details)) is kept
    log.append(Action("resume", "anna", "command", ""))
    result = verify(log.path, {})
    assert (result.records, result.fault) == (5 + kept, None)
    assert kept is False or list(log.actions())[-2].details == details


def test_chain_made_anew_does_not_fit_a_head_that_was_noted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    noted = filled(path, 2).head()
    path.unlink()
    log = filled(path, 1)
    log.append(Action("mark", "eve", "dashboard", "another", 2.0))
    assert noted is not None
    assert "record 2 (mark) is not the one that --head names" in str(verify(path, {"--head": Head(2, noted.hash[:12])}).fault)


def test_torn_line_counts_for_nothing_and_whole_one_without_its_end_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    log = filled(path, 2)
    with path.open("a") as stream:
        stream.write('{"kind":"pa')
    log.append(Action("pause", "anna", "command", "lens"))
    path.write_bytes(path.read_bytes()[:-1])
    log.append(Action("resume", "anna", "command", ""))
    result = verify(path, {})
    assert (result.records, result.fault) == (4, None)


def test_lines_of_an_earlier_version_are_vouched_for_by_the_first_record(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(EARLIER)
    log = filled(path, 2)
    assert [one.kind for one in log.actions()] == ["pause", "mark", "mark"]
    result = verify(path, {})
    assert (result.records, result.earlier, result.fault) == (2, 1, None)
    edit(path, lambda lines: [lines[0].replace("lens", "lamp"), *lines[1:]])
    assert "earlier version before it: they were changed" in str(verify(path, {}).fault)


def test_retention_leaves_a_record_of_what_it_removed_and_what_the_line_stands_by(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    log = filled(path, 3)
    assert log.remove_before(3.0) == 2
    assert [one.kind for one in log.actions()] == ["mark", "actions removed"]
    assert verify(path, {}).fault is None
    assert (verify(path, {}).first, verify(path, {}).records) == (3, 2)
    log.append(Action("pause", "anna", "command", "lens", 4.0))
    filled(path, 2)
    assert log.remove_before(1e12) == 2  # to the pause that stands
    assert [one.kind for one in log.actions()] == ["pause", "mark", "mark", "actions removed"]
    assert verify(path, {}).fault is None
    edit(path, lambda lines: lines[1:])
    assert verify(path, {}).fault == "record 6 is the first, but no record says that those before it were removed"


@pytest.mark.parametrize("window", [1, 2, 7, 1 << 16])
@pytest.mark.parametrize("data", [b"", b"\n", b"a", b"a\n", b"a\n\nbcd\nef", b"\n".join([b"x" * 40] * 30)])
def test_lines_come_backwards_whatever_is_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int, data: bytes
) -> None:
    monkeypatch.setattr(audit, "TAIL_BYTES", window)
    (tmp_path / "lines").write_bytes(data)
    with (tmp_path / "lines").open("rb") as stream:
        assert list(audit.lines_backwards(stream.fileno())) == data.split(b"\n")[::-1]


def test_the_last_action_of_a_kind_is_the_newest_one(tmp_path: Path) -> None:
    log = filled(tmp_path / "a.jsonl")
    for kind, reason in (("pause", "first"), ("pause", "second"), ("mark", "later")):
        log.append(Action(kind, "anna", "command", reason))
    last = log.last(("pause", "resume"))
    assert (last and last.reason, log.last(("resume",))) == ("second", None)
    assert ActionLog(tmp_path / "none.jsonl").last(("pause",)) is None


def _append_some(path: Path) -> None:
    for number in range(25):
        ActionLog(path).append(Action("mark", "anna", "command", str(number)))


def test_processes_that_append_at_once_make_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    workers = [multiprocessing.get_context("fork").Process(target=_append_some, args=(path,)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    result = verify(path, {})
    assert (result.records, result.fault) == (100, None)


def test_command_finds_what_was_cut_off_by_the_evidence_folder_and_the_signed_challenges(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "line.sqlite"
    (tmp_path / "line.evidence").mkdir()
    path = actions_path(store)
    assert main(["events", "verify", "--store", str(store)]) == 2
    log = filled(path, 3, tmp_path / "line.evidence")
    assert [one.number for one in kept_heads(tmp_path / "line.evidence")] == [1, 2, 3]
    make_key(key_path(store))
    record = {"result": "passed", "by": "anna", "closed": 1.0, "audit": str(log.head())}
    ChallengeRecords(challenges_folder(store)).append(record, [], read_key(key_path(store)))
    assert main(["events", "verify", "--store", str(store)]) == 0
    message = capsys.readouterr().out
    assert message == f"all 3 records hold, 1 to 3; head {log.head()}\n"
    assert main(["events", "verify", "--store", str(store), "--head", message.split()[-1]]) == 0
    edit(path, lambda lines: lines[:2])
    assert main(["events", "verify", "--store", str(store)]) == 4
    assert "record 3 is missing: the signed challenge 1 names record 3" in capsys.readouterr().err
    (challenges_folder(store) / "000001.json").unlink()
    assert main(["events", "verify", "--store", str(store)]) == 4
    assert "record 3 is missing: audit.heads in" in capsys.readouterr().err
    assert main(["events", "verify", "--store", str(store), "--head", "7:nonsense"]) == 2
