"""The whole road from a bundle and a URI to verdicts: real engines, real files, every fault of the injector."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_ad.config import Config
from edge_ad.errors import BadInput
from edge_ad.events import Event
from edge_ad.inspection.inspector import RunOptions, Summary, inspect
from tests.camera.pictures import write_image, write_video
from tests.fixtures.tiny_bundle import make_tiny_bundle, tiny_image
from tests.inspection.line import settings_of


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny.edgead")


def judged(bundle: Path, uri: str, settings: Config | None = None) -> tuple[list[Event], Summary]:
    events: list[Event] = []
    options = RunOptions(settings or settings_of(), on_event=events.append)
    summary = inspect(bundle, uri, options)
    total = summary.total
    assert total.captured == total.judged + total.dropped + total.faulted
    assert len(events) == total.judged + total.faulted + total.outages
    return events, summary


def test_video_of_goods_and_anomalies(bundle: Path, tmp_path: Path) -> None:
    frames = [tiny_image(9000 + index, blob=index % 3 == 0, size=(120, 160)) for index in range(12)]
    video = write_video(tmp_path / "clip.mkv", frames)
    events, summary = judged(bundle, str(video))
    assert [event.frame for event in events] == list(range(12))
    assert [event.verdict == "NG" for event in events] == [index % 3 == 0 for index in range(12)]
    assert (summary.backend, summary.precision) == ("onnxruntime", "fp32")
    assert summary.total.dropped == 0
    assert "NG" in summary.table()


def test_folder_with_a_truncated_jpeg(bundle: Path, tmp_path: Path) -> None:
    for index in range(4):
        write_image(tmp_path / f"{index}.jpg", tiny_image(9100 + index, blob=index == 2))
    (tmp_path / "1.jpg").write_bytes((tmp_path / "1.jpg").read_bytes()[:500])
    events, _ = judged(bundle, str(tmp_path))
    assert [(event.part, event.verdict == "NG", event.verdict == "NONE") for event in events] == [
        ("0.jpg", False, False),
        ("1.jpg", False, True),
        ("2.jpg", True, False),
        ("3.jpg", False, False),
    ]
    assert "1.jpg" in (events[1].reason or "")


FAULTS = {"freeze": "frozen", "black": "dark", "slow": "late", "corrupt": "corrupt", "resize": "resolution"}


@pytest.mark.parametrize(("fault", "reason"), FAULTS.items())
def test_a_faulty_frame_is_none_with_its_reason_and_no_other_is(bundle: Path, fault: str, reason: str) -> None:
    uri = f"synthetic://line?frames=8&fps=50&slow_ms=600&{fault}=3-4"
    events, summary = judged(bundle, uri, settings_of(max_age_ms=550))
    on_frames = [event for event in events if event.part is not None]
    assert [event.frame for event in on_frames] == list(range(8))
    faulty = {event.frame: (event.reason or "").split(":")[0] for event in on_frames if event.verdict == "NONE"}
    assert faulty == {3: reason, 4: reason}
    assert summary.total.captured == 8


@pytest.mark.parametrize(("fault", "reason"), [("drop", "lost"), ("hang", "lost"), ("gone", "camera lost")])
def test_missing_frames_are_one_outage_with_its_reason(bundle: Path, fault: str, reason: str) -> None:
    events, summary = judged(bundle, f"synthetic://line?frames=8&fps=50&{fault}=3-4")
    assert [event.frame for event in events if event.part is not None] == [0, 1, 2, 5, 6, 7]
    outages = [event for event in events if event.part is None]
    assert [(event.verdict, (event.reason or "").split(":")[0]) for event in outages] == [("NONE", reason)]
    assert events.index(outages[0]) == 3
    assert (summary.total.captured, summary.total.lost, summary.total.outages) == (6, 2, 1)


def test_a_long_hang_is_reported_while_it_lasts(bundle: Path) -> None:
    # Three frames at two a second: 1.5 s of silence, told after 1 s; the gap that follows is thereby explained.
    events, _ = judged(bundle, "synthetic://line?frames=6&fps=2&hang=2-4")
    reasons = [event.reason if event.verdict == "NONE" and event.reason else "" for event in events]
    messages = [(event.frame, reason.split(":")[0]) for event, reason in zip(events, reasons, strict=True)]
    once = list(dict.fromkeys(messages))  # a starved machine may be silent for long enough to be told twice
    assert once == [(0, ""), (1, ""), (None, "stalled"), (5, "")]


def test_real_time_may_drop_but_loses_count_of_nothing(bundle: Path) -> None:
    events, summary = judged(
        bundle, "synthetic://line?frames=40&fps=200&black=10-12", settings_of(realtime=True, max_age_ms=60_000)
    )
    frames = [event.frame for event in events if event.frame is not None]
    assert frames == sorted(set(frames))
    assert summary.total.captured == 40


def test_several_cameras(bundle: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for index in range(3):
            write_image(tmp_path / name / f"{index}.png", tiny_image(index))
    events: list[Event] = []
    uris = [str(tmp_path / "one"), str(tmp_path / "two")]
    summary = inspect(bundle, uris, RunOptions(settings_of(), on_event=events.append))
    for uri in uris:
        assert [event.frame for event in events if event.camera == uri] == [0, 1, 2]
    assert "all" in summary.table()


@pytest.mark.parametrize(("cameras", "message"), [([], "no camera"), (["synthetic://line"] * 2, "given twice")])
def test_cameras_refused(bundle: Path, cameras: list[str], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        inspect(bundle, cameras)


def test_saved_images_have_safe_names_and_show_the_verdict(bundle: Path, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    parts.mkdir()
    write_image(parts / "a b$(x).png", tiny_image(1))
    write_image(parts / "bad.png", tiny_image(2, blob=True))
    (parts / "c.png").write_bytes(b"broken")
    out = tmp_path / "out"
    inspect(bundle, str(parts), RunOptions(settings_of(save=out)))
    assert sorted(path.name for path in out.iterdir()) == ["000000_a_b_x.jpg", "000001_bad.jpg", "000002_c.jpg"]
    borders = {}
    for path in sorted(out.iterdir()):
        borders[path.stem[-1]] = cv2.imread(str(path))[-2, 20, ::-1].astype(int)
    # The border shows the verdict: NG red, NONE grey.
    assert borders["d"][0] > borders["d"][1] + 80
    assert np.ptp(borders["c"]) < 40


def test_saved_video_has_every_frame(bundle: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "clip.mkv", [tiny_image(index, size=(100, 130)) for index in range(9)], fps=12.0)
    out = tmp_path / "out"
    inspect(bundle, str(video), RunOptions(settings_of(save=out, events=out / "events.jsonl")))
    assert sorted(path.name for path in out.iterdir()) == ["clip.mp4", "events.jsonl"]
    capture = cv2.VideoCapture(str(out / "clip.mp4"))
    count = 0
    while capture.read()[0]:
        count += 1
    assert count == 9
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(12.0, abs=0.01)
    assert [json.loads(line)["frame"] for line in (out / "events.jsonl").read_text().splitlines()] == list(range(9))


def test_save_into_a_file_is_refused(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInput, match="--save"):
        inspect(bundle, "synthetic://line?frames=1", RunOptions(settings_of(save=tmp_path / "file")))
