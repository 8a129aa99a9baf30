"""Records of challenges: what else lies in their folder, and records of any content."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_ad.store.challenges import ChallengeRecords, describe

KEY = bytes(range(32))
RECORD = {"result": "overridden", "by": "ben", "closed": 1_772_366_400.0, "reason": "swapped\x1b[2J"}


def test_other_files_in_the_folder_are_no_records(tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text("{}")
    records = ChallengeRecords(tmp_path)
    for _ in range(2):
        records.append(RECORD, [], KEY)
    assert [path.name for path in records.paths()] == ["000001.json", "000002.json"]
    assert [one.fault for one in records.verify(KEY)] == [None, None]


def test_a_record_is_listed_without_control_characters(tmp_path: Path) -> None:
    records = ChallengeRecords(tmp_path)
    records.append(RECORD, [], KEY)
    assert describe(records.read()[0]).endswith("swapped?[2J")


@pytest.mark.parametrize(
    "text", ['{"a": "\\ud800"}', "[" * 50_000, "{}", '{"closed": 1e300, "number": 1}', '{"closed": "x"}']
)
def test_a_record_of_any_content_is_one_that_does_not_hold(text: str, tmp_path: Path) -> None:
    (tmp_path / "000001.json").write_text(text)
    records = ChallengeRecords(tmp_path)
    assert [one.fault is None for one in records.verify(KEY)] == [False]
    assert all("verify" in describe(record) for record in records.read())
