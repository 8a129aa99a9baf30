"""Lossless pictures that say when and by which camera they were taken."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

import cv2
import numpy as np

from edge_ad.camera.frames import Image
from edge_ad.errors import DeviceFault

_IHDR_END = 8 + 4 + 4 + 13 + 4


def encode_png(image: Image, texts: Mapping[str, str]) -> bytes:
    """Return u8[H,W,3] RGB as a PNG with ``texts`` as UTF-8 text chunks (iTXt), keyword by keyword."""
    done, data = cv2.imencode(".png", np.ascontiguousarray(image[:, :, ::-1]), [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not done:
        raise DeviceFault("the picture cannot be encoded as PNG by this OpenCV; install opencv-python-headless")
    plain = data.tobytes()
    chunks = b"".join(_chunk(b"iTXt", _text(key, value)) for key, value in texts.items())
    return plain[:_IHDR_END] + chunks + plain[_IHDR_END:]


def read_texts(data: bytes) -> dict[str, str]:
    """Return the text chunks that ``encode_png`` wrote; empty for anything else."""
    texts: dict[str, str] = {}
    position = 8
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        body = data[position + 8 : position + 8 + length]
        if kind == b"iTXt":
            key, _, rest = body.partition(b"\0")
            texts[key.decode("latin-1")] = rest[2:].split(b"\0", 2)[-1].decode("utf-8", "replace")
        position += 12 + length
    return texts


def _text(key: str, value: str) -> bytes:
    keyword = key.encode("latin-1", "replace")[:79]
    # No compression, no language, no translated keyword.
    return keyword + b"\0\0\0\0\0" + value.replace("\0", "").encode("utf-8")


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
