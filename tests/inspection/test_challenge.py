"""Challenges: when they are due, what is wrong, what locks and what ends that."""

from __future__ import annotations

import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge_ad.config import AlarmTable, ChallengeTable, Config, ProductTable, RunTable
from edge_ad.errors import BadInput, DeviceFault
from edge_ad.events import Event, Verdict
from edge_ad.inspection.challenge import is_unsettled
from edge_ad.inspection.judge import InspectionResult
from edge_ad.inspection.settings import check_settings
from edge_ad.store.challenges import ChallengeRecords
from tests.fixtures.loopback import until
from tests.inspection.challenge_trial import HOUR, KEY, NOON, Trial, asked

pytestmark = pytest.mark.any_version


@pytest.mark.parametrize(
    ("verdicts", "result", "why"),
    [
        (["OK", "NG"], "passed", ""),
        (["WARN", "NG"], "passed", ""),
        (["OK", "OK"], "failed", "a known bad part is OK"),
        (["OK", "WARN"], "failed", "a known bad part is WARN"),
        (["NG"], "failed", "a known good part is NG"),  # at the first wrong part: the bad one is not waited for
        (["NG", "OK"], "failed", "a known good part is NG"),  # swapped: counts alone would not tell
        (["NONE", "OK", "NG"], "passed", ""),  # a camera at fault between the parts
    ],
)
def test_a_challenge_passes_only_when_all_are_right(
    verdicts: list[Verdict], result: str, why: str, tmp_path: Path
) -> None:
    trial = Trial(tmp_path)
    assert trial.challenge.start(asked("challenge")) == "the challenge is open: show known good part 1 of 1"
    for verdict in verdicts:
        trial.part(verdict)
    (record,) = trial.records()
    assert (record["result"], record["reason"], record["by"]) == (result, why, "anna")
    assert (trial.challenge.reason() is None) == (result == "passed")
    assert [one.fault for one in ChallengeRecords(trial.station.folder).verify(KEY)] == [None]
    assert trial.shows[-1] == (False, result == "failed")


def test_the_first_wrong_part_locks_at_once_and_before_the_others_come(tmp_path: Path) -> None:
    trial = Trial(tmp_path, good=1, bad=3)
    trial.challenge.start(asked("challenge"))
    trial.part("OK")
    assert trial.challenge.reason() is None
    event = Event("cam", 1, "2", trial.now, "OK", 1.0, {}, 20.0, None)
    trial.challenge.take(InspectionResult(event, None), 100.0)  # and no tick
    assert "a known bad part is OK" in str(trial.challenge.reason())
    assert trial.shows[-1] == (False, True)
    trial.again()  # killed at that moment
    assert "a known bad part is OK" in str(trial.challenge.reason())
    assert [one["right"] for one in trial.records()[0]["parts"]] == [True, False]
    assert trial.challenge.start(asked("challenge")).endswith("show known good part 1 of 1")


def test_a_lock_outlives_the_table_that_asked(tmp_path: Path) -> None:
    trial = Trial(tmp_path)
    trial.challenge.start(asked("challenge"))
    trial.part("NG")
    trial.again(table=ChallengeTable())
    assert trial.shows[-1] == (False, True)
    with pytest.raises(BadInput, match=r"no \[challenge\] any more"):
        trial.challenge.start(asked("challenge"))
    trial.part("OK")
    trial.challenge.override(asked("override", reason="the parts were lost"))
    assert trial.challenge.reason() is None


def test_a_lock_of_one_product_outlives_the_table_although_another_has_passed_since(tmp_path: Path) -> None:
    trial, other = Trial(tmp_path), {"bundle": "b.edgead", "bundle_sha256": "cd" * 32}
    own = dict(trial.station.bundle)
    assert not is_unsettled(trial.station.log.actions())
    trial.challenge.start(asked("challenge"))
    assert is_unsettled(trial.station.log.actions())
    trial.part("NG")
    trial.again(bundle=other)
    trial.challenge.start(asked("challenge"))
    trial.part("OK")
    trial.part("NG")
    assert is_unsettled(trial.station.log.actions())
    trial.again(table=ChallengeTable())
    assert (trial.challenge.reason(), trial.challenge.locks) == (None, True)
    trial.challenge.on_product(SimpleNamespace(judged_by=own, settings=Config()))  # type: ignore[arg-type]
    assert "a known good part is NG" in str(trial.challenge.reason())
    trial.challenge.override(asked("override", reason="the lamp was off"))
    assert not trial.challenge.locks
    assert not is_unsettled(trial.station.log.actions())


def test_one_that_was_open_does_not_pass_for_want_of_a_table(tmp_path: Path) -> None:
    trial = Trial(tmp_path)
    trial.challenge.start(asked("challenge"))
    trial.again(table=ChallengeTable())
    trial.tick()
    assert trial.records() == []


def test_a_restart_does_not_put_off_what_is_due(tmp_path: Path) -> None:
    trial = Trial(tmp_path, changeover=True, overdue="lock", grace_min=30)
    trial.now += 1200
    trial.again()
    assert trial.challenge.reason() is None
    trial.now += 601
    trial.again()
    assert "a challenge is overdue (none has passed yet)" in str(trial.challenge.reason())
    trial.challenge.start(asked("challenge"))
    trial.part("OK")
    trial.part("NG")
    other = {"bundle": "b.edgead", "bundle_sha256": "cd" * 32}
    for later, locked in ((0, False), (1200, False), (601, True)):
        trial.now += later
        trial.again(bundle=other)
        assert (trial.challenge.reason() is not None) == locked


def test_with_ids_parts_come_in_any_order_and_others_in_between(tmp_path: Path) -> None:
    trial = Trial(tmp_path, good=2, bad=1, good_ids=["G1", "G2"], bad_ids=["B1"])
    trial.challenge.start(asked("challenge"))
    for verdict, name in (("NG", "B1"), ("OK", "4711"), ("OK", "G2"), ("NG", "4712"), ("OK", "G2"), ("OK", "G1")):
        assert trial.records() == []
        trial.part(verdict, name)  # type: ignore[arg-type]
    (record,) = trial.records()
    assert record["result"] == "passed"
    assert [(one["part"], one["verdict"]) for one in record["parts"]] == [("B1", "NG"), ("G2", "OK"), ("G1", "OK")]


def test_a_known_part_without_a_verdict_is_wrong(tmp_path: Path) -> None:
    trial = Trial(tmp_path, good_ids=["G1"], bad_ids=["B1"])
    trial.challenge.start(asked("challenge"))
    trial.part("OK", "G1")
    trial.part("NONE", "B1", reason="late: 1200 ms")
    assert trial.records()[0]["reason"] == "no verdict: late: 1200 ms"


def test_a_failure_locks_over_a_kill_until_it_is_repeated_or_overridden(tmp_path: Path) -> None:
    trial = Trial(tmp_path)
    trial.challenge.start(asked("challenge"))
    trial.part("NG")
    trial.part("NG")
    trial.again()
    assert "the challenge failed (a known good part is NG)" in str(trial.challenge.reason())
    assert trial.shows[-1] == (False, True)
    trial.challenge.start(asked("challenge"))
    trial.again()  # killed while it is open: it begins anew, and is locked as before
    assert trial.shows[-1] == (True, True)
    with pytest.raises(BadInput, match="a challenge is open"):
        trial.challenge.override(asked("override", reason="x"))
    trial.part("OK")
    assert trial.challenge.reason() is not None
    trial.part("NG")
    assert trial.challenge.reason() is None

    trial.challenge.start(asked("challenge"))
    trial.part("NG")
    trial.part("NG")
    for request in (asked("override"), asked("override", by="", reason="x"), asked("override", reason="x", origin="plc")):
        with pytest.raises(BadInput):
            trial.challenge.override(request)
    trial.challenge.override(asked("override", by="ben", reason="the part was swapped"))
    assert trial.challenge.reason() is None
    trial.again()
    assert trial.challenge.reason() is None
    with pytest.raises(BadInput, match="nothing to override"):
        trial.challenge.override(asked("override", reason="x"))
    assert [one["result"] for one in trial.records()] == ["failed", "passed", "failed", "overridden"]
    assert [one.fault for one in ChallengeRecords(trial.station.folder).verify(KEY)] == [None] * 4


def test_without_a_record_nothing_passes_and_nothing_is_overridden(tmp_path: Path) -> None:
    trial = Trial(tmp_path)
    (tmp_path / "challenges").write_text("a file in the place of the folder")
    trial.challenge.start(asked("challenge"))
    trial.part("OK")
    trial.part("NG")
    assert "its record cannot be stored" in str(trial.challenge.reason())
    with pytest.raises(DeviceFault, match="cannot be recorded"):
        trial.challenge.override(asked("override", reason="x"))
    assert trial.challenge.reason() is not None


def test_a_disk_that_takes_no_action_starts_none_and_ends_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(action: Any) -> None:
        raise OSError(28, "No space left on device")

    trial = Trial(tmp_path)
    trial.challenge.start(asked("challenge"))
    monkeypatch.setattr(trial.station.log, "append", full)
    trial.part("NG")
    trial.again()
    assert "a known good part is NG" in str(trial.challenge.reason()), "the record has it"
    with pytest.raises(DeviceFault, match="cannot be stored"):
        trial.challenge.start(asked("challenge"))


def test_a_failure_locks_before_its_record_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*args: Any, **more: object) -> None:
        raise KeyboardInterrupt

    trial = Trial(tmp_path)
    trial.challenge.start(asked("challenge"))
    monkeypatch.setattr(trial.challenge._records, "append", killed)
    with pytest.raises(KeyboardInterrupt):
        trial.part("NG")
    trial.again()
    assert "a known good part is NG" in str(trial.challenge.reason())


def test_a_challenge_is_about_one_product_and_its_rule(tmp_path: Path) -> None:
    judged_by = {"bundle": "b.edgead", "bundle_sha256": "cd" * 32}
    other = SimpleNamespace(judged_by=judged_by, settings=Config(alarm=AlarmTable(warn_rejects=True)))
    trial = Trial(tmp_path)
    trial.challenge.start(asked("challenge"))
    trial.part("OK")
    trial.challenge.on_product(other)  # type: ignore[arg-type]
    assert "the product was changed" in str(trial.challenge.reason())
    trial.challenge.start(asked("challenge"))
    trial.part("OK")
    trial.part("WARN")  # this product rejects it
    assert trial.challenge.reason() is None
    assert [(one["result"], one["bundle"]) for one in trial.records()] == [("failed", "part.edgead"), ("passed", "b.edgead")]


def test_a_challenge_that_another_product_passes_ends_no_lock_of_the_one_that_failed(tmp_path: Path) -> None:
    trial = Trial(tmp_path)
    own, others = dict(trial.station.bundle), {"bundle": "b.edgead", "bundle_sha256": "cd" * 32}
    first, second = (SimpleNamespace(judged_by=one, settings=Config()) for one in (own, others))
    trial.challenge.start(asked("challenge"))
    trial.part("NG")
    trial.challenge.on_product(second)  # type: ignore[arg-type]
    assert "a known good part is NG" in str(trial.challenge.reason()), "nothing passes, whatever is judged"
    trial.challenge.start(asked("challenge"))
    trial.part("OK")
    trial.part("NG")
    assert trial.challenge.reason() is None
    trial.challenge.on_product(first)  # type: ignore[arg-type]
    assert "a known good part is NG" in str(trial.challenge.reason())
    trial.again()
    assert "a known good part is NG" in str(trial.challenge.reason())
    trial.challenge.override(asked("override", reason="the lamp was off"))
    trial.again()
    assert trial.challenge.reason() is None


@pytest.mark.parametrize("match", [None, "^A"])
def test_an_open_challenge_fails_where_a_product_is_chosen_that_shares_the_bundle(tmp_path: Path, match: str | None) -> None:
    trial = Trial(tmp_path)
    trial.challenge.start(asked("challenge"))
    trial.part("OK")
    products = {"b": ProductTable(bundle=Path("part.edgead"), match=match)}
    other = SimpleNamespace(judged_by=dict(trial.station.bundle), settings=Config(product=products))
    trial.challenge.on_product(other)  # type: ignore[arg-type]
    assert ("the product was changed" in str(trial.challenge.reason())) == (match is None)


def test_a_change_of_the_product_does_not_put_off_the_first_challenge(tmp_path: Path) -> None:
    trial = Trial(tmp_path, changeover=True, overdue="lock", grace_min=30)
    for name in ("cd", "ef"):
        trial.now += 1200
        judged_by = {"bundle": "b.edgead", "bundle_sha256": 32 * name}
        other = SimpleNamespace(judged_by=judged_by, settings=Config())
        trial.challenge.on_product(other)  # type: ignore[arg-type]
    assert "a challenge is overdue (none has passed yet)" in str(trial.challenge.reason())


def test_one_that_is_not_completed_in_time_fails(tmp_path: Path) -> None:
    trial = Trial(tmp_path, timeout_min=5)
    trial.challenge.start(asked("challenge"))
    trial.part("OK")
    trial.now += 301
    trial.again()  # a kill does not give it more time
    trial.tick()
    assert "not all parts came within 5 min" in str(trial.challenge.reason())


@pytest.mark.parametrize(
    ("reject_s", "limit", "why"),
    [
        (0.080, 150.0, ""),
        (0.200, 150.0, "the output has the reject after 200 ms; 150 are allowed"),
        (None, 150.0, "no output has taken the reject in time"),
        (None, None, "no output has taken the reject in time"),
    ],
)
def test_the_time_until_a_plc_has_the_reject_counts(
    reject_s: float | None, limit: float | None, why: str, tmp_path: Path
) -> None:
    trial = Trial(tmp_path, max_reject_ms=limit)
    trial.again(measures=True)
    trial.challenge.start(asked("challenge"))
    sent = time.monotonic()
    trial.part("OK", at=sent)
    trial.part("NG", at=sent + 0.02)  # captured at ``sent``
    if reject_s is not None:
        assert trial.records() == []  # the PLC may still take it
        trial.challenge.shown(sent + 0.02, sent + reject_s)
    assert until(lambda: trial.tick() or trial.records())  # type: ignore[func-returns-value]
    assert trial.records()[0]["reason"] == why
    assert trial.records()[0]["parts"][1]["reject_ms"] == (None if reject_s is None else pytest.approx(1000 * reject_s, abs=0.2))


@pytest.mark.parametrize(
    ("table", "later_s", "due"),
    [
        ({"every": 8}, 8 * HOUR - 1, None),
        ({"every": 8}, 8 * HOUR, "every 8 h"),
        ({"changeover": True}, 100 * HOUR, None),
        ({}, 100 * HOUR, None),
    ],
)
def test_when_it_asks(table: dict[str, Any], later_s: float, due: str | None, tmp_path: Path) -> None:
    trial = Trial(tmp_path, **table)
    first = trial.challenge.to_json()["due"]
    assert (first and first["why"]) == ("none has passed yet" if table else None)
    trial.challenge.start(asked("challenge"))
    trial.part("OK")
    trial.part("NG")
    assert trial.challenge.to_json()["due"] is None
    trial.now += later_s
    trial.tick()
    shown = trial.challenge.to_json()["due"]
    assert (shown and shown["why"]) == due
    trial.again(bundle={"bundle": "other.edgead", "bundle_sha256": "cd" * 32})
    shown = trial.challenge.to_json()["due"]
    assert (shown and shown["why"]) == ("changeover: another bundle" if "changeover" in table else due)


def test_it_asks_once_a_shift(tmp_path: Path) -> None:
    shift = time.strftime("%H:%M", time.localtime(NOON + HOUR))
    trial = Trial(tmp_path, shifts=[shift])
    trial.challenge.start(asked("challenge"))
    trial.part("OK")
    trial.part("NG")
    due = []
    for later in (HOUR - 61, 62.0, HOUR):
        trial.now += later
        trial.tick()
        due.append(trial.challenge.to_json()["due"])
    assert due[0] is None
    assert due[1]["why"] == due[2]["why"] == f"shift of {shift}"


def test_an_overdue_one_locks_where_that_is_set(tmp_path: Path) -> None:
    ask, lock = Trial(tmp_path / "a", every=8), Trial(tmp_path / "b", every=8, overdue="lock", grace_min=10)
    for trial in (ask, lock):
        trial.now += 601
        trial.tick()
    assert ask.challenge.reason() is None
    assert "a challenge is overdue (none has passed yet)" in str(lock.challenge.reason())
    assert lock.shows[-1] == (False, True)
    lock.challenge.override(asked("override", reason="parts are on their way"))
    assert lock.challenge.reason() is None


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"good": 3}, "good = 3 and bad = 0: a challenge needs at least one known good part and one known bad part"),
        ({"every": 8}, "good = 0 and bad = 0"),
        ({"good": 2, "bad": 1, "good_ids": ["A", "A"], "bad_ids": ["B"]}, "good_ids name 1 parts"),
        ({"good": 1, "bad": 1, "good_ids": ["A"]}, "one kind of parts alone"),
        ({"good": 1, "bad": 1, "good_ids": ["A"], "bad_ids": ["A"]}, "part 'A' as good and as bad"),
        ({"good": 1, "bad": 1, "max_reject_ms": 300}, "needs an output that tells when it has the reject"),
        ({"good": 1, "bad": 1}, "every frame is one here"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_load_time(table: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=re.escape(message)):
        check_settings(Config(challenge=ChallengeTable(**table), run=RunTable(store=Path("x.sqlite"))))
