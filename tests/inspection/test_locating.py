"""A run that locates the part in every frame: real engines, real files, and everything that cannot be located."""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_ad.bundle import Bundle, open_bundle, write_bundle
from edge_ad.camera.frames import Frame
from edge_ad.config import AlarmTable, Config, RecordTable, RunTable
from edge_ad.engines.benchmark import benchmark, camera_frames
from edge_ad.engines.pipeline import Inference, Pipeline
from edge_ad.errors import BadInput
from edge_ad.events import Event
from edge_ad.geometry.geometry import Geometry, example_frame
from edge_ad.geometry.pose import Pose
from edge_ad.inspection.alarm_manager import AlarmManager
from edge_ad.inspection.inspector import Inspector, RunOptions, Summary, inspect
from edge_ad.inspection.judge import InspectionResult, Judge, results_of_parts, worst_result
from edge_ad.inspection.locating import Locating, Place, draw_outlines
from edge_ad.inspection.loop import Loop
from edge_ad.inspection.observers import EventCallback, Observer
from edge_ad.inspection.part_tracking import CalledParts, Calls
from edge_ad.inspection.recorder import HeatScale, heat_of, outlines_of
from edge_ad.inspection.throughput import _Times
from edge_ad.inspection.view import Roi, View
from edge_ad.store.reader import Reader
from edge_ad.synthetic.single_part import PartOptions, render_part
from edge_ad.web.dashboard_feed import DashboardFeed
from tests.camera.pictures import write_image, write_video
from tests.fixtures.located_bundle import VIEW, make_located_bundle, part_image
from tests.fixtures.tiny_graphs import SIZE
from tests.inspection.line import ENGINE, Script, settings_of
from tests.inspection.test_alarm_manager import Board

HIGH, WIDE = VIEW
# Bad input, and the sentence it must come to. A roll by 120 pixels takes a part in the middle across the border.
REFUSED = {
    "empty view": (lambda: empty_view(), "not located: no part is in view: nothing of its size stands out"),
    "cut by the border": (
        lambda: np.roll(part_image(7004, max_shift=0.0), 130, axis=1)[:, :WIDE],
        "not located: the part is cut by the image's border: bring it into view",
    ),
    "two parts": (lambda: part_image(7005, count=2), "not located: two parts are in view where one is expected"),
    "mirrored part": (lambda: part_image(7006, mirrored=True), "not located: the part lies mirrored: it was turned over"),
    "wrong size": (
        lambda: part_image(7007, size=(360, 480)),
        "settings: the camera gives 480 x 360, and the part was learned in images of 320 x 240: set the camera to that size",
    ),
}


def empty_view() -> np.ndarray[Any, Any]:
    """A belt of even light with noise."""
    rng = np.random.default_rng(3)
    return np.clip(rng.normal((62, 70, 66), 3.0, (HIGH, WIDE, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_located_bundle(tmp_path_factory.mktemp("located") / "located.edgead")


@pytest.fixture(scope="module")
def bundle(path: Path) -> Bundle:
    return open_bundle(path)


def judged(bundle: Path | Bundle, uri: Path, **run: Any) -> tuple[list[Event], Summary]:
    events: list[Event] = []
    summary = inspect(bundle, str(uri), RunOptions(settings_of(**run), on_event=events.append))
    total = summary.total
    assert total.captured == total.judged + total.dropped + total.faulted
    assert sum(total.verdicts.values()) == len(events)
    return events, summary


def test_a_part_at_any_angle_is_judged_with_its_pose_in_the_event(path: Path, tmp_path: Path) -> None:
    truths = [render_part(seed, PartOptions(kind="key", size=VIEW)) for seed in range(7100, 7106)]
    for number, truth in enumerate(truths):
        write_image(tmp_path / f"{number}.png", truth.image)
    events, summary = judged(path, tmp_path)
    assert [event.verdict for event in events] == ["OK"] * len(truths)
    turns = []
    for event, truth in zip(events, truths, strict=True):
        pose = event.pose
        assert pose is not None
        assert list(pose) == ["x", "y", "angle", "width", "height", "scale", "residual", "symmetric", "outside"]
        # The box's middle is not the drawing's origin; the long side is that of the part (0.55 of the short side).
        assert abs(pose["width"] - truth.extent) < 3
        rows, columns = np.nonzero(truth.mask)
        assert columns.min() - 3 <= pose["x"] <= columns.max() + 3
        assert rows.min() - 3 <= pose["y"] <= rows.max() + 3
        turns.append((pose["angle"] - truth.angle + 180) % 360 - 180)
    assert np.ptp(turns) < 1.0  # one constant turn between the box and the drawing
    assert summary.total.unlocated == 0


@pytest.mark.parametrize("unlocated", ["none", "ng"])
@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_located_is_never_a_pass(path: Path, tmp_path: Path, what: str, unlocated: str) -> None:
    make, reason = REFUSED[what]
    write_image(tmp_path / "part.png", make())
    events, summary = judged(path, tmp_path, unlocated=unlocated)
    (event,) = events
    # Another size is a fault of the camera's settings, not of the part.
    expected = "NG" if unlocated == "ng" and what != "wrong size" else "NONE"
    assert event.verdict == expected
    assert (event.reason or "").startswith(reason)
    assert (event.score, event.z, event.pose) == (None, {}, None)
    assert summary.total.unlocated == (what != "wrong size")
    if expected == "NONE":
        assert summary.none_reasons == {reason.split(":")[0]: 1}


def test_another_size_is_reported_once_at_the_start(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        write_image(tmp_path / f"{number}.png", part_image(7200 + number, size=(360, 480)))
    with caplog.at_level(logging.WARNING):
        events, _ = judged(path, tmp_path)
    assert [event.verdict for event in events] == ["NONE"] * 3
    messages = [record.getMessage() for record in caplog.records if "the part was learned in images of" in record.getMessage()]
    assert len(messages) == 1
    assert "the camera gives 480 x 360" in messages[0]


def test_a_pose_is_that_of_the_cameras_image_where_a_region_is_judged(path: Path, tmp_path: Path) -> None:
    image = part_image(7300)
    wider = np.full((HIGH + 60, WIDE + 80, 3), 66, np.uint8)
    wider[40 : 40 + HIGH, 50 : 50 + WIDE] = image
    for name, shown in (("a", image), ("b", wider)):
        (tmp_path / name).mkdir()
        write_image(tmp_path / name / "part.png", shown)
    (whole,), _ = judged(path, tmp_path / "a")
    (region,), _ = judged(path, tmp_path / "b", roi=f"50,40,{WIDE},{HIGH}", save=tmp_path / "saved")
    assert whole.pose is not None
    assert region.pose is not None
    assert {**region.pose, "x": region.pose["x"] - 50, "y": region.pose["y"] - 40} == pytest.approx(dict(whole.pose), abs=0.006)
    assert (region.verdict, region.score) == (whole.verdict, whole.score)
    (wrong,), _ = judged(path, tmp_path / "b", roi=f"50,40,{WIDE - 20},{HIGH}")
    assert (wrong.reason or "").startswith("settings: the region of interest has 300 x 240, and the part was learned in")


def narrow(bundle: Bundle, path: Path) -> Path:
    """Write the bundle with parts expected in the middle only."""
    geometry = bundle.geometry
    assert geometry.expected is not None
    expected = replace(geometry.expected, x=(WIDE / 2 - 2, WIDE / 2 + 2))
    write_bundle(path, replace(bundle.contents(), geometry=replace(geometry, expected=expected)))
    return path


def test_a_pose_beyond_those_of_the_normal_images_is_a_warning_and_no_verdict(
    bundle: Bundle, path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "images").mkdir()
    for number in range(5):
        write_image(tmp_path / "images" / f"{number}.png", part_image(7400 + number))
    plain, _ = judged(path, tmp_path / "images")
    with caplog.at_level(logging.WARNING):
        events, summary = judged(narrow(bundle, tmp_path / "narrow.edgead"), tmp_path / "images")
    assert [(event.verdict, event.score) for event in events] == [(event.verdict, event.score) for event in plain]
    outside = [event.pose["outside"] for event in events if event.pose is not None and event.pose["outside"]]
    assert len(outside) >= 4  # a part lies within 2 of 160 pixels by chance
    assert all(text.endswith("and the normal images had 158 to 162") for text in outside)
    assert summary.total.outside == len(outside)
    assert f"{len(outside)} parts lay outside the poses of the normal images" in summary.table()
    messages = [record for record in caplog.records if "the part's x is" in record.getMessage()]
    assert len(messages) == 1  # the others wait for a minute
    assert all(event.pose is not None and event.pose["outside"] is None for event in plain)


def test_locating_is_a_stage_of_the_frame(bundle: Bundle, tmp_path: Path) -> None:
    results: list[InspectionResult] = []
    write_image(tmp_path / "part.png", part_image(7500))
    class Keep(Observer):
        def on_result(self, result: InspectionResult, source: object) -> None:
            results.append(result)

    inspector = Inspector(bundle, str(tmp_path), RunOptions(settings_of()))
    try:
        inspector.loop._observers = [*inspector.loop._observers, Keep()]
        inspector.run()
    finally:
        inspector.close()
    (result,) = results
    assert result.inference is not None
    assert next(iter(result.inference.stages_ms)) == "locate"
    assert result.inference.stages_ms["locate"] > 0


def test_tiles_and_many_parts_need_the_geometry_that_fits_them(path: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    write_image(tmp_path / "part.png", part_image(7500))
    with pytest.raises(BadInput, match=r"tiles and a bundle that locates parts \(geometry foreground\) exclude each other"):
        judged(path, tmp_path, tiles="1x2", tile_goods=tmp_path)
    with pytest.raises(BadInput, match=r"parts = many needs a bundle that locates parts"):
        judged(tiny_bundle, tmp_path, parts="many")


def test_a_square_bundle_gets_the_bytes_it_always_got_and_an_event_without_a_pose(tiny_bundle: Bundle, tmp_path: Path) -> None:
    image = part_image(7600)
    frame = Frame(image, 0, 0.0, 0.0, "cam", "0")
    (part,) = Locating(tiny_bundle.geometry).inputs(frame).parts
    assert np.array_equal(part.tiles[0], cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA))  # type: ignore[union-attr]
    write_image(tmp_path / "part.png", image)
    (event,), _ = judged(tiny_bundle, tmp_path)
    assert event.pose is None
    assert json.loads(event.line())["pose"] is None
    assert list(json.loads(event.line()))[-6:] == ["pose", "product", "bundle", "zone", "peak", "views"]


# Many parts


def test_each_of_several_parts_has_its_event_and_the_alarm_the_worst(bundle: Bundle, path: Path, tmp_path: Path) -> None:
    images, store = tmp_path / "images", tmp_path / "line.sqlite"
    images.mkdir()
    good = part_image(7700, count=2)
    truth = render_part(7700, PartOptions(kind="key", size=VIEW, count=2))
    write_image(images / "0.png", good)
    bad = good.copy()
    cv2.circle(bad, (round(truth.x), round(truth.y)), 9, (255, 255, 255), -1)
    write_image(images / "1.png", bad)
    write_image(images / "2.png", empty_view())
    events, summary = judged(path, images, parts="many", store=store)
    assert [event.part for event in events] == ["0.png", "0.png", "1.png", "1.png", "2.png"]
    assert len({event.id for event in events}) == 5
    places = [event.pose["x"] for event in events if event.pose is not None]
    assert places == pytest.approx([places[0], places[1], places[0], places[1]], abs=2)
    assert places[0] < WIDE / 2 < places[1]  # from left to right
    assert [event.verdict for event in events][:2] == ["OK", "OK"]
    assert events[3].verdict == "OK"
    assert events[2].score is not None
    assert events[0].score is not None
    assert events[2].score > events[0].score
    assert events[4].verdict == "NONE"
    assert (summary.total.judged, summary.total.faulted, summary.total.parts) == (2, 1, 3)
    with Reader(store) as reader:
        stored = reader.events()
    assert [(row.part, row.pose) for row in stored] == [(event.part, event.pose) for event in reversed(events)]


def result(verdict: str, x: float | None, score: float | None = None) -> InspectionResult:
    """Return a result at a place, with a box of 40 x 20 pixels."""
    pose = None if x is None else Pose(x, 10.0, 0.0, 40.0, 20.0)
    event = Event("cam", 0, "7", 0.0, verdict, score, {}, 1.0, None)  # type: ignore[arg-type]
    whole = Geometry.square((32, 32)).prepare(np.zeros((32, 32, 3), np.uint8))
    place = None if pose is None else Place(pose, None, whole.transform, ())  # type: ignore[union-attr]
    return InspectionResult(event, place=place)


@pytest.mark.parametrize(
    ("frames", "verdicts"),
    [
        ([[("OK", 50, 1.0)], [("NG", 50, 9.0)], [("WARN", 50, 3.0)]], ["WARN"]),  # one part: the median
        ([[("OK", 50, 1.0), ("NG", 150, 9.0)]] * 3, ["OK", "NG"]),
        ([[("NG", 150, 9.0), ("OK", 50, 1.0)], [("OK", 54, 1.5), ("NG", 146, 8.0)]], ["OK", "NG"]),  # by place, not by order
        ([[("OK", 50, 1.0)], [("OK", 50, 1.0), ("NG", 150, 9.0)], [("OK", 50, 1.0)]], ["OK", "NG"]),  # seen once: told
        ([[("OK", 50, 1.0), ("NONE", None, None)]] * 2 + [[("OK", 50, 1.0), ("OK", 150, 1.0)]], ["OK", "OK", "NONE"]),
        ([[("OK", 50, 1.0), ("OK", 150, 1.0)]] * 2 + [[("NONE", None, None)]], ["OK", "OK"]),  # one frame of three
        ([[("NONE", None, None)]] * 2, ["NONE"]),
    ],
)
def test_parts_are_followed_through_the_frames_of_a_call_by_place(
    frames: list[list[tuple[str, float | None, float | None]]], verdicts: list[str]
) -> None:
    made = [[result(verdict, x, score) for verdict, x, score in frame] for frame in frames]
    assert [one.event.verdict for one in results_of_parts(made)] == verdicts


@pytest.mark.parametrize("order", list(itertools.permutations(["OK", "WARN", "NONE", "NG"])))
def test_the_worst_of_a_frame_is_ng_then_none_then_warn(order: tuple[str, ...]) -> None:
    ranked = ["NG", "NONE", "WARN", "OK"]
    for count in range(1, 5):
        some = order[:count]
        assert worst_result([result(verdict, None) for verdict in some]).event.verdict == min(some, key=ranked.index)


# Pictures


def test_the_heat_map_and_the_outline_are_drawn_where_the_part_lies(bundle: Bundle) -> None:
    truth = render_part(7800, PartOptions(kind="key", size=VIEW))
    frame = Frame(truth.image, 0, 0.0, 0.0, "cam", "0")
    (part,) = Locating(bundle.geometry).inputs(frame).parts
    place = part.place  # type: ignore[union-attr]
    assert place is not None
    heat = place.spread(np.ones((16, 16), np.float32))
    assert heat.shape == VIEW
    assert heat[truth.mask > 0].min() == 1.0  # the cut-out holds the whole part
    rows, columns = np.nonzero(truth.mask)
    far = np.hypot(*(np.indices(VIEW) - np.array([rows.mean(), columns.mean()])[:, None, None])) > 1.2 * truth.extent
    assert heat[far].max() == 0.0
    box, outline = place.outlines
    assert box.shape == (4, 2)
    drawn = draw_outlines(np.zeros((HIGH * 2, WIDE * 2, 3), np.uint8), [outline], VIEW).any(axis=2)
    edge = cv2.morphologyEx(cv2.resize(truth.mask, (WIDE * 2, HIGH * 2)), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    near = cv2.dilate(edge.astype(np.uint8), np.ones((13, 13), np.uint8)) > 0
    assert (drawn & near).sum() > 0.95 * drawn.sum()  # the outline lies on the part's edge
    covered = cv2.dilate(drawn.astype(np.uint8), np.ones((13, 13), np.uint8)) > 0
    assert (edge & covered).sum() > 0.95 * edge.sum()


def test_saved_images_and_evidence_show_the_outline_but_the_crop_stays_clean(path: Path, tmp_path: Path) -> None:
    images, saved, store = tmp_path / "images", tmp_path / "saved", tmp_path / "line.sqlite"
    images.mkdir()
    image = part_image(7900)
    write_image(images / "part.png", image)
    run = RunTable(save=saved, store=store, ng_above=-100.0, warn_above=-100.0)
    events: list[Event] = []
    config = Config(run=run, engine=ENGINE, record=RecordTable(free_gb=0))
    inspect(path, str(images), RunOptions(config, on_event=events.append))

    def blue_share(shown: np.ndarray[Any, Any]) -> float:
        blue, green, red = np.moveaxis(shown.astype(int), 2, 0)
        return float(((blue > red + 50) & (green > red + 25)).mean())

    (written,) = saved.iterdir()
    assert blue_share(cv2.imread(str(written))) > 0.003
    with Reader(store) as reader:
        (row,) = reader.events()
        assert reader.evidence is not None
        crop, heat = (cv2.imread(str(reader.evidence / name)) for name in row.images)
    assert row.pose == events[0].pose
    assert blue_share(heat) > 0.003
    assert blue_share(crop) < 0.0005


# What else a run does with the bundle's images


def test_a_golden_cut_out_is_drawn_back_into_a_frame_and_located_there(bundle: Bundle) -> None:
    images, geometry = camera_frames(bundle)
    assert geometry is bundle.geometry
    assert {image.shape for image in images} == {(*VIEW, 3)}
    frame = Frame(images[0], 0, 0.0, 0.0, "cam", "0")
    inputs = Locating(geometry).inputs(frame)
    assert inputs.locate_ms is not None
    (part,) = inputs.parts
    cut = part.tiles[0].astype(int)  # type: ignore[union-attr]
    assert np.abs(cut - bundle.golden.images[0]).mean() < 8
    ground = np.full((*VIEW, 3), 9, np.uint8)
    assert (example_frame(geometry, bundle.golden.images[0], ground)[:8] == 9).all()


def test_a_benchmark_times_locating_apart_from_the_engines(bundle: Bundle) -> None:
    report = benchmark(bundle, lambda: Pipeline(bundle, threads=1), frames=4, warm_up=1)
    assert next(iter(report.stages)) == "locate"
    assert report.stages["locate"]["p50"] > 0
    assert report.engine["p50"] < report.end_to_end["p50"]
    times = _Times()
    judged = result("OK", 50, 1.0)
    inference = Inference(np.zeros(5, np.float32), np.zeros(5, np.float32), 1.0, np.zeros((4, 4), np.float32),
                          {"locate": 5.0, "teacher": 0.5, "download": 0.25})
    times.on_result(replace(judged, inference=inference), Script([]))
    assert times.pairs == [(1.0, 0.75)]  # locating is overhead of the loop, not the engines' time


def test_a_settled_part_is_one_that_the_locator_sees(path: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)

    def still(image: np.ndarray[Any, Any], count: int) -> Iterator[np.ndarray[Any, Any]]:
        for _ in range(count):
            yield np.clip(image.astype(int) + rng.integers(-1, 2, image.shape), 0, 255).astype(np.uint8)

    empty = empty_view()
    frames = [*still(empty, 6), *still(part_image(8000), 8), *still(empty, 6), *still(part_image(8001, mirrored=True), 8),
              *still(empty, 6)]
    events, _ = judged_parts(path, write_video(tmp_path / "belt.avi", frames))
    assert [(event.part, event.verdict) for event in events] == [("1", "OK"), ("2", "NONE")]
    assert (events[1].reason or "").startswith("not located: the part lies mirrored")


def judged_parts(bundle: Path, video: Path) -> tuple[list[Event], Summary]:
    events: list[Event] = []
    summary = inspect(bundle, str(video), RunOptions(settings_of(presence="settled"), on_event=events.append))
    return events, summary


def test_a_frame_is_located_once_whoever_asks(bundle: Bundle) -> None:
    frame = Frame(part_image(8100), 0, 0.0, 0.0, "cam", "0")
    locating = Locating(bundle.geometry, View(Roi(0, 0, WIDE, HIGH)))
    assert locating.inputs(frame) is locating.inputs(frame)


def test_a_trigger_gives_an_event_for_every_part_and_its_output_the_worst_once(bundle: Bundle) -> None:
    calls = Calls()
    run = RunTable(part_frames=2, trigger_deadline_ms=60_000.0)
    now = time.monotonic()
    calls.put("K1", now + 0.5)
    calls.put("K2", now + 2.5)
    rng = np.random.default_rng(1)
    two = part_image(7700, count=2)
    shown = [empty_view(), two, two, empty_view(), empty_view()]
    noisy = [np.clip(image.astype(int) + rng.integers(-1, 2, image.shape), 0, 255).astype(np.uint8) for image in shown]
    frames = [Frame(image, index, now + index, 0.0, "a", str(index)) for index, image in enumerate(noisy)]
    events: list[Event] = []
    board = Board()
    with Pipeline(bundle, threads=1) as pipeline:
        judge = Judge(
            pipeline, bundle.thresholds, bundle.statistics.weight, 60_000.0, locating=Locating(bundle.geometry, many=True)
        )
        alarm = AlarmManager(["a"], AlarmTable(), board)
        observers = [alarm, EventCallback(events.append)]
        Loop(judge, [Script(frames, name="a")], observers, Config(run=run), detectors=[CalledParts(calls, run)]).run()
    assert [(event.part, event.verdict) for event in events] == [("K1", "OK"), ("K1", "OK"), ("K2", "NONE")]
    assert [event.pose is not None for event in events] == [True, True, False]
    messages = [(message.part, message.verdict, message.passed) for message in board.messages if message.kind == "verdict"]
    assert messages == [("K1", "OK", True), ("K2", "NONE", False)]


def test_streams_and_learned_presence_locate_as_well(path: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number, image in enumerate([part_image(8300), empty_view(), part_image(8301, count=2), part_image(8302)]):
        write_image(images / f"{number}.png", image)
    alone, _ = judged(path, images, parts="many")
    beside, _ = judged(path, images, parts="many", streams=2)
    assert [(event.part, event.verdict, event.pose) for event in beside] == [
        (event.part, event.verdict, event.pose) for event in alone
    ]
    assert len(alone) == 5
    empty = tmp_path / "empty"
    empty.mkdir()
    write_image(empty / "station.png", empty_view())
    rng = np.random.default_rng(5)
    shown = [empty_view()] * 5 + [part_image(8310)] * 6 + [empty_view()] * 5
    frames = [np.clip(image.astype(int) + rng.integers(-1, 2, image.shape), 0, 255).astype(np.uint8) for image in shown]
    video = write_video(tmp_path / "belt.avi", frames)
    events: list[Event] = []
    settings = settings_of(presence="learned", empty=empty)
    inspect(path, str(video), RunOptions(settings, on_event=events.append))
    assert [(event.part, event.verdict) for event in events] == [("1", "OK")]
    template = open_bundle(path)  # a template cannot tell no part from another one: the images of the empty station do
    template.geometry = replace(template.geometry, method="rigid_any")
    # A key covers 4 to 6 % of the image; the golden images themselves, its cut-outs, would differ in a third.
    with pytest.raises(BadInput, match=r"normal images differ from the empty station in [4-6]\.\d% of the image only"):
        inspect(template, str(video), RunOptions(settings, on_event=events.append))


def test_the_image_of_a_frame_with_several_parts_shows_all_of_them_with_the_worst_verdict(bundle: Bundle) -> None:
    frame = Frame(part_image(7700, count=2), 0, 0.0, 0.0, "cam", "0")
    parts = Locating(bundle.geometry, many=True).inputs(frame).parts
    heat = np.zeros((32, 32), np.float32)
    heat[12:20, 12:20] = 9.0
    inference = Inference(np.zeros(5, np.float32), np.zeros(5, np.float32), 1.0, heat, {})
    results = [
        replace(result(verdict, None, 1.0), inference=inference, frame=frame, place=part.place)  # type: ignore[union-attr]
        for verdict, part in zip(("OK", "NG"), parts, strict=True)
    ]
    whole = heat_of(results, HeatScale(np.ones((32, 32), np.float32)))
    assert whole is not None
    assert whole.shape == VIEW
    assert whole[:, : WIDE // 2].max() > 0.5 < whole[:, WIDE // 2 :].max()
    assert len(outlines_of(results)) == 4
    feed = DashboardFeed(["cam"])
    feed.watching = True
    feed.on_results(results, Script([], name="cam"))
    released = feed.release()
    assert [event.verdict for _, event in released.events] == ["OK", "NG"]
    assert [len(shot.results) for shot in released.shots] == [2]
    assert feed.seen[0].event is not None
    assert feed.seen[0].event.verdict == "NG"  # the lamp shows the worst, whatever comes last
    feed.on_results(results[::-1], Script([], name="cam"))
    feed.release()
    assert feed.seen[0].event.verdict == "NG"
