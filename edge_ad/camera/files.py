"""Sources from files: one image, a folder of images, a video."""

from __future__ import annotations

import time
from pathlib import Path

import cv2

from edge_ad.camera.frames import BadFrame, End, Frame, Image, Read, SourceKind
from edge_ad.camera.opencv import decode_frame, hand_over_jpeg, quiet, to_rgb
from edge_ad.data.images import SUFFIXES, list_images, read_image
from edge_ad.errors import BadInput
from edge_ad.text import is_utf8

__all__ = ["ImageFiles", "VideoFile", "quiet", "to_rgb"]

OPEN_TIMEOUT_MS = 10_000
READ_TIMEOUT_MS = 10_000


class ImageFiles:
    """The images of one folder in the order of their names, or a single image; a corrupt one becomes a BadFrame.

    ``bits`` as for ``read_image``. Raises BadInput for an empty folder, and for a single image that cannot be read.
    """

    kind: SourceKind = "images"
    fps: float | None = None

    def __init__(self, path: Path, name: str, bits: int = 16) -> None:
        self.name = name
        self._bits = bits
        self._files = iter(_images(path, bits))
        self._index = 0

    def read(self, timeout_s: float) -> Read:
        """Return the next image as a Frame, or a BadFrame that names the file."""
        path = next(self._files, None)
        if path is None:
            return End()
        index, self._index = self._index, self._index + 1
        return read_frame(path, index, self.name, self._bits)

    def close(self) -> None:
        """End the sequence."""
        self._files = iter(())


def read_frame(path: Path, index: int, name: str, bits: int) -> Frame | BadFrame:
    """Return the image in ``path`` as frame ``index`` of the source ``name``; a BadFrame when it cannot be read."""
    now, wall = time.monotonic(), time.time()
    try:
        return Frame(read_image(path, bits), index, now, wall, name, path.name)
    except BadInput as error:
        return BadFrame(f"corrupt: {error}", index, now, wall, name, path.name)


def _images(path: Path, bits: int) -> list[Path]:
    if path.is_file():
        read_image(path, bits)
        return [path]
    files = list_images(path)
    if not files:
        folders = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and entry.name[0] != ".")[:5]
        hint = f"it has the folders {', '.join(folders)}: name one" if folders else "put images there or name another"
        raise BadInput(f"{path} holds no image ({', '.join(sorted(SUFFIXES))}); {hint}")
    return files


class VideoFile:
    """The frames of a video file, in order, none left out.

    Raises BadInput when no frame can be decoded. A file that ends earlier than its header announces says so in its End.
    """

    kind: SourceKind = "video"

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self._path = path
        self._capture = _open_video(path)
        self._index = 0
        self._pending = self._next()
        if self._pending is None:
            self._capture.release()
            raise BadInput(f"{path} is neither an image nor a video that can be decoded; check it with a player")
        rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.fps: float | None = rate if 0.01 < rate < 1000.0 else None
        self._announced = int(max(self._capture.get(cv2.CAP_PROP_FRAME_COUNT), 0))

    def read(self, timeout_s: float) -> Read:
        """Return the next frame; End after the last one."""
        found, self._pending = self._pending, None
        found = found or self._next()
        if found is None:
            return End(self._short())
        index, self._index = self._index, self._index + 1
        image, reason = found
        now, wall = time.monotonic(), time.time()
        if image is None:
            return BadFrame(f"corrupt: {reason}", index, now, wall, self.name, str(index))
        return Frame(image, index, now, wall, self.name, str(index))

    def close(self) -> None:
        """Release the decoder."""
        self._pending = None
        self._capture.release()

    def _next(self) -> tuple[Image | None, str | None] | None:
        """Return the next picture, or why there is none; None at the end."""
        grabbed, image = self._capture.read()
        picture, reason = decode_frame(image) if grabbed else (None, None)
        return None if picture is None and reason is None else (picture, reason)

    def _short(self) -> str | None:
        """Tell a file that broke off; headers miscount by a few frames, so only a real gap counts."""
        if self._index >= self._announced - max(2, self._announced // 50):
            return None
        return f"broken off: {self._path.name} ended after {self._index} of {self._announced} announced frames"


def _open_video(path: Path) -> cv2.VideoCapture:
    # An absolute path: FFmpeg would take "a:b.mp4" for a protocol.
    target = str(path.resolve())
    if not is_utf8(target):  # OpenCV would end the process
        raise BadInput(f"the name of {path} is no UTF-8, which OpenCV cannot open: rename it, or a folder above it")
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, READ_TIMEOUT_MS]
    with quiet():
        if cv2.videoio_registry.hasBackend(cv2.CAP_FFMPEG):
            capture = cv2.VideoCapture(target, cv2.CAP_FFMPEG, limits)
            hand_over_jpeg(capture)
            return capture
        return cv2.VideoCapture(target)
