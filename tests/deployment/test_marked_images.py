"""The images of marked events become a data set: which folder, once each, and nothing that leaves the folder."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest

from edge_ad.cli.app import main
from edge_ad.data.images import read_image
from edge_ad.deployment.marked_images import MANIFEST, proportional_sample, write_marked
from edge_ad.errors import BadInput
from edge_ad.events import Event
from edge_ad.store import Store, StoredImage
from edge_ad.store.reader import EventFilter, Reader, set_mark
from tests.fixtures.tiny_bundle import tiny_image

MARKS = [("good", None), ("bad", "deep scratch"), ("bad", "../../etc/passwd"), ("bad", None), ("good", None), (None, None)]


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """A record of events with lossless images, all but the fifth; the marks of the first five are those of MARKS."""
    path, evidence = tmp_path / "line.sqlite", tmp_path / "line.evidence"
    evidence.mkdir()
    store = Store(path, evidence=evidence)
    for number in range(6):
        product = "cap-red" if number < 3 else None
        event = Event("cam", number, str(number), 1_772_323_200.0 + number, "NG", 4.0, {}, 1.0, "local", f"event-{number}",
                      product=product, bundle="b" * 64)  # fmt: skip
        store.record(event)
        if number != 4:
            assert cv2.imwrite(str(evidence / f"{event.id}.png"), tiny_image(number)[:, :, ::-1])
            store.add_image(StoredImage(f"{event.id}.png", event.id, "NG", event.time, 1))
    assert store.close(20)
    for number, (mark, name) in enumerate(MARKS):
        set_mark(path, f"event-{number}", mark, "anna", name=name)  # type: ignore[arg-type]
    return path


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*.png")}


def test_marks_decide_the_folder_and_a_second_time_adds_nothing(record: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Reader(record) as reader:
        first, second = write_marked(reader, out), write_marked(reader, out)
    defects = {"deep_scratch/event-1.png", "etc_passwd/event-2.png", "defect/event-3.png"}
    assert files(out) == {"good/event-0.png", *(f"defects/{name}" for name in defects)}
    assert (sum(first.written.values()), first.without) == (4, ["event-4"])
    assert (sum(second.written.values()), second.there) == (0, 4)
    assert (read_image(out / "good/event-0.png") == tiny_image(0)).all()
    entries = [json.loads(line) for line in (out / MANIFEST).read_text().splitlines()]
    assert [entry["event"] for entry in entries] == [f"event-{number}" for number in range(4)]
    kept = {"mark": "bad", "name": "deep scratch", "verdict": "NG", "score": 4.0, "bundle": "b" * 64, "product": "cap-red"}
    assert {name: entries[1][name] for name in kept} == kept


def test_an_image_goes_with_its_mark(record: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Reader(record) as reader:
        write_marked(reader, out)
        set_mark(record, "event-0", "bad", "anna", name="dent")
        set_mark(record, "event-1", None, "anna")
        assert write_marked(reader, out).changed == 2
    assert files(out) == {"defects/dent/event-0.png", "defects/etc_passwd/event-2.png", "defects/defect/event-3.png"}


def test_an_image_goes_with_its_mark_where_a_filter_leaves_the_new_one_out(record: Path, tmp_path: Path) -> None:
    out, good = tmp_path / "out", EventFilter(mark="good")
    with Reader(record) as reader:
        write_marked(reader, out, good)
        set_mark(record, "event-0", "bad", "anna", name="dent")
        assert write_marked(reader, out, good).changed == 1
    assert files(out) == set(), "a defect is not learned as good"
    assert (out / MANIFEST).read_text() == ""


def test_nothing_is_overwritten(record: Path, tmp_path: Path) -> None:
    (tmp_path / "out/good").mkdir(parents=True)
    (tmp_path / "out/good/event-0.png").write_bytes(b"somebody's")
    with Reader(record) as reader, pytest.raises(BadInput, match="is there with other contents"):
        write_marked(reader, tmp_path / "out")
    assert (tmp_path / "out/good/event-0.png").read_bytes() == b"somebody's"


@pytest.mark.parametrize("line", ['{"file": "../line.sqlite", "event": "event-0", "sha256": ""}', "{", "[]"])
def test_a_manifest_that_names_other_files_is_refused(record: Path, tmp_path: Path, line: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / MANIFEST).write_text(line)
    with Reader(record) as reader, pytest.raises(BadInput, match="cannot be read"):
        write_marked(reader, tmp_path / "out")


def test_an_image_that_shows_several_parts_is_left_out(record: Path, tmp_path: Path) -> None:
    store = Store(record)
    store.record(Event("cam", 0, "b", 1_772_323_200.0, "OK", 1.0, {}, 1.0, None, "event-b"))
    assert store.close(20)
    with Reader(record) as reader:
        assert write_marked(reader, tmp_path / "out").several == ["event-0"]


def test_the_command_filters(record: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["dataset", "from-record", "--store", str(record), "--out", str(tmp_path / "out")]
    assert main([*words, "--product", "cap-red", "--marked", "bad", "--since", "2026-03-01T00:00:02"]) == 0
    assert files(tmp_path / "out") <= {"defects/deep_scratch/event-1.png", "defects/etc_passwd/event-2.png"}
    assert "defects/etc_passwd written" in capsys.readouterr().out
    assert main(["dataset", "upload"]) == 2
    assert "unknown action 'upload'" in capsys.readouterr().err
    assert EventFilter().product is None


@pytest.mark.parametrize(
    ("ok_with_image", "count", "drawn"),
    [(10, 10, {"OK": 4, "WARN": 1, "NG": 5}), (2, 10, {"OK": 2, "WARN": 1, "NG": 3}), (10, 200, {"OK": 10, "WARN": 3, "NG": 13})],
    ids=["as asked", "as many as few images of OK allow", "more than there are"],
)
def test_a_sample_has_the_verdicts_in_the_proportions_of_all(
    tmp_path: Path, ok_with_image: int, count: int, drawn: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    """40 OK, of which few have an image without loss, 10 WARN and 50 NG."""
    path, evidence = tmp_path / "line.sqlite", tmp_path / "line.evidence"
    evidence.mkdir()
    store = Store(path, evidence=evidence)
    for number, verdict in enumerate(["OK"] * 40 + ["WARN"] * 10 + ["NG"] * 50):
        event = Event("cam", number, str(number), 1_772_323_200.0 + number, verdict, 4.0, {}, 1.0, "local", f"event-{number:03}")
        store.record(event)
        if verdict != "OK" or number < ok_with_image:
            (evidence / f"{event.id}.png").write_bytes(b"an image")
            store.add_image(StoredImage(f"{event.id}.png", event.id, verdict, event.time, 1))
    assert store.close(20)
    with Reader(path) as reader:
        events, shares = proportional_sample(reader, EventFilter(), count)
        assert proportional_sample(reader, EventFilter(), count)[0] == events, "again draws the same"
    assert {name: taken for name, (taken, _) in shares.items()} == drawn
    assert {name: of for name, (_, of) in shares.items()} == {"OK": 40, "WARN": 10, "NG": 50}
    assert len(events) == len({event.id for event in events}) == sum(drawn.values())
    assert main(["events", "--store", str(path), "--sample", str(count)]) == 0
    message = capsys.readouterr().out
    assert f"drawn at random: {drawn['OK']} of 40 OK, {drawn['WARN']} of 10 WARN, {drawn['NG']} of 50 NG" in message
    assert ("lower lossless_ok_every" in message) == (sum(drawn.values()) < min(count, 100))
