"""The report of a shift against figures counted by hand, as a page in a browser, and its memory."""

from __future__ import annotations

import contextlib
import csv
import sqlite3
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_ad.cli.app import main
from edge_ad.events import Event
from edge_ad.store import Store
from edge_ad.store.actions import Action, ActionLog, action_log
from edge_ad.store.reader import Reader, set_mark
from edge_ad.store.schema import MIGRATIONS, connect, transaction
from edge_ad.store.shift_page import csv_of, page_of
from edge_ad.store.shift_report import Downtime, Period, ShiftReport, report_of
from tests.web.running import browser, browser_missing

T0 = 1_700_000_000.0  # the shift: T0 to T0 + 8 h
END = T0 + 8 * 3600.0


def event(at: float, verdict: str, reason: str | None = None, *, part: str = "", product: str | None = "cap", **more: Any) -> Event:
    score = None if verdict == "NONE" else 1.0
    return Event("cam", 1, part or f"{at:g}", T0 + at, verdict, score, {}, 1.0, reason, product=product, **more)  # type: ignore[arg-type]


EVENTS = (
    event(-1, "NG", "local: z 9"),  # before the shift
    *(event(100 + number, "OK") for number in range(90)),
    *(event(200 + number, "WARN", "logic: z 3") for number in range(4)),
    *(event(300 + number, "NG", "local: z 8", peak=(0.26, 0.51)) for number in range(3)),
    event(310, "NG", "memory: z 7", peak=(1.0, 0.0), product="lid"),
    *(event(400 + number, "NONE", "dark: mean 3") for number in range(10)),
    event(410, "OK"),
    event(500, "NONE", "camera lost: no answer", product=None),
    event(530, "NONE", "camera lost: no answer", product=None),  # and then nothing more for long
    event(1500, "NONE", "paused: by anna (command): lens", product=None),
    event(2500, "NONE", "product: changing", product=None),
    event(2501, "OK"),
    event(8 * 3600, "OK"),  # of the next shift
)
ACTIONS = (
    Action("run started", "root", "station", "", T0 - 5000),
    Action("pause", "anna", "command", "lens", T0 + 1000),
    Action("thresholds", "ben", "dashboard", "WARN above 2 (was 1)", T0 + 1200),
    Action("resume", "anna", "command", "", T0 + 2000),
    Action("challenge passed", "anna", "station", "", T0 + 2100),
    Action("login", "ben", "dashboard", "", T0 + 2200),
    Action("settings", "root", "station", "run.hold_ms = 600", T0 + 2300),
    Action("run ended", "station", "station", "", T0 + 3000),
    Action("run started", "root", "station", "", T0 + 3600),
    Action("pause", "anna", "command", "<b>night</b>", T0 + 7 * 3600),
)


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("station") / "line.sqlite"
    store = Store(path)
    for one in EVENTS:
        store.record(one)
    store.save_alarm_state("cam", {"phase": "alarm", "number": 7})
    assert store.close(60.0)
    with connect(path) as connection:
        connection.execute("UPDATE alarm SET time = ?", (T0 + 300,))
    log = action_log(path)
    for action in ACTIONS:
        log.append(action)
    ids = {one.part: one.id for one in EVENTS}
    for part, mark in (("300", "good"), ("301", "bad"), ("100", "bad"), ("200", "good")):
        set_mark(path, ids[part], mark, "anna")  # type: ignore[arg-type]
    return path


def report(path: Path, warn_rejects: bool = False) -> ShiftReport:
    with Reader(path) as reader:
        return report_of(reader, action_log(path), Period(T0, END), warn_rejects=warn_rejects, now=END + 1e6)


def test_counts_are_those_of_the_events(station: Path) -> None:
    found = report(station)
    assert dict(found.total.verdicts) == {"OK": 92, "WARN": 4, "NG": 4, "NONE": 14}
    assert (found.total.judged(), found.total.share(False), found.total.share(True)) == (100, 0.96, 0.92)
    assert dict(found.total.branches) == {"local": 3, "memory": 1}
    assert dict(found.products["cap"].places) == {(6, 12): 3}  # 0.26 and 0.51 of 24 cells
    assert dict(found.products["lid"].places) == {(23, 0): 1}
    assert (found.total.marked, found.total.false_rejects, found.total.misses) == (4, 1, 1)
    assert (report(station, True).total.false_rejects, report(station, True).total.misses) == (2, 1)
    assert [(one.number, one.time) for one in found.alarms] == [(7, T0 + 300)]


def test_downtime_is_counted_by_cause(station: Path) -> None:
    assert report(station).downtime == {
        "dark": Downtime(10.0, 1),  # 400 to 410
        "camera lost": Downtime(30.0, 1),  # 500 to 530, then 90 s of silence tell nothing
        "paused": Downtime(1000.0 + 3600.0, 2),  # 1000 to 2000; and the last hour
        "product change": Downtime(1.0, 1),
        "not running": Downtime(600.0, 1),
    }


def test_pause_and_standstill_of_before_count_from_the_start_and_a_kill_from_the_last_sign(tmp_path: Path) -> None:
    path = tmp_path / "line.sqlite"
    store = Store(path)
    store.record(event(100, "OK"))
    assert store.close(60.0)
    log = action_log(path)
    for action in (
        Action("run started", "root", "station", "", T0 - 900),
        Action("pause", "anna", "command", "", T0 - 500),
        Action("resume", "anna", "command", "", T0 + 50),
        Action("run started", "root", "station", "", T0 + 400),  # no word of an end: it was killed after 100
    ):
        log.append(action)
    assert report(path).downtime == {"paused": Downtime(50.0, 1), "not running": Downtime(300.0, 1)}


@pytest.mark.parametrize(
    ("later", "kind", "downtime"),
    [
        ([], "run started", {"not running": Downtime(8 * 3600.0 - 100.0, 1)}),
        ([8 * 3600.0 + 10], "run started", {}),  # it was killed after the shift
        ([], "run ended", {}),
    ],
)
def test_run_that_was_killed_and_came_back_after_the_shift_is_downtime(
    tmp_path: Path, later: list[float], kind: str, downtime: dict[str, Downtime]
) -> None:
    path = tmp_path / "line.sqlite"
    store = Store(path)
    for at in (100.0, *later):
        store.record(event(at, "OK"))
    assert store.close(60.0)
    for action in (Action("run started", "root", "station", "", T0 - 900), Action(kind, "root", "station", "", END + 3600)):
        action_log(path).append(action)
    assert report(path).downtime == downtime


@pytest.mark.parametrize("version", range(4, len(MIGRATIONS) + 1))
def test_store_that_no_run_has_opened_since_an_earlier_version_is_reported(tmp_path: Path, version: int) -> None:
    path = tmp_path / "line.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for migration in MIGRATIONS[:version]:
            connection.executescript(migration)
        connection.execute("INSERT INTO event (id, camera, time, verdict, z) VALUES ('1', 'cam', ?, 'OK', '{}')", (T0 + 1,))
        connection.commit()
    assert report(path).total.verdicts == {"OK": 1}


def test_changes_and_challenges_are_listed_and_logins_are_not(station: Path) -> None:
    found = report(station)
    assert [one.kind for one in found.changes] == ["thresholds", "settings"]
    assert [one.kind for one in found.challenges] == ["challenge passed"]
    assert [one.kind for one in found.others] == ["pause", "resume", "run ended", "run started", "pause"]


def test_csv_has_every_figure_once(station: Path) -> None:
    rows = list(csv.DictReader(csv_of(report(station)).splitlines()))
    values = {(row["section"], row["product"], row["name"]): row["value"] for row in rows}
    assert values["parts", "", "yield"] == "0.96"
    assert values["parts", "lid", "NG"] == "1"
    assert values["ng_by_branch", "", "local"] == "3"
    assert values["ng_by_place", "cap", "0.271 0.521"] == "3"
    assert values["downtime_s", "", "paused"] == "4600.0"
    assert values["changes", "", "settings"] == "run.hold_ms = 600"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--now", "--shift"], "--shift and --now: give one of"),
        (["--to", "1h"], "--to without --from"),
        (["--from", "1h", "--to", "2h"], "--to 2h is not after --from 1h"),
        (["--from", "yesterday"], "the time is 'yesterday'"),
        (["--store", "nowhere.sqlite"], "there is no store at nowhere.sqlite"),
    ],
)
def test_wrong_options_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", *flags]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_command_takes_shifts_and_zone_from_the_settings(
    station: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "edge-ad.toml").write_text('[report]\nshifts = ["03:13:20"]\n')
    assert main(["report"]) == 2
    (tmp_path / "edge-ad.toml").write_text('[report]\nshifts = ["07:13", "15:14"]\nzone = "Asia/Tokyo"\n')
    capsys.readouterr()
    # T0 is 2023-11-15 07:13:20 in Tokyo, 2023-11-14 22:13:20 UTC
    assert main(["report", "--at", "2023-11-15T08:00", "--store", str(station), "--csv", "figures.csv", "--out", "page.html"]) == 0
    assert "2023-11-15 07:13 to 15:14 (JST)" in capsys.readouterr().out
    assert "parts,,judged,102," in (tmp_path / "figures.csv").read_text()  # one before and one after the 8 hours
    page = (tmp_path / "page.html").read_text()
    assert "&lt;b&gt;night&lt;/b&gt;" in page
    assert "<b>night</b>" not in page
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.any_version
def test_memory_does_not_grow_with_the_events(tmp_path: Path) -> None:
    path = tmp_path / "line.sqlite"
    with connect(path) as connection, transaction(connection):
        rows = (
            (f"{number:032x}", "cam", T0 + number / 10.0, "NG" if number % 50 == 0 else "OK", "{}", "local: z 9", "[0.5,0.5]")
            for number in range(60_000)
        )
        connection.executemany("INSERT INTO event (id, camera, time, verdict, z, reason, peak) VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    with Reader(path) as reader:
        tracemalloc.start()
        found = report_of(reader, ActionLog(path.with_name("none")), Period(T0, END), warn_rejects=False, now=END)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert found.total.judged() == 60_000
    assert peak < 8e6  # a page of 5,000 events; all at once take 40 MB


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if reason := browser_missing():
        pytest.skip(reason)
    with browser() as found:
        yield found


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "light"), (1280, "dark"), (360, "dark")])
def test_page_is_accessible_and_fits_its_width(
    chromium: Any, station: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, width: int, scheme: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install 'edge-ad[test]'")
    (tmp_path / "page.html").write_text(page_of(report(station), {}))
    page = chromium.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.goto(f"file://{tmp_path / 'page.html'}")
    folder = tmp_path_factory.getbasetemp() / "screenshots"
    folder.mkdir(exist_ok=True)
    page.screenshot(path=folder / f"shift-{width}-{scheme}.png", full_page=True)
    assert axe.Axe().run(page).response["violations"] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()
