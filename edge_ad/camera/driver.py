"""What a camera driver has to offer (open, grab, close), and the conversion of raw pixel formats to RGB.

Hanging, failing and coming back are handled by ``live``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
import numpy.typing as npt

from edge_ad.camera.frames import Image
from edge_ad.camera.opencv import BAYER_TO_RGB, decode_frame
from edge_ad.camera.settings import CameraSettings


@dataclass(frozen=True, eq=False)
class RawFrame:
    """One image from a driver: u8[H,W,3] RGB, monotonic and wall seconds, the camera's own clock in seconds.

    ``corrupt`` tells why there is no image although the camera sent one; ``image`` is None then. ``number`` is the
    camera's own count of frames, ``adjustment`` that of the last change of settings which the image shows for certain.
    """

    image: Image | None
    captured_at: float
    captured_wall: float
    stamp: float | None = None
    corrupt: str | None = None
    number: int | None = None
    adjustment: int = 0


def raw_frame(capture: cv2.VideoCapture, image: npt.NDArray[Any]) -> RawFrame:
    """Return what a capture has just read as a frame of now, with the time that its stream tells, if it tells one."""
    now, wall = time.monotonic(), time.time()
    stamp = float(capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000.0
    pixels, corrupt = decode_frame(image)
    return RawFrame(pixels, now, wall, stamp if stamp > 0 else None, corrupt)


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


@runtime_checkable
class Adjustable(Protocol):
    """A driver that sets its camera while that gives images."""

    def adjust(self, asked: CameraSettings) -> None:
        """Set what is asked for and read ``settings`` back; DeviceFault names what the camera does not take."""


Opener = Callable[[], Driver]
"""Opens a camera; raises BadInput or DeviceFault with the reason."""


_MONO_BITS = {"Mono8": 8, "Mono10": 10, "Mono12": 12, "Mono14": 14, "Mono16": 16}
_PACKED = ("Mono12p", "Mono12Packed")
_BAYER = {f"Bayer{first}": code for first, code in BAYER_TO_RGB.items()}
_BAYER_BITS = (8, 10, 12, 16)
_COLOUR = {"RGB8": None, "RGB8Packed": None, "BGR8": cv2.COLOR_BGR2RGB, "BGR8Packed": cv2.COLOR_BGR2RGB}

FORMATS: tuple[str, ...] = (
    *_MONO_BITS,
    *_PACKED,
    *(f"{pattern}{bits}" for pattern in _BAYER for bits in _BAYER_BITS),
    *_COLOUR,
)


def conversion(pixel_format: str) -> str:
    """Return in words what ``to_image`` does with a format; ValueError for one it does not know."""
    if pixel_format in _COLOUR:
        return f"{pixel_format}: 8 bits a channel, taken as they are, in RGB order"
    bits = _bits(pixel_format)
    depth = "taken as they are" if bits == 8 else f"divided by {2 ** (bits - 8)} to 8 bits"
    if pixel_format.startswith("Bayer"):
        return f"{pixel_format}: {bits}-bit values {depth}, colours interpolated bilinearly from the {pixel_format[5:7]} mosaic"
    return f"{pixel_format}: {bits}-bit grey values {depth}, copied into three equal channels"


def to_image(raw: npt.NDArray[Any], width: int, height: int, pixel_format: str) -> Image:
    """Return u8[height,width,3] RGB from the values of one image as the camera sent them.

    ``raw`` is flat: u8 (also for packed formats and, in pairs of bytes with the lower first, for deeper ones) or u16.
    More than 8 bits are divided to 8; one mosaic is interpolated bilinearly. ValueError tells an unknown format or a
    wrong count of values.
    """
    if pixel_format in _COLOUR:
        colours = _shaped(raw, (height, width, 3), pixel_format)
        swap = _COLOUR[pixel_format]
        return colours.copy() if swap is None else np.asarray(cv2.cvtColor(colours, swap), np.uint8)
    bits = _bits(pixel_format)
    values: npt.NDArray[Any]
    if pixel_format in _PACKED:
        values = _unpack12(raw, width * height, pixel_format)
    elif bits > 8 and raw.dtype == np.uint8:
        values = np.ascontiguousarray(raw).view("<u2")
    else:
        values = raw
    grey = _shaped((values >> (bits - 8)).astype(np.uint8) if bits > 8 else values, (height, width), pixel_format)
    code = _BAYER[pixel_format[:7]] if pixel_format.startswith("Bayer") else cv2.COLOR_GRAY2RGB
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(grey), code), np.uint8)


def _bits(pixel_format: str) -> int:
    if pixel_format in _PACKED:
        return 12
    if pixel_format in _MONO_BITS:
        return _MONO_BITS[pixel_format]
    digits = pixel_format[7:]
    if pixel_format[:7] in _BAYER and digits.isdigit() and int(digits) in _BAYER_BITS:
        return int(digits)
    raise ValueError(f"the pixel format {pixel_format!r} is not known: set the camera to one of {', '.join(FORMATS)}")


def _shaped(values: npt.NDArray[Any], shape: tuple[int, ...], pixel_format: str) -> npt.NDArray[Any]:
    wanted = int(np.prod(shape))
    if values.size < wanted:
        raise ValueError(f"{values.size} values of {pixel_format} are too few for {shape[1]} x {shape[0]} pixels")
    return values.reshape(-1)[:wanted].reshape(shape)


def _unpack12(raw: npt.NDArray[Any], count: int, pixel_format: str) -> npt.NDArray[np.uint16]:
    """Two values of 12 bits in three bytes: ``p`` keeps the lower bits first, ``Packed`` (GigE Vision) the upper."""
    flat = np.ascontiguousarray(raw).view(np.uint8).reshape(-1)
    octets = flat[: len(flat) // 3 * 3].reshape(-1, 3).astype(np.uint16)
    if pixel_format == "Mono12p":
        first, second = octets[:, 0] | (octets[:, 1] & 15) << 8, octets[:, 1] >> 4 | octets[:, 2] << 4
    else:
        first, second = octets[:, 0] << 4 | octets[:, 1] & 15, octets[:, 2] << 4 | octets[:, 1] >> 4
    return np.stack([first, second], axis=1).reshape(-1)[:count]
