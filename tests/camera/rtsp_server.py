"""A real RTSP server on loopback, run by the system's Python: rtsp_server.py PORT [USER:PASSWORD [CODEC]]. Prints `ready`.

The codec is h264, jpeg, or broken: JPEG images of which a few bytes are changed now and then. With WIDTHxHEIGHT in its place
the images are those of standard input, in H.264 without loss: each is 8 bytes, the nanoseconds of CLOCK_MONOTONIC at its
capture, little-endian, and then its RGB values.
"""

from __future__ import annotations

import sys
import threading

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

SOURCE = "videotestsrc is-live=true pattern={} ! video/x-raw,width=320,height=240,framerate=25/1"
H264 = "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=10 ! rtph264pay name=pay0 pt=96"
JPEG = "videoconvert ! video/x-raw,format=I420 ! jpegenc"
BREAK = "breakmydata skip=2000 probability=0.0005"
LAUNCH = {
    "h264": f"( {SOURCE.format('ball')} ! {H264} )",
    "jpeg": f"( {SOURCE.format('snow')} ! {JPEG} ! rtpjpegpay name=pay0 pt=26 )",
    "broken": f"( {SOURCE.format('snow')} ! {JPEG} ! {BREAK} ! rtpjpegpay name=pay0 pt=26 )",
}
FED = (
    "( appsrc name=feed is-live=true format=time caps=video/x-raw,format=RGB,width={width},height={height},framerate=25/1 "
    "! videoconvert ! video/x-raw,format=Y444 "
    "! x264enc tune=zerolatency speed-preset=ultrafast pass=quant quantizer=0 key-int-max=10 ! rtph264pay name=pay0 pt=96 )"
)
ROLE = "viewer"


class Feed:
    """Gives the images of standard input to the stream that is being watched; without one they are lost."""

    def __init__(self, width: int, height: int) -> None:
        self.launch = FED.format(width=width, height=height)
        self._size = 3 * width * height
        self._source: Gst.Element | None = None

    def begin(self, factory: GstRtspServer.RTSPMediaFactory) -> None:
        """Follow the streams of this factory, and read."""
        factory.connect("media-configure", self._configure)
        threading.Thread(target=self._read, daemon=True).start()

    def _configure(self, factory: GstRtspServer.RTSPMediaFactory, media: GstRtspServer.RTSPMedia) -> None:
        self._source = media.get_element().get_by_name("feed")

    def _read(self) -> None:
        while len(head := sys.stdin.buffer.read(8)) == 8:
            data = sys.stdin.buffer.read(self._size)
            source = self._source
            clock = source.get_clock() if source is not None else None
            if clock is None:
                continue
            buffer = Gst.Buffer.new_wrapped(data)
            # The system clock of GStreamer is CLOCK_MONOTONIC.
            buffer.pts = max(int.from_bytes(head, "little") - source.get_base_time(), 0)
            source.emit("push-buffer", buffer)


def protect(server: GstRtspServer.RTSPServer, factory: GstRtspServer.RTSPMediaFactory, user: str, word: str) -> None:
    """Let only one user see the stream."""
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", ROLE)
    auth = GstRtspServer.RTSPAuth()
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, word), token)
    server.set_auth(auth)
    permissions = GstRtspServer.RTSPPermissions()
    permissions.add_role(ROLE)
    for permission in ("media.factory.access", "media.factory.construct"):
        permissions.add_permission_for_role(ROLE, permission, True)
    factory.set_permissions(permissions)


def main(port: str, credentials: str = "", codec: str = "h264") -> None:
    """Serve rtsp://127.0.0.1:PORT/line until killed."""
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    factory = GstRtspServer.RTSPMediaFactory()
    feed = Feed(*map(int, codec.split("x"))) if codec not in LAUNCH else None
    factory.set_launch(feed.launch if feed is not None else LAUNCH[codec])
    factory.set_shared(True)
    if credentials:
        protect(server, factory, *credentials.split(":", 1))
    server.get_mount_points().add_factory("/line", factory)
    if not server.attach(None):
        sys.exit(f"port {port} is taken")
    if feed is not None:
        feed.begin(factory)
    print("ready", flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main(*sys.argv[1:])
