"""Collecting normal images: what is kept, what is skipped and why, and going on where it stopped."""

from __future__ import annotations

import base64
import collections
import contextlib
import os
import re
import struct
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_ad.bundle import open_bundle
from edge_ad.camera.capture import Capture, encode_png
from edge_ad.camera.frames import BadFrame, End, Frame, Read, SourceError, SourceKind
from edge_ad.camera.settings import CameraRecord, CameraSettings, read_record
from edge_ad.cli import capture as capture_command
from edge_ad.cli.app import main
from edge_ad.data.datasets import load_dataset
from edge_ad.data.images import list_images, read_image
from edge_ad.errors import BadInput
from edge_ad.synthetic.tray import render_tray
from tests.camera.pictures import Image, noise, write_image
from tests.fixtures.located_bundle import make_located_bundle, part_image
from tests.fixtures.tiny_bundle import make_tiny_bundle


class Reel:
    """Gives images and other results as listed."""

    kind: SourceKind = "live"
    fps: float | None = 25.0

    def __init__(self, *items: Image | str, settings: CameraSettings | None = None, name: str = "reel") -> None:
        self.name = name
        self.settings = settings or CameraSettings(exposure_us=8000.0, pixel_format="BayerRG8")
        self._items = iter(enumerate(items))

    def read(self, timeout_s: float) -> Read:
        index, item = next(self._items, (0, None))
        if item is None:
            return End()
        if isinstance(item, str):
            return SourceError(item) if item == "away" else BadFrame(item, index, float(index), 0.0, self.name, "")
        return Frame(item, index, index / 25.0, 1_000_000_000.0 + index, self.name, str(index))

    def close(self) -> None:
        self._items = enumerate([])


def tray(seed: int, exposure: int = 0) -> Image:
    return render_tray(seed, None, 128, exposure).image


def capture(folder: Path, *items: Image | str, wanted: int = 100, every_s: float = 0.0) -> Capture:
    running = Capture(Reel(*items), folder, wanted, every_s)
    running.run(lambda: False)
    return running


def read_texts(data: bytes) -> dict[str, str]:
    """Return the iTXt chunks of a PNG by keyword."""
    texts: dict[str, str] = {}
    position = 8
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        body = data[position + 8 : position + 8 + length]
        if kind == b"iTXt":
            key, _, rest = body.partition(b"\0")
            texts[key.decode("latin-1")] = rest[2:].split(b"\0", 2)[-1].decode("utf-8", "replace")
        position += 12 + length
    return texts


def test_good_pictures_are_kept_lossless_with_time_and_camera(tmp_path: Path) -> None:
    running = capture(tmp_path / "good", *(tray(seed) for seed in range(5)), wanted=3)
    files = list_images(tmp_path / "good")
    assert [path.name for path in files] == ["000001.png", "000002.png", "000003.png"]
    for seed, path in enumerate(files):
        np.testing.assert_array_equal(read_image(path), tray(seed))
    texts = read_texts(files[1].read_bytes())
    assert texts["Camera"] == "reel"
    assert texts["Creation Time"] == "2001-09-09T01:46:41.000Z"
    assert texts["Frame"] == "1"
    assert running.progress.saved == 3


def test_what_is_skipped_and_why(tmp_path: Path) -> None:
    goods = [tray(seed) for seed in range(8)]
    corrupt: list[Image | str] = [
        np.zeros_like(goods[0]),
        np.full_like(goods[0], 255),
        np.asarray(cv2.GaussianBlur(tray(20), (0, 0), 3.0), np.uint8),
        tray(3, exposure=1),  # the same tray again: only the noise of the sensor differs
        "the cable",
        "away",
        tray(21)[:64],
    ]
    running = capture(tmp_path / "good", *goods, *corrupt, tray(22))
    assert running.progress.saved == 9
    assert running.progress.skipped == collections.Counter(
        {"dark": 1, "blown out": 1, "blurred": 1, "alike": 1, "unreadable": 1, "resolution": 1}
    )
    assert "skipped: 1 alike, 1 blown out" in running.progress.line()


def test_a_moved_camera_is_noticed_after_twenty_pictures(tmp_path: Path) -> None:
    shifted = [np.roll(tray(100 + seed), 20, axis=1) for seed in range(5)]
    running = capture(tmp_path / "good", *(tray(seed) for seed in range(30)), *shifted)
    assert running.progress.saved == 30
    assert running.progress.skipped == {"moved": 5}


def test_a_second_run_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "good"
    capture(folder, *(tray(seed) for seed in range(4)), np.zeros((128, 128, 3), np.uint8))
    (folder / "000002.png").unlink()  # what a person threw out stays out, and its number is not used again
    running = capture(folder, *(tray(seed) for seed in (0, 5, 6, 7)), wanted=5)
    assert [path.stem for path in list_images(folder)] == ["000001", "000003", "000004", "000005", "000006"]
    assert running.progress.skipped == {"alike": 1, "dark": 1}
    record = read_record(folder)
    assert record is not None
    assert (record.images, record.camera, record.size) == (5, "reel", (128, 128))
    assert record.settings.exposure_us == 8000.0
    assert "RG mosaic" in record.conversion
    assert CameraRecord.from_json(record.to_json()) == record


def test_the_contact_sheet_shows_kept_and_skipped(tmp_path: Path) -> None:
    capture(tmp_path / "good", tray(1), np.zeros((128, 128, 3), np.uint8), tray(2))
    page = (tmp_path / "good" / "contact.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 3
    assert "000002.png" in page
    assert "dark: 99 %" in page
    assert "<script" not in page


def test_the_folder_trains_as_it_is(tmp_path: Path) -> None:
    capture(tmp_path / "good", *(tray(seed) for seed in range(20)))
    goods = load_dataset(tmp_path / "good").normal
    assert sum(len(part) for part in (goods.fit, goods.normalise, goods.threshold)) == 20


def test_other_settings_or_another_size_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "good"
    capture(folder, tray(1))
    with pytest.raises(BadInput, match="exposure_us is 4000 instead of 8000"):
        Capture(Reel(settings=CameraSettings(exposure_us=4000.0)), folder, 10)
    with pytest.raises(BadInput, match="gives 64 x 48 pixels, .* have 128 x 128"):
        capture(folder, noise(1))
    (tmp_path / "foreign").mkdir()
    write_image(tmp_path / "foreign" / "a.png", noise(1))
    with pytest.raises(BadInput, match="no camera.json"):
        capture(tmp_path / "foreign", noise(2))
    with pytest.raises(BadInput, match="--count"):
        Capture(Reel(), tmp_path, 0)


def test_pictures_can_be_spread_over_time(tmp_path: Path) -> None:
    running = capture(tmp_path / "good", *(tray(seed) for seed in range(25)), every_s=0.4)  # 25 a second: each tenth
    assert [path.name for path in list_images(tmp_path / "good")] == ["000001.png", "000002.png", "000003.png"]
    assert running.progress.saved == 3


@pytest.mark.parametrize("text", ["", "Grüße → 你好", "a" * 5000, "rtsp://***@host/1"])
def test_texts_survive_and_the_picture_stays(text: str, tmp_path: Path) -> None:
    data = encode_png(noise(4), {"Camera": text, "Other": "x"})
    assert read_texts(data) == {"Camera": text, "Other": "x"}
    (tmp_path / "a.png").write_bytes(data)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), noise(4))


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 9}', '{"format": 1, "size": [1]}'])
def test_a_damaged_record_is_bad_input(text: str, tmp_path: Path) -> None:
    (tmp_path / "camera.json").write_text(text)
    with pytest.raises(BadInput, match="camera.json"):
        read_record(tmp_path)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    Path("edge-ad.toml").write_text('[run]\ncamera = "synthetic://line?frames=30&anomalies=0&size=128&black=3-4"\n')
    assert main(["capture", "--out", "goods", "--count", "10"]) == 0
    assert "10 of 10 images; skipped: 2 dark" in capsys.readouterr().out
    assert len(list_images(Path("goods"))) == 10
    Path("edge-ad.toml").write_text('[capture]\ncamera = "goods"\nout = "again"\ncount = 4\n')
    assert main(["capture"]) == 0
    assert len(list_images(Path("again"))) == 4


def test_a_source_that_ends_too_early_is_reported_and_what_it_gave_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    camera = "synthetic://line?frames=5&anomalies=0&size=128"
    assert main(["capture", "--camera", camera, "--out", "goods", "--count", "10"]) == 2
    stdout, stderr = capsys.readouterr()
    assert "5 of 10 images" in stdout
    assert "ended when goods held 5 of 10 images" in stderr
    assert "--count 5" in stderr
    assert len(list_images(Path("goods"))) == 5


def test_no_camera_is_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["capture"]) == 2
    assert "--camera URI" in capsys.readouterr().err


def test_a_terminal_that_is_closed_ends_no_capture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write to a pseudo-terminal whose window was closed fails with EIO."""
    window, terminal = os.openpty()
    stream = os.fdopen(terminal, "w")
    monkeypatch.setattr(sys, "stderr", stream)
    shown = capture_command._shown()
    assert shown is not None
    os.close(window)
    progress = Capture(Reel(*(tray(seed) for seed in range(3))), tmp_path / "goods", 3, 0.0).run(lambda: False, shown)
    assert progress.saved == 3
    with contextlib.suppress(OSError):
        stream.close()


@pytest.fixture(scope="module")
def located_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_located_bundle(tmp_path_factory.mktemp("located") / "located.edgead")


def test_with_a_bundle_parts_are_located_and_the_sheet_shows_cut_outs(located_bundle: Path, tmp_path: Path) -> None:
    geometry = open_bundle(located_bundle).geometry
    parts = [part_image(100), part_image(101), part_image(102, mirrored=True)]
    running = Capture(Reel(*parts), tmp_path / "all", 9, geometry=geometry)
    assert running.run(lambda: False).line() == "3 of 9 images; part located in 2; skipped: none"
    page = (tmp_path / "all" / "contact.html").read_text()
    assert "000003.png, not located: the part lies mirrored" in page
    shown = [cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), 1).shape[:2]
             for data in re.findall(r"base64,([^\"]+)", page)]
    assert shown == [(120, 120), (120, 120), (90, 120)]  # two square cut-outs, one whole image of 320 x 240
    only = Capture(Reel(*parts), tmp_path / "located", 9, geometry=geometry, located=True)
    assert only.run(lambda: False).line() == "2 of 9 images; part located in 2; skipped: 1 not located"
    assert [path.name for path in list_images(tmp_path / "located")] == ["000001.png", "000002.png"]
    again = Capture(Reel(), tmp_path / "located", 9, geometry=geometry)
    assert again.progress.located == 2  # those of the earlier run
    with pytest.raises(BadInput, match="reel gives 128 x 128 pixels, and the part was learned in images of 320 x 240"):
        Capture(Reel(tray(1)), tmp_path / "other", 9, geometry=geometry).run(lambda: False)


def test_the_command_refuses_a_bundle_that_locates_nothing(
    located_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    for seed in range(2):
        write_image(tmp_path / "images" / f"{seed}.png", part_image(110 + seed))
    run = ["capture", "--camera", "images", "--out", "good", "--count", "2"]
    assert main([*run, "--located"]) == 2
    assert "--located needs --bundle FILE" in capsys.readouterr().err
    plain = make_tiny_bundle(tmp_path / "plain.edgead")
    assert main([*run, "--bundle", str(plain)]) == 2
    assert "looks at the whole image (geometry square) and locates no parts" in capsys.readouterr().err
    assert main([*run, "--bundle", str(located_bundle), "--located"]) == 0
    assert "2 of 2 images; part located in 2" in capsys.readouterr().out
