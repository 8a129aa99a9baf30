"""A camera of this machine through Video4Linux."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

# Read once when OpenCV is loaded: a frame that does not come within this many seconds is a failed read, not a hang.
os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "3")

import cv2

from edge_ad.camera.files import quiet, to_rgb
from edge_ad.camera.frames import BadFrame, End, Frame, Read, SourceError, SourceKind
from edge_ad.errors import DeviceFault

OPEN_TIMEOUT_S = 10.0

T = TypeVar("T")


class DeviceCamera:
    """A ``/dev/video*`` device; a read that fails closes the handle, and later reads open it again.

    Raises DeviceFault, with all that was tried, when the device cannot be opened or gives no first frame.
    """

    kind: SourceKind = "live"

    def __init__(self, device: str, name: str) -> None:
        self.name = name
        self._device = device
        self._index = 0
        self._closed = False
        self._capture: cv2.VideoCapture | None = _open(device)
        if self._capture is None:
            raise DeviceFault(_explain(device, name))
        rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.fps: float | None = rate if 0.01 < rate < 1000.0 else None

    def read(self, timeout_s: float) -> Read:
        """Return the next frame, or SourceError when the device failed and could not be opened again."""
        if self._closed:
            return End()
        if self._capture is None:
            self._capture = _open(self._device)
        if self._capture is None:
            return SourceError(f"camera lost: {self._device} cannot be opened")
        grabbed, image = self._capture.read()
        now, wall = time.monotonic(), time.time()
        if not grabbed:
            self._release()
            return SourceError(f"camera lost: {self._device} gave no frame")
        index, self._index = self._index, self._index + 1
        if image is None or not image.size:
            return BadFrame("corrupt: the camera gave an empty frame", index, now, wall, self.name, str(index))
        return Frame(to_rgb(image), index, now, wall, self.name, str(index))

    def close(self) -> None:
        """Release the device."""
        self._closed = True
        self._release()

    def _release(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None


def within(limit_s: float, action: Callable[[], T]) -> T | None:
    """Run ``action`` in a thread of its own; None when it takes longer than ``limit_s`` (the thread is abandoned)."""
    results: list[T] = []
    thread = threading.Thread(target=lambda: results.append(action()), daemon=True, name="camera-open")
    thread.start()
    thread.join(limit_s)
    return results[0] if results else None


def _open(device: str) -> cv2.VideoCapture | None:
    backend = cv2.CAP_V4L2 if cv2.videoio_registry.hasBackend(cv2.CAP_V4L2) else cv2.CAP_ANY
    with quiet():
        capture = within(OPEN_TIMEOUT_S, lambda: cv2.VideoCapture(os.path.realpath(device), backend))
    if capture is None or not capture.isOpened():
        return None
    # The newest frame is wanted, not a queue of old ones; drivers that cannot do this ignore it.
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    return capture


def _explain(device: str, name: str) -> str:
    path = Path(device)
    present = ", ".join(sorted(str(found) for found in Path("/dev").glob("video*"))) or "none"
    if not path.exists():
        state = f"{device} does not exist"
    elif not os.access(path, os.R_OK | os.W_OK):
        state = f"{device} exists but this user may not open it (join the group 'video')"
    else:
        state = f"{device} exists but did not open within {OPEN_TIMEOUT_S:g} s (in use, or no capture device)"
    registry = cv2.videoio_registry
    codes = [code for code in registry.getCameraBackends() if registry.hasBackend(code)]
    backends = ", ".join(registry.getBackendName(code) for code in codes) or "none"
    return (
        f"camera {name!r} cannot be opened: {state}; tried Video4Linux (OpenCV {cv2.__version__} has {backends}); "
        f"cameras on this machine: {present}; plug one in, or give a video file, a folder of images or synthetic://line"
    )
