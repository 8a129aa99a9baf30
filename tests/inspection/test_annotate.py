"""Images with their verdict drawn on them: of any shape they stay bounded, and names of several cameras stay apart."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_ad.camera.frames import Image
from edge_ad.errors import DeviceFault
from edge_ad.events import Event
from edge_ad.inspection.inspector import RunOptions, inspect
from edge_ad.inspection.recorder import MAX_PIXELS, MAX_SIDE, MIN_SIDE, Recorder, annotate, bounded, overlay, safe_name
from edge_ad.inspection.view import Roi, View
from tests.camera.pictures import noise, write_image
from tests.fixtures.tiny_bundle import make_tiny_bundle, tiny_image
from tests.inspection.line import Script, settings_of

EVENT = Event("cam", 0, "0", 0.0, "NG", 7.0, {"local": 5.0}, 1.0, "local: z 5")
HEAT = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64)


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 4000), (4000, 1), (64, 66_000), (66_000, 64), (100, 20_000), (8, 8), (480, 640), (5000, 6000)], ids=str
)
def test_what_is_drawn_is_bounded_and_can_be_encoded(shape: tuple[int, int]) -> None:
    picture = annotate(np.zeros((*shape, 3), np.uint8), EVENT, HEAT)
    height, width = picture.shape[:2]
    assert min(height, width) >= MIN_SIDE
    # A border of a sixtieth of the shorter side, and the bar of text above.
    assert max(height, width) <= MAX_SIDE * 1.2
    assert height * width <= 2 * MAX_PIXELS
    assert cv2.imencode(".jpg", picture)[0]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((480, 640), (480, 640)), ((4096, 4096), (4096, 4096)), ((8192, 8192), (4096, 4096)), ((64, 65_536), (8, 8192))],
)
def test_only_what_is_too_large_is_shrunk(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    assert bounded(np.zeros((*shape, 3), np.uint8)).shape[:2] == expected


def test_blocks_of_a_heat_map_join_without_a_seam() -> None:
    image: Image = np.full((700, 50, 3), 128, np.uint8)
    drawn = overlay(image, HEAT)
    strength = cv2.resize(HEAT, (50, 700), interpolation=cv2.INTER_LINEAR)
    colours = cv2.applyColorMap((strength * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[:, :, ::-1]
    opacity = (np.minimum(strength * 4.0, 1.0) * 0.55)[:, :, None]
    np.testing.assert_array_equal(drawn, (image * (1.0 - opacity) + colours * opacity).astype(np.uint8))


def test_a_region_of_a_large_picture_gets_its_heat_in_a_small_map() -> None:
    view = View(Roi(5000, 2500, 2500, 2500))
    image = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (5000, 10_000, 3))
    spread = view.spread(np.ones((8, 8), np.float32), image)
    assert spread.shape == (2048, 4096)
    rows, columns = np.nonzero(spread)
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (1024, 2048, 2048, 3072)


def test_pictures_of_two_cameras_with_equal_names_are_all_kept(tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "t.edgead")
    for folder in ("a b", "a_b"):  # equal as a file name, too
        (tmp_path / folder).mkdir()
        for number in range(4):
            write_image(tmp_path / folder / f"part{number}.png", tiny_image(9000 + number))
    cameras = [str(tmp_path / folder) for folder in ("a b", "a_b")]
    inspect(bundle, cameras, RunOptions(settings_of(save=tmp_path / "saved")))
    saved = list((tmp_path / "saved").rglob("*.jpg"))
    assert len(saved) == 8
    assert len({path.parent for path in saved}) == 2


def test_a_video_of_a_camera_replaces_none_of_an_earlier_run(tmp_path: Path) -> None:
    for _ in range(2):
        recorder = Recorder(tmp_path)
        source = Script([], kind="live", name="rtsp://cam/1")
        recorder._video(source).write(noise(1))
        recorder.close()
    names = sorted(path.stem for path in tmp_path.iterdir())
    assert names == [safe_name("rtsp://cam/1"), f"{safe_name('rtsp://cam/1')}-2"]


def test_a_video_whose_folder_was_removed_is_reported(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "saved")
    recorder._video(Script([], kind="live", name="0")).write(noise(1))
    shutil.rmtree(tmp_path / "saved")
    with pytest.raises(DeviceFault, match="cannot be completed: No such file or directory; give --save a folder that stays"):
        recorder.close()


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30, 3 * 2**30))


HUGE = pytest.param((10_000, 10_000), marks=pytest.mark.slow)


@pytest.mark.parametrize("shape", [(64, 66_000), (100, 20_000), (1, 4000), HUGE], ids=str)
def test_pictures_of_odd_sizes_are_judged_and_saved_within_3_gb(tmp_path: Path, shape: tuple[int, int]) -> None:
    bundle = make_tiny_bundle(tmp_path / "t.edgead")
    (tmp_path / "p").mkdir()
    cv2.imwrite(str(tmp_path / "p" / "one.png"), np.tile(np.arange(shape[1], dtype=np.uint8), (shape[0], 1)))
    run = ["run", str(bundle), "--camera", "p", "--save", "saved", "--store", "s.sqlite", "--events", "e.jsonl"]
    engine = ["--backend", "onnxruntime", "--precision", "fp32"]
    done = subprocess.run(
        [sys.executable, "-m", "edge_ad", *run, *engine],
        cwd=tmp_path, capture_output=True, text=True, preexec_fn=limited, env={**_environment(), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "saved").glob("*.jpg"))) == 1


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
