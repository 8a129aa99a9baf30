"""A service waits for cameras that are not there yet: READY comes from the engines, not from the camera."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from edge_ad.camera.live import Restarts
from edge_ad.errors import DeviceFault
from edge_ad.events import Event
from edge_ad.inspection.inspector import RunOptions, Summary, inspect
from tests.camera.rtsp import RtspServer, server_missing
from tests.fixtures.loopback import free_port, until
from tests.fixtures.tiny_bundle import make_tiny_bundle
from tests.inspection.line import Arithmetic, Script, make_loop, settings_of
from tests.inspection.manager import Manager

MISSING = server_missing()


@pytest.mark.slow
@pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
def test_a_service_is_ready_without_its_camera_and_judges_when_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_tiny_bundle(tmp_path / "tiny.edgead")
    manager = Manager(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    server = RtspServer()
    events: list[Event] = []
    messages: list[str] = []
    summaries: list[Summary] = []

    def heard(line: str) -> bool:
        messages.extend(manager.received())
        return line in messages

    def run() -> None:
        # A camera that was there would be given up after half a second.
        settings = settings_of(max_frames=3, max_age_ms=60_000.0, give_up_s=0.5)
        summaries.append(inspect(bundle, server.url, RunOptions(settings, on_event=events.append)))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert until(lambda: heard("READY=1"), 60.0)
        assert until(lambda: [event.verdict for event in events] == ["NONE"])
        assert (events[0].reason or "").startswith("camera lost: ")
        messages.clear()
        assert until(lambda: heard("WATCHDOG=1"))  # the engines are proved while there is no camera
        server.start()
        thread.join(60.0)
    finally:
        server.kill()
        thread.join()
        manager.close()
    judged = [event for event in events if event.frame is not None]
    assert len(judged) == 3
    assert all(event.score is not None for event in judged)
    assert summaries[0].total.captured >= 3


def test_without_a_manager_a_camera_that_is_not_there_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    with pytest.raises(DeviceFault, match="cannot be opened"):
        inspect(make_tiny_bundle(tmp_path / "tiny.edgead"), f"rtsp://127.0.0.1:{free_port()}/line")


@pytest.mark.parametrize(
    ("steps", "abandoned", "waited_for"),
    [([None], 0, True), ([0, None], 0, False), ([None], 3, False)],
    ids=["never there", "lost", "hanging"],
)
def test_whom_patience_waits_for(steps: list[int | None], abandoned: int, waited_for: bool) -> None:
    source = Script(steps, kind="live", fps=100.0)
    source.restarts = Restarts(abandoned=abandoned)  # type: ignore[attr-defined]
    loop, _ = make_loop(Arithmetic(), [source], settings_of(give_up_s=0.3), patient=True)
    timer = threading.Timer(1.0, source.release.set)
    timer.start()
    if waited_for:
        loop.run()
    else:
        with pytest.raises(DeviceFault, match="no frame"):
            loop.run()
    timer.join()
