"""A real run that is shown known parts, beside a real PLC."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import pytest

from edge_ad.cli.app import main
from edge_ad.store.actions import ActionLog, actions_path
from edge_ad.store.challenges import ChallengeRecords, challenges_folder, key_path, read_key
from tests.fixtures.loopback import free_port, until
from tests.fixtures.tiny_bundle import make_tiny_bundle, tiny_image
from tests.outputs.peers import ReadingPlc
from tests.web.running import Line, line

pytestmark = pytest.mark.any_version


@contextlib.contextmanager
def station(folder: Path, port: int) -> Iterator[tuple[Line, ReadingPlc, Callable[[str, bool], None]]]:
    """A run on a watched folder, a PLC that reads, and what shows a part: its id and whether it is bad."""
    seeds = iter(range(3000, 4000))

    def show(name: str, bad: bool) -> None:
        partial = folder / "in" / f".{name}.part.png"
        assert cv2.imwrite(str(partial), tiny_image(next(seeds), bad)[:, :, ::-1])
        os.replace(partial, folder / "in" / f"{name}-{next(seeds)}.png")

    more = ["--trigger", "camera", "--alarm", f"modbus-server://127.0.0.1:{port}"]
    with line(folder, folder / "tiny.edgead", *more, camera=f"watch:{folder / 'in'}", judging=False) as run:
        plc = ReadingPlc(port)
        try:
            yield run, plc, show
        finally:
            plc.close()


def test_a_line_is_challenged_locks_and_survives_a_kill(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_tiny_bundle(tmp_path / "tiny.edgead")
    (tmp_path / "in").mkdir()
    store, port = tmp_path / "line.sqlite", free_port()
    (tmp_path / "edge-ad.toml").write_text("[challenge]\ngood = 1\nbad = 1\nevery = 8\nmax_reject_ms = 5000\n")
    assert main(["challenge", "key", "--store", str(store)]) == 0
    common = ["--store", str(store), "--by", "anna"]
    with station(tmp_path, port) as (run, plc, show):

        def passed() -> bool:
            """Show one more good part and look whether it passes."""
            show("part", False)
            return until(plc.passed, 1.0)

        assert run.wait(lambda state: state["run"]["challenge"]["due"]["why"]) == "none has passed yet"
        assert until(passed)
        assert main(["challenge", *common]) == 0
        assert until(lambda: plc.registers(4, 1) == [2])
        show("known", False)
        run.wait(lambda state: len(state["run"]["challenge"]["open"]["parts"]) == 1)
        show("known", False)  # a known bad part that is not seen
        failed = run.wait(lambda state: state["run"]["challenge"]["locked"] and state["run"]["challenge"])
        assert failed["locked"].startswith("the challenge failed (a known bad part is OK)")
        assert until(lambda: plc.registers(4, 1) == [4])
        assert not passed()
        assert run.ask("/api/challenge", {"by": "ben"}).status == 200
        assert until(lambda: plc.registers(4, 1) == [6])
        run.process.kill()
        run.process.wait()
    with station(tmp_path, port) as (run, plc, show):
        assert until(lambda: plc.registers(4, 1) == [6])
        show("known", False)
        run.wait(lambda state: len(state["run"]["challenge"]["open"]["parts"]) == 1)
        show("known", True)
        assert until(lambda: plc.registers(4, 1) == [0])  # a PLC that reads has the reject
        done = run.wait(lambda state: state["run"]["challenge"]["open"] is None and state["run"]["challenge"])
        assert done["locked"] is None
        assert done["last"]["kind"] == "challenge passed"
        assert b"edge_ad_challenge_locked 0.0" in run.ask("/metrics").body
        assert until(lambda: (show("part", False), until(plc.passed, 1.0))[1])
        assert run.ask("/api/challenge/override", {"by": "ben", "reason": "x"}).status == 409
    capsys.readouterr()
    assert main(["challenge", "list", "--store", str(store)]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert ["failed" in rows[0], "passed" in rows[1], len(rows)] == [True, True, 2]
    assert main(["challenge", "verify", "--store", str(store)]) == 0
    record = ChallengeRecords(challenges_folder(store)).read()[1]
    assert 0.0 < record["parts"][1]["reject_ms"] < 5000.0
    assert main(["challenge", "report", "--store", str(store), "--out", str(tmp_path / "report.html")]) == 0
    assert (tmp_path / "report.html").read_text().count("data:image/jpeg") == 4
    changed = challenges_folder(store) / "000001.json"
    changed.write_text(changed.read_text().replace('"result":"failed"', '"result":"passed"'))
    capsys.readouterr()
    assert main(["challenge", "verify", "--store", str(store)]) == 4
    assert "1 of 2 records do not hold: 000001.json: it was changed" in capsys.readouterr().err
    kinds = [one.kind for one in ActionLog(actions_path(store)).actions()]
    assert [kind for kind in kinds if kind.startswith("challenge")] == [
        "challenge due", "challenge started", "challenge failed", "challenge started", "challenge passed",
    ]  # fmt: skip
    assert read_key(key_path(store))
