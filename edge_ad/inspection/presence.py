"""Is there something to judge? A part that lies still, told from an empty or moving station by small thumbnails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.camera.frames import Image
from edge_ad.errors import BadInput
from edge_ad.geometry.geometry import Geometry
from edge_ad.geometry.pose import Pose

SIDE = 32
MIN_SIMILARITY = 0.45
MIN_FOREGROUND = 0.02
_MATCH_SIDE = 16
_NEAR = 7
_LUMA = (0.299, 0.587, 0.114)

Thumb = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Observation:
    """What one frame shows: a part or not, at rest or not; ``thumb`` f32[32,32] grey, ``sharpness`` for comparing."""

    present: bool
    still: bool
    thumb: Thumb
    sharpness: float


class Matcher(Protocol):
    """Tells a part from no part on an image u8[H,W,3] and its thumbnail f32[32,32]."""

    def present(self, thumb: Thumb, image: Image) -> bool:
        """Whether a part is in view."""


def thumbnail(image: Image) -> Thumb:
    """Return the grey thumbnail f32[32,32] of an image u8[H,W,3] by area averaging."""
    small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    return np.asarray(small @ np.array(_LUMA, np.float32), np.float32)


def difference(first: Thumb, second: Thumb) -> float:
    """Return the mean absolute difference in grey levels; the light as a whole may change."""
    return float(np.abs((first - first.mean()) - (second - second.mean())).mean())


class PresenceDetector:
    """Looks at the frames of one camera in their order.

    A frame is still when it and the ``rest - 1`` frames before it differ by at most ``motion_limit`` grey levels (mean
    over the thumbnail), each from the one before. Sensor noise on thumbnails is a fraction of a grey level.
    """

    def __init__(
        self, matcher: Matcher, motion_limit: float = 1.0, rest: int = 3, *, shown: Callable[[Image], Image] | None = None
    ) -> None:
        self._matcher = matcher
        self._shown = shown
        self._limit = motion_limit
        self._rest = rest
        self._last: Thumb | None = None
        self._quiet = 0

    def look(self, image: Image) -> Observation:
        """Return what an image u8[H,W,3] (the region of interest) shows, by what ``shown`` makes of it."""
        image = image if self._shown is None else self._shown(image)
        thumb = thumbnail(image)
        if self._last is None or difference(thumb, self._last) > self._limit:
            self._quiet = 1
        else:
            self._quiet += 1
        self._last = thumb
        still = self._quiet >= self._rest
        return Observation(self._matcher.present(thumb, image), still, thumb, _sharpness(image) if still else 0.0)

    def forget(self) -> None:
        """Start again after frames were missed: what is seen next may have moved."""
        self._last, self._quiet = None, 0


class LikeNormal:
    """A part is what looks like one of the normal images: their thumbnails of local contrast correlate well enough.

    ``normal_images`` are images u8[H,W,3] of good parts. The limit is 0.4 times the median correlation of a good with
    the good most like it. BadInput when normal images resemble each other too little to be told from an empty station.
    """

    def __init__(self, normal_images: Sequence[Image]) -> None:
        if len(normal_images) < 2:
            raise BadInput(
                f"presence = settled needs at least 2 good golden images, but the bundle has {len(normal_images)}; train it "
                "again or use learned or trigger"
            )
        self._normal = np.stack([_contrast(thumbnail(good)) for good in normal_images])
        alike = self._normal @ self._normal.T
        np.fill_diagonal(alike, -1.0)
        similarity = float(np.median(alike.max(axis=1)))
        if similarity < MIN_SIMILARITY:
            raise BadInput(
                f"presence = settled cannot work here: the normal images resemble each other by {similarity:.2f} only, at least "
                f"{MIN_SIMILARITY} is needed; use learned (images of the empty station) or trigger"
            )
        self.limit = 0.4 * similarity

    def present(self, thumb: Thumb, image: Image) -> bool:
        """Whether the thumbnail resembles a good."""
        return float((self._normal @ _contrast(thumb)).max()) >= self.limit


class Locatable:
    """A part is what the bundle's locator finds; what it takes for a part without knowing where it lies counts too."""

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry

    def present(self, thumb: Thumb, image: Image) -> bool:
        """Whether the locator sees anything that could be a part."""
        location = self._geometry.locate(np.ascontiguousarray(image))
        return isinstance(location, Pose) or not location.empty


class UnlikeEmpty:
    """A part is what differs from the empty station, whatever it looks like.

    ``empty`` are images u8[H,W,3] of the empty station, ``normal_images`` of good parts. A cell of the thumbnail is
    foreground when it lies outside the range of the empty images by 12 grey levels or more, after its brightness was
    matched; a part covers at least a quarter of the cells that normal images cover. BadInput when normal images do not
    stand out.
    """

    def __init__(self, empty: Sequence[Image], normal_images: Sequence[Image], margin: float = 12.0) -> None:
        if not empty or not normal_images:
            raise BadInput("presence = learned needs at least one image of the empty station and one good")
        table = np.stack([_bright(thumbnail(image)) for image in empty])
        self._low, self._high = table.min(axis=0) - margin, table.max(axis=0) + margin
        covered = [self._share(thumbnail(good)) for good in normal_images]
        self.limit = max(float(np.median(covered)) / 4, MIN_FOREGROUND)
        if float(np.median(covered)) < 4 * MIN_FOREGROUND:
            raise BadInput(
                f"presence = learned cannot work here: normal images differ from the empty station in {np.median(covered):.1%} "
                "of the image only; choose a smaller region of interest (roi) or another ground"
            )

    def present(self, thumb: Thumb, image: Image) -> bool:
        """Whether enough of the thumbnail is not the empty station."""
        return self._share(thumb) >= self.limit

    def _share(self, thumb: Thumb) -> float:
        level = _bright(thumb)
        return float(((level < self._low) | (level > self._high)).mean())


def _sharpness(image: Image) -> float:
    """Return the variance of the Laplacian of every other pixel: comparable between frames of one part only."""
    grey = np.ascontiguousarray(image[::2, ::2, 1])
    return float(cv2.Laplacian(grey, cv2.CV_32F).var())


def _contrast(thumb: Thumb) -> NDArray[np.float32]:
    """Return local contrast f32[256] of unit norm: what light falls where does not count, what lies where does."""
    small = cv2.resize(thumb, (_MATCH_SIDE, _MATCH_SIDE), interpolation=cv2.INTER_AREA)
    values = np.asarray(small - cv2.blur(small, (_NEAR, _NEAR)), np.float32).ravel()
    values = values - values.mean()
    return np.asarray(values / max(float(np.linalg.norm(values)), 1e-6), np.float32)


def _bright(thumb: Thumb) -> Thumb:
    """Return the thumbnail with the median brightness of its border ring brought to 100: lamps age, parts do not."""
    ring = np.concatenate([thumb[:2].ravel(), thumb[-2:].ravel(), thumb[2:-2, :2].ravel(), thumb[2:-2, -2:].ravel()])
    return np.asarray(thumb * (100.0 / max(float(np.median(ring)), 1.0)), np.float32)
