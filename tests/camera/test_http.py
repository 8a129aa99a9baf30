"""MJPEG over HTTP from a real server on loopback: every form of multipart, credentials, and streams that go wrong."""

from __future__ import annotations

import base64
import contextlib
import io
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_ad.camera import http as http_module
from edge_ad.camera.driver import Failure, RawFrame
from edge_ad.camera.frames import BadFrame, Frame
from edge_ad.camera.http import HttpDriver, StreamError, _parts
from edge_ad.camera.sources import open_source
from edge_ad.errors import DeviceFault
from tests.data.folders import picture


def jpeg(seed: int) -> bytes:
    return bytes(cv2.imencode(".jpg", picture(seed)[:, :, ::-1])[1].tobytes())


def shown(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]


class Server:
    """A camera: what it answers is set by the test."""

    def __init__(self) -> None:
        self.status = 200
        self.content_type = "multipart/x-mixed-replace; boundary=frame"
        self.body = b""
        self.hang = False
        self.authorization: str | None = None
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if server.authorization and self.headers.get("Authorization") != server.authorization:
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", 'Basic realm="camera"')
                    self.end_headers()
                    return
                self.send_response(server.status)
                self.send_header("Content-Type", server.content_type)
                self.end_headers()
                self.wfile.write(server.body)
                while server.hang:
                    time.sleep(0.02)

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._http.server_port}/video"

    def close(self) -> None:
        self.hang = False
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    with contextlib.closing(Server()) as result:
        yield result


def part(body: bytes, *headers: str, length: bool = True, boundary: str = "frame") -> bytes:
    lines = [
        f"--{boundary}",
        "Content-Type: image/jpeg",
        *headers,
        *([f"Content-Length: {len(body)}"] if length else []),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body + b"\r\n"


@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize(
    "boundary", ["boundary=frame", 'boundary="frame"', "boundary=--frame", "charset=x; BOUNDARY=frame"]
)
def test_images_come_in_order_whatever_the_form_of_the_stream(server: Server, length: bool, boundary: str) -> None:
    images = [jpeg(seed) for seed in range(4)]
    server.content_type = f"multipart/x-mixed-replace; {boundary}"
    server.body = b"preamble\r\n" + b"".join(part(image, length=length) for image in images) + b"--frame--\r\n"
    handle = HttpDriver(server.url, "camera")
    shots = [handle.grab() for _ in images]
    assert all(isinstance(shot, RawFrame) for shot in shots)
    for shot, image in zip(shots, images, strict=True):
        assert (shot.image == shown(image)).all()  # type: ignore[union-attr]
    assert handle.grab() == Failure("camera ended its stream")
    handle.close()


def test_a_damaged_image_is_corrupt_and_the_stream_goes_on(server: Server) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)  # most of its bytes are data
    damaged = cv2.imencode(".jpg", noise)[1].tobytes()
    third = len(damaged) // 3
    damaged = damaged[:third] + bytes(third) + damaged[2 * third :]
    server.body = part(damaged) + part(b"no jpeg") + part(jpeg(1)) + b"--frame--\r\n"
    handle = HttpDriver(server.url, "camera")
    first, second, third_shot = handle.grab(), handle.grab(), handle.grab()
    assert isinstance(first, RawFrame)
    assert first.image is None
    assert "JPEG data are damaged" in (first.corrupt or "")
    assert isinstance(second, RawFrame)
    assert second.corrupt == "it is not a JPEG image"
    assert isinstance(third_shot, RawFrame)
    assert third_shot.image is not None


@pytest.mark.parametrize(
    ("headers", "stamp"),
    [
        (["X-Timestamp: 12.5"], 12.5),
        ([], None),
        (["X-Timestamp: now"], None),
        (["X-Timestamp: nan"], None),
        (["x-timestamp: 3"], 3.0),
    ],
)
def test_the_cameras_own_clock_is_taken_where_it_sends_one(
    server: Server, headers: list[str], stamp: float | None
) -> None:
    server.body = part(jpeg(0), *headers)
    shot = HttpDriver(server.url, "camera").grab()
    assert isinstance(shot, RawFrame)
    assert shot.stamp == stamp


def test_credentials_are_used_and_shown_nowhere(server: Server) -> None:
    server.authorization = "Basic " + base64.b64encode(b"us er:w@rd").decode()
    server.body = part(jpeg(0)) * 50
    server.hang = True
    source = open_source(server.url.replace("http://", "http://us%20er:w%40rd@"))
    try:
        frame = source.read(5.0)
        while not isinstance(frame, Frame):
            frame = source.read(5.0)
        assert "w@rd" not in source.name + repr(source) + frame.source
    finally:
        source.close()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"status": 404}, "it has no stream of this path; check the path"),
        ({"status": 503}, "it answers 503"),
        ({"authorization": "Basic x"}, "it wants a user name and a password: write http://USER:PASSWORD@HOST/PATH"),
        ({"content_type": "image/jpeg"}, "it answers 'image/jpeg', not a stream of images"),
        ({"content_type": "multipart/x-mixed-replace"}, r"without naming what parts them \(no boundary\)"),
    ],
)
def test_why_a_camera_cannot_be_opened(server: Server, change: dict[str, object], sentence: str) -> None:
    for key, value in change.items():
        setattr(server, key, value)
    with pytest.raises(DeviceFault, match=sentence):
        HttpDriver(server.url, "camera")


def test_a_wrong_password_and_a_dead_port_are_distinguished(server: Server) -> None:
    server.authorization = "Basic x"
    with pytest.raises(DeviceFault, match="it refuses the user name or the password") as caught:
        HttpDriver(server.url.replace("http://", "http://user:secret@"), "camera")
    assert "secret" not in str(caught.value)
    server.close()
    with pytest.raises(DeviceFault, match=r"Connection refused; is it on, and on this network\?"):
        HttpDriver(server.url, "camera")


def test_a_silent_camera_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_module, "TIMEOUT_S", 3.0)  # on a loaded machine the first answer takes a while
    server.body = part(jpeg(0))
    server.hang = True
    handle = HttpDriver(server.url, "camera")
    assert isinstance(handle.grab(), RawFrame)
    assert handle.grab() == Failure("camera gave no frame: no answer within 3 s")


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"--frame\r\nContent-Length: 99999999999\r\n\r\n", "announces an image of 99999999999 bytes"),
        (b"--frame\r\nContent-Length: 100\r\n\r\nshort", "broke off in the middle of an image"),
        (b"--frame\r\n\r\nno end", "broke off in the middle of an image"),
        (b"--frame\r\n" + b"a: b\r\n" * 60, "sent more than 50 header lines for one image"),
    ],
)
def test_streams_that_are_wrong_are_failures(server: Server, body: bytes, sentence: str) -> None:
    server.body = body
    result = HttpDriver(server.url, "camera").grab()
    assert isinstance(result, Failure)
    assert sentence in result.reason


def test_a_stream_without_boundaries_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_module, "MAX_IMAGE_BYTES", 1000)
    for stream in (b"x" * 5000, b"--b\r\n\r\n" + b"x\n" * 5000):
        with pytest.raises(StreamError, match="1000 bytes|without a boundary"):
            list(_parts(io.BytesIO(stream), b"--b"))


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=5), st.booleans())
def test_any_bodies_come_back_as_sent(bodies: list[bytes], length: bool) -> None:
    """Bodies that hold the boundary need a length, as RFC 2046 says; those without a length end before a line break."""
    usable = [body for body in bodies if length or (b"--frame" not in body and not body.endswith((b"\r", b"\n")))]
    stream = io.BytesIO(b"".join(part(body, length=length) for body in usable) + b"--frame--\r\n")
    assert [body for _, body in _parts(stream, b"--frame")] == usable


@given(st.binary(max_size=2000))
def test_any_bytes_end_in_parts_or_a_sentence(data: bytes) -> None:
    with contextlib.suppress(StreamError):
        list(_parts(io.BytesIO(data), b"--"))


def test_a_corrupt_image_is_a_bad_frame_of_the_source(server: Server) -> None:
    server.body = part(jpeg(0)[:60]) + part(jpeg(1)) * 50
    server.hang = True
    source = open_source(server.url)
    try:
        result = source.read(5.0)
        while not isinstance(result, (Frame, BadFrame)):
            result = source.read(5.0)
        assert isinstance(result, BadFrame)
        assert result.reason.startswith("corrupt: it is truncated")
    finally:
        source.close()
