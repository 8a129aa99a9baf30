"""Locate by one or two fixed features that a person drew on a normal image: for parts whose background moves.

One anchor gives shift and turn; two give the turn from the line between them, which is far more exact, and a check: in
a part that is whole, their distance does not change. Each anchor is looked for in a window around where the normal
images had it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from edge_ad.errors import BadInput
from edge_ad.geometry.pose import Arrays, Image, Location, NotLocated, Points, Pose, refuse_size, rotation, wrap
from edge_ad.geometry.template import TemplateLocator
from edge_ad.geometry.template_fit import Region, fit_template

MAX_ANCHORS = 2
# Share by which the anchors' distance may differ where no scale is allowed.
STRETCH = 0.03
WINDOW = 0.08


@dataclass(frozen=True, eq=False)
class Anchor:
    """A feature: its template, the window (left, top) of the image it is looked for in, and its middle in the part's frame."""

    template: TemplateLocator
    window: tuple[int, int]
    at: tuple[float, float]

    def locate(self, image: Image) -> Location:
        """Return the feature's pose in the image."""
        high, wide = self.template.image_size
        left, top = self.window
        location = self.template.locate(image[top : top + high, left : left + wide])
        if isinstance(location, NotLocated):
            return location
        return replace(location, x=location.x + left, y=location.y + top)


@dataclass(frozen=True, eq=False)
class AnchorLocator:
    """One or two anchors of a part of ``box`` (width, height)."""

    kind: ClassVar[str] = "anchors"
    anchors: tuple[Anchor, ...]
    image_size: tuple[int, int]
    box: tuple[float, float]
    allow_scale: bool = False

    def locate(self, image: Image) -> Location:
        """Return the pose of the part that carries the anchors."""
        refused = refuse_size(image, self.image_size)
        if refused is not None:
            return refused
        poses = []
        for number, anchor in enumerate(self.anchors, 1):
            location = anchor.locate(image)
            if isinstance(location, NotLocated):
                return NotLocated(f"anchor {number} is not in its window: {location.reason}", location.empty)
            poses.append(location)
        return self._of_one(poses[0]) if len(poses) == 1 else self._of_two(poses[0], poses[1])

    def locate_all(self, image: Image) -> list[Location]:
        """Return the one part: anchors cannot distinguish two parts."""
        return [self.locate(image)]

    def _of_one(self, pose: Pose) -> Pose:
        scale = pose.scale if self.allow_scale else 1.0
        return self._posed(pose.angle, scale, np.array([pose.x, pose.y]), np.array(self.anchors[0].at), residual=pose.residual)

    def _of_two(self, first: Pose, second: Pose) -> Location:
        seen = np.array([second.x - first.x, second.y - first.y])
        (x, y), (other_x, other_y) = self.anchors[0].at, self.anchors[1].at
        scale = float(np.linalg.norm(seen)) / math.hypot(other_x - x, other_y - y)
        if not self.allow_scale and abs(scale - 1) > STRETCH:
            how = "farther apart" if scale > 1 else "nearer"
            return NotLocated(f"the anchors are {100 * abs(scale - 1):.0f} % {how} than in the normal images: one of them is "
                              "wrong, or the part is bent")
        angle = math.degrees(math.atan2(seen[1], seen[0]) - math.atan2(other_y - y, other_x - x))
        middle = np.array([first.x + second.x, first.y + second.y]) / 2
        at = np.array([x + other_x, y + other_y]) / 2
        return self._posed(angle, scale if self.allow_scale else 1.0, middle, at, residual=max(first.residual, second.residual))

    def _posed(self, angle: float, scale: float, seen: Points, at: Points, *, residual: float) -> Pose:
        """Return the pose whose frame's point ``at`` lies at ``seen``."""
        x, y = seen - scale * rotation(angle) @ at
        return Pose(float(x), float(y), wrap(angle), self.box[0] * scale, self.box[1] * scale, scale, residual)

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return plain values and arrays; see ``from_state``."""
        stored: dict[str, Any] = {}
        anchors = []
        for number, anchor in enumerate(self.anchors):
            values, arrays = anchor.template.state()
            anchors.append({"template": values, "window": list(anchor.window), "at": list(anchor.at)})
            stored |= {f"{number}_{name}": array for name, array in arrays.items()}
        values = {"kind": self.kind, "anchors": anchors, "image_size": list(self.image_size), "box": list(self.box),
                  "allow_scale": self.allow_scale}
        return values, stored

    @classmethod
    def from_state(cls, values: dict[str, Any], arrays: Arrays) -> AnchorLocator:
        """Return the locator that ``state`` described."""
        anchors = []
        for number, stored in enumerate(values["anchors"]):
            own = {name: arrays[f"{number}_{name}"] for name in ("patch", "mask")}
            (left, top), (x, y) = stored["window"], stored["at"]
            anchors.append(Anchor(TemplateLocator.from_state(stored["template"], own), (int(left), int(top)), (float(x), float(y))))
        (high, wide), (width, height) = values["image_size"], values["box"]
        return cls(tuple(anchors), (int(high), int(wide)), (float(width), float(height)), bool(values["allow_scale"]))


def fit_anchors(images: Sequence[Image], names: Sequence[str], regions: Sequence[Region], box: Region, *, turn: float = 15.0,
                allow_scale: bool = False) -> AnchorLocator:
    """Return the locator by features at ``regions`` of a part at ``box``, all (left, top, right, bottom) in the first image.

    Raises BadInput where there are not one or two regions or where a feature is not found again in the other images.
    """
    if not 1 <= len(regions) <= MAX_ANCHORS:
        raise BadInput(f"{len(regions)} anchor regions were given, and 1 or {MAX_ANCHORS} are needed")
    middle = np.array([box[0] + box[2], box[1] + box[3]]) / 2
    anchors = [_anchor(images, names, region, middle, turn=turn, allow_scale=allow_scale) for region in regions]
    if len(anchors) == MAX_ANCHORS and math.dist(anchors[0].at, anchors[1].at) < 0.2 * max(box[2] - box[0], box[3] - box[1]):
        raise BadInput("the two anchors lie too near each other to measure the part's angle: draw them at its two ends")
    size = (images[0].shape[0], images[0].shape[1])
    return AnchorLocator(tuple(anchors), size, (box[2] - box[0], box[3] - box[1]), allow_scale)


def _anchor(images: Sequence[Image], names: Sequence[str], region: Region, middle: Points, *, turn: float,
            allow_scale: bool) -> Anchor:
    template = fit_template(images, names, "scaled" if allow_scale else "rigid", turn=turn, region=region)
    poses = [location for location in map(template.locate, images) if isinstance(location, Pose)]
    first = template.locate(images[0])
    if not isinstance(first, Pose):
        raise BadInput(f"the anchor at {tuple(round(side) for side in region)} cannot be distinguished from its "
                       "surroundings: draw it around a feature with edges in two directions")
    window, size = _window(template, poses)
    at = np.array([first.x, first.y]) - middle
    return Anchor(replace(template, image_size=size), window, (float(at[0]), float(at[1])))


def _window(template: TemplateLocator, poses: Sequence[Pose]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return left and top, height and width of where the feature was, with room beyond, in whole blocks of pixels."""
    high, wide = template.image_size
    reach = math.hypot(*template.box) / 2 + WINDOW * max(high, wide)
    unit = 1 << template.level
    low = [max(0, math.floor((min(getattr(pose, name) for pose in poses) - reach) / unit) * unit) for name in ("x", "y")]
    top = [min(side, math.ceil((max(getattr(pose, name) for pose in poses) + reach) / unit) * unit)
           for name, side in (("x", wide), ("y", high))]
    return (low[0], low[1]), (top[1] - low[1], top[0] - low[0])
