"""Any GStreamer pipeline as a camera: by gst-launch-1.0 in a process of its own, or by an OpenCV built with it.

The CSI cameras of a Jetson: Argus through GStreamer.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO

import numpy as np

from edge_ad.camera.driver import Driver, Failure, Grab, RawFrame
from edge_ad.camera.frames import Image
from edge_ad.camera.settings import CameraSettings
from edge_ad.errors import BadInput, DeviceFault
from edge_ad.utils.files import cache_home
from edge_ad.utils.text import redact_values, split_credentials

LAUNCHER = "gst-launch-1.0"
_CHILD = Path(__file__).with_name("gst_child.py")
OPEN_S = 8.0
END_S = 1.0
STOP_S = 3.0
"""A pipeline gets so long to take itself down after SIGINT; one that hangs is killed then."""
_TAIL = "queue leaky=downstream max-size-buffers=1 ! videoconvert ! video/x-raw,format=RGB ! pnmenc ! fdsink sync=false"
_OPENCV_TAIL = "videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false"
_SINK = re.compile(r"!\s*(?:appsink|fakesink|autovideosink)\b[^!]*$")
_MAX_BYTES = 200_000_000 * 3


def open_pipeline(
    pipeline: str, name: str, settings: CameraSettings | None = None, *, open_s: float = OPEN_S
) -> Driver:
    """Open a pipeline that ends in raw video; a sink at its end is replaced by ours.

    ``open_s`` is how long its first image may take.
    BadInput when there is neither gst-launch-1.0 nor an OpenCV with GStreamer, DeviceFault when it does not start.
    """
    body = _SINK.sub("", pipeline.strip()).rstrip("! ")
    if shutil.which(LAUNCHER):
        return PipelineProcess(body, name, settings, open_s=open_s)
    from edge_ad.camera.opencv import build_details, has_gstreamer

    if has_gstreamer():
        return OpenCvPipeline(body, name, settings)
    raise BadInput(
        f"camera {name!r} needs GStreamer, which is not here: {build_details()}, and there is no {LAUNCHER}; "
        "apt-get install gstreamer1.0-tools gstreamer1.0-plugins-good gstreamer1.0-plugins-bad, or use JetPack's OpenCV"
    )


class PipelineProcess:
    """A pipeline in a process: its images come through a pipe as PNM, and ending it ends a read that hangs.

    It is ended by SIGINT, at which gst-launch takes the pipeline down element by element, and killed only when it has
    not gone after ``STOP_S``: a killed client can leave Argus without cameras until its daemon is started again.
    """

    fps: float | None = None

    def __init__(
        self, pipeline: str, name: str, settings: CameraSettings | None = None, *, open_s: float = OPEN_S
    ) -> None:
        self._name = name
        self._interrupted = False
        self._secrets = _secrets(pipeline)
        self.settings = settings or CameraSettings()
        self.fps = self.settings.rate
        reading, writing = os.pipe()
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed in close)
        try:
            words = [*shlex.split(pipeline), "!", *_TAIL.split(), f"fd={writing}"]
            # Every user of the machine can read the arguments of a process, so a password goes another way.
            launched = [sys.executable, "-I", str(_CHILD)] if self._secrets else [LAUNCHER, "-q", *words]
            self._process = subprocess.Popen(
                launched,
                stdin=subprocess.PIPE if self._secrets else subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=(writing,),
                env={**os.environ, **registry_path()},
                # A Ctrl-C of the terminal must not reach it besides ours: gst-launch dies at a second SIGINT.
                start_new_session=True,
                # SIGPIPE stays ignored, as in Python: when we were killed, the sink fails and the pipeline is taken down.
                restore_signals=False,
            )
        except ValueError as error:
            os.close(reading)
            self._log.close()
            raise BadInput(f"the pipeline of camera {name!r} is not well quoted: {error}") from error
        finally:
            os.close(writing)
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError), self._process.stdin as message:
                message.write(json.dumps(words).encode())
        self._pipe = os.fdopen(reading, "rb", buffering=1 << 16)
        # Threads that hold cameras are daemons, so an exit does not wait for their close.
        atexit.register(self._end)
        begun = bool(select.select([self._pipe], [], [], open_s)[0])
        self._pending = self._read() if begun else None
        if self._pending is None:
            reason = self._ended() if begun else f"the pipeline gave no image within {open_s:g} s"
            self.close()
            raise DeviceFault(f"camera {name!r} cannot be opened: {reason}{_argus_hint(pipeline, reason)}")

    def grab(self) -> Grab:
        """Return the next image."""
        image, self._pending = self._pending, None
        if image is None:
            image = self._read()
        if image is None:
            return Failure(f"{self._name}: {self._ended()}")
        return RawFrame(image, time.monotonic(), time.time())

    def abort(self) -> None:
        """Interrupt the process: the read of its pipe ends, after ``STOP_S`` at the latest."""
        self._interrupt()
        killer = threading.Timer(STOP_S, self._process.kill)
        killer.daemon = True
        killer.start()

    def close(self) -> None:
        """End the process and wait for it."""
        self._end()
        atexit.unregister(self._end)
        self._pipe.close()
        self._log.close()

    def _interrupt(self) -> None:
        """Send SIGINT once."""
        if not self._interrupted:
            self._interrupted = True
            self._process.send_signal(signal.SIGINT)

    def _end(self) -> None:
        self._interrupt()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _read(self) -> Image | None:
        try:
            header = [self._line() for _ in range(3)]
            if header[0] != b"P6":
                return None
            width, height = (int(word) for word in header[1].split())
        except ValueError:
            return None
        if not 0 < width * height * 3 <= _MAX_BYTES:
            return None
        image = np.empty((height, width, 3), np.uint8)
        view, done = memoryview(image.data).cast("B"), 0
        while done < len(view):
            count = self._pipe.readinto(view[done:])  # type: ignore[attr-defined]
            if not count:
                return None
            done += count
        return image

    def _line(self) -> bytes:
        line = self._pipe.readline(256)
        while line.startswith(b"#"):
            line = self._pipe.readline(256)
        if not line:
            raise ValueError("the pipe has ended")
        return line.strip()

    def _ended(self) -> str:
        """Tell the last thing that GStreamer said, without credentials."""
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            return "the pipeline sent something that is no image"
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read(65536).decode("utf-8", "replace").splitlines() if line.strip()]
        errors = [line for line in lines if "ERROR" in line or "error" in line or "WARNING" in line] or lines
        message = redact_values(errors[0], self._secrets) if errors else "it ended without a word"
        return f"the pipeline ended: {message[:300]}"


def _argus_hint(pipeline: str, reason: str) -> str:
    if "nvarguscamerasrc" not in pipeline or "no element" in reason:
        return ""
    return "; if it worked before, start Argus again: sudo systemctl restart nvargus-daemon"


def _secrets(pipeline: str) -> tuple[str, ...]:
    """Return what must not be shown of a pipeline: credentials of URLs and values of properties such as user-pw."""
    result = re.findall(r"(?i)(?:user-?(?:id|name)?|user-pw|pass\w*|pw|token)\s*=\s*\"?([^\s\"!]+)", pipeline)
    for url in re.findall(r"\w+://[^\s\"!]+", pipeline):
        user, password, _ = split_credentials(url)
        result += [user, password]
    return tuple(value for value in result if value)


def registry_path() -> dict[str, str]:
    """Return ``GST_REGISTRY`` in the working folder where GStreamer cannot write its own, else nothing.

    A registry that cannot be kept is made anew at every start, which takes seconds on a Jetson. The home folder of a
    service is read-only.
    """
    if "GST_REGISTRY" in os.environ:
        return {}
    cache = cache_home()
    if _can_be_made(cache) or not os.access(Path.cwd(), os.W_OK):
        return {}
    return {"GST_REGISTRY": str(Path.cwd() / ".cache" / "gstreamer-1.0" / "registry.bin")}


def _can_be_made(folder: Path) -> bool:
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return nearest.is_dir() and os.access(nearest, os.W_OK)


class OpenCvPipeline:
    """A pipeline inside an OpenCV that was built with GStreamer; a read that hangs cannot be ended."""

    def __init__(self, pipeline: str, name: str, settings: CameraSettings | None = None) -> None:
        import cv2

        from edge_ad.camera.opencv import quiet

        self._name = name
        self.settings = settings or CameraSettings()
        os.environ.update(registry_path())
        with quiet():
            self._capture = cv2.VideoCapture(f"{pipeline} ! {_OPENCV_TAIL}", cv2.CAP_GSTREAMER)
        if not self._capture.isOpened():
            raise DeviceFault(f"camera {name!r} cannot be opened: the pipeline does not start; try it with {LAUNCHER}")
        rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.fps: float | None = rate if 0.01 < rate < 1000.0 else self.settings.rate

    def grab(self) -> Grab:
        """Return the next image."""
        from edge_ad.camera.opencv import to_rgb

        grabbed, image = self._capture.read()
        now, wall = time.monotonic(), time.time()
        if not grabbed:
            return Failure(f"{self._name}: the pipeline gave no frame")
        return RawFrame(to_rgb(image) if image is not None and image.size else None, now, wall)

    def abort(self) -> None:
        """Nothing: the pipeline runs in this process."""

    def close(self) -> None:
        """Stop the pipeline."""
        self._capture.release()


SOURCE = "nvarguscamerasrc"
CSI_OPEN_S = 20.0
"""The first image of a sensor may take so long: Argus starts it, and the first GStreamer on a board scans all plugins."""
_DEFAULTS = CameraSettings(rate=30.0, width=1920, height=1080)
_TAKEN = ("exposure_us", "auto_exposure", "gain", "rate", "width", "height", "auto_white_balance")


def csi_settings(asked: CameraSettings, name: str) -> CameraSettings:
    """Return what was asked for, completed by 1920 x 1080 at 30 a second; BadInput for what Argus cannot set."""
    wrong = next((key for key in asked.to_json() if key not in _TAKEN), None)
    if wrong is not None:
        raise BadInput(f"camera {name!r} has no setting {wrong!r}: a CSI camera takes {', '.join(_TAKEN)}")
    return CameraSettings(**{**_DEFAULTS.to_json(), **asked.to_json()})


def csi_pipeline(sensor: str, settings: CameraSettings) -> str:
    """Return the pipeline of one sensor: NV12 in the camera's memory, converted to BGRx.

    Argus takes ranges: a fixed exposure (nanoseconds) or gain is a range of one value. It has no way to read them back.
    """
    options = [f"sensor-id={sensor}"]
    if settings.exposure_us is not None:
        nanoseconds = round(settings.exposure_us * 1000)
        options.append(f'exposuretimerange="{nanoseconds} {nanoseconds}"')
    if settings.gain is not None:
        options.append(f'gainrange="{settings.gain:g} {settings.gain:g}"')
    if settings.auto_exposure is False:
        options.append("aelock=true")
    if settings.auto_white_balance is False:
        options.append("wbmode=0")
    rate = round(settings.rate or 30)
    size = f"width={settings.width},height={settings.height},framerate={rate}/1"
    caps = f"video/x-raw(memory:NVMM),{size},format=NV12"
    return f"{SOURCE} {' '.join(options)} ! {caps} ! nvvidconv ! video/x-raw,format=BGRx"
