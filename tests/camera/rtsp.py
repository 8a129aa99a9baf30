"""Starting, killing and waiting for the RTSP server of the tests."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.fixtures.loopback import free_port

PYTHON = "/usr/bin/python3"
SCRIPT = Path(__file__).with_name("rtsp_server.py")
_NEEDED = (
    "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import Gst, GstRtspServer; "
    "Gst.init(None); assert all(map(Gst.ElementFactory.find, ('x264enc', 'rtph264pay', 'videotestsrc')))"
)


def server_missing() -> str | None:
    """Return why the server cannot run here, or None; tools/test.sh installs what it needs."""
    if not shutil.which(PYTHON):
        return f"no {PYTHON}"
    result = subprocess.run([PYTHON, "-c", _NEEDED], capture_output=True, text=True, check=False)
    return f"GStreamer's RTSP server is not installed: {result.stderr.strip()[-200:]}" if result.returncode else None


class RtspServer:
    """A server process that can be killed, stopped and started again on the same port.

    With a ``size`` = (width, height) it shows what ``show`` gives it.
    """

    def __init__(self, credentials: str = "", codec: str = "h264", size: tuple[int, int] | None = None) -> None:
        self.codec = codec if size is None else f"{size[0]}x{size[1]}"
        self._fed = size is not None
        self.port = free_port()
        self.credentials = credentials
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The stream's URL, with credentials if there are any."""
        return f"rtsp://{self.credentials + '@' if self.credentials else ''}127.0.0.1:{self.port}/line"

    def start(self) -> float:
        """Start and wait until it serves; return that moment in monotonic seconds."""
        words = [PYTHON, str(SCRIPT), str(self.port), self.credentials, self.codec]
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE if self._fed else None, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"
        return time.monotonic()

    def show(self, image: NDArray[np.uint8]) -> float:
        """Send an image u8[H,W,3] RGB as captured now; return that moment in monotonic seconds."""
        assert self._process is not None
        assert self._process.stdin is not None
        now = time.monotonic_ns()
        self._process.stdin.write(now.to_bytes(8, "little") + image.tobytes())
        self._process.stdin.flush()
        return now / 1e9

    def signal(self, number: int) -> None:
        """Send a signal to the process."""
        assert self._process is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """Kill it at once, as a power cut would."""
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            if self._process.stdin is not None:
                with contextlib.suppress(OSError):
                    self._process.stdin.close()
            self._process = None
