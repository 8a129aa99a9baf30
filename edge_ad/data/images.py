"""Reading and resizing images: the one way used by training, calibration and the camera loop alike.

What the bytes of an image file say about it, without decoding: its size, and whether the file is whole.
"""

from __future__ import annotations

import logging
import re
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edge_ad.errors import BadInput, is_out_of_memory, require
from edge_ad.geometry.cut_out import resize as resize
from edge_ad.utils.files import read_regular

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
TRUNCATED = "it is truncated"
UNKNOWN = "it is not a PNG, JPEG, BMP, TIFF, WebP or PPM image"
EXIF = b"Exif\x00\x00"
TURNED = range(5, 9)  # EXIF orientations that exchange width and height


class HeaderError(ValueError):
    """The bytes are no whole image; the message completes the sentence "FILE cannot be read: ..."."""


def inspect(data: bytes) -> tuple[int, int] | None:
    """Return (width, height) in pixels of a PNG, JPEG or BMP as it is read (turned as its EXIF data say), or
    None for a TIFF, WebP or PPM, whose size only decoding tells.

    Raises HeaderError for an empty, truncated or corrupt file and for any other format. A JPEG is whole when an end
    marker follows its first scan, a PNG when every chunk has its check sum and the end chunk is there, a BMP and a WebP
    when no byte is missing.
    """
    if not data:
        raise HeaderError("it is empty")
    try:
        if data.startswith(PNG_SIGNATURE):
            return _png(data)
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data)
        if data.startswith(b"BM"):
            return _bmp(data)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            if len(data) < 8 + int(struct.unpack_from("<I", data, 4)[0]):
                raise HeaderError(TRUNCATED)
            return None
    except struct.error as error:
        raise HeaderError(TRUNCATED) from error
    if data[:4] in (b"II*\x00", b"MM\x00*"):
        return None
    if data[:4] in (b"II+\x00", b"MM\x00+"):
        raise HeaderError("it is a BigTIFF, which is not read here: save it as a TIFF below 4 GB, or as a PNG")
    if data[:2] in (b"P2", b"P3", b"P5", b"P6"):
        return None
    raise HeaderError(UNKNOWN)


def _stated_size(data: bytes) -> tuple[int, int] | None:
    """Return (width, height), as stored, that a TIFF or PPM states; None for a damaged one and any other format."""
    if data[:2] in TIFF_SIGNATURES:
        tags = _tags(data)
        return (tags[0x100], tags[0x101]) if {0x100, 0x101} <= tags.keys() else None
    numbers = PNM_SIZE.match(data[:1000])
    return None if numbers is None else (int(numbers[1]), int(numbers[2]))


def png_orientation(data: bytes) -> int:
    """Return the EXIF orientation 1 to 8 of a PNG that ``inspect`` took; 1 where it tells none."""
    position = len(PNG_SIGNATURE)
    while position < len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"eXIf":
            return _orientation(data[position + 8 : position + 8 + length])
        position += 12 + length
    return 1


def _png(data: bytes) -> tuple[int, int]:
    position, size, turned = len(PNG_SIGNATURE), None, False
    while position < len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        body_end = position + 8 + length
        (checksum,) = struct.unpack_from(">I", data, body_end)
        if zlib.crc32(data[position + 4 : body_end]) != checksum:
            raise HeaderError(f"its {kind.decode('ascii', 'replace')} chunk is corrupt")
        if kind == b"IHDR":
            size = struct.unpack_from(">II", data, position + 8)
        if kind == b"eXIf":
            turned = _orientation(data[position + 8 : body_end]) in TURNED
        if kind == b"IEND" and size is not None:
            width, height = int(size[0]), int(size[1])
            return (height, width) if turned else (width, height)
        position = body_end + 4
    raise HeaderError(TRUNCATED)


def _jpeg(data: bytes) -> tuple[int, int]:
    position, size, turned = 2, None, False
    while True:
        lead, marker = struct.unpack_from("BB", data, position)
        if lead != 0xFF:
            raise HeaderError("its JPEG header is corrupt")
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:  # markers without a length
            position += 2
            continue
        if marker == 0xD9:
            raise HeaderError("it holds no image")
        (length,) = struct.unpack_from(">H", data, position + 2)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, position + 5)
            size = (width, height)
        if marker == 0xDA:
            width, height = _jpeg_end(data, position, size)
            return (height, width) if turned else (width, height)
        if marker == 0xE1:
            segment = data[position + 4 : position + 2 + length]
            turned = turned or (segment[:6] == EXIF and _orientation(segment[6:]) in TURNED)
        position += 2 + length


def _jpeg_end(data: bytes, scan: int, size: tuple[int, int] | None) -> tuple[int, int]:
    # Inside a scan a byte 0xFF is always followed by 0 or a restart marker, so an end marker here is a real one.
    if size is None:
        raise HeaderError("its JPEG header is corrupt")
    if data.find(b"\xff\xd9", scan) < 0:
        raise HeaderError(TRUNCATED)
    return size


def _orientation(tiff: bytes) -> int:
    """Return the orientation 1 to 8 that EXIF data give, 1 where they give none (TIFF 6.0, tag 0x112)."""
    return _tags(tiff).get(0x112, 1)


def _tags(tiff: bytes) -> dict[int, int]:
    """Return the single whole numbers of the first directory of a TIFF, up to one that is damaged."""
    result: dict[int, int] = {}
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return result
    try:
        (first,) = struct.unpack_from(order + "I", tiff, 4)
        (entries,) = struct.unpack_from(order + "H", tiff, first)
        for offset in range(first + 2, first + 2 + 12 * entries, 12):
            tag, kind, count = struct.unpack_from(order + "HHI", tiff, offset)
            if count == 1 and kind in (3, 4):  # SHORT or LONG
                (result[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), tiff, offset + 8)
    except struct.error:  # OpenCV leaves such an image as it is, too
        pass
    return result


def _bmp(data: bytes) -> tuple[int, int]:
    offset, header = struct.unpack_from("<II", data, 10)
    if header < 40:
        raise HeaderError("its BMP header is of a kind nobody writes any more")
    width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    row = (width * bits + 31) // 32 * 4
    if compression in (0, 3) and len(data) < offset + row * abs(height):
        raise HeaderError(TRUNCATED)
    return width, abs(height)


SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})
MAX_PIXELS = 200_000_000
MAX_BYTES = 1 << 30
DEPTHS = (10, 12, 14, 16)
"""Bits a value that industrial cameras give, and that files of 16 bits then hold."""

HEAD_BYTES = 32  # enough for the signature of every format and the bit depth of a PNG
JPEG_SIGNATURE = b"\xff\xd8"
TIFF_SIGNATURES = (b"II", b"MM")
PNM_SIZE = re.compile(rb"P[2356]\s+(?:#[^\n]*\n\s*)*(\d{1,9})\s+(?:#[^\n]*\n\s*)*(\d{1,9})\s")
READABLE = (np.uint8, np.uint16)
OPENCV = tuple(int(part) for part in cv2.__version__.split(".")[:2])

Image = npt.NDArray[np.uint8]


def list_images(folder: Path) -> list[Path]:
    """Return the image files directly in ``folder``, sorted by name; hidden files and other suffixes are left out.

    Raises BadInput when the folder does not exist or cannot be read.
    """
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise BadInput(f"cannot list {folder}: {error.strerror}; name an existing folder of images") from error
    return [path for path in entries if path.suffix.lower() in SUFFIXES and path.name[0] != "." and path.is_file()]


def check_image(path: Path) -> tuple[int, int]:
    """Return (width, height) in pixels of an image file without decoding it where its format allows that.

    Raises BadInput naming the file when it is unreadable, truncated, corrupt or larger than MAX_PIXELS.
    """
    data, size = _load(path)
    if size is None:
        height, width = _decode(path, data, cv2.IMREAD_COLOR).shape[:2]
        return width, height
    return size


def read_image(path: Path, bits: int = 16) -> Image:
    """Return the image in ``path`` as u8[H,W,3] in RGB order.

    Grey becomes three equal channels, alpha is dropped, EXIF orientation is applied. The values of a file of 16 bits
    are divided by 2^(``bits`` - 8): cameras of 10, 12 or 14 bits are often stored that way without being scaled up.
    Raises BadInput naming the file when it is unreadable, truncated, corrupt, larger than MAX_PIXELS or holds values
    beyond ``bits``.
    """
    data, _ = _load(path)
    if bits == 16:
        return np.ascontiguousarray(_decode(path, data, cv2.IMREAD_COLOR)[:, :, ::-1])
    decoded = _decode_deep(path, data)
    if decoded.dtype == np.uint16:
        if decoded.max() >= 1 << bits:
            raise BadInput(
                f"{path} holds values up to {decoded.max()} where {bits} bits allow {(1 << bits) - 1}: it is from another "
                "camera or another export than the images of the training"
            )
        decoded = (decoded >> (bits - 8)).astype(np.uint8)
    return np.ascontiguousarray(decoded[:, :, ::-1])


def significant_bits(paths: Sequence[Path]) -> int:
    """Return how many bits the values of 16-bit files use over a whole set: the least of DEPTHS that holds them all.

    16 where no file has 16 bits. One image cannot tell, a dark one looks like one of fewer bits; so the set is asked.
    Files that cannot be read are passed over.
    """
    greatest = 0
    for path in paths:
        try:
            with path.open("rb") as stream:  # a whole read would check every file a second time
                if not _may_be_deep(stream.read(HEAD_BYTES)):
                    continue
            decoded = _decode_deep(path, _load(path)[0])
        except (OSError, BadInput):
            continue
        if decoded.dtype == np.uint16:
            greatest = max(greatest, int(decoded.max()))
    return next(bits for bits in DEPTHS if greatest < 1 << bits) if greatest else 16


def warn_depth(bits: int, expected: int, folder: Path) -> None:
    """Warn where 16-bit images of a folder use fewer ``bits`` than a bundle reads: they are dark to it."""
    if bits < expected:
        logging.getLogger(__name__).warning(
            "no value of the 16-bit images in %s is above %d, but the bundle reads %d bits, so they are dark to it: store them "
            "as the images of the training were, or train on them",
            folder,
            (1 << bits) - 1,
            expected,
        )


def read_mask(path: Path, background: tuple[int, int, int] | None = None) -> Image:
    """Return a mask file as u8[H,W] with its stored values (no scaling); BadInput as for read_image.

    With the colour (red, green, blue) of the ``background`` the values are 0 there and 255 elsewhere.
    """
    data, _ = _load(path)
    mask = _decode(path, data, cv2.IMREAD_UNCHANGED if background is None else cv2.IMREAD_COLOR)
    if background is not None:
        elsewhere = (mask != np.array(background[::-1], np.uint8)).any(axis=2)
        return np.where(elsewhere, 255, 0).astype(np.uint8)
    return np.ascontiguousarray(mask if mask.ndim == 2 else mask[:, :, :3].max(axis=2))


def read_thumbnail(path: Path, side: int, bits: int = 16) -> Image:
    """Return a grey thumbnail u8[side,side] of an image file, decoded at an eighth of its size where the format
    allows; ``bits`` as for read_image.
    """
    if bits != 16:
        return resize(np.asarray(cv2.cvtColor(read_image(path, bits), cv2.COLOR_RGB2GRAY), np.uint8), (side, side))
    data, size = _load(path)
    reduced = size is not None and min(size) >= 8 * side
    return resize(
        _decode(path, data, cv2.IMREAD_REDUCED_GRAYSCALE_8 if reduced else cv2.IMREAD_GRAYSCALE), (side, side)
    )


def decode_jpeg(data: bytes) -> Image:
    """Return a JPEG from memory as u8[H,W,3] in RGB order; HeaderError when it is truncated, damaged or no JPEG."""
    if not data.startswith(JPEG_SIGNATURE):
        raise HeaderError("it is not a JPEG image")
    size = inspect(data)
    if size is not None and size[0] * size[1] > MAX_PIXELS:
        raise HeaderError(f"it is {size[0]} x {size[1]} pixels, and {MAX_PIXELS:,} are allowed")
    check_jpeg(data)
    decoded = _pixels(data, cv2.IMREAD_COLOR)
    if decoded is None:
        raise HeaderError("it is corrupt")
    return np.ascontiguousarray(decoded[:, :, ::-1])


def check_jpeg(data: bytes) -> None:
    """Raise HeaderError when the entropy-coded data of a JPEG are damaged anywhere.

    OpenCV's decoder only warns of that, on stderr, and fills the rest with grey. Here every bit is decoded, at an
    eighth of the size (4 ms for 1920 x 1080 where the full decoding takes 16). What still decodes cannot be seen: a few
    changed bytes after which the code words happen to fall into step again.
    """
    simplejpeg = require("simplejpeg", extra="cpu", needed_by="reading a JPEG image")
    scaled = {"min_height": 1, "min_width": 1, "min_factor": 8}
    try:
        simplejpeg.decode_jpeg(data, "GRAY", fastdct=True, fastupsample=True, **scaled)
    except ValueError as error:
        raise HeaderError(f"its JPEG data are damaged ({error})") from error


def _load(path: Path) -> tuple[bytes, tuple[int, int] | None]:
    """Return the bytes of an image file that passed the checks, and its (width, height) where the header tells it."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadInput(f"{path} cannot be read: it is larger than 1 GiB; store a smaller image")
        data = read_regular(path)
        size = inspect(data)
        if data.startswith(JPEG_SIGNATURE):
            check_jpeg(data)
    except OSError as error:
        raise BadInput(
            f"{path} cannot be read: {error.strerror or error}; check the path and its permissions"
        ) from error
    except HeaderError as error:
        raise BadInput(f"{path} cannot be read: {error}; replace the file or take it out of the folder") from error
    stated = size or _stated_size(data)
    if stated is not None and not 0 < stated[0] * stated[1] <= MAX_PIXELS:
        raise BadInput(
            f"{path} is {stated[0]} x {stated[1]} pixels; 1 to {MAX_PIXELS:,} pixels are allowed, so shrink it first"
        )
    return data, size


def _may_be_deep(data: bytes) -> bool:
    """Whether a file can have 16 bits a value, as far as its first bytes tell."""
    if data.startswith(PNG_SIGNATURE):
        return data[24:25] == b"\x10"  # the bit depth of the header chunk
    return not data.startswith((JPEG_SIGNATURE, b"BM", b"RIFF"))


def _decode_deep(path: Path, data: bytes) -> npt.NDArray[Any]:
    """Return BGR values as they are stored, u8 or u16 [H,W,3]."""
    decoded = _pixels(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if decoded is None or decoded.dtype not in READABLE:
        raise BadInput(f"{path} cannot be read: {_why_undecoded(data)}")
    _check_pixels(path, decoded.shape)
    return np.asarray(decoded)


def _why_undecoded(data: bytes) -> str:
    """Return why an image could not be read as colours: OpenCV reads one of floating point values only as it is."""
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        decoded = None
    if decoded is None:
        return "it is corrupt; replace the file or take it out of the folder"
    return f"it holds {decoded.dtype} values, and 8 or 16 bits are needed; save it as an 8-bit PNG"


def turn(image: Image, orientation: int) -> Image:
    """Return an image as its EXIF orientation 1 to 8 says it is to be seen (TIFF 6.0, tag 0x112)."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def _pixels(data: bytes, flags: int) -> Image | None:
    """Decode as OpenCV 5 does, whatever the version; None for what cannot be read as colours or grey."""
    try:
        # OpenCV 4 makes colours of floating point values that have nothing to do with them.
        if data[:2] in TIFF_SIGNATURES and _stored(data).dtype not in READABLE:
            return None
        decoded: Any = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        if is_out_of_memory(error):
            raise MemoryError(f"for an image: {error}") from error
        decoded = None
    if decoded is None:
        _check_memory(data)
    # OpenCV 4.5 applies the EXIF orientation of a JPEG, but not of a PNG.
    if decoded is not None and OPENCV < (4, 6) and data.startswith(PNG_SIGNATURE) and flags != cv2.IMREAD_UNCHANGED:
        return turn(decoded, png_orientation(data))
    return None if decoded is None else np.asarray(decoded)


def _check_memory(data: bytes) -> None:
    """Raise MemoryError where the pixels of an image have no room.

    OpenCV gives nothing back then, as for a damaged image: a whole one would be told as corrupt, and left out of a training.
    """
    size = inspect(data) or _stated_size(data)
    if size is not None:
        np.empty((size[1], size[0], 8), np.uint8)  # colours as stored, of 16 bits at most, and as they are wanted


def _check_pixels(path: Path, shape: tuple[int, ...]) -> None:
    if shape[0] * shape[1] > MAX_PIXELS:
        raise BadInput(f"{path} has more than {MAX_PIXELS:,} pixels, the most that is allowed; shrink it first")


def _stored(data: bytes) -> npt.NDArray[Any]:
    """Return the values of an image as they are stored; none, as bytes, where it cannot be decoded at all."""
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return np.empty(0, np.uint8) if decoded is None else np.asarray(decoded)


def _decode(path: Path, data: bytes, flags: int) -> Image:
    decoded = _pixels(data, flags)
    if decoded is None:
        raise BadInput(f"{path} cannot be read: {_why_undecoded(data)}")
    _check_pixels(path, decoded.shape)
    if decoded.dtype != np.uint8:
        raise BadInput(f"{path} holds {decoded.dtype} values where whole numbers are needed; save it as an 8-bit PNG")
    return decoded.astype(np.uint8, copy=False)
