"""What a camera driver has to offer: open, grab, close. Hanging, failing and coming back are handled above it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from edge_ad.camera.frames import Image
from edge_ad.camera.settings import CameraSettings


@dataclass(frozen=True, eq=False)
class RawFrame:
    """One image from a driver: u8[H,W,3] RGB, monotonic and wall seconds, the camera's own clock in seconds.

    ``corrupt`` tells why there is no image although the camera sent one; ``image`` is None then. ``number`` is the
    camera's own count of frames.
    """

    image: Image | None
    captured_at: float
    captured_wall: float
    stamp: float | None = None
    corrupt: str | None = None
    number: int | None = None


@dataclass(frozen=True)
class Failure:
    """The handle is of no more use, and why, without credentials."""

    reason: str


Grab = RawFrame | Failure | None


class Driver(Protocol):
    """An open camera; one thread owns it."""

    @property
    def fps(self) -> float | None:
        """Nominal frames per second, or None."""

    @property
    def settings(self) -> CameraSettings:
        """What the camera was found to be set to when it was opened."""

    def grab(self) -> Grab:
        """Block for the next image; None when nothing came but the camera is well (it waits for a trigger)."""

    def abort(self) -> None:
        """End a ``grab`` that hangs, if that can be done from another thread; else do nothing."""

    def close(self) -> None:
        """Release the camera."""


Opener = Callable[[], Driver]
"""Opens a camera; raises BadInput or DeviceFault with the reason."""
