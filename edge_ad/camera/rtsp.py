"""A network camera over RTSP, by FFmpeg inside OpenCV, always over TCP."""

from __future__ import annotations

import math
import os
import socket
import time
import urllib.parse

from edge_ad.camera.driver import Failure, Grab, raw_frame
from edge_ad.camera.opencv import (
    build_details,
    hand_over_jpeg,
    has_ffmpeg,
    one_decoding_thread,
    quiet,
    undecoded_images_have_times,
)
from edge_ad.camera.settings import CameraSettings
from edge_ad.errors import BadInput, DeviceFault
from edge_ad.utils.text import join_credentials, redact, split_credentials

import cv2  # isort: skip  (after edge_ad.camera.opencv, which sets what OpenCV reads once)

CONNECT_S = 2.0
ANSWER_S = 3.0
ANSWERS, ANSWERS_S = 4, 1.0
QUICK_S = 0.02
OPEN_MS = 5_000
CATCH_UP_S = 3.0
SETTLED_S = 0.5
SAME_S = 0.02
USUAL_FPS = 25.0
# FFmpeg counts its limit twice before it gives up a read.
READ_MS = 1_000
PORTS = {"rtsp": 554, "rtsps": 322}

# TCP: a lost packet must not become a smeared image. Half a second is enough to learn the format. The variable holds
# for the whole process, so nothing may stand here that harms a file (fflags;nobuffer loses the frames of short ones).
_OPTIONS = {
    "rtsp_transport": "tcp",
    "flags": "low_delay",
    "analyzeduration": "500000",
    "probesize": "1000000",
}
_VARIABLE = "OPENCV_FFMPEG_CAPTURE_OPTIONS"


class RtspDriver:
    """An open RTSP stream; ``url`` may hold user and password, ``name`` may not.

    User and password may be given as ``${NAME}`` of the environment. Raises DeviceFault that tells an unknown host, a
    refused connection, a wrong path and refused credentials apart. ``delay_s`` is how long the camera took to answer a
    question: what the way to it costs at least.
    """

    settings = CameraSettings()

    def __init__(self, url: str, name: str) -> None:
        if not has_ffmpeg():
            raise BadInput(f"camera {name!r} needs OpenCV with FFmpeg: {build_details()}; pip install 'edge-ad[cpu]'")
        self._name = name
        user, password, bare = split_credentials(url)
        self.delay_s = _reach(bare, name)
        set_options()
        target = join_credentials(os.path.expandvars(user), os.path.expandvars(password), bare)
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, READ_MS]
        # One decoding thread: with more, FFmpeg holds back as many frames as it has threads.
        limits += one_decoding_thread()
        with quiet():
            self._capture = cv2.VideoCapture(target, cv2.CAP_FFMPEG, limits)
        if not self._capture.isOpened():
            raise DeviceFault(f"camera {name!r} cannot be opened: {_refusal(bare, bool(user or password))}")
        if undecoded_images_have_times():  # a lag that is not seen is worse than damage that is not
            hand_over_jpeg(self._capture)
        rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.fps = rate if 0.01 < rate < 1000.0 else None
        self._grabbed = self._caught_up()

    def grab(self) -> Grab:
        """Return the next image."""
        with quiet():
            grabbed, image = self._capture.retrieve() if self._grabbed else self._capture.read()
        self._grabbed = False
        return raw_frame(self._capture, image) if grabbed else Failure(f"{self._name} gave no frame")

    def _caught_up(self) -> bool:
        """Throw away what was buffered while FFmpeg learned the format: it is old, and would pass for new.

        Buffered frames come faster than the stream's clock advances. Half a second without a frame that had less delay
        than those before means that the rest is as fresh as the camera gives it; True when such a frame is held. A
        stream without a clock has caught up when two frames in a row had to be waited for. DeviceFault when old frames
        do not end.
        """
        began = least_at = time.monotonic()
        minimum, waited, frames = math.inf, 0, 0
        with quiet():
            while (asked := time.monotonic()) - began < CATCH_UP_S:
                if not self._capture.grab():
                    return False
                now, stamp = time.monotonic(), float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000.0
                waited, frames = waited + 1 if now - asked > 0.4 / (self.fps or USUAL_FPS) else 0, frames + 1
                if stamp <= 0:
                    if waited == 2 and frames > 2:
                        return True
                elif now - stamp < minimum - SAME_S:
                    minimum, least_at, frames = now - stamp, now, 0
                elif now - least_at >= SETTLED_S and frames >= 2:
                    return True
        if math.isfinite(minimum) and time.monotonic() - least_at < SETTLED_S and waited == 0:
            raise DeviceFault(
                f"camera {self._name!r} cannot be opened: it sends old images for {CATCH_UP_S:g} s and more"
            )
        return False

    def abort(self) -> None:
        """Nothing: FFmpeg has a limit of its own for a read."""

    def close(self) -> None:
        """Close the stream."""
        self._capture.release()


def set_options() -> None:
    """Give FFmpeg our options through the environment, the only way; options that a person set there stay."""
    given = dict(piece.split(";", 1) for piece in os.environ.get(_VARIABLE, "").split("|") if ";" in piece)
    merged = {**_OPTIONS, **given, "rtsp_transport": "tcp"}
    os.environ[_VARIABLE] = "|".join(f"{key};{value}" for key, value in merged.items())


def _host_and_port(bare: str) -> tuple[str, int]:
    parts = urllib.parse.urlsplit(bare)
    try:
        port = parts.port
    except ValueError:
        raise BadInput(
            f"{redact(bare)} has no valid port: write rtsp://USER:PASSWORD@HOST:554/PATH, with : / @ # ? % of user and "
            "password escaped as %3A %2F %40 %23 %3F %25"
        ) from None
    return parts.hostname or "", port or PORTS.get(parts.scheme, 554)


def _reach(bare: str, name: str) -> float:
    """Connect once, which fails fast and says why, while FFmpeg would only say no; return the seconds to an answer."""
    host, port = _host_and_port(bare)
    try:
        with socket.create_connection((host, port), CONNECT_S) as connection:
            return _answering_s(connection, bare, name)
    except socket.gaierror:
        raise DeviceFault(f"camera {name!r} cannot be opened: the host name is not known; check it") from None
    except OSError as error:
        why = "it does not answer" if isinstance(error, TimeoutError) else error.strerror or type(error).__name__
        raise DeviceFault(
            f"camera {name!r} cannot be opened: port {port}: {why}; is it on, and on this network?"
        ) from None


def _answering_s(connection: socket.socket, bare: str, name: str) -> float:
    """Ask what the camera can do, and time the quickest of a few answers: they take the same way as the images.

    0 where the camera ends the connection without an answer, and under TLS, where no plain question can be asked.
    """
    if bare.startswith("rtsps"):
        return 0.0
    connection.settimeout(ANSWER_S)
    minimum, first = math.inf, time.monotonic()
    try:
        for count in range(1, ANSWERS + 1):
            began = time.monotonic()
            connection.sendall(f"OPTIONS {bare} RTSP/1.0\r\nCSeq: {count}\r\nUser-Agent: edge-ad\r\n\r\n".encode())
            if not connection.recv(4096):
                break
            minimum = min(minimum, time.monotonic() - began)
            if minimum < QUICK_S or time.monotonic() - first > ANSWERS_S:
                break
    except TimeoutError:
        raise DeviceFault(
            f"camera {name!r} cannot be opened: it accepts connections but says nothing within {ANSWER_S:g} s"
        ) from None
    except OSError:
        pass
    return minimum if math.isfinite(minimum) else 0.0


def _refusal(bare: str, named: bool) -> str:
    """Ask the camera, without credentials, why FFmpeg could not open the stream."""
    status = _describe(bare)
    if status == 401 and named:
        return "it refuses the user name or the password (or the stream itself); check them"
    if status == 401:
        return "it wants a user name and a password: write rtsp://USER:PASSWORD@HOST/PATH"
    if status == 404:
        return "it has no stream of this path; check the path"
    if status is None:
        return f"it accepts connections but gave no stream within {OPEN_MS / 1000:g} s"
    return f"it answers {status} but gives no image that can be decoded; set it to H.264, H.265 or MJPEG"


def _describe(bare: str) -> int | None:
    request = f"DESCRIBE {bare} RTSP/1.0\r\nCSeq: 1\r\nAccept: application/sdp\r\nUser-Agent: edge-ad\r\n\r\n"
    try:
        with socket.create_connection(_host_and_port(bare), CONNECT_S) as connection:
            connection.settimeout(CONNECT_S)
            connection.sendall(request.encode())
            words = connection.recv(512).decode("ascii", "replace").split()
    except OSError:
        return None
    return int(words[1]) if len(words) > 1 and words[0].startswith("RTSP/") and words[1].isdigit() else None
