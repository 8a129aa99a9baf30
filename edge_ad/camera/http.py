"""A network camera that sends JPEG images one after the other over HTTP (``multipart/x-mixed-replace``)."""

from __future__ import annotations

import contextlib
import http.client
import math
import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import IO

from edge_ad.camera.driver import Failure, Grab, RawFrame
from edge_ad.camera.settings import CameraSettings
from edge_ad.data.images import HeaderError, decode_jpeg
from edge_ad.errors import DeviceFault
from edge_ad.utils.text import split_credentials

TIMEOUT_S = 2.0
MAX_IMAGE_BYTES = 64 << 20
MAX_LINE_BYTES = 4096
MAX_HEADER_LINES = 50


class StreamError(Exception):
    """The stream is not what it should be; the message completes "camera NAME ..."."""


class HttpDriver:
    """An open MJPEG stream; ``url`` may hold user and password (Basic or Digest), ``name`` may not.

    User and password may be given as ``${NAME}`` of the environment. Proxies of the environment are not used. The
    header ``X-Timestamp`` of an image, which mjpg-streamer and ustreamer send, is the camera's clock. Raises
    DeviceFault that tells an unknown host, a refused connection, refused credentials, a wrong path and another kind of
    answer apart.
    """

    settings = CameraSettings()
    fps: float | None = None

    def __init__(self, url: str, name: str) -> None:
        self._name = name
        self._response = _open(url, name)
        try:
            self._parts = _parts(self._response, _boundary(self._response.headers.get("Content-Type", "")))
        except StreamError as error:
            self._response.close()
            raise DeviceFault(f"camera {name!r} cannot be opened: it {error}") from None

    def grab(self) -> Grab:
        """Return the next image, or why the stream is of no more use."""
        try:
            headers, data = next(self._parts)
        except StopIteration:
            return Failure(f"{self._name} ended its stream")
        except StreamError as error:
            return Failure(f"{self._name} {error}")
        except (OSError, http.client.HTTPException) as error:
            return Failure(f"{self._name} gave no frame: {_reason(error)}")
        now, wall = time.monotonic(), time.time()
        try:
            return RawFrame(decode_jpeg(data), now, wall, _stamp(headers))
        except HeaderError as error:
            return RawFrame(None, now, wall, corrupt=str(error))

    def abort(self) -> None:
        """Nothing: a read ends by itself after TIMEOUT_S."""

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(OSError):
            self._response.close()


def _open(url: str, name: str) -> http.client.HTTPResponse:
    user, password, bare = split_credentials(url)
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    passwords.add_password(None, bare, os.path.expandvars(user), os.path.expandvars(password))
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if user or password:
        handlers += [urllib.request.HTTPBasicAuthHandler(passwords), urllib.request.HTTPDigestAuthHandler(passwords)]
    request = urllib.request.Request(bare, headers={"User-Agent": "edge-ad", "Accept": "multipart/x-mixed-replace"})
    try:
        response: http.client.HTTPResponse = urllib.request.build_opener(*handlers).open(request, timeout=TIMEOUT_S)
    except (OSError, ValueError) as error:
        raise DeviceFault(f"camera {name!r} cannot be opened: {_refusal(error, bool(user or password))}") from None
    return response


def _refusal(error: Exception, named: bool) -> str:
    if isinstance(error, urllib.error.HTTPError):
        if error.code in (401, 403):
            wants = "it wants a user name and a password: write http://USER:PASSWORD@HOST/PATH"
            return "it refuses the user name or the password; check them" if named else wants
        if error.code == 404:
            return "it has no stream of this path; check the path"
        return f"it answers {error.code}, {error.reason}"
    return f"{_reason(error)}; is it on, and on this network?"


def _reason(error: Exception) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, socket.gaierror):
        return "the host name is not known"
    if isinstance(cause, TimeoutError):
        return f"no answer within {TIMEOUT_S:g} s"
    return (cause.strerror if isinstance(cause, OSError) else None) or type(cause).__name__


def _boundary(content_type: str) -> bytes:
    """Return the line that begins each part, ``--BOUNDARY``; StreamError for any other kind of answer."""
    kind, _, parameters = content_type.partition(";")
    if not kind.strip().lower().startswith("multipart/"):
        shown = kind.strip()[:50] or "nothing that is named"
        raise StreamError(f"answers {shown!r}, not a stream of images: name the address of its MJPEG stream")
    for parameter in parameters.split(";"):
        key, _, value = parameter.strip().partition("=")
        if key.lower() == "boundary" and value.strip('" '):
            # Some cameras write the two dashes into the parameter, too.
            return b"--" + value.strip('" ').encode("latin-1", "replace").removeprefix(b"--")
    raise StreamError("sends a stream of parts without naming what parts them (no boundary)")


def _parts(stream: IO[bytes], boundary: bytes) -> Iterator[tuple[dict[str, str], bytes]]:
    """Yield headers, by lower-case name, and body of each part of a multipart stream (RFC 2046, section 5.1)."""
    more: bool | None = _skip_to(stream, boundary)
    while more:
        headers = _headers(stream)
        length = headers.get("content-length", "")
        if length.isascii() and length.isdigit():
            if int(length) > MAX_IMAGE_BYTES:
                raise StreamError(f"announces an image of {length} bytes; at most {MAX_IMAGE_BYTES} are read")
            body = stream.read(int(length))
            if len(body) < int(length):
                raise StreamError("broke off in the middle of an image")
            more = None
        else:
            body, more = _up_to(stream, boundary)
        if body:
            yield headers, body
        more = _skip_to(stream, boundary) if more is None else more


def _skip_to(stream: IO[bytes], boundary: bytes) -> bool:
    """Read lines up to the boundary; False at the end of the stream."""
    skipped = 0
    while line := stream.readline(MAX_LINE_BYTES):
        if line.rstrip(b"\r\n") == boundary:
            return True
        if line.rstrip(b"\r\n") == boundary + b"--":
            return False
        skipped += len(line)
        if skipped > MAX_IMAGE_BYTES:
            raise StreamError(f"sent {skipped} bytes without a boundary {boundary!r}")
    return False


def _headers(stream: IO[bytes]) -> dict[str, str]:
    results: dict[str, str] = {}
    for _ in range(MAX_HEADER_LINES):
        line = stream.readline(MAX_LINE_BYTES).decode("latin-1")
        if not line.strip():
            return results
        key, _, value = line.partition(":")
        results[key.strip().lower()] = value.strip()
    raise StreamError(f"sent more than {MAX_HEADER_LINES} header lines for one image")


def _up_to(stream: IO[bytes], boundary: bytes) -> tuple[bytes, bool]:
    """Read a body whose length is not announced, and the boundary after it; return it and whether more will come."""
    body = bytearray()
    while line := stream.readline(1 << 16):
        text = line.rstrip(b"\r\n")
        if text in (boundary, boundary + b"--") and body.endswith(b"\n"):
            return bytes(body).removesuffix(b"\n").removesuffix(b"\r"), text == boundary
        body += line
        if len(body) > MAX_IMAGE_BYTES:
            raise StreamError(f"sent an image of more than {MAX_IMAGE_BYTES} bytes")
    raise StreamError("broke off in the middle of an image")


def _stamp(headers: dict[str, str]) -> float | None:
    try:
        value = float(headers.get("x-timestamp", "nan"))
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None
