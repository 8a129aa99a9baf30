"""An image that shows its verdict: coloured border, score, reason and heat map."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.camera.frames import Image
from edge_ad.data.images import resize
from edge_ad.events import Event, Verdict

COLOURS: dict[Verdict, tuple[int, int, int]] = {  # RGB, told apart by colour-blind people too
    "OK": (0, 158, 115),
    "WARN": (240, 180, 0),
    "NG": (213, 50, 0),
    "NONE": (120, 120, 140),
}
MIN_SIDE = 360
MAX_SIDE = 8192  # JPEG ends at 65,535
MAX_PIXELS = 2**24
BLOCK = 256
GREY = 60
HEAT_OPACITY = 0.55


class HeatScale:
    """The scale of heat maps, learned from what was judged OK: heat begins where the usual peak of normal images ends.

    ``reference`` f32[h,w] is the map of a good part to start from; without one the first map serves.
    """

    def __init__(self, reference: NDArray[np.float32] | None = None, memory: float = 0.9) -> None:
        self._memory = memory
        self._base: float | None = None
        self._span = 0.0
        if reference is not None:
            self.strength(reference, "OK")

    def strength(self, heat: NDArray[np.float32], verdict: Verdict) -> NDArray[np.float32]:
        """Return f32 of the same shape, 0 (as on normal images) to 1 (a peak twice as high as on normal images)."""
        base, peak = float(np.median(heat)), float(heat.max())
        if self._base is None:
            self._base, self._span = base, peak - base
        elif verdict == "OK":
            keep = self._memory
            self._base = keep * self._base + (1 - keep) * base
            self._span = keep * self._span + (1 - keep) * (peak - base)
        span = max(self._span, 1e-6)
        strength: NDArray[np.float32] = np.clip((heat - self._base - span) / span, 0.0, 1.0).astype(np.float32)
        return strength


def annotate(image: Image | None, event: Event, heat: NDArray[np.float32] | None) -> Image:
    """Return u8[H,W,3] RGB: ``image`` (grey where there is none), enlarged where small, shrunk where it is larger than
    ``bounded`` allows, framed in the verdict's colour; a strip that stays thin gets grey beside it.

    ``heat`` f32[h,w] holds 0 to 1 (see HeatScale), of any size, and is laid over the whole image. The text stands
    above the image, so nothing of it is hidden; images of one size give results of one size.
    """
    canvas = np.full((MIN_SIDE, MIN_SIDE, 3), GREY, np.uint8) if image is None else bounded(image)
    factor = max(1, min(-(-MIN_SIDE // min(canvas.shape[:2])), MAX_SIDE // max(canvas.shape[:2])))
    canvas = resize(canvas, (canvas.shape[0] * factor, canvas.shape[1] * factor)).copy()
    if heat is not None:
        canvas = overlay(canvas, heat)
    canvas = _padded(canvas)
    border = max(4, min(canvas.shape[:2]) // 60)
    size = max(canvas.shape[1] / 900.0, 0.45)
    framed: Image = cv2.copyMakeBorder(
        canvas, int(80 * size), border, border, border, cv2.BORDER_CONSTANT, value=COLOURS[event.verdict]
    ).astype(np.uint8, copy=False)
    _write(framed, event, size)
    return framed


def overlay(canvas: Image, heat: NDArray[np.float32]) -> Image:
    """Return the image u8[H,W,3] RGB with ``heat`` f32[h,w], 0 to 1 (see HeatScale), of any size, laid over it."""
    strength = cv2.resize(heat, (canvas.shape[1], canvas.shape[0]), interpolation=cv2.INTER_LINEAR)
    blended = np.empty_like(canvas)
    for top in range(0, len(canvas), BLOCK):  # in blocks: the arithmetic takes 30 times the memory of the image
        rows = slice(top, top + BLOCK)
        levels = (strength[rows] * 255).astype(np.uint8)
        colours = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
        opacity = (np.minimum(strength[rows] * 4.0, 1.0) * HEAT_OPACITY)[:, :, None]
        blended[rows] = (canvas[rows] * (1.0 - opacity) + colours * opacity).astype(np.uint8)
    return blended


def bounded(image: Image) -> Image:
    """Return the image, shrunk to at most MAX_SIDE pixels a side and MAX_PIXELS in all where it is larger."""
    height, width = image.shape[:2]
    factor = min(1.0, MAX_SIDE / max(height, width), math.sqrt(MAX_PIXELS / (height * width)))
    if factor == 1.0:
        return image
    return resize(image, (max(1, int(height * factor)), max(1, int(width * factor))))


def _padded(canvas: Image) -> Image:
    """Return the image with grey beside it where a side is shorter than MIN_SIDE."""
    short = [max(0, MIN_SIDE - side) for side in canvas.shape[:2]]
    if not any(short):
        return canvas
    half = [side // 2 for side in short]
    edges = (half[0], short[0] - half[0], half[1], short[1] - half[1])
    return cv2.copyMakeBorder(canvas, *edges, cv2.BORDER_CONSTANT, value=(GREY, GREY, GREY)).astype(np.uint8, copy=False)


def _write(canvas: Image, event: Event, size: float) -> None:
    """Write verdict and score, and below them the reason, into the bar at the top."""
    line = int(34 * size)
    score = "" if event.score is None else f"  {event.score:.2f}"
    frame = "" if event.frame is None else f"  #{event.frame}"
    texts = [f"{event.verdict}{score}{frame}", *([event.reason] if event.reason else [])]
    for row, text in enumerate(texts):
        plain = text.encode("ascii", "replace").decode()
        limit = int(canvas.shape[1] / (18 * size))
        origin = (line // 2, line * (row + 1))
        cv2.putText(canvas, plain[:limit], origin, cv2.FONT_HERSHEY_SIMPLEX, size, (255, 255, 255), 1, cv2.LINE_AA)
