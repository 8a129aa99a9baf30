"""Event lines: their exact shape, and a file that survives what happens to files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edge_ad.errors import BadInput, DeviceFault
from edge_ad.events import Event
from edge_ad.inspection.observers import EventFile

NG = Event("cam", 7, "7", 1_000_000_000.25, "NG", 5.5, {"logic": 6.0}, 12.34567, "logic: z 6.0")
NONE = Event("cam", None, None, 0.0, "NONE", None, {}, None, 'stalled: "no" frame\nfor 2 s')


def test_the_line_has_exactly_the_documented_keys_and_values() -> None:
    record = json.loads(NG.line())
    assert list(record) == [
        "id", "camera", "frame", "part", "time", "verdict", "score", "z", "latency_ms", "reason", "pose", "product", "bundle",
        "zone", "peak", "views",
    ]  # fmt: skip
    del record["id"]
    assert record == {
        "camera": "cam",
        "frame": 7,
        "part": "7",
        "time": "2001-09-09T01:46:40.250Z",
        "verdict": "NG",
        "score": 5.5,
        "z": {"logic": 6.0},
        "latency_ms": 12.346,
        "reason": "logic: z 6.0",
        "pose": None,
        "product": None,
        "bundle": None,
        "zone": None,
        "peak": None,
        "views": None,
    }


def test_an_outage_has_nulls_and_stays_one_line() -> None:
    record = json.loads(NONE.line())
    assert "\n" not in NONE.line()
    assert [record[key] for key in ("frame", "part", "score", "latency_ms")] == [None] * 4
    assert record["z"] == {}


def test_numbers_that_json_does_not_know_are_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        Event("cam", 0, "0", 0.0, "OK", float("nan"), {}, 1.0, None).line()


def test_ids_differ() -> None:
    assert len({Event("cam", 0, "0", 0.0, "OK", 0.0, {}, 1.0, None).id for _ in range(1000)}) == 1000


def test_events_are_appended_and_readable_at_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "events.jsonl"
    for _ in range(2):
        writer = EventFile(str(path))
        writer.write(NG)
        assert path.read_text().endswith("}\n")
        writer.close()
        writer.close()
    assert len(path.read_text().splitlines()) == 2


def test_a_torn_line_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"id": "torn')
    writer = EventFile(str(path))
    writer.write(NG)
    writer.close()
    torn, whole = path.read_text().splitlines()
    assert torn == '{"id": "torn'
    assert json.loads(whole)["frame"] == 7


def test_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    writer = EventFile("-")
    writer.write(NG)
    writer.close()
    assert json.loads(capsys.readouterr().out)["verdict"] == "NG"


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=str(tmp_path)):
        EventFile(str(tmp_path))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_stops_the_inspection() -> None:
    writer = EventFile("/dev/full")
    with pytest.raises(DeviceFault, match="/dev/full"):
        writer.write(NG)


@pytest.mark.usefixtures("stderr_log")
@pytest.mark.parametrize("how", ["removed", "renamed", "folder removed"])
def test_a_file_that_is_taken_away_is_made_again(tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "events.jsonl"
    writer = EventFile(str(path))
    writer.write(NG)
    if how == "removed":
        path.unlink()
    elif how == "renamed":
        path.rename(path.with_suffix(".1"))
    else:
        shutil.rmtree(path.parent)
    for _ in range(2):
        writer.write(NG)
    assert len(path.read_text().splitlines()) == 2
    writer.close()
    assert capsys.readouterr().err.count("was removed or renamed") == 1
