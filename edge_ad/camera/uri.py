"""The URI scheme of sources: what a person typed, split into what it means."""

from __future__ import annotations

import re
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from edge_ad.errors import BadInput
from edge_ad.utils.text import redact, split_credentials

__all__ = [
    "ALLOWED",
    "Address",
    "Kind",
    "existing",
    "parse_number",
    "parse_query",
    "parse_ranges",
    "parse_uri",
    "redact",
]

ALLOWED = (
    "a camera number (0), a device (/dev/video0, /dev/v4l/by-id/...), csi://0, rtsp://HOST/PATH, http://HOST/PATH "
    "(a stream of JPEG images), gst:PIPELINE, "
    "genicam://SERIAL, aravis://ID, a video file, an image, a folder of images, watch:FOLDER (images "
    "that appear in it), file://PATH, "
    "synthetic://line?frames=300&seed=1&fps=10, synthetic://faults?seed=1&rate=0.02 or synthetic://belt?parts=50&seed=1"
)

Kind = Literal["device", "path", "synthetic", "faults", "belt", "csi", "rtsp", "http", "watch", "gst", "genicam", "aravis"]

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")


@dataclass(frozen=True)
class Address:
    """A parsed URI.

    ``target`` is a device path, a file or folder path, the query of a synthetic source, a sensor number, an address or
    a pipeline; ``name`` is what events and logs show; ``query`` holds the settings asked of a camera. Both are free of
    credentials: a target that may hold some is in ``secret``, which no repr shows.
    """

    kind: Kind
    target: str
    name: str
    query: str = ""
    secret: str = field(default="", repr=False)


def parse_uri(uri: str) -> Address:
    """Split a source URI; an unknown scheme, an empty one or a path with a NUL byte raises BadInput."""
    text = uri.strip()
    if not text or "\0" in text:
        raise BadInput(f"{redact(uri)!r} names no camera: allowed are {ALLOWED}")
    if text[:4].lower() == "gst:":
        return _pipeline(text)
    if text[:6].lower() == "watch:":
        return _watched(text)
    scheme = _SCHEME.match(text)
    if scheme:
        return _with_scheme(scheme.group(1).lower(), text[scheme.end() :], text)
    head, _, query = text.partition("?")
    if head.isascii() and head.isdigit():
        return Address("device", f"/dev/video{int(head)}", text, query)
    if text.startswith("/dev/"):
        return Address("device", head, text, query)
    return Address("path", text, redact(text))


def _pipeline(text: str) -> Address:
    pipeline = text[4:].strip().removeprefix("//").strip()
    if not pipeline:
        raise BadInput(f"{text!r} names no pipeline: write gst:v4l2src device=/dev/video0 ! image/jpeg ! jpegdec")
    return Address("gst", redact(pipeline), redact(text), secret=pipeline)


def _watched(text: str) -> Address:
    folder = text[6:].strip()
    folder = folder[2:] if folder.startswith("//") else folder
    if not folder:
        raise BadInput(f"{text!r} names no folder: write watch:/data/incoming")
    return Address("watch", folder, text)


def _with_scheme(scheme: str, rest: str, text: str) -> Address:
    if scheme == "file":
        return _file(rest, text)
    if scheme == "synthetic":
        return _synthetic(rest, text)
    if scheme in ("rtsp", "rtsps", "http", "https"):
        return _network(scheme, rest, text)
    location, _, query = rest.partition("?")
    location = urllib.parse.unquote(location.rstrip("/"))
    if scheme == "csi":
        if not (location.isascii() and location.isdigit() and len(location) < 4):
            raise BadInput(f"{redact(text)!r} names no sensor: write csi://0 for the first one, csi://1 for the second")
        return Address("csi", str(int(location)), redact(text), query)
    if scheme in ("genicam", "aravis"):
        if "@" in rest:
            raise BadInput(f"{redact(text)!r} has an @: write {scheme}://SERIAL alone, these cameras have no passwords")
        return Address("genicam" if scheme == "genicam" else "aravis", location, text, query)
    raise BadInput(f"{redact(text)!r} has the unknown scheme {scheme!r}: allowed are {ALLOWED}")


def _file(rest: str, text: str) -> Address:
    path = urllib.parse.unquote(rest)
    path = path[len("localhost") :] if path.startswith("localhost/") else path
    if not path or "\0" in path:
        raise BadInput(f"{redact(text)!r} names no file: write file:///folder/video.mp4")
    if path.startswith("/dev/"):
        device, _, query = path.partition("?")
        return Address("device", device, text, query)
    return Address("path", path, redact(text))


def _synthetic(rest: str, text: str) -> Address:
    location, _, query = rest.partition("?")
    kinds: dict[str, Kind] = {"line": "synthetic", "faults": "faults", "belt": "belt"}
    kind = kinds.get(location.rstrip("/"))
    if kind is None:
        raise BadInput(
            f"{redact(text)!r} names no synthetic source: there are synthetic://line, synthetic://faults and synthetic://belt"
        )
    return Address(kind, query, text)


def _network(scheme: str, rest: str, text: str) -> Address:
    kind: Kind = "http" if scheme.startswith("http") else "rtsp"
    bare = split_credentials(f"{scheme}://{rest}")[2].partition("://")[2]
    example = "http://USER:PASSWORD@HOST/PATH" if kind == "http" else "rtsp://USER:PASSWORD@HOST:554/PATH"
    if not re.match(r"[^/?#:\s]|\[", bare):
        raise BadInput(f"{redact(text)!r} names no host: write {example}")
    try:
        port = urllib.parse.urlsplit(f"{scheme}://{bare}").port
    except ValueError as error:  # an open bracket, or a port that is no number from 0 to 65535
        raise BadInput(
            f"{redact(text)!r} is no address ({error}): write {example}, and an IPv6 host as [::1]"
        ) from error
    if port == 0:
        raise BadInput(f"{redact(text)!r} has port 0: write {example}")
    return Address(kind, redact(text), redact(text), secret=f"{scheme}://{rest}")


def parse_query(query: str, allowed: tuple[str, ...], where: str = "synthetic://line") -> dict[str, str]:
    """Return the settings of a query ``a=1&b=2``; an unknown, repeated or empty one raises BadInput naming it."""
    settings: dict[str, str] = {}
    for piece in filter(None, query.split("&")):
        key, _, value = piece.partition("=")
        if key not in allowed:
            raise BadInput(f"{where} has no setting {key!r}: allowed are {', '.join(allowed)}")
        if key in settings or not value:
            raise BadInput(f"{where}: {key!r} needs exactly one value, as in {key}=1")
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


def parse_number(key: str, text: str, minimum: float, maximum: float, *, whole: bool, where: str = "synthetic://line") -> float:
    """Return a number within ``minimum`` to ``maximum``; anything else raises BadInput."""
    kind = "a whole number" if whole else "a number"
    try:
        value = float(int(text)) if whole else float(text)
    except ValueError:
        value = float("nan")
    if not minimum <= value <= maximum:
        raise BadInput(f"{where}: {key}={text!r} must be {kind} from {minimum:g} to {maximum:g}")
    return value


def existing(path: Path) -> Path:
    """Return ``path`` when something is there; else raise BadInput that lists what a camera URI may be."""
    message = redact(str(path))
    try:
        if path.is_file() or path.is_dir():
            return path
        if path.exists():
            raise BadInput(f"{message} is neither a file nor a folder but a pipe, a socket or a device: name {ALLOWED}")
    except OSError as error:
        raise BadInput(f"{message} cannot be opened: {error.strerror or error}; check the path") from error
    raise BadInput(f"{message} does not exist: name {ALLOWED}")
