"""A folder that another program fills with images, each judged once it is complete."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from edge_ad.camera.files import read_frame
from edge_ad.camera.frames import End, Read, SourceError, SourceKind, Timeout
from edge_ad.data.headers import HeaderError, inspect
from edge_ad.data.images import MAX_BYTES, list_images
from edge_ad.errors import BadInput

SCAN_S = 0.05
SETTLED_S = 0.5
"""A file that tells no end of its own (TIFF, WebP) is complete when size and time of change stood still so long."""

Stat = tuple[int, int]


class WatchedFolder:
    """The images that appear in a folder after it was opened, in the order of their times of change; it never ends.

    An image is taken when its bytes are whole (PNG, JPEG, BMP), which holds at once for a file that was renamed into the
    folder, or when nothing changed for SETTLED_S; one that is still not whole then is a BadFrame. A file that changes after it
    was taken is another image. A folder that is gone is a SourceError until it is back. Raises BadInput when it cannot be read.
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
        found = path.stat()
    except OSError:
        return -1, 0
    return found.st_size, found.st_mtime_ns


def _is_whole(path: Path, stat: Stat) -> bool:
    """Whether the bytes themselves say that nothing is missing."""
    if not 0 < stat[0] <= MAX_BYTES:
        return False
    try:
        return inspect(path.read_bytes()) is not None
    except (OSError, HeaderError):
        return False
