"""`edge-ad challenge verify` and `key`: records that were taken away at the end, and a disk that refuses a key."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from edge_ad.cli.app import main
from edge_ad.errors import BadInput
from edge_ad.store.actions import Action, ActionLog, actions_path
from edge_ad.store.challenges import ChallengeRecords, challenges_folder, key_path, make_key, read_key


def test_a_newest_record_that_was_taken_away_is_seen_by_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "line.sqlite"
    make_key(key_path(store))
    records, log = ChallengeRecords(challenges_folder(store)), ActionLog(actions_path(store))
    for result in ("passed", "failed"):
        number = records.next_number()
        path = records.append({"result": result, "by": "anna", "closed": 1.0}, [], read_key(key_path(store)))
        log.append(Action(f"challenge {result}", "anna", "station", "", details={"record": number}))
    log.append(Action("pause", "anna", "command", "lens"))
    assert main(["challenge", "verify", "--store", str(store)]) == 0
    path.unlink()
    assert main(["challenge", "verify", "--store", str(store)]) == 4
    assert "names number 2: the newest were taken away" in capsys.readouterr().err


def test_a_disk_that_refuses_leaves_no_half_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("edge_ad.utils.files.os.fsync", full)
    with pytest.raises(BadInput, match="cannot be written: No space left on device"):
        make_key(tmp_path / "line.challenge.key")
    monkeypatch.undo()
    make_key(tmp_path / "line.challenge.key")
