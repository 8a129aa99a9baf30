"""A camera of this machine through Video4Linux."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_ad.camera.driver import Failure, Grab, raw_frame
from edge_ad.camera.opencv import MJPEG, build_details, quiet
from edge_ad.camera.settings import CameraSettings, difference
from edge_ad.errors import DeviceFault

import cv2  # isort: skip  (after edge_ad.camera.opencv, which sets what OpenCV reads once)

# Video4Linux counts exposure in units of 100 microseconds and names its automatic 3, manual 1.
_EXPOSURE_UNIT_US = 100.0
_AUTO_EXPOSURE, _MANUAL_EXPOSURE = 3.0, 1.0

_NUMBERS: tuple[tuple[str, int, float], ...] = (
    ("exposure_us", cv2.CAP_PROP_EXPOSURE, _EXPOSURE_UNIT_US),
    ("gain", cv2.CAP_PROP_GAIN, 1.0),
    ("white_balance_k", cv2.CAP_PROP_WB_TEMPERATURE, 1.0),
    ("focus", cv2.CAP_PROP_FOCUS, 1.0),
    ("rate", cv2.CAP_PROP_FPS, 1.0),
    ("width", cv2.CAP_PROP_FRAME_WIDTH, 1.0),
    ("height", cv2.CAP_PROP_FRAME_HEIGHT, 1.0),
)
_SWITCHES: tuple[tuple[str, int, float, float], ...] = (
    ("auto_exposure", cv2.CAP_PROP_AUTO_EXPOSURE, _AUTO_EXPOSURE, _MANUAL_EXPOSURE),
    ("auto_white_balance", cv2.CAP_PROP_AUTO_WB, 1.0, 0.0),
    ("auto_focus", cv2.CAP_PROP_AUTOFOCUS, 1.0, 0.0),
)


class DeviceDriver:
    """An open ``/dev/video*`` device with its settings applied and read back.

    Raises DeviceFault, with all that was tried, when the device cannot be opened or does not take a setting. Its stamps
    are those that the driver gave the buffers, by our own monotonic clock.
    """

    shared_clock = True

    def __init__(self, device: str, name: str, asked: CameraSettings | None = None) -> None:
        self._device = device
        asked = asked or CameraSettings()
        backend = cv2.CAP_V4L2 if cv2.videoio_registry.hasBackend(cv2.CAP_V4L2) else cv2.CAP_ANY
        with quiet():
            self._capture = cv2.VideoCapture(os.path.realpath(device), backend)
        if not self._capture.isOpened():
            raise DeviceFault(_explain(device, name))
        # The newest frame is wanted, not a queue of old ones; drivers that cannot do this ignore it.
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        apply(self._capture, asked)
        self.settings = read_back(self._capture)
        refused = difference(asked, self.settings)
        if refused:
            self._capture.release()
            raise DeviceFault(f"camera {name!r} does not take its settings: {'; '.join(refused)}; ask for what it has")
        if self.settings.pixel_format == MJPEG:
            # The bytes as the camera sent them: OpenCV's own decoding only warns of damage, and fills it with grey.
            self._capture.set(cv2.CAP_PROP_CONVERT_RGB, 0)
        rate = self.settings.rate
        self.fps = rate if rate and 0.01 < rate < 1000.0 else None

    def grab(self) -> Grab:
        """Return the next image."""
        grabbed, image = self._capture.read()
        return raw_frame(self._capture, image) if grabbed else Failure(f"{self._device} gave no frame")

    def adjust(self, asked: CameraSettings) -> None:
        """Set what is asked for and read ``settings`` back; DeviceFault names what the camera does not take."""
        apply(self._capture, asked)
        actual = read_back(self._capture)
        refused = difference(asked, actual)
        if refused:
            raise DeviceFault(f"camera {self._device} does not take its settings: {'; '.join(refused)}")
        # What MJPEG is delivered as was set when the device was opened, and reads as no format then.
        self.settings = replace(actual, pixel_format=self.settings.pixel_format)

    def abort(self) -> None:
        """Nothing: a read that hangs in the driver cannot be ended."""

    def close(self) -> None:
        """Release the device."""
        self._capture.release()


def apply(capture: Any, asked: CameraSettings) -> None:
    """Set an OpenCV capture: the format and size first, then automatics, then the values they would overwrite."""
    wanted = asked.asked()
    if asked.pixel_format is not None:
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*asked.pixel_format.ljust(4)[:4]))
    for key in ("width", "height", "rate"):
        _set_number(capture, key, wanted)
    for key, code, on, off in _SWITCHES:
        if key in wanted:
            capture.set(code, on if wanted[key] else off)
    for key in ("exposure_us", "gain", "white_balance_k", "focus"):
        _set_number(capture, key, wanted)


def _set_number(capture: Any, key: str, wanted: dict[str, Any]) -> None:
    code, unit = next((code, unit) for name, code, unit in _NUMBERS if name == key)
    if key in wanted:
        capture.set(code, wanted[key] / unit)


def read_back(capture: Any) -> CameraSettings:
    """Return what an OpenCV capture says it is set to; what it does not know (-1, or 0 where 0 is no value) is None."""
    results: dict[str, Any] = {}
    for key, code, unit in _NUMBERS:
        value = float(capture.get(code))
        if value > 0 or (value == 0 and key in ("gain", "focus")):
            results[key] = int(value) if key in ("width", "height") else value * unit
    for key, code, on, _ in _SWITCHES:
        value = float(capture.get(code))
        if value >= 0:
            results[key] = value == on
    results["pixel_format"] = _fourcc(capture)
    return CameraSettings(**results)


def _fourcc(capture: Any) -> str | None:
    code = int(capture.get(cv2.CAP_PROP_FOURCC))
    text = "".join(chr(code >> shift & 255) for shift in (0, 8, 16, 24)).strip("\0 ") if code > 0 else ""
    return text if text.isprintable() and text.isascii() and text else None


def _explain(device: str, name: str) -> str:
    path = Path(device)
    present = ", ".join(sorted(str(result) for result in Path("/dev").glob("video*"))) or "none"
    if not path.exists():
        state = f"{device} does not exist"
    elif not os.access(path, os.R_OK | os.W_OK):
        state = f"{device} exists but this user may not open it (join the group 'video')"
    else:
        state = f"{device} exists but did not open (in use, or no capture device)"
    return (
        f"camera {name!r} cannot be opened: {state}; tried Video4Linux ({build_details()}); "
        f"cameras on this machine: {present}; plug one in, or give a video file, a folder of images or synthetic://line"
    )
