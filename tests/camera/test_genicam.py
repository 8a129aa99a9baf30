"""GenICam cameras: the pretend camera of Aravis, and what is said when a package is missing."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_ad.camera.sources import open_source
from edge_ad.errors import BadInput

DEBIAN = "/usr/lib/python3/dist-packages"
_NEEDED = "import gi; gi.require_version('Aravis', '0.8'); from gi.repository import Aravis"
_SCRIPT = """
import json, numpy as np
from edge_ad.camera.sources import open_source
from edge_ad.camera.settings import difference, CameraSettings
from edge_ad.camera.frames import Frame
from edge_ad.errors import EdgeAdError
source = open_source("aravis://Fake_1?exposure_us=2000&gain=3&width=320&height=240&rate=20")
frames = []
while len(frames) < 4:
    result = source.read(1.0)
    if isinstance(result, Frame):
        frames.append(result)
opened = source.settings
asked = source.adjust(CameraSettings(exposure_us=4000.0, gain=5.0))
unsettled = 0
while not asked.done.is_set():
    unsettled += not isinstance(source.read(1.0), Frame)
try:
    open_source("aravis://Fake_1?focus=3")
    refused = ""
except EdgeAdError as error:
    refused = str(error)
print(json.dumps({
    "opened": opened.to_json(),
    "shape": frames[0].image.shape, "grey": bool((frames[0].image[..., 0] == frames[0].image[..., 2]).all()),
    "stamps": [frame.stamp for frame in frames], "settings": source.settings.to_json(), "fps": source.fps,
    "distinct": len({frame.image.tobytes() for frame in frames}), "refused": refused,
    "adjusted": source.settings.to_json(), "unsettled": unsettled, "fault": asked.fault,
}))
source.close()
"""


def environment() -> dict[str, str]:
    """The present environment with Debian's PyGObject, which fits a Python of Debian's version."""
    root = str(Path(__file__).parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([root, DEBIAN])}


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.slow
def test_the_pretend_camera_of_aravis() -> None:
    if run(_NEEDED).returncode:
        pytest.skip("Aravis with Python bindings for this Python is not installed")
    done = run(_SCRIPT)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["shape"] == [240, 320, 3]
    assert result["grey"]
    assert result["stamps"] == sorted(set(result["stamps"]))
    assert result["distinct"] == 4
    assert result["opened"]["exposure_us"] == pytest.approx(2000.0)
    assert result["opened"]["gain"] == pytest.approx(3.0)
    assert (result["adjusted"]["exposure_us"], result["adjusted"]["gain"]) == (pytest.approx(4000.0), pytest.approx(5.0))
    assert result["fault"] is None
    assert result["unsettled"] >= 6
    assert result["settings"]["pixel_format"] == "Mono8"
    assert result["fps"] == pytest.approx(20.0)
    assert "focus" in result["refused"]


@pytest.mark.parametrize(
    ("uri", "module", "extra"),
    [("genicam://", "harvesters", "edge-ad[genicam]"), ("aravis://", "gi", "edge-ad[aravis]")],
)
def test_a_missing_package_is_named_with_its_extra(uri: str, module: str, extra: str) -> None:
    if importlib.util.find_spec(module) is not None:
        pytest.skip(f"{module} is installed")
    with pytest.raises(BadInput) as caught:
        open_source(uri)
    assert extra in str(caught.value)
