"""Live pictures: kept as they came, encoded when a page asks."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from edge_ad.camera.frames import Image
from edge_ad.errors import DeviceFault

QUALITY = 82
SHOWN = ("verdict", "part", "frame", "time", "score")


@dataclass(eq=False)
class Picture:
    """A picture u8[H,W,3] RGB and its heat u8[h,w] (0 as on goods, 255 twice as high), each may be missing."""

    number: int
    event: dict[str, Any]
    image: Image | None
    heat: np.ndarray[Any, np.dtype[np.uint8]] | None
    _done: dict[str, bytes] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def told(self) -> dict[str, Any]:
        """Return its number, whether there is an image and a heat map, and what it shows."""
        has = {"image": self.image is not None, "heat": self.heat is not None}
        return {"number": self.number, **has, **{key: self.event[key] for key in SHOWN}}

    def jpeg(self) -> bytes | None:
        """Return the picture as JPEG, encoded once for all pages."""
        return None if self.image is None else self._once("jpeg")

    def overlay(self) -> bytes | None:
        """Return the heat as PNG with an alpha channel, to be laid over the picture."""
        return None if self.heat is None else self._once("overlay")

    def _once(self, what: str) -> bytes:
        with self._lock:
            if what not in self._done:
                self._done[what] = self._jpeg() if what == "jpeg" else self._overlay()
            return self._done[what]

    def _jpeg(self) -> bytes:
        assert self.image is not None
        return _encode(".jpg", cv2.cvtColor(self.image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])

    def _overlay(self) -> bytes:
        assert self.heat is not None
        colours = cv2.applyColorMap(self.heat, cv2.COLORMAP_INFERNO)
        opacity = np.minimum(self.heat.astype(np.uint16) * 3, 160).astype(np.uint8)
        return _encode(".png", np.dstack([colours, opacity]), [cv2.IMWRITE_PNG_COMPRESSION, 1])


def picture_of(number: int, record: dict[str, Any], blobs: list[bytes]) -> Picture:
    """Return the picture of a message."""
    rest = list(blobs)
    image = None if record["image"] is None else np.frombuffer(rest.pop(0), np.uint8).reshape(record["image"])
    heat = None if record["heat"] is None else np.frombuffer(rest.pop(0), np.uint8).reshape(record["heat"])
    return Picture(number, record["event"], image, heat)


def _encode(suffix: str, image: Any, settings: list[int]) -> bytes:
    done, data = cv2.imencode(suffix, image, settings)
    if not done:
        raise DeviceFault(f"a picture cannot be encoded as {suffix} by this OpenCV")
    return bytes(data)
