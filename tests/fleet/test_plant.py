"""The plant of tools/soak/fleet.py in small: real runs, a real broker and a real store, and the messages of many agents."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.mosquitto import mosquitto_missing
from tools.soak import fleet

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(mosquitto_missing() is not None, reason=mosquitto_missing() or ""),
]


def test_every_station_ends_as_promised(tmp_path: Path) -> None:
    """A canary, one that is killed while it downloads, and one whose known images say no."""
    result = fleet.soak(tmp_path, 3, 4.0)
    assert "station-03: the known image bad/1.png is called OK and must be NG" in result["rollout"]
    rows = result["stations"]
    assert [row["phase"] for row in rows.values()] == ["active", "active", "failed"]
    for row in rows.values():  # the gap is a time: the tool measures it, a loaded machine stretches it
        assert [fault for fault in row["faults"] if "between the verdicts" not in fault] == []


def test_many_agents_follow_a_rollout(tmp_path: Path) -> None:
    result = fleet.measure_messages(tmp_path / "messages", 30)
    assert result["agents"] == 30
    assert result["published_to_broker"] >= 2 * 30
