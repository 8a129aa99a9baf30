"""Events as JSON lines on standard output or in a file."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

from edge_ad.errors import BadInput
from edge_ad.utils.files import is_at
from edge_ad.utils.text import redact_uri


class JsonLines:
    """``stdout:`` prints, ``file:PATH`` appends and syncs; a line that a power cut tore is closed first.

    A reader that hangs, or a disk that is full, holds up nothing but this output.
    """

    spooled = True

    def __init__(self, uri: str) -> None:
        scheme, _, location = uri.partition(":")
        self._path = Path(location.removeprefix("//")) if scheme.lower() == "file" else None
        if (location.strip() == "") == (self._path is not None):
            raise BadInput(f"--alarm {redact_uri(uri)!r}: write stdout: or file:PATH")
        if self._path is not None and self._path.is_dir():
            raise BadInput(f"--alarm {redact_uri(uri)!r} is a folder; name a file")
        self.name = "stdout:" if self._path is None else f"file:{self._path}"
        self._handle: int | None = None
        self._regular = False

    def open(self) -> None:
        """Open the file; OSError when that cannot be."""
        if self._path is None:
            self._handle = sys.stdout.fileno()
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(self._path, os.O_APPEND | os.O_CREAT | os.O_RDWR, 0o644)
        status = os.fstat(self._handle)
        self._regular = stat.S_ISREG(status.st_mode)  # a pipe or device has nothing to sync
        size = status.st_size
        if size and os.pread(self._handle, 1, size - 1) != b"\n":
            self._write(b"\n")

    def deliver(self, line: str) -> None:
        """Write one line; OSError when it cannot be written."""
        self.deliver_all([line])

    def deliver_all(self, lines: Sequence[str]) -> None:
        """Write lines, and sync them once; into a new file where somebody has removed or rotated the one that is open.
        """
        if (
            self._path is not None
            and self._handle is not None
            and self._regular
            and not is_at(self._handle, self._path)
        ):
            self.close()
            self.open()
        self._write("".join(f"{line}\n" for line in lines).encode())
        if self._regular:
            assert self._handle is not None
            os.fsync(self._handle)

    def close(self) -> None:
        """Close the file; standard output stays open."""
        handle, self._handle = self._handle, None
        if handle is not None and self._path is not None:
            with contextlib.suppress(OSError):
                os.close(handle)

    def _write(self, data: bytes) -> None:
        assert self._handle is not None
        while data:
            data = data[os.write(self._handle, data) :]
