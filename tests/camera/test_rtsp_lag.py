"""A network whose delay grows without a gap: late images of a real RTSP server are never judged; punctual ones are."""

from __future__ import annotations

import os
import threading
import time

import pytest

from edge_ad.camera.frames import Source
from edge_ad.camera.sources import open_source
from edge_ad.events import Event
from edge_ad.inspection.judge import InspectionResult
from edge_ad.inspection.observers import Observer
from tests.camera.delay_proxy import DelayProxy
from tests.camera.rtsp import RtspServer, server_missing
from tests.inspection.line import Arithmetic, make_loop, settings_of

MISSING = server_missing()
pytestmark = [pytest.mark.skipif(MISSING is not None, reason=str(MISSING)), pytest.mark.slow]
MAX_S = 4.0
SLACK_S = 0.1  # the proxy's steps, and what an image needs besides


class Ramp:
    """No delay for 4 s, then 4 s of it within 10 s, for 5 s, then none."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    def __call__(self, now: float) -> float:
        passed = now - self.start
        if passed < 4.0 or passed > 19.0:
            return 0.0
        return min((passed - 4.0) * 0.4, MAX_S)


def judged_for(port: int, seconds: float, max_age_ms: float = 1000.0) -> list[tuple[float, Event]]:
    """Run a loop that finds everything OK over rtsp://127.0.0.1:PORT/line; return its events with their moments."""
    source = open_source(f"rtsp://127.0.0.1:{port}/line")
    loop, _ = make_loop(Arithmetic(), [source], settings_of(max_age_ms=max_age_ms))
    told: list[tuple[float, Event]] = []

    class Keeps(Observer):
        def on_result(self, result: InspectionResult, source: Source) -> None:
            told.append((time.monotonic(), result.event))

    loop._observers = [Keeps()]
    threading.Timer(seconds, loop.stop).start()
    loop.run()
    return told


def test_no_picture_that_is_late_is_judged() -> None:
    server = RtspServer()
    server.start()
    ramp = Ramp()
    proxy = DelayProxy(server.port, ramp)
    try:
        ramp.start = time.monotonic()
        told = judged_for(proxy.port, 27.0)
    finally:
        proxy.close()
        server.kill()
    late = [event for at, event in told if min(ramp(at), ramp(at - 0.3)) > 1.0 + SLACK_S]
    assert late, "events come while the delay is long"
    wrong = [event for event in late if event.verdict != "NONE"]
    assert not wrong, f"{len(wrong)} of {len(late)} late images were judged, first {wrong[0]}"
    assert any(event.reason and event.reason.startswith("late") for event in late)
    end = [event for at, event in told if at > ramp.start + 25.0]
    assert end
    assert "OK" in {event.verdict for event in end}, "judged again when the delay is gone"


def test_a_camera_behind_a_long_way_is_late_from_the_start() -> None:
    """Every answer takes 0.7 s: the images do too, though their clock advances as ours does."""
    server = RtspServer()
    server.start()
    proxy = DelayProxy(server.port, lambda now: 0.7)
    try:
        told = judged_for(proxy.port, 6.0, max_age_ms=600.0)
    finally:
        proxy.close()
        server.kill()
    assert told
    assert {event.verdict for _, event in told} == {"NONE"}


def test_a_steady_stream_is_never_late() -> None:
    server = RtspServer()
    server.start()
    try:
        told = judged_for(server.port, 10.0)
    finally:
        server.kill()
    assert {event.verdict for _, event in told} >= {"OK"}
    if os.getloadavg()[0] <= 2 * (os.cpu_count() or 1):  # on a starved machine images are late indeed
        assert len(told) > 50
        assert [event.reason for _, event in told if event.verdict == "NONE"] == []
