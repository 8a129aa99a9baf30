"""What every locator is: it finds parts in an image, and is data (arrays and plain values) that a bundle can store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, TypeAlias

from numpy.typing import NDArray

from edge_ad.geometry.pose import Image, Location

Arrays: TypeAlias = Mapping[str, NDArray[Any]]


class Locator(Protocol):
    """Finds parts in images u8[H,W,3] (RGB) of the size it was fitted to."""

    kind: ClassVar[str]

    @property
    def box(self) -> tuple[float, float]:
        """Width and height of the part's box in pixels of the original, at scale 1."""

    def locate(self, image: Image) -> Location:
        """Return the pose of the one part that is expected, or why there is none."""

    def locate_all(self, image: Image) -> list[Location]:
        """Return every part in view, from left to right; a reason for each part that could not be posed."""

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return plain values and arrays from which the same locator can be made again."""
