"""Sources from files: one image, a folder of images, a video.

A folder that another program fills with images, each judged once it is complete.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import cv2

from edge_ad.camera.frames import BadFrame, End, Frame, Image, Read, SourceError, SourceKind, Timeout
from edge_ad.camera.opencv import decode_frame, hand_over_jpeg, quiet, to_rgb
from edge_ad.data.images import MAX_BYTES, SUFFIXES, HeaderError, inspect, list_images, read_image
from edge_ad.errors import BadInput
from edge_ad.utils.text import is_utf8

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
        result, self._pending = self._pending, None
        result = result or self._next()
        if result is None:
            return End(self._short())
        index, self._index = self._index, self._index + 1
        image, reason = result
        now, wall = time.monotonic(), time.time()
        if image is None:
            return BadFrame(f"corrupt: {reason}", index, now, wall, self.name, str(index))
        return Frame(image, index, now, wall, self.name, str(index))

    def close(self) -> None:
        """Release the decoder."""
        self._pending = None
        self._capture.release()

    def _next(self) -> tuple[Image | None, str | None] | None:
        """Return the next image, or why there is none; None at the end."""
        grabbed, image = self._capture.read()
        pixels, reason = decode_frame(image) if grabbed else (None, None)
        return None if pixels is None and reason is None else (pixels, reason)

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


SCAN_S = 0.05
SETTLED_S = 0.5
"""A file that tells no end of its own (TIFF, WebP) is complete when size and time of change stood still so long."""

Stat = tuple[int, int]


class WatchedFolder:
    """The images that appear in a folder after it was opened, in the order of their times of change; it never ends.

    An image is taken when its bytes are whole (PNG, JPEG, BMP), which holds at once for a file that was renamed into
    the folder, or when nothing changed for SETTLED_S; one that is still not whole then is a BadFrame. A file that
    changes after it was taken is another image. A folder that is gone is a SourceError until it is back. Raises
    BadInput when it cannot be read.
    """

    kind: SourceKind = "watch"
    fps: float | None = None

    def __init__(self, path: Path, name: str, bits: int = 16, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self._path = path
        self._bits = bits
        self._clock = clock
        self._index = 0
        self._closed = False
        self._seen: dict[str, Stat] = {path.name: _stat(path) for path in list_images(path)}
        self._growing: dict[str, tuple[Stat, float]] = {}

    def read(self, timeout_s: float) -> Read:
        """Return the next complete image; Timeout when there was none."""
        until = self._clock() + timeout_s
        while not self._closed:
            try:
                path = self._next()
            except BadInput as error:
                return SourceError(f"camera lost: {error}")
            if path is not None:
                index, self._index = self._index, self._index + 1
                return read_frame(path, index, self.name, self._bits)
            if self._clock() >= until:
                return Timeout(timeout_s)
            time.sleep(SCAN_S)
        return End()

    def close(self) -> None:
        """End the sequence."""
        self._closed = True

    def _next(self) -> Path | None:
        """Return the oldest new file that is complete."""
        files = {path.name: (path, _stat(path)) for path in list_images(self._path)}
        for gone in [name for name in self._seen if name not in files]:
            del self._seen[gone]
        self._growing = {name: item for name, item in self._growing.items() if name in files}
        new = [(stat[1], name) for name, (_, stat) in files.items() if self._seen.get(name) != stat]
        for _, name in sorted(new):
            path, stat = files[name]
            if self._complete(path, stat):
                self._seen[name] = stat
                self._growing.pop(name, None)
                return path
        return None

    def _complete(self, path: Path, stat: Stat) -> bool:
        before, since = self._growing.get(path.name, (None, 0.0))
        if before == stat and self._clock() - since >= SETTLED_S:
            return True
        if before != stat:
            self._growing[path.name] = stat, self._clock()
            return _is_whole(path, stat)
        return False


def _stat(path: Path) -> Stat:
    """Return size and time of change; (-1, 0) for a file that has just gone."""
    try:
        result = path.stat()
    except OSError:
        return -1, 0
    return result.st_size, result.st_mtime_ns


def _is_whole(path: Path, stat: Stat) -> bool:
    """Whether the bytes themselves say that nothing is missing."""
    if not 0 < stat[0] <= MAX_BYTES:
        return False
    try:
        return inspect(path.read_bytes()) is not None
    except (OSError, HeaderError):
        return False
