"""What the bytes of an image file say about it, without decoding: its size, and whether the file is whole."""

from __future__ import annotations

import struct
import zlib

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
            raise HeaderError("it holds no picture")
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
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (first,) = struct.unpack_from(order + "I", tiff, 4)
        (entries,) = struct.unpack_from(order + "H", tiff, first)
        for entry in range(entries):
            tag, kind, count, value = struct.unpack_from(order + "HHIH", tiff, first + 2 + 12 * entry)
            if (tag, kind, count) == (0x0112, 3, 1):
                return int(value)
    except struct.error:  # a damaged tag: OpenCV leaves such an image as it is, too
        return 1
    return 1


def _bmp(data: bytes) -> tuple[int, int]:
    offset, header = struct.unpack_from("<II", data, 10)
    if header < 40:
        raise HeaderError("its BMP header is of a kind nobody writes any more")
    width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    row = (width * bits + 31) // 32 * 4
    if compression in (0, 3) and len(data) < offset + row * abs(height):
        raise HeaderError(TRUNCATED)
    return width, abs(height)
