"""Records of challenges: the signature, the key, the report, what else lies in their folder, and records of any content."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edge_ad.errors import BadInput
from edge_ad.store.challenges import ChallengeRecords, describe, make_key, read_key, report
from tests.inspection.challenge_trial import KEY, Trial, asked

pytestmark = pytest.mark.any_version

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


def recorded(folder: Path) -> tuple[ChallengeRecords, list[Path]]:
    """Three records, the second with two images."""
    for _ in range(3):
        trial = Trial(folder)
        trial.challenge.start(asked("challenge"))
        trial.part("OK")
        trial.part("NG")
    return ChallengeRecords(folder / "challenges"), sorted((folder / "challenges").iterdir())


def faults(records: ChallengeRecords, key: bytes = KEY) -> list[str | None]:
    return [one.fault for one in records.verify(key)]


def test_any_changed_byte_of_a_record_or_an_image_is_seen(tmp_path: Path) -> None:
    records, files = recorded(tmp_path)
    assert faults(records) == [None] * 3
    (second,) = [path for path in files if path.name == "000002.json"]
    data = second.read_bytes()
    for place in range(len(data)):
        second.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert faults(records)[1] is not None, place
    second.write_bytes(data.replace(b'"right":true', b'"right": true', 1))
    assert faults(records)[1] == "it was changed, or signed with another key"
    second.write_bytes(data)
    assert faults(records) == [None] * 3
    image = tmp_path / "challenges" / "000002-01-good.jpg"
    jpeg = image.read_bytes()
    image.write_bytes(jpeg[:-1] + b"\0")
    assert faults(records)[1] == "its image 01-good.jpg was changed or is missing"
    image.write_bytes(jpeg)
    assert faults(records, bytes(32)) == ["it was changed, or signed with another key"] * 3


def test_a_missing_and_a_replaced_record_are_seen(tmp_path: Path) -> None:
    records, _ = recorded(tmp_path)
    folder = tmp_path / "challenges"
    shutil.copy(folder / "000003.json", folder / "kept")
    (folder / "000002.json").rename(folder / "aside")
    assert "one is missing" in str(faults(records)[1])
    (folder / "aside").rename(folder / "000002.json")
    (folder / "000003.json").unlink()
    trial = Trial(tmp_path)
    trial.now += 1
    trial.challenge.start(asked("challenge"))
    trial.part("OK")
    trial.part("NG")
    assert faults(records)[:2] == [None] * 2
    assert faults(records)[2] == "it is number 4 in the place of number 3: one is missing"  # the newest was, before this one
    shutil.copy(folder / "kept", folder / "000005.json")
    assert faults(records)[3] is not None


def test_the_key_is_for_one_user_and_one_file(tmp_path: Path) -> None:
    path = tmp_path / "line.challenge.key"
    with pytest.raises(BadInput, match="`edge-ad challenge key` makes one"):
        read_key(path)
    make_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(read_key(path)) == 32
    with pytest.raises(BadInput, match="there is a key already"):
        make_key(path)
    path.chmod(0o640)
    with pytest.raises(BadInput, match="others may read it"):
        read_key(path)
    path.chmod(0o600)
    path.write_text("zz\n")
    with pytest.raises(BadInput, match="is no key"):
        read_key(path)


def test_the_report_shows_images_escapes_texts_and_hides_what_does_not_hold(tmp_path: Path) -> None:
    trial = Trial(tmp_path)
    trial.challenge.start(asked("challenge", by="<b>anna</b>"))
    trial.part("OK")
    trial.part("OK")
    records = ChallengeRecords(trial.station.folder)
    page = report(records, records.verify(KEY))
    assert page.count("data:image/jpeg;base64,") == 2
    assert "&lt;b&gt;anna&lt;/b&gt;" in page
    assert "<b>anna" not in page
    assert "wrong: a known bad part is OK" in page
    page = report(records, records.verify(bytes(32)))
    assert "Does not hold" in page
    assert "anna" not in page
