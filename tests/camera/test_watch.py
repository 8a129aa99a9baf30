"""A watched folder: images as they become complete, in order, never twice, whatever another program does there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from edge_ad.camera.files import SETTLED_S, WatchedFolder
from edge_ad.camera.frames import BadFrame, End, Frame, SourceError, Timeout
from edge_ad.camera.sources import open_source
from edge_ad.config import RunTable
from edge_ad.errors import BadInput
from edge_ad.inspection.settings import drops, stall_s
from tests.data.folders import picture, save


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "incoming").mkdir()
    return tmp_path / "incoming"


def test_only_what_appears_later_is_judged_in_the_order_of_its_time(folder: Path) -> None:
    save(folder / "old.png", picture(0))
    source = open_source(f"watch:{folder}")
    assert source.read(0.0) == Timeout(0.0)
    for name, seed in (("b.png", 1), ("a.png", 2)):
        made = save(folder / name, picture(seed))
        shift = 10**9 * seed
        os.utime(made, ns=(made.stat().st_mtime_ns + shift, made.stat().st_mtime_ns + shift))
    results = [source.read(0.0) for _ in range(3)]
    assert [frame.part for frame in results if isinstance(frame, Frame)] == ["b.png", "a.png"]
    assert results[2] == Timeout(0.0)
    assert [frame.index for frame in results if isinstance(frame, Frame)] == [0, 1]


def test_a_file_renamed_into_the_folder_is_taken_at_once(folder: Path, tmp_path: Path) -> None:
    source = WatchedFolder(folder, "w", clock=Clock())
    save(tmp_path / "made.jpg", picture(1)).rename(folder / "part.jpg")
    assert isinstance(source.read(0.0), Frame)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
def test_a_file_that_is_still_written_waits_until_it_is_whole(folder: Path, suffix: str) -> None:
    clock = Clock()
    source = WatchedFolder(folder, "w", clock=clock)
    data = save(folder.parent / f"whole{suffix}", picture(1)).read_bytes()
    for share in (0.3, 0.6, 0.9):
        (folder / f"part{suffix}").write_bytes(data[: int(len(data) * share)])
        clock.now += SETTLED_S / 2
        assert source.read(0.0) == Timeout(0.0)
    (folder / f"part{suffix}").write_bytes(data)
    frame = source.read(0.0)
    assert isinstance(frame, Frame)
    assert source.read(0.0) == Timeout(0.0)


def test_a_tiff_is_taken_when_it_stands_still(folder: Path) -> None:
    clock = Clock()
    source = WatchedFolder(folder, "w", clock=clock)
    save(folder / "part.tif", picture(1))
    assert source.read(0.0) == Timeout(0.0)
    clock.now += SETTLED_S
    assert isinstance(source.read(0.0), Frame)


def test_a_file_that_is_never_finished_is_a_bad_frame(folder: Path) -> None:
    clock = Clock()
    source = WatchedFolder(folder, "w", clock=clock)
    data = save(folder.parent / "whole.png", picture(1)).read_bytes()
    (folder / "part.png").write_bytes(data[: len(data) // 2])
    assert source.read(0.0) == Timeout(0.0)
    clock.now += SETTLED_S
    result = source.read(0.0)
    assert isinstance(result, BadFrame)
    assert "truncated" in result.reason
    assert source.read(0.0) == Timeout(0.0)


def test_a_file_that_is_written_again_is_another_image(folder: Path) -> None:
    source = WatchedFolder(folder, "w")
    save(folder / "latest.png", picture(1))
    assert isinstance(source.read(0.0), Frame)
    assert source.read(0.0) == Timeout(0.0)
    save(folder / "latest.png", picture(2, (50, 70)))
    again = source.read(0.0)
    assert isinstance(again, Frame)
    assert again.image.shape == (50, 70, 3)


def test_other_files_and_half_named_ones_are_left_alone(folder: Path) -> None:
    source = WatchedFolder(folder, "w", clock=Clock())
    (folder / "notes.txt").write_text("no image")
    (folder / ".part.png.tmp").write_bytes(b"")
    save(folder / "made.png", picture(1)).rename(folder / ".hidden.png")
    assert source.read(0.0) == Timeout(0.0)


def test_a_folder_that_goes_away_is_a_lost_camera_until_it_is_back(folder: Path) -> None:
    source = WatchedFolder(folder, "w")
    shutil.rmtree(folder)
    lost = source.read(0.0)
    assert isinstance(lost, SourceError)
    assert lost.reason.startswith("camera lost: cannot list")
    folder.mkdir()
    save(folder / "part.png", picture(1))
    assert isinstance(source.read(0.0), Frame)


def test_nothing_new_is_no_stall_and_close_ends_it(folder: Path) -> None:
    assert stall_s("watch", None, True) == float("inf")
    assert not drops(RunTable(), "watch")
    source = WatchedFolder(folder, "w")
    source.close()
    assert source.read(1.0) == End()


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("watch:", "names no folder: write watch:/data/incoming"),
        ("watch:gone", "gone does not exist"),
        ("watch:file.png", "names a file: write watch:FOLDER"),
    ],
)
def test_what_cannot_be_watched(uri: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "file.png", picture(0))
    with pytest.raises(BadInput, match=sentence):
        open_source(uri)
