"""The rectangle of a camera's image that is judged: cut out of every image before anything else looks at it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_ad.errors import BadInput
from edge_ad.geometry.pose import Image


@dataclass(frozen=True)
class Roi:
    """A rectangle in pixels of the camera's image, from its upper left corner."""

    x: int
    y: int
    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.x},{self.y},{self.width},{self.height}"

    @property
    def size(self) -> tuple[int, int]:
        """Its height and width."""
        return self.height, self.width

    def cut(self, image: Image) -> Image:
        """Return the region of an image u8[H,W,3]; one of the region's own size was cut before. BadInput where it does not fit."""
        high, wide = image.shape[:2]
        if (high, wide) == self.size:
            return image
        if self.x + self.width > wide or self.y + self.height > high:
            raise BadInput(
                f"an image of {wide} x {high} pixels does not hold the region {self}: give images as the camera takes them, or "
                "the region alone"
            )
        return np.ascontiguousarray(image[self.y : self.y + self.height, self.x : self.x + self.width])
