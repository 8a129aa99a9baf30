"""Images kept as evidence: which, where, what is in them, and what happens when there are too many."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_ad.camera.frames import Frame
from edge_ad.config import RecordTable
from edge_ad.data.images import read_image
from edge_ad.engines.pipeline import Inference
from edge_ad.events import VERDICTS, Event
from edge_ad.inspection import evidence as module
from edge_ad.inspection.evidence import Evidence, image_name
from edge_ad.inspection.judge import InspectionResult
from edge_ad.inspection.view import Roi, View
from edge_ad.store import Store
from edge_ad.store.journal import event_from_text
from edge_ad.store.reader import Reader
from edge_ad.store.recovery import remake
from edge_ad.store.retention import evidence_folder
from edge_ad.store.schema import comment_of, row_of
from tests.camera.pictures import noise
from tests.fixtures.loopback import until

NO_FLOOR = RecordTable(free_gb=0.0)
HEAT = np.zeros((256, 256), np.float32)
HEAT[:128] = 5.0


def judgement(number: int, verdict: Any = "NG", map_: bool = True, **changes: Any) -> InspectionResult:
    """Return a judgement on an image of noise."""
    values = {"id": f"{number:036d}", "time": 1_772_323_200.25 + number, "camera": "rtsp://cam/1?a=b"}
    event = Event(**{"frame": number, "part": str(number), "verdict": verdict, "score": 1.0, "z": {"logic": 0.5},
                     "latency_ms": 3.0, "reason": None, **values, **changes})  # fmt: skip
    z = np.zeros(5, np.float32)
    inference = Inference(z, z, 1.0, HEAT, {}) if map_ else None
    return InspectionResult(event, Frame(noise(number), number, time.monotonic(), event.time, "cam", "0"), inference)


def keep(store: Store, evidence: Evidence, *judgements: InspectionResult) -> list[Event]:
    """Hand over as the line does."""
    rows = [one.event for one in judgements]
    for row, one in zip(rows, judgements, strict=True):
        evidence.offer(row, one)
        store.record(row)
    return rows


def opened(folder: Path, view: View | None = None, **settings: Any) -> tuple[Store, Evidence]:
    path = folder / "line.sqlite"
    chosen = NO_FLOOR.model_copy(update=settings)
    store = Store(path, evidence=evidence_folder(chosen, path))
    return store, Evidence(store, chosen, view or View(), reference=np.zeros((4, 4), np.float32))


def test_the_pictures_show_the_region_and_hold_their_event(tmp_path: Path) -> None:
    store, evidence = opened(tmp_path, View(Roi(4, 2, 16, 12)))
    result = judgement(1)
    (row,) = keep(store, evidence, result)
    evidence.close(20.0)
    assert store.close(60.0)
    with Reader(tmp_path / "line.sqlite") as reader:
        event = reader.event(row.id)
        assert event is not None
        folder = reader.evidence
        assert folder is not None
    assert event.images == (image_name(row), image_name(row, "_map"))
    assert event.images[0] == f"2026-03-01/rtsp_cam_1_a_b/000001.250_NG_{row.id}.jpg"
    crop, overlay = (read_image(folder / name) for name in event.images)
    image = result.image
    assert image is not None
    region = image[2:14, 4:20]
    assert crop.shape == overlay.shape == region.shape
    # As good as JPEG of quality 90 is on noise, its worst case, and the same colours.
    expected = cv2.imdecode(
        cv2.imencode(".jpg", region[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1], cv2.IMREAD_COLOR
    )
    np.testing.assert_array_equal(crop, expected[:, :, ::-1])
    difference = np.abs(crop.astype(int) - overlay).mean((1, 2))
    assert difference[:5].min() > 2 * difference[7:].max()  # the heat lies over the upper half
    for name in event.images:
        assert event_from_text(comment_of((folder / name).read_bytes()) or "") == row


@pytest.mark.parametrize("grey", [False, True])
def test_what_is_likely_to_be_marked_is_kept_without_loss_and_known_again_without_an_index(tmp_path: Path, grey: bool) -> None:
    store, evidence = opened(tmp_path, View(Roi(4, 2, 16, 12)), ok_every=0, lossless_ok_every=1)
    results = [judgement(number, verdict, map_=verdict != "NONE") for number, verdict in enumerate(("NG", "WARN", "OK", "NONE"))]
    if grey:
        for one in results:
            assert one.image is not None
            one.image[:] = one.image[:, :, :1]
    rows = keep(store, evidence, *results)
    evidence.close(20.0)
    assert store.close(60.0)
    path, folder = tmp_path / "line.sqlite", tmp_path / "line.evidence"
    for _ in range(2):
        with Reader(path) as reader:
            events = {event.id: event for event in reader.events()}
        for row, one in zip(rows[:3], results, strict=False):
            lossless = events[row.id].lossless
            assert lossless == f"2026-03-01/rtsp_cam_1_a_b/{image_name(row, kind='.png').rsplit('/', 1)[1]}"
            assert one.image is not None
            np.testing.assert_array_equal(read_image(folder / lossless), one.image[2:14, 4:20])
        assert events[rows[3].id].lossless is None
        assert len(events[rows[0].id].images) == 2, "the dashboard shows the others"
        for name in ("", "-wal", "-shm"):
            path.with_name(path.name + name).unlink(missing_ok=True)
        shutil.rmtree(folder / "journal", ignore_errors=True)
        remake(path, folder)


def test_nothing_is_kept_without_loss_where_no_space_is_given_or_the_thread_is_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, evidence = opened(tmp_path, lossless_gb=0.0)
    keep(store, evidence, judgement(1))
    evidence.close(20.0)
    monkeypatch.setattr("edge_ad.inspection.evidence.MAX_BYTES", -1)
    evidence = Evidence(store, NO_FLOOR, View())
    keep(store, evidence, judgement(2))
    evidence.close(20.0)
    assert store.close(60.0)
    with Reader(tmp_path / "line.sqlite") as reader:
        assert [(len(event.images), event.lossless) for event in reader.events()] == [(2, None), (2, None)]


def test_what_is_kept(tmp_path: Path) -> None:
    store, evidence = opened(tmp_path, ok_every=4)
    goods = [judgement(number, "OK") for number in range(100)]
    others = [judgement(400, "NG"), judgement(401, "WARN"), judgement(402, "NONE", map_=False)]
    outage = InspectionResult(judgement(403, "NONE").event)
    keep(store, evidence, *goods, *others, outage)
    assert until(lambda: store.committed == 104)
    evidence.close(20.0)
    assert store.close(60.0)
    with Reader(tmp_path / "line.sqlite") as reader:
        kept = {verdict: [] for verdict in VERDICTS}  # type: ignore[var-annotated]
        for event in reader.events(limit=500):
            kept[event.verdict] += [len(event.images)]
    assert sorted(kept["OK"])[-1] == 2
    assert 8 <= sum(count > 0 for count in kept["OK"]) <= 42  # 25 +- 4 standard deviations
    assert (kept["NG"], kept["WARN"], sorted(kept["NONE"])) == ([2], [2], [0, 1])
    assert not evidence.dropped


@pytest.mark.parametrize(("every", "kept"), [(0, 0), (1, 5)])
def test_none_or_all_of_the_goods(tmp_path: Path, every: int, kept: int) -> None:
    store, evidence = opened(tmp_path, ok_every=every)
    keep(store, evidence, *(judgement(number, "OK") for number in range(5)))
    assert until(lambda: store.committed == 5)
    evidence.close(20.0)
    store.close()
    assert evidence.written == kept


@pytest.mark.usefixtures("stderr_log")
def test_pictures_wait_for_the_commit_and_the_oldest_ok_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = judgement(0)
    assert one.image is not None
    monkeypatch.setattr(module, "MAX_BYTES", 3 * (one.image.nbytes + HEAT.nbytes))
    store, evidence = opened(tmp_path, ok_every=1)
    rows = []
    for number, verdict in enumerate(["NG", "OK", "NG", "NG", "OK", "NG"]):
        result = judgement(number, verdict)
        rows.append(result.event)
        evidence.offer(rows[-1], result)
    time.sleep(0.1)
    assert not list(tmp_path.rglob("*.jpg"))  # no event is committed yet
    for row in rows:
        store.record(row)
    assert until(lambda: store.committed == 6)
    evidence.close(20.0)
    store.close()
    with Reader(tmp_path / "line.sqlite") as reader:
        assert [event.frame for event in reversed(reader.events()) if event.images] == [2, 3, 5]
    assert evidence.dropped == {"rtsp://cam/1?a=b": 3}
    assert "3 images were not kept" in capsys.readouterr().err


def test_the_end_waits_for_no_event_that_cannot_be_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "edge_ad.store.store.row_of", lambda event: ("\udce4" if event.frame == 1 else event.id, *row_of(event)[1:])
    )
    store, evidence = opened(tmp_path)
    keep(store, evidence, *map(judgement, range(3)))
    evidence.close(86_400.0)  # a day, if it were waited for
    assert evidence.written == 2
    assert evidence.dropped == {"rtsp://cam/1?a=b": 1}
    store.close()


@pytest.mark.usefixtures("stderr_log")
def test_a_folder_that_cannot_be_written_is_reported_once_and_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[int] = []
    path = tmp_path / "line.sqlite"
    settings = RecordTable(evidence=tmp_path / "taken", free_gb=0.0)
    store = Store(path)
    evidence = Evidence(store, settings, View(), short=lambda: calls.append(1))
    (tmp_path / "taken").write_text("a file")
    keep(store, evidence, judgement(0), judgement(1))
    assert until(lambda: len(calls) == 2)
    (tmp_path / "taken").unlink()
    keep(store, evidence, judgement(2))
    assert until(lambda: evidence.written == 1)
    evidence.close(20.0)
    store.close()
    output = capsys.readouterr().err
    assert output.count("no images are kept, events go on") == 1
    assert "images are kept again; 2 were not" in output
