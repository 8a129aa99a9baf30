"""Cameras and tiles side by side: the same events in the same order for each camera, every frame accounted for."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_ad.cli.app import main
from edge_ad.config import Config
from edge_ad.engines import selection as module
from edge_ad.engines.pipeline import Inference
from edge_ad.engines.selection import Streams
from edge_ad.errors import DeviceFault
from edge_ad.events import Event
from edge_ad.inspection.judge import Judge
from edge_ad.inspection.loop import Loop
from edge_ad.inspection.observers import EventCallback
from edge_ad.inspection.part_tracking import Judgeable
from edge_ad.inspection.view import view_of
from tests.engines.test_streams import Meeting
from tests.fixtures.tiny_bundle import make_tiny_bundle, tiny_image
from tests.inspection.line import THRESHOLDS, WEIGHT, Arithmetic, Script, bad, check_account, settings_of


def brightest(inferences: Sequence[Inference]) -> Inference:
    return max(inferences, key=lambda one: one.score)


def loop_of(
    pipelines: Sequence[Arithmetic], sources: Sequence[Script], settings: Config | None = None
) -> tuple[Loop, list[Event]]:
    """Return a loop over the sources on as many streams as there are pipelines, and the list of its events."""
    chosen = settings or Config()
    events: list[Event] = []
    streams = Streams(pipelines)  # type: ignore[arg-type]
    combine = brightest if len(view_of(chosen.run).grid) > 1 else None
    judge = Judge(streams, THRESHOLDS, WEIGHT, chosen.run.max_age_ms, view=view_of(chosen.run), combine=combine)
    return Loop(judge, sources, [EventCallback(events.append)], chosen), events


class Open:
    """A gate that lets everything be judged."""

    reporting = contextlib.nullcontext()

    def choose(self, part: str | None) -> str | None:
        return None

    def withheld(self, candidate: Judgeable) -> str | None:
        return None

    def reason(self) -> str | None:
        return None

    def tick(self) -> None:
        """Nothing changes."""


class Watched(Arithmetic):
    """Takes its time, and notes how many of its kind are busy."""

    busy, most, lock = 0, 0, threading.Lock()

    def infer(self, image: NDArray[np.uint8]) -> Inference:
        with Watched.lock:
            Watched.busy += 1
            Watched.most = max(Watched.most, Watched.busy)
        time.sleep(0.03)
        with Watched.lock:
            Watched.busy -= 1
        return super().infer(image)


def test_two_cameras_are_inferred_at_the_same_time_and_reported_in_order() -> None:
    cameras = [Script(range(5), name="left"), Script(range(5), name="right")]
    loop, events = loop_of([Watched(), Watched()], cameras)
    loop.run()
    assert Watched.most == 2
    for name in ("left", "right"):
        assert [(event.frame, event.verdict) for event in events if event.camera == name] == [
            (frame, "OK") for frame in range(5)
        ]
    check_account(loop)


def test_more_cameras_than_streams_with_faults_between() -> None:
    scripts = [Script([0, bad(1), 2, 5], name="a"), Script([0], name="b"), Script(range(4), name="c")]
    loop, events = loop_of([Arithmetic(), Arithmetic()], scripts)
    loop.run()
    message = {name: [(e.frame, e.verdict) for e in events if e.camera == name] for name in "abc"}
    assert message == {
        "a": [(0, "OK"), (1, "NONE"), (2, "OK"), (3, "NONE"), (5, "OK")],
        "b": [(0, "OK")],
        "c": [(frame, "OK") for frame in range(4)],
    }
    check_account(loop)


def test_the_images_of_one_folder_are_inferred_at_the_same_time_and_told_in_order() -> None:
    barrier = threading.Barrier(3)
    loop, events = loop_of([Meeting(barrier) for _ in range(3)], [Script(range(9), "images")])
    loop.run()
    assert [(event.frame, event.verdict) for event in events] == [(frame, "OK") for frame in range(9)]
    check_account(loop)


def test_a_bad_image_between_those_of_a_folder_keeps_its_place() -> None:
    loop, events = loop_of([Arithmetic() for _ in range(3)], [Script([0, 1, bad(2), 3, 4], "images")])
    loop.run()
    assert [(event.frame, event.verdict) for event in events] == [(0, "OK"), (1, "OK"), (2, "NONE"), (3, "OK"), (4, "OK")]
    check_account(loop)


def test_no_image_of_a_folder_beyond_those_asked_for() -> None:
    loop, events = loop_of([Arithmetic() for _ in range(4)], [Script(range(20), "images")], settings_of(max_frames=6))
    loop.run()
    assert [event.frame for event in events] == list(range(6))
    assert loop.workers[0].counters.judged == 6
    check_account(loop)


def test_a_frame_whose_judgement_is_withheld_is_not_kept() -> None:
    loop, events = loop_of([Arithmetic()], [Script(range(3))])
    looks = iter(range(99))

    class Closing(Open):
        def withheld(self, candidate: Judgeable) -> str | None:
            return "product: changing" if next(looks) % 2 else None  # asked for while the engines had it

    loop._gate = Closing()
    loop.run()
    assert [(event.verdict, event.reason) for event in events] == [("NONE", "product: changing")] * 3
    assert loop.judge._begun == {}


def test_no_frame_beyond_those_asked_for() -> None:
    loop, events = loop_of(
        [Arithmetic(), Arithmetic()],
        [Script(range(9), name="a"), Script(range(9), name="b")],
        settings_of(max_frames=3),
    )
    loop.run()
    assert sorted((event.camera, event.frame) for event in events) == [(name, n) for name in "ab" for n in range(3)]
    check_account(loop)


def test_a_broken_engine_reports_none_and_ends_the_run() -> None:
    def score(call: int) -> float:
        raise RuntimeError("out of memory")

    loop, events = loop_of([Arithmetic(score), Arithmetic(score)], [Script(range(9), name="a")])
    with pytest.raises(DeviceFault, match="frame 0 of a: out of memory"):
        loop.run()
    assert [(event.verdict, event.reason) for event in events] == [("NONE", "engine: RuntimeError: out of memory")]


def test_the_tiles_of_a_picture_are_inferred_at_the_same_time() -> None:
    barrier = threading.Barrier(2)
    settings = settings_of(tiles="1x2")
    loop, events = loop_of([Meeting(barrier), Meeting(barrier)], [Script(range(3))], settings)
    loop.run()
    assert [event.verdict for event in events] == ["OK"] * 3


@pytest.fixture
def station(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle and two folders of normal images and anomalies, on a machine that passes for one of two cores."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "physical_cores", lambda: 2)
    make_tiny_bundle(tmp_path / "part.edgead")
    for side in (0, 1):
        (tmp_path / f"side{side}").mkdir()
        for seed in range(8):
            picture: NDArray[np.uint8] = tiny_image(100 * side + seed, blob=seed % 3 == side)
            cv2.imwrite(f"side{side}/{seed}.png", picture[:, :, ::-1])
    return tmp_path


def run(*flags: str) -> list[dict[str, object]]:
    Path("events.jsonl").unlink(missing_ok=True)
    words = ["run", "part.edgead", "--camera", "side0", "--camera", "side1", "--precision", "fp32"]
    assert main([*words, "--backend", "onnxruntime", "--events", "events.jsonl", *flags]) == 0
    return [json.loads(line) for line in Path("events.jsonl").read_text().splitlines()]


def test_the_verdicts_are_those_of_one_picture_at_a_time(station: Path) -> None:
    alone, beside = run(), run("--streams", "2")
    for camera in {str(event["camera"]) for event in alone}:
        messages = [
            [{key: event[key] for key in ("frame", "part", "verdict", "score", "z")} for event in events]
            for events in ([e for e in alone if e["camera"] == camera], [e for e in beside if e["camera"] == camera])
        ]
        assert messages[0] == messages[1]
    assert len(alone) == len(beside) == 16


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--streams", "3"], "--streams is 3, but must be 1 to 2"),
        (["--streams", "2", "--cascade", "0.1"], "--cascade and --streams exclude each other"),
    ],
)
def test_what_cannot_be(station: Path, flags: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "part.edgead", "--camera", "side0", "--precision", "fp32", *flags]) == 2
    assert words in capsys.readouterr().err
