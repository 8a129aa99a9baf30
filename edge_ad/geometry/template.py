"""Locate by a template: the mean structure of the normal images, found again at any shift, turn and scale."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np

from edge_ad.geometry.background import grey_of, reduce
from edge_ad.geometry.matching import RIGID, SCALED, SHIFT, Grey, Matcher, PatchMatch, structure
from edge_ad.geometry.pose import Arrays, Image, Location, NotLocated, Pose, refuse_size, wrap

Method: TypeAlias = Literal["shift", "rigid", "scaled"]
FREEDOM: dict[Method, int] = {"shift": SHIFT, "rigid": RIGID, "scaled": SCALED}
# A second position with this share of the best one's correlation is a second part.
EQUAL = 0.9
MANY = 16
# By so much the mirror image must agree better before a part is called mirrored.
CLEARLY = 0.2


@dataclass(frozen=True, eq=False)
class TemplateLocator:
    """A patch of structure f32[h,w] with a mask u8[h,w] at 1 / 2^level of the images' size; its middle is the part's.

    ``box`` is what is cut out, in pixels of the original. Turns within ``turn`` degrees of ``angle`` are searched; a
    correlation below ``min_correlation`` is no part, nor is one that is out of view by more than ``overhang`` of its longer side.
    """

    kind: ClassVar[str] = "template"
    method: Method
    level: int
    image_size: tuple[int, int]
    patch: Grey
    mask: Image
    box: tuple[float, float]
    angle: float = 0.0
    turn: float = 180.0
    min_correlation: float = 0.5
    overhang: float = 0.02

    @cached_property
    def matcher(self) -> Matcher:
        """Return the patch with its tables."""
        high, wide = (side >> self.level for side in self.image_size)
        return Matcher(self.patch, self.mask, (high, wide), freedom=FREEDOM[self.method], angle=self.angle, turn=self.turn)

    def locate(self, image: Image) -> Location:
        """Return the pose of the best match; a second one as good elsewhere is an error."""
        view = self._view(image)
        if isinstance(view, NotLocated):
            return view
        best, *others = self.matcher.find(view)
        if best.correlation < self.min_correlation:
            best, *others = self.matcher.find(view, MANY)
        location = self._location(best)
        if isinstance(location, Pose):
            rivals = [other for other in others if other.correlation > EQUAL * best.correlation]
            if any(self._apart(best, other) for other in rivals):
                return NotLocated("two parts are in view where one is expected: part them, or have all of them located")
        elif best.correlation < self.min_correlation:
            mirrored = self.matcher.find(view[:, ::-1].copy())[0]
            if mirrored.correlation > max(self.min_correlation, best.correlation + CLEARLY):
                return NotLocated("the part lies mirrored: it was turned over")
        return location

    def locate_all(self, image: Image) -> list[Location]:
        """Return every match that is good enough, from left to right; why there is none, where there is none."""
        view = self._view(image)
        if isinstance(view, NotLocated):
            return [view]
        parts: list[PatchMatch] = []
        matches = self.matcher.find(view, MANY)
        for match in matches:
            if match.correlation >= self.min_correlation and all(self._apart(match, other) for other in parts):
                parts.append(match)
        parts.sort(key=lambda match: float(match.matrix[0, 2]))
        return [self._location(match) for match in parts or matches[:1]]

    def _view(self, image: Image) -> Grey | NotLocated:
        return refuse_size(image, self.image_size) or structure_of(image, self.level)

    def _apart(self, first: PatchMatch, second: PatchMatch) -> bool:
        """Whether two matches are of two parts: their middles are farther apart than half of the patch's shorter side."""
        return bool(np.linalg.norm(first.matrix[:, 2] - second.matrix[:, 2]) > min(self.patch.shape) / 2)

    def _location(self, match: PatchMatch) -> Location:
        if match.correlation < self.min_correlation:
            return NotLocated(f"the image agrees with the template by {match.correlation:.2f}, and {self.min_correlation:.2f} is "
                              "needed: no part is in view, or another one", empty=True)
        pose = pose_of(match, self.level, self.box)
        unit = 1 << self.level
        patch = Pose(pose.x, pose.y, pose.angle, self.patch.shape[1] * unit * pose.scale, self.patch.shape[0] * unit * pose.scale)
        if not patch.inside(self.image_size, overhang=self.overhang * max(patch.width, patch.height)):
            return NotLocated("the part is cut by the image's border: bring it into view")
        return pose

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return plain values and arrays; see ``from_state``."""
        values: dict[str, Any] = {
            "kind": self.kind, "method": self.method, "level": self.level, "image_size": list(self.image_size),
            "box": list(self.box), "angle": self.angle, "turn": self.turn, "min_correlation": self.min_correlation,
            "overhang": self.overhang,
        }
        return values, {"patch": self.patch, "mask": self.mask}

    @classmethod
    def from_state(cls, values: dict[str, Any], arrays: Arrays) -> TemplateLocator:
        """Return the locator that ``state`` described."""
        (high, wide), (width, height) = values["image_size"], values["box"]
        return cls(values["method"], int(values["level"]), (int(high), int(wide)), np.asarray(arrays["patch"], np.float32),
                   np.asarray(arrays["mask"], np.uint8), (float(width), float(height)), float(values["angle"]),
                   float(values["turn"]), float(values["min_correlation"]), float(values["overhang"]))


def structure_of(image: Image, level: int) -> Grey:
    """Return the structure of an image u8[H,W,3] at 1 / 2^level of its size."""
    return structure(grey_of(reduce(image, level)))


def pose_of(match: PatchMatch, level: int, box: tuple[float, float]) -> Pose:
    """Return a match in a reduced image as a pose in the original."""
    unit = 1 << level
    x, y = match.matrix[:, 2] * unit + (unit - 1) / 2
    width, height = box[0] * match.scale, box[1] * match.scale
    residual = min(1.0, max(0.0, 1 - match.correlation))
    return Pose(float(x), float(y), wrap(match.angle), width, height, match.scale, residual)
