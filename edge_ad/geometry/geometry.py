"""How an image becomes the input of the networks: the part is located, turned upright and cut out, or all is resized."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.errors import BadInput
from edge_ad.geometry import METHODS, WHOLE, Method
from edge_ad.geometry.anchors import AnchorLocator
from edge_ad.geometry.colour import Gains, is_gains, with_gains, with_inverse_gains
from edge_ad.geometry.cut_out import Transform, resize, resizing, transform_of
from edge_ad.geometry.foreground import ForegroundLocator
from edge_ad.geometry.pose import Arrays, Image, Location, Locator, NotLocated, Points, Pose, PoseRange
from edge_ad.geometry.region import Roi
from edge_ad.geometry.template import TemplateLocator
from edge_ad.geometry.zones import MAX_SIDE, AppliedZones, parse_zones

MARGIN = 0.05
ZONE_MEAN = "zone_mean"
_LOCATORS: dict[str, Any] = {cls.kind: cls for cls in (ForegroundLocator, TemplateLocator, AnchorLocator)}


@dataclass(frozen=True, eq=False)
class Prepared:
    """An input u8[H,W,3], the pose of the part in it (None: the whole image), and the way back into the original."""

    image: Image
    pose: Pose | None
    transform: Transform


@dataclass(frozen=True)
class Geometry:
    """How an image becomes the input: a locator (None: the whole image), the input's (height, width), the expected poses.

    ``image_size`` is that of the normal images; whole images of any size are taken. ``zones`` say what of the input is ignored:
    ``prepare`` replaces it. ``roi`` is the region that the normal images were cut to; a file is cut by ``region_of`` before
    ``prepare``, a frame by the view of the run. ``gains`` of the channels bring the light of a later lot to that of the
    training; parts are located without them.
    """

    method: Method
    image_size: tuple[int, int]
    size: tuple[int, int]
    locator: Locator | None = None
    expected: PoseRange | None = None
    margin: float = MARGIN
    zones: AppliedZones | None = None
    roi: Roi | None = None
    gains: Gains | None = None

    @classmethod
    def square(cls, size: tuple[int, int]) -> Geometry:
        """Return the geometry that squashes whole images to ``size`` (height, width)."""
        return cls("square", size, size)

    @property
    def locates(self) -> bool:
        """Whether parts are located; else the input shows the whole image."""
        return self.locator is not None

    def region_of(self, image: Image) -> Image:
        """Return what is judged of a camera's image u8[H,W,3]: its region, or all of it."""
        return image if self.roi is None else self.roi.cut(image)

    def prepare(self, image: Image) -> Prepared | NotLocated:
        """Return the input made of an image u8[H,W,3], or why the part was not located."""
        if self.locator is None:
            return self._whole(image)
        return self._cut(image, self.locator.locate(image))

    def prepare_all(self, image: Image) -> list[Prepared | NotLocated]:
        """Return the input of every part in view, from left to right; nothing in view gives one reason."""
        if self.locator is None:
            return [self._whole(image)]
        return [self._cut(image, location) for location in self.locator.locate_all(image)]

    def without_ignored(self, image: Image) -> Image:
        """Return an input u8[H,W,3] whose ignored pixels are those of the mean normal image."""
        return image if self.zones is None else self.zones.replaced(image)

    @property
    def keeps_pixels(self) -> bool:
        """Whether the input is the cut-out as it is: nothing of it is ignored, and it has no gains."""
        return self.zones is None and self.gains is None

    def input_of(self, image: Image) -> Image:
        """Return the input made of a cut-out u8[H,W,3]: in the light of the training, what is ignored replaced."""
        return self.without_ignored(image if self.gains is None else with_gains(image, self.gains))

    def in_camera_light(self, image: Image) -> Image:
        """Return an input u8[H,W,3] in the light that the camera sees it in: gains taken back."""
        return image if self.gains is None else with_inverse_gains(image, self.gains)

    @property
    def inspected(self) -> NDArray[np.bool_] | None:
        """Which pixels of the input are inspected, bool[H,W]; None where all are."""
        return None if self.zones is None else self.zones.inspected

    def locate(self, image: Image) -> Location:
        """Return the pose of the part; without a locator, that of the whole image."""
        if self.locator is not None:
            return self.locator.locate(image)
        return Pose.of_image((image.shape[0], image.shape[1]))

    def transform(self, pose: Pose) -> Transform:
        """Return the way between an image of the normal images' size and the input, for a pose of ``locate``."""
        return transform_of(pose if self.locator is None else pose.grown(self.margin), self.image_size, self.size)

    def outlines(self, pose: Pose) -> list[Points]:
        """Return what shows a located part in the image: the corners of its box and, where it is known, its outline."""
        return [pose.corners(), *([self.locator.contour(pose)] if isinstance(self.locator, ForegroundLocator) else [])]

    def part_mask(self) -> NDArray[np.bool_] | None:
        """Return where an undamaged part lies in the input, bool[H,W]; None where the geometry knows no outline of it."""
        if not isinstance(self.locator, ForegroundLocator):
            return None
        pose = Pose(0.0, 0.0, 0.0, *self.locator.box)  # any pose: the part lies alike in all inputs
        outline = self.transform(pose).to_cut_out(self.locator.contour(pose))
        drawn = cv2.fillPoly(np.zeros(self.size, np.uint8), [np.rint(outline).astype(np.int32)], 1)
        return np.asarray(drawn > 0)

    def _whole(self, image: Image) -> Prepared:
        source = (image.shape[0], image.shape[1])
        return Prepared(self.input_of(resize(image, self.size)), None, resizing(source, self.size))

    def _cut(self, image: Image, location: Location) -> Prepared | NotLocated:
        if isinstance(location, NotLocated):
            return location
        transform = self.transform(location)
        return Prepared(self.input_of(transform.cut(image)), location, transform)

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return plain values and arrays that ``from_state`` makes the same geometry of."""
        own, arrays = ({}, {}) if self.locator is None else self.locator.state()
        expected = None if self.expected is None else self.expected.as_dict()
        values: dict[str, Any] = {
            "method": self.method, "image_size": list(self.image_size), "size": list(self.size), "margin": self.margin,
            "expected": expected, "locator": own,
        }  # fmt: skip
        if self.roi is not None:
            values["roi"] = [self.roi.x, self.roi.y, self.roi.width, self.roi.height]
        if self.gains is not None:
            values["gains"] = list(self.gains)
        if self.zones is not None:
            return {**values, "zones": self.zones.zones.as_dict()}, {**arrays, ZONE_MEAN: self.zones.mean}
        return values, arrays

    @classmethod
    def from_state(cls, values: dict[str, Any], arrays: Arrays) -> Geometry:
        """Return the geometry that ``state`` described; BadInput where that is not possible."""
        try:
            return cls._from_state(values, arrays)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise BadInput(f"it describes no geometry ({type(error).__name__}: {error})") from error

    @classmethod
    def _from_state(cls, values: dict[str, Any], arrays: Arrays) -> Geometry:
        (image_high, image_wide), (high, wide) = values["image_size"], values["size"]
        own, expected, method = values["locator"], values["expected"], values["method"]
        if method not in METHODS or method == "auto" or (method in WHOLE) == bool(own):
            raise ValueError(f"method {method!r} with {'a' if own else 'no'} locator")
        return cls(method, (int(image_high), int(image_wide)), (int(high), int(wide)),
                   _LOCATORS[own["kind"]].from_state(own, arrays) if own else None,
                   PoseRange.from_dict(expected) if expected else None, float(values["margin"]),
                   _zones(values, arrays, (high, wide)), _roi(values), _gains(values))


def _roi(values: dict[str, Any]) -> Roi | None:
    """Return the region of a state; None without one."""
    if "roi" not in values:
        return None
    x, y, width, height = values["roi"]
    if not all(isinstance(side, int) and 0 <= side <= MAX_SIDE for side in (x, y, width, height)) or min(width, height) < 1:
        raise ValueError(f"the region {values['roi']!r:.60}")
    return Roi(x, y, width, height)


def _gains(values: dict[str, Any]) -> Gains | None:
    """Return the gains of a state; None without them."""
    if "gains" not in values:
        return None
    if not is_gains(values["gains"]):
        raise ValueError(f"the gains {values['gains']!r:.60}")
    red, green, blue = map(float, values["gains"])
    return red, green, blue


def _zones(values: dict[str, Any], arrays: Arrays, size: tuple[int, int]) -> AppliedZones | None:
    """Return the zones of a state on an input of ``size``; None without them."""
    if "zones" not in values:
        return None
    mean = arrays[ZONE_MEAN]
    if mean.dtype != np.uint8 or mean.shape != (*size, 3):
        raise ValueError(f"the mean image is {mean.dtype} {list(mean.shape)}, but the input is {list(size)}")
    return AppliedZones(parse_zones(values["zones"], "zones"), mean)


def example_frame(geometry: Geometry, image: Image, ground: Image | None = None) -> Image:
    """Return an input u8[H,W,3] drawn back into an image of the normal images' size, in the middle of the expected poses.

    Around it is ``ground``; without one, what stands at the input's border. Its light is that of the camera.
    """
    image = geometry.in_camera_light(image)
    if geometry.locator is None:
        return image
    high, wide = geometry.image_size
    expected, (width, height) = geometry.expected, geometry.locator.box
    pose = Pose((wide - 1) / 2, (high - 1) / 2, 0.0, width, height)
    if expected is not None:
        scale = sum(expected.scale) / 2
        pose = Pose(sum(expected.x) / 2, sum(expected.y) / 2, expected.angle, width * scale, height * scale, scale)
    transform = geometry.transform(pose)
    drawn = cv2.warpAffine(image, transform.inverse[:2], (wide, high), borderMode=cv2.BORDER_REPLICATE)
    inside = transform.mask_to_image(np.ones(geometry.size, np.uint8)) > 0
    around = drawn if ground is None else ground
    return np.where(inside[..., None], drawn, around).astype(np.uint8, copy=False)
