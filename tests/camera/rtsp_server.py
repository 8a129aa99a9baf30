"""A real RTSP server on loopback, run by the system's Python: rtsp_server.py PORT [USER:PASSWORD [CODEC]]. Prints `ready`.

The codec is h264, jpeg, or broken: JPEG images of which a few bytes are changed now and then.
"""

from __future__ import annotations

import sys

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
ROLE = "viewer"


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
    factory.set_launch(LAUNCH[codec])
    factory.set_shared(True)
    if credentials:
        protect(server, factory, *credentials.split(":", 1))
    server.get_mount_points().add_factory("/line", factory)
    if not server.attach(None):
        sys.exit(f"port {port} is taken")
    print("ready", flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main(*sys.argv[1:])
