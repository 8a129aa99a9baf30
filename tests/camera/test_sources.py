"""Sources on real files: videos, folders, single images, and what is none of these."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_ad.camera.frames import BadFrame, End, Frame, Read, Source
from edge_ad.camera.sources import open_source
from edge_ad.errors import BadInput, DeviceFault
from tests.camera.pictures import noise, write_image, write_video


def read_all(source: Source) -> list[Read]:
    results: list[Read] = []
    while not results or not isinstance(results[-1], End):
        results.append(source.read(1.0))
    source.close()
    return results


def frames_of(results: list[Read]) -> list[Frame]:
    return [result for result in results if isinstance(result, Frame)]


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "clip.mkv", [noise(seed) for seed in range(7)])


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_video_gives_every_frame_in_order_and_in_rgb(video: Path, prefix: str) -> None:
    source = open_source(f"{prefix}{video}")
    assert source.kind == "video"
    assert source.fps == pytest.approx(25.0)
    frames = frames_of(read_all(source))
    assert [frame.index for frame in frames] == list(range(7))
    assert [frame.part for frame in frames] == [str(index) for index in range(7)]
    for seed, frame in enumerate(frames):
        # FFV1 stores YUV: rounding may move a value a little; swapped channels would move them far.
        assert np.abs(frame.image.astype(int) - noise(seed)).mean() < 12


def test_video_is_whole_when_a_network_camera_was_opened_before(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", raising=False)
    with pytest.raises(DeviceFault):
        open_source("rtsp://127.0.0.1:1/x")
    from edge_ad.camera.rtsp import set_options

    set_options()
    assert len(frames_of(read_all(open_source(str(video))))) == 7


def test_video_with_a_colon_in_its_name(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mkv", [noise(1)] * 3).rename(tmp_path / "a:b.mkv")
    assert len(frames_of(read_all(open_source(str(path))))) == 3


def test_video_cut_short_reports_it(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mkv", [noise(seed, 120, 160) for seed in range(60)])
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    results = read_all(open_source(str(cut)))
    end = results[-1]
    count = len(frames_of(results))
    assert 10 < count < 50
    assert end == End(f"broken off: cut.mkv ended after {count} of 60 announced frames")


def test_colours_of_a_video_are_not_swapped(tmp_path: Path) -> None:
    red = np.zeros((48, 64, 3), np.uint8)
    red[:, :, 0] = 220
    frame = frames_of(read_all(open_source(str(write_video(tmp_path / "red.avi", [red] * 2, codec="MJPG")))))[0]
    assert frame.image[:, :, 0].mean() > 180 > 60 > frame.image[:, :, 2].mean()


def test_folder_in_order_of_names_with_a_truncated_jpeg(tmp_path: Path) -> None:
    for number, name in enumerate(["b.png", "a.jpg", "c.jpg"]):
        write_image(tmp_path / name, noise(number))
    (tmp_path / "c.jpg").write_bytes((tmp_path / "c.jpg").read_bytes()[:-200])
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden.png").write_bytes(b"x")
    source = open_source(str(tmp_path))
    assert (source.kind, source.fps) == ("images", None)
    results = read_all(source)
    kinds = [(type(result).__name__, getattr(result, "part", None)) for result in results]
    assert kinds == [("Frame", "a.jpg"), ("Frame", "b.png"), ("BadFrame", "c.jpg"), ("End", None)]
    bad = results[2]
    assert isinstance(bad, BadFrame)
    assert bad.index == 2
    assert bad.reason.startswith("corrupt:")
    assert "c.jpg" in bad.reason
    np.testing.assert_array_equal(frames_of(results)[1].image, noise(0))


def test_single_image(tmp_path: Path) -> None:
    results = read_all(open_source(str(write_image(tmp_path / "one.png", noise(5)))))
    assert [type(result).__name__ for result in results] == ["Frame", "End"]


def test_closed_source_has_ended(video: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    write_image(folder / "one.png", noise(5))
    for uri in (str(video), str(folder), "synthetic://line?frames=3"):
        source = open_source(uri)
        source.close()
        assert isinstance(source.read(0.1), End)


def test_bad_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "zero.mp4").touch()
    message = {
        "missing.mp4": "does not exist",
        "empty": "holds no image",
        "outer": "inner",
        "text.mp4": "neither an image nor a video",
        "zero.mp4": "neither an image nor a video",
        "text.jpg": "text.jpg",
    }
    for name, words in message.items():
        with pytest.raises(BadInput, match=words) as caught:
            open_source(str(tmp_path / name))
        assert name in str(caught.value)


def test_no_camera_reports_what_was_tried() -> None:
    with pytest.raises(DeviceFault) as caught:
        open_source("97")
    message = str(caught.value)
    assert "/dev/video97 does not exist" in message
    assert "Video4Linux" in message
    assert "cameras on this machine" in message


def test_a_device_that_is_no_camera() -> None:
    with pytest.raises(DeviceFault, match="/dev/null exists but did not open"):
        open_source("/dev/null")


def test_synthetic_line_repeats_itself_and_differs_by_seed() -> None:
    one, two, other = (
        frames_of(read_all(open_source(f"synthetic://line?frames=3&seed={seed}&fps=50"))) for seed in (1, 1, 2)
    )
    assert [frame.index for frame in one] == [0, 1, 2]
    for a, b, c in zip(one, two, other, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        assert (a.image != c.image).any()


@pytest.mark.parametrize("query", ["frames=0", "frames=x", "fps=0", "seed=-1", "size=3", "hang=", "slow_ms=0"])
def test_synthetic_settings_refused(query: str) -> None:
    with pytest.raises(BadInput, match="synthetic://line"):
        open_source(f"synthetic://line?{query}")


def test_realtime_keeps_the_schedule(video: Path) -> None:
    frames = frames_of(read_all(open_source(str(video), realtime=True)))
    start = frames[0].captured_at
    assert len(frames) == 7
    for frame in frames:
        assert frame.captured_at >= start + frame.index / 25.0 - 1e-6


def test_a_damaged_image_of_an_mjpeg_video_is_a_bad_frame_and_the_others_are_judged(tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (160, 120))
    for index in range(4):
        writer.write(np.random.default_rng(index).integers(0, 255, (120, 160, 3), dtype=np.uint8))
    writer.release()
    data = bytearray(path.read_bytes())
    starts = [place for place in range(len(data) - 3) if data[place : place + 3] == b"\xff\xd8\xff"]
    middle = (starts[1] + starts[2]) // 2
    data[middle : middle + 3000] = bytes(3000)
    path.write_bytes(data)
    source = open_source(str(path))
    frames = [source.read(1.0) for _ in range(5)]
    assert [type(frame) for frame in frames] == [Frame, BadFrame, Frame, Frame, End]
    assert isinstance(frames[1], BadFrame)
    assert frames[1].reason.startswith("corrupt: its JPEG data are damaged")
    assert [frame.index for frame in frames[:4] if isinstance(frame, (Frame, BadFrame))] == [0, 1, 2, 3]
