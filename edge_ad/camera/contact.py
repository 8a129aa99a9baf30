"""The contact sheet of a capture: every picture small, on one page that any browser shows."""

from __future__ import annotations

import base64
import html
from pathlib import Path

import cv2
import numpy as np

from edge_ad.camera.frames import Image
from edge_ad.camera.record import CameraRecord
from edge_ad.files import atomic_write

NAME = "contact.html"
LONG_SIDE = 120
EXAMPLES = 3
MOST = 2000

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 14px sans-serif; margin: 1.5em; }}
figure {{ display: inline-block; margin: 4px; vertical-align: top; width: 124px; }}
figcaption {{ font-size: 11px; overflow-wrap: anywhere; }}
</style></head><body><h1>{title}</h1>
<p>{facts}</p>{kept}
<h2>Skipped</h2>{skipped}</body></html>
"""


class Contact:
    """Collects small pictures of what was kept, at most MOST, and some examples of what was skipped, by reason."""

    def __init__(self) -> None:
        self._kept: list[tuple[str, bytes]] = []
        self.skipped: dict[str, list[tuple[str, bytes | None]]] = {}

    def add(self, name: str, image: Image) -> None:
        """Add a picture u8[H,W,3] that was kept."""
        if len(self._kept) < MOST:
            self._kept.append((name, _small(image)))

    def skip(self, word: str, reason: str, image: Image | None) -> None:
        """Add an example of what was skipped, as long as there are few of its kind."""
        examples = self.skipped.setdefault(word, [])
        if len(examples) < EXAMPLES:
            examples.append((reason, _small(image) if image is not None else None))

    def write(self, folder: Path, record: CameraRecord) -> None:
        """Write the page into a folder."""
        counts = ", ".join(f"{count} {reason}" for reason, count in record.skipped.items()) or "none"
        facts = (
            f"{record.pictures} pictures of {record.size[1]} x {record.size[0]} pixels, begun {record.created}; "
            f"skipped: {counts}. Delete what is no good part, then run the same command again."
        )
        examples = [entry for entries in self.skipped.values() for entry in entries]
        page = _PAGE.format(
            title=html.escape(record.camera),
            facts=html.escape(facts),
            kept="".join(_figure(name, data) for name, data in self._kept),
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
    picture = f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(data).decode("ascii")}">' if data else ""
    return f"<figure>{picture}<figcaption>{html.escape(caption)}</figcaption></figure>"
