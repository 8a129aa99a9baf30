"""An RTSP server killed and started again, under the real `edge-ad run`: how soon there is a verdict again.

`python tools/soak/rtsp.py --json FILE [--resume] [--rounds 20]`. GStreamer's server with a password runs on loopback. A
time runs from the moment the server serves again to the first verdict on a new frame, read from the file of events. No
credentials may stand in anything that the run wrote.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.camera.rtsp import RtspServer, server_missing
from tests.fixtures.loopback import until
from tools.soak.trial import Inspector, begin, bundle_for

ALLOWED_S = 3.0
PATIENCE_S = 60.0
PAUSE_S = 2.0
SECRET = "Zqgeheim"


class Line(Inspector):
    """A running `edge-ad run` on the server's stream, with its file of events."""

    def __init__(self, folder: Path, url: str) -> None:
        self.events = folder / "events.jsonl"
        self._read = 0
        words = ("run", bundle_for(folder, ""), "--camera", url, "--events", self.events)
        super().__init__(folder, *words, "--store", folder / "line.sqlite")

    def tell(self, wanted: Callable[[dict[str, Any]], bool]) -> bool:
        """Wait for a new event of this kind; False when none comes, or the run has ended."""
        return until(lambda: any(map(wanted, self._new())) or self.process.poll() is not None, PATIENCE_S)

    def written(self) -> bytes:
        """Return all that it wrote anywhere."""
        return b"".join(path.read_bytes() for path in self.folder.rglob("*") if path.is_file())

    def _new(self) -> list[dict[str, Any]]:
        with self.events.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        return [json.loads(line) for line in whole.splitlines()]


def judged(event: dict[str, Any]) -> bool:
    """Whether an event is a verdict on an image."""
    return str(event["verdict"]) != "NONE"


def lost(event: dict[str, Any]) -> bool:
    """Whether an event tells that the camera is gone."""
    return str(event["reason"]).startswith(("camera lost", "stalled"))


def trial(rounds: int, took: list[float], save: Callable[[], None]) -> bytes:
    """Kill the server ``rounds`` times, appending to ``took`` the seconds to recover; return what the run wrote."""
    server = RtspServer(f"inspector:{SECRET}")
    server.start()
    with tempfile.TemporaryDirectory() as folder:
        line = Line(Path(folder), server.url)
        try:
            assert until(line.events.exists, PATIENCE_S)
            assert line.tell(judged)
            for _ in range(rounds):
                server.kill()
                assert line.tell(lost)
                time.sleep(PAUSE_S)
                back_at = server.start()
                assert line.tell(judged)
                took.append(round(time.monotonic() - back_at, 3))
                save()
        finally:
            server.kill()
            line.stop()
        return line.written()


def main() -> int:
    """Run the trial; 1 when a recovery took too long or credentials were written."""
    if reason := server_missing():
        print(f"not run: {reason}")
        return 0
    record = begin(str(__doc__), {"seconds": [], "leaks": 0}, rounds=20)
    took = record.values["seconds"]
    if left := record.values["rounds"] - len(took):
        record.values["leaks"] += SECRET.encode() in trial(left, took, record.save)
    late = sum(seconds > ALLOWED_S for seconds in took)
    record.finish({"rounds": len(took), "max_s": max(took), "too_late": late, "leaks": record.values["leaks"]})
    return int(bool(late or record.values["leaks"]))


if __name__ == "__main__":
    sys.exit(main())
