"""OpenCV as a reader of images: what this build can do, its silence, its colours.

What the OpenCVs in use name differently: 4.5.4 (Ubuntu 22.04), 4.6 (Ubuntu 24.04, Debian 12), 4.8 (JetPack 6), 5.0.

Everything else that this package takes from OpenCV has one name in all of them.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any

# Read by OpenCV when a capture is first made. FFmpeg's own messages name addresses: what went wrong is told by our
# errors instead. OpenCV 4.5.4 takes OPENCV_FFMPEG_DEBUG for set whatever it holds, and then prints all that FFmpeg says
# on standard output, passwords included. A Video4Linux frame that does not come within this many seconds is a failed
# read, not a hang.
os.environ.pop("OPENCV_FFMPEG_DEBUG", None)
os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"
os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "3")

import cv2
import numpy.typing as npt

from edge_ad.camera.frames import Image
from edge_ad.data.images import HeaderError, decode_jpeg

# The names that say where the mosaic begins (COLOR_BayerRGGB2RGB) came with 4.6. The older ones, which every version
# has, name the two pixels in the middle of the second row instead: RGGB is "BG". The key names the first two pixels of
# the first row, as GenICam does.
BAYER_TO_RGB: dict[str, int] = {
    "RG": cv2.COLOR_BayerBG2RGB,
    "GR": cv2.COLOR_BayerGB2RGB,
    "GB": cv2.COLOR_BayerGR2RGB,
    "BG": cv2.COLOR_BayerRG2RGB,
}

_SILENT = 0  # LOG_LEVEL_SILENT, which versions before 4.13 do not name


def set_log_level(level: int) -> int:
    """Set what OpenCV prints and return what it was before.

    Versions before 4.13 have the two functions at the top, later ones in a module.
    """
    home: Any = cv2 if hasattr(cv2, "setLogLevel") else cv2.utils.logging
    before = int(home.getLogLevel())
    home.setLogLevel(level)
    return before


def silence() -> int:
    """Let OpenCV print nothing and return the level before."""
    return set_log_level(_SILENT)


def one_decoding_thread() -> list[int]:
    """Return the capture parameters that keep FFmpeg to one thread; none before OpenCV 4.7, which refuses them."""
    return [cv2.CAP_PROP_N_THREADS, 1] if hasattr(cv2, "CAP_PROP_N_THREADS") else []


def undecoded_images_have_times() -> bool:
    """Whether a stream of FFmpeg tells its clock while it hands over undecoded images: 5.0 does, 4.5 to 4.8 say 0."""
    return int(cv2.__version__.partition(".")[0]) >= 5


MJPEG = "MJPG"


def has_gstreamer() -> bool:
    """Whether this OpenCV was built with GStreamer (JetPack's is, the wheels of PyPI are not)."""
    return bool(cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER))


def has_ffmpeg() -> bool:
    """Whether this OpenCV was built with FFmpeg."""
    return bool(cv2.videoio_registry.hasBackend(cv2.CAP_FFMPEG))


def build_details() -> str:
    """Return in words what this OpenCV can open."""
    registry = cv2.videoio_registry
    codes = {*registry.getCameraBackends(), *registry.getStreamBackends()}
    names = sorted(registry.getBackendName(code) for code in codes if registry.hasBackend(code))
    without = "" if has_gstreamer() else ", built without GStreamer"
    return f"OpenCV {cv2.__version__} has {', '.join(names) or 'no backend'}{without}"


def to_rgb(image: npt.NDArray[Any]) -> Image:
    """Return OpenCV's BGR, BGRA or grey image as u8[H,W,3] RGB."""
    if image.ndim == 2 or image.shape[2] == 1:
        code = cv2.COLOR_GRAY2RGB
    else:
        code = cv2.COLOR_BGRA2RGB if image.shape[2] == 4 else cv2.COLOR_BGR2RGB
    return cv2.cvtColor(image, code).astype("uint8", copy=False)


def hand_over_jpeg(capture: cv2.VideoCapture) -> None:
    """Have a capture of FFmpeg give the bytes of JPEG images as they are; other codecs are decoded as before.

    FFmpeg hides what it cannot decode, and OpenCV tells nothing of it: ``decode_frame`` sees damage.
    """
    if int(capture.get(cv2.CAP_PROP_FOURCC)) == cv2.VideoWriter.fourcc(*MJPEG):
        capture.set(cv2.CAP_PROP_FORMAT, -1)


def decode_frame(image: Any) -> tuple[Image | None, str | None]:
    """Return the image u8[H,W,3] RGB of what OpenCV read, or why there is none.

    ``image`` is BGR or grey [H,W,...], or the bytes of a JPEG as one row u8[1,N] or u8[N,1].
    """
    if image is None or not image.size:
        return None, None
    if image.ndim != 2 or min(image.shape) != 1:
        return to_rgb(image), None
    try:
        return decode_jpeg(image.tobytes()), None
    except HeaderError as error:
        return None, str(error)


class _Silence:
    """Counts who wants silence: the level is one for the whole process, and several cameras open at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._level = 0

    def enter(self) -> None:
        with self._lock:
            if not self._users:
                self._level = silence()
            self._users += 1

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                set_log_level(self._level)


_SILENCE = _Silence()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence OpenCV's own warnings: what went wrong is told in one sentence by our errors."""
    _SILENCE.enter()
    try:
        yield
    finally:
        _SILENCE.leave()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Keep OpenCV to the thread that calls it: waking its helpers costs milliseconds where all cores have work."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)
