"""A picture that shows its verdict: coloured border, score, reason and heat map."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.camera.frames import Image
from edge_ad.data.images import resize
from edge_ad.inspection.events import Event
from edge_ad.inspection.verdict import Verdict

COLOURS: dict[Verdict, tuple[int, int, int]] = {  # RGB, told apart by colour-blind people too
    "OK": (0, 158, 115),
    "WARN": (240, 180, 0),
    "NG": (213, 50, 0),
    "NONE": (120, 120, 140),
}
LEAST_SIDE = 360
HEAT_OPACITY = 0.55


class HeatScale:
    """The scale of heat maps, learned from what was judged OK: heat begins where the usual peak of goods ends.

    ``reference`` f32[h,w] is the map of a good part to start from; without one the first map serves.
    """

    def __init__(self, reference: NDArray[np.float32] | None = None, memory: float = 0.9) -> None:
        self._memory = memory
        self._base: float | None = None
        self._span = 0.0
        if reference is not None:
            self.strength(reference, "OK")

    def strength(self, heat: NDArray[np.float32], verdict: Verdict) -> NDArray[np.float32]:
        """Return f32 of the same shape, 0 (as on goods) to 1 (a peak twice as high as on goods)."""
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
    """Return u8[H,W,3] RGB: ``image`` (grey where there is none), enlarged where small, framed in the verdict's colour.

    ``heat`` f32[h,w] holds 0 to 1 (see HeatScale), of any size, and is laid over the whole picture. The text stands
    above the picture, so nothing of it is hidden; pictures of one size give results of one size.
    """
    canvas = np.full((LEAST_SIDE, LEAST_SIDE, 3), 60, np.uint8) if image is None else image
    factor = max(1, -(-LEAST_SIDE // min(canvas.shape[:2])))
    canvas = resize(canvas, (canvas.shape[0] * factor, canvas.shape[1] * factor)).copy()
    if heat is not None:
        canvas = overlay(canvas, heat)
    border = max(4, min(canvas.shape[:2]) // 60)
    size = max(canvas.shape[1] / 900.0, 0.45)
    framed: Image = cv2.copyMakeBorder(
        canvas, int(80 * size), border, border, border, cv2.BORDER_CONSTANT, value=COLOURS[event.verdict]
    ).astype(np.uint8, copy=False)
    _write(framed, event, size)
    return framed


def overlay(canvas: Image, heat: NDArray[np.float32]) -> Image:
    """Return the picture u8[H,W,3] RGB with ``heat`` f32[h,w], 0 to 1 (see HeatScale), of any size, laid over it."""
    strength = cv2.resize(heat, (canvas.shape[1], canvas.shape[0]), interpolation=cv2.INTER_LINEAR)
    levels = (strength * 255).astype(np.uint8)
    colours = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    opacity = (np.minimum(strength * 4.0, 1.0) * HEAT_OPACITY)[:, :, None]
    blended: Image = (canvas * (1.0 - opacity) + colours * opacity).astype(np.uint8)
    return blended


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
