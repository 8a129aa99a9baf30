"""The file of events, one JSON line each."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from pathlib import Path
from typing import TextIO

from edge_ad.errors import BadInput, DeviceFault
from edge_ad.events import Event
from edge_ad.utils.files import is_at
from edge_ad.utils.supervision import tell
from edge_ad.utils.text import storable

SYNC_EVERY_S = 1.0


class EventWriter:
    """Appends events to a file, or to standard output for ``-``.

    Every line goes to the operating system at once, so it survives the end of this process however it comes. A file is
    also synced to the disk once a second and at the end: a power cut can cost the last second. A line that an earlier
    power cut tore is closed first, so that it spoils no other. Raises BadInput when the file cannot be opened and
    DeviceFault when it cannot be written: inspection without a record must not go on.
    """

    def __init__(self, target: str) -> None:
        self._name = "standard output" if target == "-" else target
        self._file = target != "-"
        self._stream: TextIO = _open(Path(target)) if self._file else sys.stdout
        self._synced = time.monotonic()

    def write(self, event: Event) -> None:
        """Append one event; into a new file where somebody has removed or rotated the one that is open."""
        try:
            if self._file and not is_at(self._stream.fileno(), Path(self._name)):
                self._reopen()
            self._stream.write(event.line() + "\n")
            self._stream.flush()
            if self._file and time.monotonic() - self._synced >= SYNC_EVERY_S:
                self._sync()
        except OSError as error:
            raise self._abandon(error) from error

    def close(self) -> None:
        """Sync and close the file; standard output stays open."""
        if not self._file or self._stream.closed:
            return
        try:
            self._sync()
            self._stream.close()
        except OSError as error:
            raise self._abandon(error) from error

    def _reopen(self) -> None:
        self._stream.close()
        try:
            self._stream = _open(Path(self._name))
        except BadInput as error:
            raise DeviceFault(str(error)) from error
        tell(storable(f"the file of events {self._name} was removed or renamed: events go on in a new one"))

    def _sync(self) -> None:
        self._synced = time.monotonic()
        try:
            os.fsync(self._stream.fileno())
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EROFS):  # pipes and devices have nothing to sync
                raise

    def _abandon(self, error: OSError) -> DeviceFault:
        """Let go of the stream, so that what it still holds cannot fail a second time, and tell the fault."""
        if self._file:
            with contextlib.suppress(OSError):
                self._stream.close()
        else:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        reason = error.strerror or error
        return DeviceFault(f"events cannot be written to {self._name}: {reason}; free it and start again")


def _open(path: Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("a", encoding="utf-8")
        if _torn(path):
            stream.write("\n")
            stream.flush()
    except OSError as error:
        raise BadInput(f"events cannot be written to {path}: {error.strerror or error}; name another file") from error
    return stream


def _torn(path: Path) -> bool:
    if not path.is_file() or path.stat().st_size == 0:
        return False
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) != b"\n"
