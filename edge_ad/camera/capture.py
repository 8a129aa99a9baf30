"""Collecting goods: from a source into a folder of lossless pictures, leaving out what would teach nothing."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from edge_ad.camera.contact import Contact
from edge_ad.camera.frames import BadFrame, End, Frame, Source, SourceError
from edge_ad.camera.png import encode_png
from edge_ad.camera.record import CameraRecord, read_record, write_record
from edge_ad.camera.settings import difference, settings_of
from edge_ad.camera.sieve import Sieve
from edge_ad.data.images import list_images, read_image
from edge_ad.errors import BadInput, DeviceFault
from edge_ad.files import atomic_write
from edge_ad.times import told_time

READ_S = 0.5
GIVE_UP_S = 30.0
SAVE_EVERY = 20
SOFTWARE = "edge-ad capture"


@dataclass(frozen=True)
class Progress:
    """How far a capture is: pictures in the folder, pictures wanted, skipped so far by reason, the last reason."""

    kept: int
    wanted: int
    skipped: dict[str, int]
    last: str | None = None

    def line(self) -> str:
        """Return one line for a terminal."""
        left_out = ", ".join(f"{count} {reason}" for reason, count in sorted(self.skipped.items()))
        return f"{self.kept} of {self.wanted} pictures; skipped: {left_out or 'none'}"


class Capture:
    """Fills ``folder`` up to ``wanted`` pictures from ``source``; pictures already there count and are compared with.

    ``every_s`` is the least time between two kept pictures. Raises BadInput when the folder's pictures came from a
    camera with other settings or of another size.
    """

    def __init__(self, source: Source, folder: Path, wanted: int, every_s: float = 0.0) -> None:
        if wanted < 1:
            raise BadInput(f"--count is {wanted}: it must be 1 or more")
        self._source = source
        self._folder = folder
        self._wanted = wanted
        self._every_s = every_s
        self._sieve = Sieve(source.kind)
        self._record = read_record(folder) if folder.exists() else None
        self._contact = Contact()
        self._skipped: collections.Counter[str] = collections.Counter(self._record.skipped if self._record else {})
        self._next = 1
        self._seen = False
        self._last_kept = -float("inf")
        self._last: str | None = None
        self._load()

    @property
    def progress(self) -> Progress:
        """How far it is."""
        return Progress(len(self._sieve), self._wanted, dict(self._skipped), self._last)

    def run(self, stop: Callable[[], bool], show: Callable[[Progress], None] | None = None) -> Progress:
        """Collect until there are enough, the source ends or ``stop`` says so; DeviceFault when the camera is lost.

        Whatever ends it, camera.json and contact.html are up to date afterwards.
        """
        heard, error = time.monotonic(), ""
        try:
            while len(self._sieve) < self._wanted and not stop():
                result = self._source.read(READ_S)
                if isinstance(result, End):
                    break
                if isinstance(result, (Frame, BadFrame)):
                    heard = time.monotonic()
                    self._take(result)
                elif isinstance(result, SourceError):
                    error = f": {result.reason}"
                if time.monotonic() - heard > GIVE_UP_S:
                    raise DeviceFault(f"no frame from {self._source.name} for {GIVE_UP_S:g} s{error}; check the camera")
                if show is not None:
                    show(self.progress)
        finally:
            self._finish()
        return self.progress

    def _load(self) -> None:
        """Take in the pictures of an earlier run."""
        if not self._folder.exists():
            return
        for path in list_images(self._folder):
            image = read_image(path)
            if self._record is None:
                raise BadInput(
                    f"{self._folder} holds pictures that `edge-ad capture` did not take (no camera.json): name another"
                )
            self._sieve.keep(Frame(image, 0, 0.0, 0.0, "", path.name), path.name)
            self._contact.add(path.name, image)
            if path.stem.isdigit():
                self._next = max(self._next, int(path.stem) + 1)
        found = settings_of(self._source)
        told = difference(self._record.settings, found) if self._record is not None else []
        if told:
            raise BadInput(
                f"the pictures in {self._folder} were taken with other settings: {'; '.join(told)}; set the camera back "
                "or name another folder"
            )

    def _take(self, frame: Frame | BadFrame) -> None:
        if isinstance(frame, BadFrame):
            self._skip(f"unreadable: {frame.reason}", None)
            return
        if frame.captured_at - self._last_kept < self._every_s:
            return
        self._check_size(frame)
        self._seen = True
        reason = self._sieve.fault(frame)
        if reason is None:
            self._keep(frame)
        else:
            self._skip(reason, frame)

    def _check_size(self, frame: Frame) -> None:
        size = (frame.image.shape[0], frame.image.shape[1])
        if self._record is None:
            self._record = CameraRecord(
                self._source.name, settings_of(self._source), size, _conversion(self._source), told_time(time.time())
            )
        elif size != self._record.size and not self._seen and self._source.kind not in ("images", "watch"):
            height, width = self._record.size
            raise BadInput(
                f"{self._source.name} gives {size[1]} x {size[0]} pixels, the pictures in {self._folder} have "
                f"{width} x {height}: set the camera back or name another folder"
            )

    def _keep(self, frame: Frame) -> None:
        name = f"{self._next:06d}.png"
        texts = {
            "Software": SOFTWARE,
            "Creation Time": told_time(frame.captured_wall),
            "Camera": self._source.name,
            "Frame": str(frame.index),
        }
        atomic_write(self._folder / name, encode_png(frame.image, texts))
        self._next += 1
        self._last_kept = frame.captured_at
        self._last = None
        self._sieve.keep(frame, name)
        self._contact.add(name, frame.image)
        if len(self._sieve) % SAVE_EVERY == 0:
            self._save()

    def _skip(self, reason: str, frame: Frame | None) -> None:
        word = reason.partition(":")[0]
        self._skipped[word] += 1
        self._last = reason
        self._contact.skip(word, reason, frame.image if frame is not None else None)

    def _save(self) -> None:
        if self._record is not None:
            self._record = replace(self._record, pictures=len(self._sieve), skipped=dict(sorted(self._skipped.items())))
            write_record(self._folder, self._record)

    def _finish(self) -> None:
        self._save()
        if self._record is not None:
            self._contact.write(self._folder, self._record)


def _conversion(source: Source) -> str:
    from edge_ad.camera.pixels import FORMATS, conversion

    pixel_format = settings_of(source).pixel_format
    if pixel_format in FORMATS:
        return conversion(pixel_format)
    return (
        f"{pixel_format}: to 8 bits a channel RGB by the driver and OpenCV" if pixel_format else "8 bits a channel RGB"
    )
