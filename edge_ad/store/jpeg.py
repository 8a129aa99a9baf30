"""Text inside a JPEG file: the comment segment of ISO/IEC 10918-1, which every viewer skips."""

from __future__ import annotations

from edge_ad.errors import BadInput

MAX_LENGTH = 65_533  # bytes: the length of a segment has 16 bits and counts itself

_START, _COMMENT, _SCAN = b"\xff\xd8", 0xFE, 0xDA


def with_comment(jpeg: bytes, text: str) -> bytes:
    """Return the JPEG file with ``text`` as its first segment; BadInput for no JPEG or more than 65,533 bytes of UTF-8.
    """
    data = text.encode()
    if not jpeg.startswith(_START) or len(data) > MAX_LENGTH:
        raise BadInput(f"a comment of {len(data)} bytes needs a JPEG file and at most {MAX_LENGTH} bytes")
    return _START + bytes((0xFF, _COMMENT)) + (len(data) + 2).to_bytes(2, "big") + data + jpeg[2:]


def comment_of(jpeg: bytes) -> str | None:
    """Return the first comment before the image itself; None without one, and for a damaged or cut off beginning."""
    offset = 2 if jpeg.startswith(_START) else len(jpeg)
    while offset + 4 <= len(jpeg) and jpeg[offset] == 0xFF and jpeg[offset + 1] != _SCAN:
        length = int.from_bytes(jpeg[offset + 2 : offset + 4], "big")
        if length < 2 or offset + 2 + length > len(jpeg):
            return None
        if jpeg[offset + 1] == _COMMENT:
            try:
                return jpeg[offset + 4 : offset + 2 + length].decode()
            except UnicodeDecodeError:
                return None
        offset += 2 + length
    return None
