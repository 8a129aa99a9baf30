"""Collecting normal images: from a source into a folder of lossless images, leaving out what would teach nothing.

The contact sheet of a capture: every image small, on one page that any browser shows.

Lossless images that say when and by which camera they were taken.

Which images are worth keeping as normal images, and why the others are not.
"""

from __future__ import annotations

import base64
import collections
import html
import math
import struct
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from edge_ad.camera.frames import BadFrame, End, Frame, Image, Source, SourceError, SourceKind
from edge_ad.camera.health import CameraHealth, HealthLimits, ReferenceCheck
from edge_ad.camera.measure import grey, measure_reference, sharpness
from edge_ad.camera.settings import CameraRecord, difference, read_record, settings_of, write_record
from edge_ad.data.images import list_images, read_image
from edge_ad.data.near_duplicates import CLOSE, Gallery, thumbnail
from edge_ad.errors import BadInput, DeviceFault
from edge_ad.geometry.geometry import Geometry, Prepared
from edge_ad.geometry.pose import NotLocated
from edge_ad.geometry.region import Roi
from edge_ad.geometry.zones import Zones
from edge_ad.utils.files import atomic_write
from edge_ad.utils.text import format_time

NAME = "contact.html"
LONG_SIDE = 120
EXAMPLES = 3
MAX_SHOWN = 2000

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 14px sans-serif; margin: 1.5em; }}
figure {{ display: inline-block; margin: 4px; vertical-align: top; width: 124px; }}
figcaption {{ font-size: 11px; overflow-wrap: anywhere; }}
</style></head><body><h1>{title}</h1>
<p>{details}</p>{saved}
<h2>Skipped</h2>{skipped}</body></html>
"""


class ContactSheet:
    """Collects small images of what was kept, at most MOST, and some examples of what was skipped, by reason."""

    def __init__(self) -> None:
        self._saved: list[tuple[str, bytes]] = []
        self.skipped: dict[str, list[tuple[str, bytes | None]]] = {}

    def add(self, name: str, image: Image) -> None:
        """Add an image u8[H,W,3] that was kept."""
        if len(self._saved) < MAX_SHOWN:
            self._saved.append((name, _small(image)))

    def skip(self, word: str, reason: str, image: Image | None) -> None:
        """Add an example of what was skipped, as long as there are few of its kind."""
        examples = self.skipped.setdefault(word, [])
        if len(examples) < EXAMPLES:
            examples.append((reason, _small(image) if image is not None else None))

    def write(self, folder: Path, record: CameraRecord) -> None:
        """Write the page into a folder."""
        counts = ", ".join(f"{count} {reason}" for reason, count in record.skipped.items()) or "none"
        table = (
            f"{record.images} images of {record.size[1]} x {record.size[0]} pixels, begun {record.created}; "
            f"skipped: {counts}. Delete what is no good part, then run the same command again."
        )
        examples = [entry for entries in self.skipped.values() for entry in entries]
        page = _PAGE.format(
            title=html.escape(record.camera),
            details=html.escape(table),
            saved="".join(_figure(name, data) for name, data in self._saved),
            skipped="".join(_figure(reason, data) for reason, data in examples) or "<p>none</p>",
        )
        atomic_write(folder / NAME, page)


def _small(image: Image) -> bytes:
    scale = LONG_SIDE / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", np.ascontiguousarray(small[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 80])
    return bytes(data.tobytes())


def _figure(caption: str, data: bytes | None) -> str:
    image = f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(data).decode("ascii")}">' if data else ""
    return f"<figure>{image}<figcaption>{html.escape(caption)}</figcaption></figure>"


_IHDR_END = 8 + 4 + 4 + 13 + 4


def encode_png(image: Image, texts: Mapping[str, str]) -> bytes:
    """Return u8[H,W,3] RGB as a PNG with ``texts`` as UTF-8 text chunks (iTXt), keyword by keyword."""
    done, data = cv2.imencode(".png", np.ascontiguousarray(image[:, :, ::-1]), [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not done:
        raise DeviceFault("the image cannot be encoded as PNG by this OpenCV; install opencv-python-headless")
    plain = data.tobytes()
    chunks = b"".join(_chunk(b"iTXt", _text(key, value)) for key, value in texts.items())
    return plain[:_IHDR_END] + chunks + plain[_IHDR_END:]


def _text(key: str, value: str) -> bytes:
    keyword = key.encode("latin-1", "replace")[:79]
    # No compression, no language, no translated keyword.
    return keyword + b"\0\0\0\0\0" + value.replace("\0", "").encode("utf-8")


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


SIZE = (256, 256)
FIRST_REFERENCE = 20
MAX_REMEMBERED = 160
REASONS = ("unreadable", "dark", "blown out", "frozen", "resolution", "blurred", "moved", "alike", "not located")

_ENOUGH = 5
_SOFT = 0.6


class CaptureFilter:
    """Judges the images of one camera in their order against those kept before.

    Dark, blown out, frozen and of another size: as in the loop. Blurred: less than 0.6 times as sharp as the median of
    the images kept, once there are 5. From 20 kept images on they make a reference (measured anew at 40, 80 and
    160), and what differs from it as in the loop is blurred or moved. Alike: nearly the same image as one kept.
    """

    def __init__(self, kind: SourceKind, close: float = CLOSE) -> None:
        self._health = CameraHealth(kind)
        self._limits = HealthLimits()
        self._close = close
        self._gallery = Gallery()
        self._names: list[str] = []
        self._remembered: list[Image] = []
        self._sharp: list[tuple[float, float]] = []
        self._reference_check: ReferenceCheck | None = None

    def __len__(self) -> int:
        return len(self._gallery)

    def fault(self, frame: Frame) -> str | None:
        """Return why a frame is not worth keeping (the reason begins with a word of REASONS), or None."""
        result = self._health.check(frame).fault
        if result is not None:
            return result
        small = frame.resized(SIZE)
        return self._blurred(small) or (self._reference_check.fault(small) if self._reference_check else None) or self._alike(frame)

    def keep(self, frame: Frame, name: str) -> None:
        """Take in an image that is kept, under the name that later ones are compared with."""
        self._gallery.add(thumbnail(frame.image))
        self._names.append(name)
        small = frame.resized(SIZE)
        self._sharp.append(sharpness(grey(small)))
        if len(self._remembered) < MAX_REMEMBERED:
            self._remembered.append(small)
            if len(self._remembered) in _REFERENCES:
                self._reference_check = ReferenceCheck(measure_reference(self._remembered), self._limits)

    def _blurred(self, small: Image) -> str | None:
        if len(self._sharp) < _ENOUGH:
            return None
        for axis, value, known in zip("xy", sharpness(grey(small)), zip(*self._sharp, strict=True), strict=True):
            median = float(np.nanmedian(known)) if not all(map(math.isnan, known)) else math.nan
            if value < _SOFT * median:
                return f"blurred: sharpness {value:.2f} along {axis}; the images kept have {median:.2f}"
        return None

    def _alike(self, frame: Frame) -> str | None:
        index, apart = self._gallery.nearest(thumbnail(frame.image))
        if apart >= self._close:
            return None
        return f"alike: {apart:.1f} grey levels from {self._names[index]}; {self._close:g} are needed"


_REFERENCES = tuple(FIRST_REFERENCE * 2**step for step in range(4))


GREY = 128
READ_S = 0.5
GIVE_UP_S = 30.0
SAVE_EVERY = 20
SOFTWARE = "edge-ad capture"


@dataclass(frozen=True)
class Progress:
    """How far a capture is: images in the folder, images wanted, skipped so far by reason, the last reason.

    ``located``: images in the folder whose part was located, None where none is looked for.
    """

    saved: int
    wanted: int
    skipped: dict[str, int]
    last: str | None = None
    located: int | None = None

    def line(self) -> str:
        """Return one line for a terminal."""
        left_out = ", ".join(f"{count} {reason}" for reason, count in sorted(self.skipped.items()))
        located = "" if self.located is None else f"; part located in {self.located}"
        return f"{self.saved} of {self.wanted} images{located}; skipped: {left_out or 'none'}"


class Capture:
    """Fills ``folder`` up to ``wanted`` images from ``source``; images already there count and are compared with.

    ``every_s`` is the least time between two kept images. ``geometry`` locates the part in each: the contact sheet shows
    cut-outs, and with ``located`` only images with a located part are kept. Whole images are kept, but the region ``roi`` alone is
    looked at and shown, without what ``zones`` ignore, whose outlines the contact sheet shows. Raises BadInput when the folder's
    images came from a camera with other settings or of another size, or the camera's have another size than the geometry's.
    """

    def __init__(
        self,
        source: Source,
        folder: Path,
        wanted: int,
        every_s: float = 0.0,
        *,
        geometry: Geometry | None = None,
        located: bool = False,
        roi: Roi | None = None,
        zones: Zones | None = None,
    ) -> None:
        self._roi, self._zones = roi, zones
        if wanted < 1:
            raise BadInput(f"--count is {wanted}: it must be 1 or more")
        self._geometry = geometry
        self._located_only = located
        self._located = 0
        self._source = source
        self._folder = folder
        self._wanted = wanted
        self._every_s = every_s
        self._filter = CaptureFilter(source.kind)
        self._record = read_record(folder) if folder.exists() else None
        self._contact_sheet = ContactSheet()
        self._skipped: collections.Counter[str] = collections.Counter(self._record.skipped if self._record else {})
        self._next = 1
        self._seen = False
        self._last_saved = -float("inf")
        self._last: str | None = None
        self._load()

    @property
    def progress(self) -> Progress:
        """How far it is."""
        located = None if self._geometry is None else self._located
        return Progress(len(self._filter), self._wanted, dict(self._skipped), self._last, located)

    def run(self, stop: Callable[[], bool], show: Callable[[Progress], None] | None = None) -> Progress:
        """Collect until there are enough, the source ends or ``stop`` says so; DeviceFault when the camera is lost.

        Whatever ends it, camera.json and contact.html are up to date afterwards.
        """
        heard, error = time.monotonic(), ""
        try:
            while len(self._filter) < self._wanted and not stop():
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
        """Take in the images of an earlier run."""
        if not self._folder.exists():
            return
        for path in list_images(self._folder):
            image = read_image(path)
            if self._record is None:
                raise BadInput(
                    f"{self._folder} holds images that `edge-ad capture` did not take (no camera.json): name another"
                )
            seen = self._seen_of(Frame(image, 0, 0.0, 0.0, "", path.name))
            self._filter.keep(seen, path.name)
            self._show(path.name, image, self._prepared(image))
            if path.stem.isdigit():
                self._next = max(self._next, int(path.stem) + 1)
        result = settings_of(self._source)
        message = difference(self._record.settings, result) if self._record is not None else []
        if message:
            raise BadInput(
                f"the images in {self._folder} were taken with other settings: {'; '.join(message)}; set the camera back "
                "or name another folder"
            )

    def _take(self, frame: Frame | BadFrame) -> None:
        if isinstance(frame, BadFrame):
            self._skip(f"unreadable: {frame.reason}", None)
            return
        if frame.captured_at - self._last_saved < self._every_s:
            return
        self._check_size(frame)
        self._seen = True
        seen = self._seen_of(frame)
        reason = self._filter.fault(seen)
        prepared = None if reason is not None else self._prepared(frame.image)
        if self._located_only and isinstance(prepared, NotLocated):
            reason = f"not located: {prepared.reason}"
        if reason is None:
            self._keep(frame, seen, prepared)
        else:
            self._skip(reason, frame)

    def _region(self, image: Image) -> Image:
        return image if self._roi is None else self._roi.cut(image)

    def _seen_of(self, frame: Frame) -> Frame:
        """Return a frame with what counts of its image: the region, in which ignored pixels are one grey."""
        if self._roi is None and self._zones is None:
            return frame
        image = self._region(frame.image)
        if self._zones is not None:
            image = np.where(self._zones.ignored((image.shape[0], image.shape[1]))[..., None], np.uint8(GREY), image)
        return replace(frame, image=image)

    def _prepared(self, image: Image) -> Prepared | NotLocated | None:
        """Return the cut-out of an image, or why there is none; None where none is looked for."""
        return None if self._geometry is None else self._geometry.prepare(self._region(image))

    def _show(self, name: str, image: Image, prepared: Prepared | NotLocated | None) -> None:
        """Put a kept image on the contact sheet: its cut-out where there is one."""
        if isinstance(prepared, Prepared):
            self._located += 1
            self._contact_sheet.add(name, prepared.image)
        else:
            missing = "" if prepared is None else f", not located: {prepared.reason}"
            region = self._region(image)
            self._contact_sheet.add(f"{name}{missing}", region if self._zones is None else self._zones.outlined(region))

    def _check_size(self, frame: Frame) -> None:
        size = (frame.image.shape[0], frame.image.shape[1])
        looked_at = size if self._roi is None else self._roi.size
        if self._geometry is not None and not self._seen and looked_at != self._geometry.image_size:
            high, wide = self._geometry.image_size
            raise BadInput(
                f"{self._source.name} gives {looked_at[1]} x {looked_at[0]} pixels, and the part was learned in images of "
                f"{wide} x {high}: set the camera to that size or leave out --bundle"
            )
        if self._record is None:
            self._record = CameraRecord(
                self._source.name, settings_of(self._source), size, _conversion(self._source), format_time(time.time())
            )
        elif size != self._record.size and not self._seen and self._source.kind not in ("images", "watch"):
            height, width = self._record.size
            raise BadInput(
                f"{self._source.name} gives {size[1]} x {size[0]} pixels, the images in {self._folder} have "
                f"{width} x {height}: set the camera back or name another folder"
            )

    def _keep(self, frame: Frame, seen: Frame, prepared: Prepared | NotLocated | None) -> None:
        name = f"{self._next:06d}.png"
        texts = {
            "Software": SOFTWARE,
            "Creation Time": format_time(frame.captured_wall),
            "Camera": self._source.name,
            "Frame": str(frame.index),
        }
        atomic_write(self._folder / name, encode_png(frame.image, texts))
        self._next += 1
        self._last_saved = frame.captured_at
        self._last = None
        self._filter.keep(seen, name)
        self._show(name, frame.image, prepared)
        if len(self._filter) % SAVE_EVERY == 0:
            self._save()

    def _skip(self, reason: str, frame: Frame | None) -> None:
        word = reason.partition(":")[0]
        self._skipped[word] += 1
        self._last = reason
        self._contact_sheet.skip(word, reason, frame.image if frame is not None else None)

    def _save(self) -> None:
        if self._record is not None:
            self._record = replace(self._record, images=len(self._filter), skipped=dict(sorted(self._skipped.items())))
            write_record(self._folder, self._record)

    def _finish(self) -> None:
        self._save()
        if self._record is not None:
            self._contact_sheet.write(self._folder, self._record)


def _conversion(source: Source) -> str:
    from edge_ad.camera.driver import FORMATS, conversion

    pixel_format = settings_of(source).pixel_format
    if pixel_format in FORMATS:
        return conversion(pixel_format)
    return (
        f"{pixel_format}: to 8 bits a channel RGB by the driver and OpenCV" if pixel_format else "8 bits a channel RGB"
    )
