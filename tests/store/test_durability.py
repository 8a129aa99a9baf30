"""No committed event is missing after a kill or a power cut; the long forms are in tools/soak/record.py."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.store.durability import calls, faults, kill_once, power_cuts, record

KILLS = 20
CUTS = 60


@pytest.mark.slow
def test_no_committed_event_is_missing_after_kills(tmp_path: Path) -> None:
    rng = random.Random(0)
    message: set[str] = set()
    for _ in range(KILLS):
        message |= kill_once(tmp_path, rng)
    assert len(message) >= KILLS
    assert faults(tmp_path, message) == []


@pytest.mark.slow
def test_no_committed_event_is_missing_after_power_cuts(tmp_path: Path) -> None:
    root = tmp_path / "line"
    root.mkdir()
    reason = record(root, tmp_path / "trace", 40, 250)
    if reason is not None:
        pytest.skip(reason)
    result = list(calls(tmp_path / "trace"))
    results = list(power_cuts(root, result, CUTS, 0, tmp_path / "cuts"))
    assert len(results) == CUTS
    assert [wrong for wrong in results if wrong[2]] == []
    assert max(message for _, message, _ in results) > 200
    # The trial can tell: had the store never synced, it would have lost events.
    unsynced = [call for call in result if call.name != "fdatasync"]
    assert any(wrong for _, _, wrong in power_cuts(root, unsynced, 8, 0, tmp_path / "unsynced"))
