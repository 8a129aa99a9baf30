"""Locate a part that stands out from its background: largest piece of foreground, then its outline.

At first sight moments of the foreground pose a part (Hu 1962): centre, main axis and, from the third moment along it,
which end is which. Missing material moves them, so they only define the part's frame; in an image the outline is
registered robustly from starts all around. Where the outline fits at several angles, the part's surface decides; where
that is equal too, the part is symmetric.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.geometry.background import Background, grey_of, reduce
from edge_ad.geometry.matching import RIGID, PatchLevel, structure
from edge_ad.geometry.outline import Match, Outline, on_edge
from edge_ad.geometry.pose import Arrays, Image, Location, NotLocated, Points, Pose, refuse_size, rotation, wrap

MIN_AREA, MAX_AREA = 0.45, 1.75
SPECK = 0.04
MAX_RESIDUAL = 0.32
# Beyond this the mirror image is tried: a part that fits is not mirrored.
SUSPICIOUS = 0.10
AMBIGUOUS = 0.15
# Where this share of the outline does not agree, the surface has a say: it must agree better by BETTER (a correlation), and
# may move the part by SLIDE of its diagonal.
POLISHED, BETTER, SLIDE = 0.2, 0.035, 0.02
ROUND = 0
WHOLE = 0.985


@dataclass(frozen=True, eq=False)
class View:
    """A reduced image with its foreground: ``difference`` u8[h,w] above ``threshold``, and its contours, largest first."""

    grey: Image
    difference: Image
    threshold: float
    contours: list[Points]
    areas: list[float]

    def edge(self, *indices: int) -> Points:
        """Return the sub-pixel contour of one or more pieces."""
        return on_edge(np.concatenate([self.contours[index] for index in indices]), self.difference, self.threshold)

    def cut_off(self, contour: Points) -> bool:
        """Whether a contour runs along the image's border."""
        height, width = self.grey.shape
        return bool((contour < 1).any() or (contour >= (width - 1, height - 1)).any())


def view_of(image: Image, background: Background, level: int) -> View:
    """Return the foreground of an image u8[H,W,3] at 1 / 2^level of its size."""
    reduced = reduce(image, level)
    difference, threshold = background.difference(reduced)
    grey = grey_of(reduced)
    binary = np.asarray(difference > threshold, np.uint8)
    contours = cv2.findContours(binary, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[-2]
    pairs = sorted(((cv2.contourArea(contour), index) for index, contour in enumerate(contours)), reverse=True)[:32]
    pieces = [np.asarray(contours[index][:, 0], np.float64) for _, index in pairs]
    return View(grey, difference, threshold, pieces, [float(area) for area, _ in pairs])


@dataclass(frozen=True, eq=False)
class ForegroundLocator:
    """A background, an outline and the surface within it, all at 1 / 2^level of the images' size.

    ``field`` f32[h,w] is the outline's signed distance and ``surface`` u8[h,w] the mean grey image in the part's frame,
    whose origin is pixel ``origin``. ``symmetry`` is 1 for none, n where n angles look alike, ROUND for any angle.
    """

    kind: ClassVar[str] = "foreground"
    background: Background
    level: int
    image_size: tuple[int, int]
    field: NDArray[np.float32]
    surface: Image
    origin: tuple[float, float]
    box: tuple[float, float]
    symmetry: int
    allow_scale: bool = False

    @cached_property
    def outline(self) -> Outline:
        """Return the outline with its tables."""
        return Outline(self.field, self.origin)

    def locate(self, image: Image) -> Location:
        """Return the pose of the largest part; a second one like it is an error."""
        refused = refuse_size(image, self.image_size)
        if refused is not None:
            return refused
        view = view_of(image, self.background, self.level)
        if not view.contours or view.areas[0] < MIN_AREA * self.outline.area:
            return self._pieced(view, self._too_small(view))
        location = self._pose(view, (0,))
        second = len(view.areas) > 1 and view.areas[1] > MIN_AREA * self.outline.area
        if second and isinstance(location, Pose) and isinstance(self._pose(view, (1,)), Pose):
            return NotLocated("two parts are in view where one is expected: part them, or have all of them located")
        if not isinstance(location, Pose) and len(view.areas) > 1:
            return self._pieced(view, location)
        return location

    def locate_all(self, image: Image) -> list[Location]:
        """Return every piece of foreground of a part's size, from left to right; why there is none, where there is none."""
        refused = refuse_size(image, self.image_size)
        if refused is not None:
            return [refused]
        view = view_of(image, self.background, self.level)
        sized = [index for index, area in enumerate(view.areas) if area >= MIN_AREA * self.outline.area]
        if not sized:
            return [self._too_small(view)]
        sized.sort(key=lambda index: float(view.contours[index][:, 0].min()))
        return [self._pose(view, (index,)) for index in sized]

    def _too_small(self, view: View) -> NotLocated:
        if not view.contours or view.areas[0] < 0.1 * self.outline.area:
            return NotLocated("no part is in view: nothing of its size stands out from the background", empty=True)
        if view.cut_off(view.contours[0]):
            return NotLocated("the part is cut by the image's border: most of it is out of view")
        share = 100 * view.areas[0] / self.outline.area
        return NotLocated(f"the largest piece in view has {share:.0f} % of the part's area: the part is broken or another one")

    def _pieced(self, view: View, location: Location) -> Location:
        """Return the pose of all pieces of any size together: a part that a gap divides."""
        pieces = [index for index, area in enumerate(view.areas) if area > SPECK * self.outline.area]
        if len(pieces) < 2 or sum(view.areas[index] for index in pieces) > MAX_AREA * self.outline.area:
            return location
        whole = self._pose(view, tuple(pieces))
        return whole if isinstance(whole, Pose) else location

    def _pose(self, view: View, pieces: tuple[int, ...]) -> Location:
        area = sum(view.areas[index] for index in pieces) / self.outline.area
        contour = np.concatenate([view.contours[index] for index in pieces])
        if area > MAX_AREA:
            if view.cut_off(contour):
                return NotLocated("what stands out reaches the image's border and is larger than a part: has the station changed?")
            return NotLocated(f"the piece in view has {100 * area:.0f} % of the part's area: parts touch, or it is another one")
        edge = view.edge(*pieces)
        matches = self.outline.register(edge, scale=self.allow_scale)
        best = self.best_by_surface(view, matches)
        cut_off = view.cut_off(contour)
        if best.residual > MAX_RESIDUAL and not cut_off:
            best = self.best_by_surface(view, self.outline.register(edge, scale=self.allow_scale, wide=True))
        if best.residual > SUSPICIOUS and not cut_off:
            mirrored = self._mirrored(edge, best)
            if mirrored is not None:
                return mirrored
        if best.residual > POLISHED and self.symmetry == 1 and not self.allow_scale:
            best = self.polished(view, best)
        pose = self._pose_of(best)
        if cut_off and self.outline.visible(best.matrix, view.grey.shape) < WHOLE:
            return NotLocated("the part is cut by the image's border: bring it into view")
        if best.residual > MAX_RESIDUAL:
            return NotLocated(f"{100 * best.residual:.0f} % of the part's outline does not agree, and up to "
                              f"{100 * MAX_RESIDUAL:.0f} % may: another part, or a badly damaged one")
        return pose

    @cached_property
    def _points(self) -> PatchLevel:
        """Return the surface's points of most structure."""
        return PatchLevel(structure(self.surface), self.outline.mask, 1.0, 300)

    def polished(self, view: View, match: Match) -> Match:
        """Return a match moved to where the surface agrees better, if it does: an outline with a bite may slide along itself."""
        high, wide = self.field.shape
        frame = np.array([(wide - 1) / 2, (high - 1) / 2]) - self.origin
        linear = np.linalg.inv(match.matrix[:, :2])
        start = np.column_stack([linear, linear @ (frame - match.matrix[:, 2])])
        grey = structure(view.grey)
        (before, after) = (self._points.descend(grey, start[None], RIGID, steps) for steps in (0, 6))
        moved = after[0][0]
        far = float(np.linalg.norm(moved[:, 2] - start[:, 2]))
        if after[1][0] < before[1][0] + BETTER or far > SLIDE * self.outline.diagonal:
            return match
        back = np.linalg.inv(moved[:, :2])
        return replace(match, matrix=np.column_stack([back, frame - back @ moved[:, 2]]))

    def _mirrored(self, edge: Points, best: Match) -> NotLocated | None:
        other = self.outline.register(edge, scale=self.allow_scale, mirrored=True)[0]
        if other.residual < min(MAX_RESIDUAL, best.residual - 0.08):
            return NotLocated("the part lies mirrored: it was turned over")
        return None

    def best_by_surface(self, view: View, matches: list[Match]) -> Match:
        """Return the best match; where outlines of several angles fit alike, the one whose surface agrees best."""
        rivals = [match for match in matches if match.residual < matches[0].residual + AMBIGUOUS]
        if self.symmetry != 1 or len(rivals) == 1:
            return matches[0]
        return max(rivals, key=lambda match: self.agreement(view, match) - 2 * match.residual)

    def agreement(self, view: View, match: Match) -> float:
        """Return the correlation of the surface seen with the mean one, -1 to 1, within the outline."""
        return correlation(self.seen(view, match), self.surface, self.outline.mask)

    def seen(self, view: View, match: Match) -> Image:
        """Return the grey image in the part's frame, u8 as ``surface``."""
        matrix = match.matrix.copy()
        matrix[:, 2] += self.origin
        high, wide = self.field.shape
        return np.asarray(cv2.warpAffine(view.grey, matrix, (wide, high), borderMode=cv2.BORDER_REPLICATE), np.uint8)

    def _pose_of(self, match: Match) -> Pose:
        unit = 1 << self.level
        x, y = match.centre() * unit + (unit - 1) / 2
        angle = match.angle
        if self.symmetry != 1:
            angle = 0.0 if self.symmetry == ROUND else wrap(angle, 360 / self.symmetry)
        scale = match.scale if self.allow_scale else 1.0
        width, height = self.box[0] * scale, self.box[1] * scale
        return Pose(float(x), float(y), wrap(angle), width, height, scale, match.residual, self.symmetry != 1)

    def contour(self, pose: Pose) -> Points:
        """Return the outline f64[N,2] of an undamaged part at ``pose`` in the original image."""
        unit = (1 << self.level) * pose.scale
        return np.asarray(unit * self.outline.points @ rotation(pose.angle).T + (pose.x, pose.y))

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return plain values and arrays; see ``from_state``."""
        values: dict[str, Any] = {
            "kind": self.kind, "level": self.level, "image_size": list(self.image_size), "origin": list(self.origin),
            "box": list(self.box), "symmetry": self.symmetry, "allow_scale": self.allow_scale,
            "background": {"level": self.background.level, "threshold": self.background.threshold},
        }
        empty = {} if self.background.empty is None else {"empty": self.background.empty}
        return values, {"field": self.field, "surface": self.surface, **empty}

    @classmethod
    def from_state(cls, values: dict[str, Any], arrays: Arrays) -> ForegroundLocator:
        """Return the locator that ``state`` described."""
        background = Background(values["background"]["level"], values["background"]["threshold"], arrays.get("empty"))
        high, wide = values["image_size"]
        (x, y), (width, height) = values["origin"], values["box"]
        return cls(background, int(values["level"]), (int(high), int(wide)), np.asarray(arrays["field"], np.float32),
                   arrays["surface"], (float(x), float(y)), (float(width), float(height)), int(values["symmetry"]),
                   bool(values["allow_scale"]))


def correlation(first: Image, second: Image, mask: Image) -> float:
    """Return the normalised correlation of two images u8[h,w] within a mask; 0 where one of them is even."""
    inside = mask > 0
    one, other = first[inside].astype(np.float32), second[inside].astype(np.float32)
    one, other = one - one.mean(), other - other.mean()
    norm = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / norm if norm > 1e-6 * one.size else 0.0

