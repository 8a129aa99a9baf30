"""What a frame gives to judge: its region of interest, its tiles, or every part that is located in it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.camera.frames import Frame, Image
from edge_ad.errors import BadInput
from edge_ad.geometry.cut_out import Transform, resizing
from edge_ad.geometry.geometry import Geometry, Prepared
from edge_ad.geometry.pose import NotLocated, Points, Pose, PoseRange
from edge_ad.inspection.view import View

MAX_HEAT_SIDE = 640


@dataclass(frozen=True, eq=False)
class Place:
    """Where a part lies: ``pose`` in pixels of the camera's image, and how it leaves those of the normal images.

    ``transform`` and ``outlines`` are those of the region of interest.
    """

    pose: Pose
    outside: str | None
    transform: Transform
    outlines: tuple[Points, ...]

    def record(self) -> dict[str, Any]:
        """Return the pose as an event has it."""
        return {**self.pose.as_dict(), "outside": self.outside}

    def spread(self, heat: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a map f32[h,w] of the cut-out as one of the region of interest, 0 beside the cut-out.

        It has the region's sides, or smaller ones of the same shape: a map is coarse.
        """
        source = self.transform.source
        factor = min(1.0, MAX_HEAT_SIDE / max(source))
        small = (max(1, round(source[0] * factor)), max(1, round(source[1] * factor)))
        matrix = self.transform.matrix @ resizing(source, small).inverse
        return Transform(np.asarray(matrix), small, self.transform.target).map_to_image(heat)


@dataclass(frozen=True, eq=False)
class PartInputs:
    """The inputs u8[H,W,3] of one part (several: its tiles), and where it lies (None: the region is not searched)."""

    tiles: Sequence[Image]
    place: Place | None = None


@dataclass(frozen=True, eq=False)
class FrameInputs:
    """The parts of one frame, at least one, and the milliseconds that locating them took (None: nothing was located)."""

    parts: tuple[PartInputs | NotLocated, ...]
    locate_ms: float | None = None


class Locating:
    """Makes inputs of frames: the region of ``view``, its tiles, or by ``geometry`` the part in it, all of them with ``many``.

    Raises BadInput for tiles of a region in which parts are located, and for ``many`` where none are.
    """

    def __init__(self, geometry: Geometry, view: View | None = None, *, many: bool = False) -> None:
        self._geometry = geometry
        self._view = view or View()
        self._many = many
        if geometry.locates and len(self._view.grid) > 1:
            raise BadInput(
                f"tiles and a bundle that locates parts (geometry {geometry.method}) exclude each other: leave out --tiles, or "
                "train with --geometry square"
            )
        if geometry.zones is not None and len(self._view.grid) > 1:
            raise BadInput("tiles and a bundle with zones exclude each other: leave out --tiles, or train without --zones")
        if many and not geometry.locates:
            raise BadInput(
                f"parts = many needs a bundle that locates parts, and this one looks at the whole image (geometry "
                f"{geometry.method}): leave out --parts, or train with --geometry foreground"
            )

    def zone_scores(self, heat: NDArray[np.float32]) -> dict[str, float]:
        """Return the score of each sensitivity zone in a map f32[h,w] of an input, by name."""
        zones = self._geometry.zones
        return {} if zones is None else zones.scores(heat)

    def inputs(self, frame: Frame) -> FrameInputs:
        """Return the inputs of a frame whose region fits it; made once for all who ask."""
        if not self._geometry.locates:
            return FrameInputs((PartInputs(self._whole(frame)),))
        return frame.once(self, lambda: self._located(frame.image))

    def _whole(self, frame: Frame) -> Sequence[Image]:
        tiles = self._view.tiles(frame, self._geometry.size)
        if self._geometry.keeps_pixels:
            return tiles
        inputs: Sequence[Image] = frame.once((self, "inputs"), lambda: [self._geometry.input_of(tile) for tile in tiles])
        return inputs

    def _located(self, image: Image) -> FrameInputs:
        began = time.perf_counter()
        region = np.ascontiguousarray(self._view.crop(image))
        prepared = self._geometry.prepare_all(region) if self._many else [self._geometry.prepare(region)]
        parts = tuple(one if isinstance(one, NotLocated) else self._part(one) for one in prepared)
        return FrameInputs(parts, (time.perf_counter() - began) * 1000.0)

    def _part(self, prepared: Prepared) -> PartInputs:
        pose, expected = prepared.pose, self._geometry.expected
        if pose is None:
            return PartInputs((prepared.image,))
        roi = self._view.roi
        x, y = (0, 0) if roi is None else (roi.x, roi.y)
        outlines = tuple(self._geometry.outlines(pose))
        moved = replace(pose, x=pose.x + x, y=pose.y + y)
        outside = None if expected is None else _moved(expected, x, y).outside(moved)
        return PartInputs((prepared.image,), Place(moved, outside, prepared.transform, outlines))


def _moved(expected: PoseRange, x: float, y: float) -> PoseRange:
    """Return the expected poses of a region at x, y as those of the whole image."""
    return replace(expected, x=(expected.x[0] + x, expected.x[1] + x), y=(expected.y[0] + y, expected.y[1] + y))


def draw_outlines(canvas: Image, outlines: Sequence[Points], source: tuple[int, int]) -> Image:
    """Return a copy of ``canvas`` u8[H,W,3], which shows an image of ``source`` (height, width), with outlines of that image."""
    drawn = canvas.copy()
    y, x = canvas.shape[0] / source[0], canvas.shape[1] / source[1]
    width = max(1, round(max(canvas.shape[:2]) / 320))
    for points in outlines:
        scaled = (points + 0.5) * (x, y) - 0.5
        polygon = [np.rint(scaled * 16).astype(np.int32)]
        for colour, more in ((_HALO, 2), (_LINE, 0)):
            cv2.polylines(drawn, polygon, True, colour, width + more, cv2.LINE_AA, 4)
    return drawn


_HALO, _LINE = (0, 0, 0), (86, 180, 233)  # RGB
