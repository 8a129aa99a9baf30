"""A station whose parts two cameras see: settings, bundles of the views, record, outputs and products."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge_ad.bundle import open_bundle
from edge_ad.config import Config, EngineTable, PartTable, ProductTable, RunTable, ViewTable
from edge_ad.errors import BadInput, DeviceFault
from edge_ad.events import Event
from edge_ad.inspection.bundle_swap import REPLACE, ROLL_BACK, replace_bundle
from edge_ad.inspection.inspector import Inspector, RunOptions, inspect
from edge_ad.inspection.products import Product
from edge_ad.inspection.requests import Request
from edge_ad.scoring.fused_views import learn_fused
from edge_ad.store.actions import ActionLog, actions_path
from edge_ad.store.journal import files, parse
from edge_ad.tables import ProductViewTable
from tests.camera.pictures import write_image
from tests.fixtures.loopback import until
from tests.fixtures.tiny_bundle import make_tiny_bundle, tiny_image

VIEWS = ("top", "side")
PARTS = 4


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle for each view, and images of parts as both see them; of the last one the side is missing."""
    folder = tmp_path_factory.mktemp("views")
    for seed, view in enumerate(VIEWS):
        make_tiny_bundle(folder / f"{view}.edgead", seed)
        (folder / view).mkdir()
        for number in range(PARTS if view == "top" else PARTS - 1):
            write_image(folder / view / f"AB-{number}.png", tiny_image(2000 + 100 * seed + number))
    return folder


def settings(
    station: Path, part: dict[str, Any] | None = None, views: dict[str, dict[str, Any]] | None = None, **run: Any
) -> Config:
    tables = {
        name: ViewTable(**{"camera": str(station / name), "bundle": station / f"{name}.edgead", **(views or {}).get(name, {})})
        for name in VIEWS
    }
    return Config(
        run=RunTable(**{"max_age_ms": 60_000, **run}),
        engine=EngineTable(precision="fp32", backend="onnxruntime"),
        part=PartTable(**{"views": list(VIEWS), **(part or {})}),
        view=tables,
    )


def judged(config: Config, bundle: Path | None = None, cameras: tuple[str, ...] = ()) -> list[Event]:
    events: list[Event] = []
    inspect(bundle, list(cameras), RunOptions(config, on_event=events.append))
    return events


def test_each_view_is_judged_by_its_own_bundle_and_the_record_has_one_event_a_part(station: Path, tmp_path: Path) -> None:
    store = tmp_path / "line.sqlite"
    always = {name: {"warn_above": -1e6, "ng_above": -1e6 if name == "side" else 1e6} for name in VIEWS}
    events = judged(settings(station, views=always, store=store))
    assert [event.part for event in events] == [f"AB-{number}.png" for number in range(PARTS)]
    assert [event.verdict for event in events] == ["NG"] * (PARTS - 1) + ["NONE"]
    hashes = [open_bundle(station / f"{view}.edgead").sha256 for view in VIEWS]
    assert [row["bundle"] for row in events[0].views or ()] == hashes
    assert [row["verdict"] for row in events[0].views or ()] == ["WARN", "NG"]
    assert events[0].bundle == hashes[1]
    assert events[-1].reason == "missing: view side gave no image of this part"
    with contextlib.closing(sqlite3.connect(store)) as connection:
        rows = connection.execute("SELECT id, views FROM event ORDER BY sequence").fetchall()
        images = connection.execute("SELECT event, path FROM image").fetchall()
    assert [row[0] for row in rows] == [event.id for event in events]
    assert [one["view"] for one in json.loads(rows[0][1])] == list(VIEWS)
    of_first = sorted(path.rpartition(events[0].id)[2] for event, path in images if event == events[0].id)
    assert of_first == ["_side.jpg", "_side_map.jpg", "_top.jpg", "_top_map.jpg"]
    (evidence,) = tmp_path.rglob("journal")
    lines = [parse(line) for path in files(evidence.parent) for line in path.read_bytes().splitlines()]
    assert [entry.event.views for entry in lines if entry.event] == [
        [dict(view) for view in event.record()["views"]] for event in events
    ]


def test_views_share_the_bundle_that_is_named_and_may_be_cameras_themselves(
    station: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(station)
    engine = EngineTable(precision="fp32", backend="onnxruntime")
    config = Config(run=RunTable(max_age_ms=60_000), engine=engine, part=PartTable(views=list(VIEWS)))
    events = judged(config, station / "top.edgead", VIEWS)
    assert [event.part for event in events] == [f"AB-{number}.png" for number in range(PARTS)]
    assert {row["bundle"] for event in events[:-1] for row in event.views or ()} == {open_bundle(station / "top.edgead").sha256}


REFUSED = [
    ({"part": {"views": ["top"]}}, "needs two to 8 views"),
    ({"part": {"views": ["top", "top", "side"]}}, "names 'top' twice"),
    ({"part": {"views": ["top", "back"]}}, "'back' is no table"),
    ({"part": {"views": ["top", "top_map"]}, "views": {"top_map": {"camera": "1"}}}, "would be called 'top_map'"),
    ({"views": {"side": {"camera": None}}}, "'side' has no camera"),
    ({"views": {"side": {"camera": "TOP"}}}, "is in the views top and side"),
    ({"run": {"parts": "many"}}, "exclude each other"),
    ({"cameras": ("5",)}, "camera 5 is in no view"),
    ({"views": {"side": {"camera": "1"}}}, "nothing says which frames of the views belong together"),
    ({"views": {"side": {"bundle": None}}}, "view side has no bundle"),
    ({"views": {"side": {"roi": "1,2"}}}, "view side: "),
    ({"part": {"views": []}}, r"\[part\] names none"),
    ({"part": {"fused": Path("nowhere.json")}}, "there is no file nowhere.json"),
    ({"part": {"fused": Path("nowhere.json")}, "run": {"cascade": 0.01}}, "--cascade and fused thresholds exclude each other"),
]


@pytest.mark.parametrize(("change", "sentence"), REFUSED, ids=[sentence for _, sentence in REFUSED])
def test_views_that_cannot_be_are_refused_in_a_sentence_before_a_camera_is_opened(
    station: Path, change: dict[str, Any], sentence: str
) -> None:
    views = {name: dict(table) for name, table in change.get("views", {}).items()}
    for table in views.values():
        if table.get("camera") == "TOP":
            table["camera"] = str(station / "top")
    config = settings(station, change.get("part"), views, **change.get("run", {}))
    config.view.update({name: ViewTable(**table) for name, table in views.items() if name not in VIEWS})
    with pytest.raises(BadInput, match=sentence):
        Inspector(None, list(change.get("cameras", ())), RunOptions(config))


def test_products_name_a_bundle_for_each_view(station: Path) -> None:
    red = ProductTable(bundle=station / "top.edgead")
    blue = ProductTable(
        view={
            "top": ProductViewTable(bundle=station / "side.edgead"),
            "side": ProductViewTable(bundle=station / "top.edgead", warn_above=-1e6, ng_above=-1e6),
        }
    )
    config = settings(station).model_copy(update={"product": {"red": red, "blue": blue}})
    hashes = {view: open_bundle(station / f"{view}.edgead").sha256 for view in VIEWS}
    seen = {}
    for name in ("red", "blue"):
        run = config.run.model_copy(update={"product": name})
        seen[name] = judged(config.model_copy(update={"run": run}))[0]
    assert [row["bundle"] for row in seen["red"].views or ()] == [hashes["top"]] * 2
    assert [row["bundle"] for row in seen["blue"].views or ()] == [hashes["side"], hashes["top"]]
    assert (seen["blue"].product, seen["blue"].verdict) == ("blue", "NG")


LIVE = {view: {"camera": f"synthetic://line?frames=100000&size=64&seed={seed}&fps=20"} for seed, view in enumerate(VIEWS)}


@contextlib.contextmanager
def running(config: Config) -> Iterator[list[Event]]:
    """Run two endless cameras in a thread and give the events."""
    events: list[Event] = []
    inspector = Inspector(None, [], RunOptions(config, on_event=events.append))
    thread = threading.Thread(target=inspector.run)
    thread.start()
    try:
        yield events
    finally:
        inspector.loop.stop()
        thread.join(60)
        inspector.close()


def bundles_in(event: Event) -> list[str]:
    """Return the bundles of the views of a part."""
    return [row["bundle"] for row in event.views or ()]


def judged_by(events: list[Event], *bundles: str) -> bool:
    """Wait until a part was judged by these bundles of its views, from now on."""
    seen = len(events)
    wanted = list(bundles)
    return until(lambda: any(event.verdict != "NONE" and bundles_in(event) == wanted for event in events[seen:]), 90)


def exchange(config: Config, kind: str, view: str, bundle: Path | str = "", product: str = "") -> str:
    assert config.run.store is not None
    values = {"product": product, "view": view, "bundle": str(bundle)}
    return replace_bundle(config, config.run.store, Request(kind, "anna", "command", values))


def test_the_bundle_of_one_view_is_replaced_between_two_parts_rolled_back_and_known_after_a_restart(
    station: Path, tmp_path: Path
) -> None:
    config = settings(station, {"deadline_ms": 60_000.0}, LIVE, store=tmp_path / "line.sqlite")
    new = make_tiny_bundle(tmp_path / "new.edgead", 7)
    top, side, fresh = (open_bundle(path).sha256 for path in (station / "top.edgead", station / "side.edgead", new))
    with running(config) as events:
        assert judged_by(events, top, side)
        with pytest.raises(BadInput, match="each view of a part has its own bundle here: name one by --view, of top, side"):
            exchange(config, REPLACE, "", new)
        with pytest.raises(BadInput, match="there is no view 'back': name one"):
            exchange(config, REPLACE, "back", new)
        assert "is judged by now" in exchange(config, REPLACE, "side", new)
        assert judged_by(events, top, fresh)
    seen = [tuple(bundles_in(event)) for event in events if event.verdict != "NONE"]
    assert set(seen) == {(top, side), (top, fresh)}, "no part was judged half by the one and half by the other"
    with running(config) as events:
        assert judged_by(events, top, fresh)
        exchange(config, ROLL_BACK, "side")
        assert judged_by(events, top, side)
    exchange(config, REPLACE, "top", new)  # no run keeps the store now
    with running(config) as events:
        assert judged_by(events, fresh, side)
    done = [one for one in ActionLog(actions_path(tmp_path / "line.sqlite")).actions() if one.kind in (REPLACE, ROLL_BACK)]
    assert [(one.kind, one.details["view"], one.details["product"]) for one in done] == [
        (REPLACE, "side", None), (ROLL_BACK, "side", None), (REPLACE, "top", None),
    ]  # fmt: skip


def test_a_view_of_a_fused_station_gets_no_bundle_that_its_thresholds_were_not_learned_with(station: Path, tmp_path: Path) -> None:
    hashes = {view: open_bundle(station / f"{view}.edgead").sha256 for view in VIEWS}
    scores = [[float(number), float(number % 7)] for number in range(30)]
    (tmp_path / "fused.json").write_text(json.dumps(learn_fused(scores, hashes, 0.05, 0.05).to_json()))
    part = {"deadline_ms": 60_000.0, "fused": tmp_path / "fused.json"}
    config = settings(station, part, LIVE, store=tmp_path / "line.sqlite")
    new = make_tiny_bundle(tmp_path / "new.edgead", 7)
    with running(config), pytest.raises(DeviceFault, match="was learned with another bundle of view side.*the one before goes on"):
        exchange(config, REPLACE, "side", new)
    with pytest.raises(BadInput, match="was learned with another bundle of view side"):
        exchange(config, REPLACE, "side", new)
    assert not (tmp_path / "line.bundles.json").exists()


@contextlib.contextmanager
def built(config: Config) -> Iterator[Inspector]:
    inspector = Inspector(None, [], RunOptions(config))
    try:
        yield inspector
    finally:
        inspector.close()


def test_a_plc_sees_one_result_a_part(station: Path, tmp_path: Path) -> None:
    views = {name: {"warn_above": 1e6, "ng_above": 1e6} for name in VIEWS}
    run: dict[str, Any] = {"alarm": ["modbus-server://127.0.0.1:0"], "hold_ms": 60_000.0, "store": tmp_path / "line.sqlite"}
    sent = []
    with built(settings(station, views=views, **run)) as inspector:
        guard = inspector.wiring.guard
        assert guard is not None
        send = guard.send
        guard.send = lambda message: (sent.append(message), send(message))[1]  # type: ignore[method-assign]
        inspector.run()
    assert [(message.kind, message.part, message.camera, message.passed) for message in sent] == [
        ("verdict", f"AB-{number}.png", -1, number < PARTS - 1) for number in range(PARTS)
    ]


def test_a_challenge_is_about_the_bundles_of_all_views(station: Path) -> None:
    def proven(side: str) -> dict[str, str]:
        product = object.__new__(Product)
        product.views = {
            view: SimpleNamespace(bundle=open_bundle(station / f"{file}.edgead"))  # type: ignore[misc]
            for view, file in (("top", "top"), ("side", side))
        }
        return product.judged_by

    first, other = proven("side"), proven("top")
    assert first["bundle"] == "top.edgead, side.edgead"
    assert first["bundle_sha256"] != other["bundle_sha256"], "another bundle of one view alone"
