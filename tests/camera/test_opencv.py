"""OpenCV by the names that every version in use has, and the few that differ."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from edge_ad.camera import opencv
from edge_ad.camera.opencv import BAYER_TO_RGB, one_decoding_thread, quiet, set_log_level

ROOT = Path(__file__).parents[2]
HOME = Path(opencv.__file__)
SOURCES = [path for folder in ("edge_ad", "calibration", "tools") for path in sorted((ROOT / folder).rglob("*.py"))]
EVERYWHERE = {
    name
    for line in (ROOT / "tests/fixtures/opencv_names.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
    for name in line.split()
}


def names_in(source: str) -> set[str]:
    """Return every ``cv2.NAME`` and ``cv2.NAME.NAME`` of a file, without the ``cv2``; the longest form only."""
    found: set[str] = set()
    inner: set[int] = set()
    for node in ast.walk(ast.parse(source)):  # outer attributes come before the inner ones
        if not isinstance(node, ast.Attribute) or id(node) in inner:
            continue
        parts: list[str] = []
        value: ast.expr = node
        while isinstance(value, ast.Attribute):
            inner.add(id(value))
            parts.append(value.attr)
            value = value.value
        if isinstance(value, ast.Name) and value.id == "cv2":
            found.add(".".join(reversed(parts)))
    return found


def test_the_names_of_a_file_are_found() -> None:
    assert names_in("cv2.a(cv2.B)\ncv2.c.d.e()\nother.cv2.f\nx = [cv2.g.h]") == {"a", "B", "c.d.e", "g.h"}


@pytest.mark.any_version
def test_only_the_home_of_the_differences_uses_a_name_that_some_version_lacks() -> None:
    used = {path: names_in(path.read_text(encoding="utf-8")) for path in SOURCES}
    assert len(set().union(*used.values())) > 50
    assert not {
        f"{path.relative_to(ROOT)}: cv2.{name}"
        for path, names in used.items()
        for name in names
        # cv2.__version__ is a module's own; a constant's or a function's own attributes are none of OpenCV's names.
        if path != HOME and name not in EVERYWHERE and not name.startswith("__")
    }


def test_the_installed_opencv_has_what_every_version_is_said_to_have() -> None:
    assert not {name for name in EVERYWHERE if "." not in name and not hasattr(cv2, name)}


@pytest.mark.parametrize("newer", [False, True])
def test_the_log_level_is_set_where_this_version_keeps_it(monkeypatch: pytest.MonkeyPatch, newer: bool) -> None:
    levels = [3]
    functions = SimpleNamespace(getLogLevel=lambda: levels[-1], setLogLevel=levels.append)
    fake = SimpleNamespace(utils=SimpleNamespace(logging=functions)) if newer else functions
    monkeypatch.setattr(opencv, "cv2", fake)
    with quiet(), quiet():
        assert levels == [3, 0]
    assert levels == [3, 0, 3]


def test_the_log_level_is_what_was_set_and_comes_back() -> None:
    before = set_log_level(5)
    try:
        with quiet():
            pass
        assert set_log_level(4) == 5
    finally:
        assert set_log_level(before) == 4


def test_opening_a_camera_and_a_video_prints_nothing_when_quiet(tmp_path: Path) -> None:
    """Not on standard output either, where the events may go: OpenCV 4.5.4 prints there what FFmpeg says."""
    clip = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (64, 48))
    for level in (0, 100, 200):
        writer.write(np.full((48, 64, 3), level, np.uint8))
    writer.release()
    code = (
        "import os; from edge_ad.camera.opencv import cv2, quiet\n"
        "with quiet():\n"
        f"    capture = cv2.VideoCapture({str(clip)!r}, cv2.CAP_FFMPEG)\n"
        "    assert [capture.read()[0] for _ in range(4)] == [True, True, True, False]\n"
        "    cv2.VideoCapture('/nowhere/clip.avi', cv2.CAP_FFMPEG)\n"
        "    cv2.VideoCapture('/dev/video987', cv2.CAP_ANY)\n"
        "assert 'OPENCV_FFMPEG_DEBUG' not in os.environ\n"
    )
    environment = {**os.environ, "OPENCV_FFMPEG_DEBUG": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_codes_of_a_mosaic_by_its_first_two_pixels() -> None:
    """The newer names, where there are any, mean the same; a red sensor is red in every pattern."""
    for first, second in (("RG", "GB"), ("GR", "BG"), ("GB", "RG"), ("BG", "GR")):
        newer = getattr(cv2, f"COLOR_Bayer{first}{second}2RGB", BAYER_TO_RGB[first])
        assert BAYER_TO_RGB[first] == newer
        tile = np.array([[200 if colour == "R" else 0 for colour in row] for row in (first, second)], np.uint8)
        picture = cv2.cvtColor(np.tile(tile, (4, 4)), BAYER_TO_RGB[first])
        assert picture[3:5, 3:5].reshape(-1, 3).max(axis=0).tolist() == [200, 0, 0]


@pytest.mark.parametrize(("fake", "parameters"), [({"CAP_PROP_N_THREADS": 70}, [70, 1]), ({}, [])])
def test_ffmpeg_is_kept_to_one_thread_where_it_can_be(
    monkeypatch: pytest.MonkeyPatch, fake: dict[str, int], parameters: list[int]
) -> None:
    monkeypatch.setattr(opencv, "cv2", SimpleNamespace(**fake))
    assert one_decoding_thread() == parameters
