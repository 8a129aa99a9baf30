"""`edge-ad events`: list, filter, export, mark, rebuild, with the sentences for what a person gets wrong."""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_ad.cli.app import main
from edge_ad.errors import BadInput
from edge_ad.store import Store, StoredImage
from edge_ad.store.export import moment
from edge_ad.store.journal import files
from edge_ad.store.reader import Reader
from tests.fixtures.loopback import until
from tests.store.test_store import row

START = 1_772_323_200.0  # 2026-03-01T00:00:00Z
EVENTS = [
    row(0, "OK", id="aa00", time=START),
    row(1, "NG", id="aa11", time=START + 3600, camera="left", reason="logic: z 4.0; score 5.00 above 4.07", score=5.0),
    row(2, "NONE", id="bb22", time=START + 7200, part="=cmd|' /C calc'!A0", score=None, z={}, reason="dark"),
]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store that a run is writing, at the place where `edge-ad events` looks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    written = Store(Path("runs/line.sqlite"), evidence=Path("runs/line.evidence"))
    for event in EVENTS:
        written.record(event)
    written.add_image(StoredImage("2026-03-01/cam/a.jpg", "aa11", "NG", START, 10))
    assert until(lambda: written.committed == len(EVENTS))
    yield written
    written.close()
    monkeypatch.undo()
    time.tzset()


def listed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the ids that were printed."""
    lines = capsys.readouterr().out.splitlines()
    return [line.split()[0] for line in lines if line[:4] in ("aa00", "aa11", "bb22")]


@pytest.mark.parametrize(
    ("arguments", "ids"),
    [
        ([], ["bb22", "aa11", "aa00"]),
        (["list", "--limit", "2"], ["bb22", "aa11"]),
        (["--verdict", "ng", "--verdict", "OK"], ["aa11", "aa00"]),
        (["--camera", "left"], ["aa11"]),
        (["--part", "0"], ["aa00"]),
        (["--since", "2026-03-01T01:00Z"], ["bb22", "aa11"]),
        (["--since", "2026-03-01T01:00", "--until", "2026-03-01T02:00"], ["aa11"]),
        (["--since", "1h"], []),
        (["--marked", "any"], []),
    ],
)
def test_lists(store: Store, capsys: pytest.CaptureFixture[str], arguments: list[str], ids: list[str]) -> None:
    assert main(["events", *arguments]) == 0
    assert listed(capsys) == ids


def test_the_table_is_for_people(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["events", "--limit", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["id", "time", "verdict", "score", "mark", "part", "camera", "reason"]
    assert lines[2].split()[:5] == ["aa11", "2026-03-01", "01:00:00.000", "NG", "5.00"]
    assert "newest 2" in lines[-1]
    assert main(["events", "--camera", "none"]) == 0
    assert capsys.readouterr().out == "no event fits\n"


def test_exports(store: Store) -> None:
    assert main(["events", "--csv", "out/e.csv", "--json", "out/e.json"]) == 0
    with Path("out/e.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [one["id"] for one in rows] == ["bb22", "aa11", "aa00"]
    assert rows[1]["time"] == "2026-03-01T01:00:00.000Z"
    assert rows[1]["images"] == "2026-03-01/cam/a.jpg"
    assert float(rows[1]["z_logic"]) == 0.5
    assert rows[0]["score"] == rows[0]["z_logic"] == ""
    assert rows[0]["part"] == "'=cmd|' /C calc'!A0"  # no formula in a spreadsheet
    result = json.loads(Path("out/e.json").read_text())
    assert [one["id"] for one in result] == ["bb22", "aa11", "aa00"]
    assert result[0]["part"] == "=cmd|' /C calc'!A0"
    assert result[1]["z"] == {"logic": 0.5}
    assert main(["events", "--camera", "none", "--json", "none.json"]) == 0
    assert json.loads(Path("none.json").read_text()) == []
    assert sorted(os.listdir("out")) == ["e.csv", "e.json"]


def test_marks(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["events", "mark", "aa1", "good"]) == 0
    assert "aa11 is marked good" in capsys.readouterr().out
    assert main(["events", "--marked", "good"]) == 0
    assert listed(capsys) == ["aa11"]
    assert main(["events", "mark", "aa11", "none"]) == 0
    with Reader(Path("runs/line.sqlite")) as reader:
        result = reader.event("aa11")
    assert result is not None
    assert result.mark is None


def test_rebuild(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    store.close()
    Path("runs/line.sqlite").unlink()
    assert files(Path("runs/line.evidence"))
    assert main(["events", "rebuild"]) == 0
    message = capsys.readouterr()
    assert "lost" in message.err
    assert "3 events" in message.out
    assert main(["events"]) == 0
    assert listed(capsys) == ["bb22", "aa11", "aa00"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show"], "choose one of list, mark, actions, verify, rebuild"),
        (["list", "aa11"], "takes no further word"),
        (["mark"], "needs an ID"),
        (["mark", "aa11", "great"], "good, bad or none"),
        (["mark", "zz", "good"], "no event has an id that begins with 'zz'"),
        (["mark", "aa", "good"], "more than one event"),
        (["--verdict", "FAIL"], "OK, WARN, NG, NONE"),
        (["--marked", "yes"], "good, bad, any"),
        (["--since", "yesterday"], "2h, 30m or 7d"),
        (["--store", "none.sqlite"], "no store at none.sqlite"),
        (["rebuild", "--store", "none.sqlite"], "neither journal nor image"),
        (["--csv", "/proc/nowhere/e.csv"], "cannot write /proc/nowhere/e.csv"),
    ],
)
def test_mistakes(store: Store, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert main(["events", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 910.0), ("5m", 700.0), ("1970-01-01T00:10:00+00:00", 600.0), ("1970-01-01T02:10:00+02:00", 600.0)],
)
def test_moments(text: str, seconds: float) -> None:
    assert moment(text, 1000.0) == seconds


@pytest.mark.parametrize("text", ["", "2h ago", "-3h", "2026-13-01", "١h"])
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(BadInput, match="the time is"):
        moment(text, 0.0)
