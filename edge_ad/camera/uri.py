"""The URI scheme of sources: what a person typed, split into what it means."""

from __future__ import annotations

import re
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_ad.errors import BadInput

ALLOWED = (
    "a camera number (0), a device (/dev/video0, /dev/v4l/by-id/...), a video file, an image, a folder of images, "
    "file://PATH or synthetic://line?frames=300&seed=1&fps=10"
)

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")


@dataclass(frozen=True)
class Address:
    """A parsed URI: ``target`` is a device path, a file or folder path, or the query of a synthetic source."""

    kind: Literal["device", "path", "synthetic"]
    target: str
    name: str


def parse_uri(uri: str) -> Address:
    """Split a source URI; an unknown scheme, an empty one or a path with a NUL byte raises BadInput."""
    text = uri.strip()
    if not text or "\0" in text:
        raise BadInput(f"{uri!r} names no camera: allowed are {ALLOWED}")
    scheme = _SCHEME.match(text)
    if scheme:
        return _with_scheme(scheme.group(1).lower(), text[scheme.end() :], text)
    if text.isascii() and text.isdigit():
        return Address("device", f"/dev/video{int(text)}", text)
    if text.startswith("/dev/"):
        return Address("device", text, text)
    return Address("path", text, text)


def redact(uri: str) -> str:
    """Return ``uri`` with the user name and password replaced by ``***``."""
    return re.sub(r"(?<=://)[^/?#]*@", "***@", uri)


def _with_scheme(scheme: str, rest: str, text: str) -> Address:
    if scheme == "file":
        path = urllib.parse.unquote(rest)
        path = path[len("localhost") :] if path.startswith("localhost/") else path
        if not path or "\0" in path:
            raise BadInput(f"{text!r} names no file: write file:///folder/video.mp4")
        return Address("device" if path.startswith("/dev/") else "path", path, text)
    if scheme == "synthetic":
        place, _, query = rest.partition("?")
        if place.rstrip("/") != "line":
            raise BadInput(f"{text!r} names no synthetic source: the only one is synthetic://line")
        return Address("synthetic", query, text)
    raise BadInput(f"{redact(text)!r} has the unknown scheme {scheme!r}: allowed are {ALLOWED}")


def parse_query(query: str, allowed: tuple[str, ...]) -> dict[str, str]:
    """Return the settings of a query ``a=1&b=2``; an unknown, repeated or empty one raises BadInput naming it."""
    settings: dict[str, str] = {}
    for piece in filter(None, query.split("&")):
        key, _, value = piece.partition("=")
        if key not in allowed:
            raise BadInput(f"synthetic://line has no setting {key!r}: allowed are {', '.join(allowed)}")
        if key in settings or not value:
            raise BadInput(f"synthetic://line: {key!r} needs exactly one value, as in {key}=1")
        settings[key] = urllib.parse.unquote(value)
    return settings


def parse_ranges(key: str, text: str) -> tuple[range, ...]:
    """Return frame ranges of ``50-80,120`` (both ends included); anything else raises BadInput."""
    ranges = []
    for piece in text.split(","):
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", piece.strip(), re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first:
            raise BadInput(f"synthetic://line: {key}={text!r} is no list of frame ranges; write {key}=50-80,120-140")
        ranges.append(range(first, last + 1))
    return tuple(ranges)


def parse_number(key: str, text: str, least: float, most: float, whole: bool) -> float:
    """Return a number within ``least`` to ``most``; anything else raises BadInput."""
    kind = "a whole number" if whole else "a number"
    try:
        value = float(int(text)) if whole else float(text)
    except ValueError:
        value = float("nan")
    if not least <= value <= most:
        raise BadInput(f"synthetic://line: {key}={text!r} must be {kind} from {least:g} to {most:g}")
    return value


def existing(path: Path) -> Path:
    """Return ``path`` when something is there; else raise BadInput that lists what a camera URI may be."""
    try:
        if path.exists():
            return path
    except OSError as error:
        raise BadInput(f"{path} cannot be opened: {error.strerror or error}; check the path") from error
    raise BadInput(f"{path} does not exist: name {ALLOWED}")
