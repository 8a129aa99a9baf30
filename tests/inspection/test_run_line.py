"""`edge-ad run` on a line, as a process: outputs, watchdog, signals, and what survives a kill."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_ad.outputs.plc_map import REQUEST_WORD
from edge_ad.outputs.signals import text_registers
from tests.camera.pictures import write_image
from tests.fixtures.loopback import free_port, until
from tests.fixtures.tiny_bundle import make_tiny_bundle, tiny_image
from tests.inspection.manager import Manager
from tests.outputs.peers import ReadingPlc, WrittenPlc
from tests.outputs.plcs import KINDS, call, plc_of, rejects, uri_of
from tests.outputs.plcs import ready as ready_plc

ROOT = Path(__file__).parents[2]
HOLD_S = 1.0
SLACK_S = 3.0  # a loaded machine; the soak tool measures the exact time
PATIENCE_S = 90.0
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle and normal images as a camera would show them again and again."""
    folder = tmp_path_factory.mktemp("station")
    (folder / "runs").mkdir()
    make_tiny_bundle(folder / "runs" / "tiny.edgead")
    for name, blob in (("goods", False), ("bads", True)):
        (folder / name).mkdir()
        for number in range(200):
            write_image(folder / name / f"{number:03d}.png", tiny_image(2000 + number % 60, blob))
    return folder


class Run:
    """A running `edge-ad run` with its manager's socket."""

    def __init__(self, station: Path, work: Path, camera: str, *arguments: str) -> None:
        self.hang = work / "hang"
        path = work / f"notify{free_port()}"
        self.manager = Manager(str(path))
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "NOTIFY_SOCKET": str(path),
            "WATCHDOG_USEC": "2000000",
            "HANG_WHEN": str(self.hang),
        }
        environment.pop("WATCHDOG_PID", None)
        command = [sys.executable, "-m", "tests.inspection.hanging", "run", str(station / "runs" / "tiny.edgead")]
        engine = ["--backend", "onnxruntime", "--precision", "fp32", "--realtime", "--hold-ms", str(1000 * HOLD_S)]
        self.process = subprocess.Popen(
            [*command, "--camera", camera, *engine, *arguments],
            cwd=work,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ready(self) -> bool:
        return until(lambda: "READY=1" in self.manager.received(), PATIENCE_S)


@contextlib.contextmanager
def running(station: Path, work: Path, camera: str, *arguments: str) -> Iterator[Run]:
    run = Run(station, work, camera, *arguments)
    try:
        yield run
    finally:
        run.hang.unlink(missing_ok=True)
        run.process.kill()
        run.process.communicate()
        run.manager.close()


@pytest.mark.parametrize("how", ["STOP", "KILL", "hang"])
def test_a_plc_sees_a_reject_and_the_watchdog_starves(station: Path, tmp_path: Path, how: str) -> None:
    port = free_port()
    with running(station, tmp_path, str(station / "goods"), "--alarm", f"modbus-server://127.0.0.1:{port}") as run:
        assert run.ready()
        plc = ReadingPlc(port)
        assert until(plc.passed)
        assert until(lambda: "WATCHDOG=1" in run.manager.received())
        if how == "hang":
            run.hang.write_text("")
        else:
            run.process.send_signal(signal.SIGSTOP if how == "STOP" else signal.SIGKILL)
        assert until(lambda: plc.bits()[:2] == [False, True], HOLD_S + SLACK_S)
        plc.close()
        run.manager.received()
        time.sleep(1.5)
        assert "WATCHDOG=1" not in run.manager.received()


def test_anomalies_do_not_pass_and_counters_and_latch_survive_a_kill(station: Path, tmp_path: Path) -> None:
    (tmp_path / "edge-ad.toml").write_text('[alarm]\nraise_parts = "3/4"\nlatch = true\nmin_on_s = 0.0\n')
    plc = WrittenPlc()
    line = ["--alarm", f"modbus://127.0.0.1:{plc.port}", "--store", str(tmp_path / "line.sqlite")]
    with running(station, tmp_path, str(station / "bads"), *line) as run:
        assert until(lambda: plc.bits()[5:7] == [True, True], PATIENCE_S)  # the lamp, waiting
        assert not any(bits[0] for _, bits in plc.changes)  # nothing ever passed
        number = plc.registers()[3]
        assert until(lambda: stored(tmp_path / "line.sqlite") >= 5)
        run.process.kill()
    before = counted(tmp_path / "line.sqlite")
    with running(station, tmp_path, str(station / "bads"), *line) as run:
        assert until(lambda: plc.registers()[3] == number and plc.bits()[5], PATIENCE_S)
        assert until(lambda: counted(tmp_path / "line.sqlite") > before, PATIENCE_S)
        run.process.send_signal(signal.SIGTERM)
        out, err = run.process.communicate(timeout=30)
        assert run.process.returncode == 0, err
        assert "captured" in out
    assert until(lambda: plc.bits()[:2] == [False, True])  # and the end rejects
    plc.close()


def stored(path: Path) -> int:
    with contextlib.suppress(sqlite3.OperationalError), contextlib.closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT count(*) FROM event").fetchone()[0])
    return 0


def counted(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT sum(value) FROM counter WHERE name = 'judged'").fetchone()[0])


def test_sigterm_with_hanging_engines_ends_within_the_time(station: Path, tmp_path: Path) -> None:
    with running(station, tmp_path, str(station / "goods")) as run:
        assert run.ready()
        run.hang.write_text("")
        time.sleep(0.5)
        started = time.monotonic()
        run.process.send_signal(signal.SIGTERM)
        assert run.process.wait(30) == 3
        assert time.monotonic() - started < 2.0 + SLACK_S
        assert "cut off" in (run.process.stderr.read() if run.process.stderr else "")


def test_sighup_reloads_thresholds_while_it_runs(station: Path, tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"

    def verdicts(since: int = 0) -> set[str]:
        return {json.loads(line)["verdict"] for line in events.read_text().splitlines()[since:]}

    with running(station, tmp_path, str(station / "goods"), "--events", str(events)) as run:
        assert run.ready()
        assert until(lambda: events.exists() and events.read_text().count("\n") > 3)
        assert "NG" not in verdicts()
        (tmp_path / "edge-ad.toml").write_text("[run]\nwarn_above = 5\nng_above = 1\n")
        run.process.send_signal(signal.SIGHUP)  # refused: nothing changes
        time.sleep(0.5)
        (tmp_path / "edge-ad.toml").write_text("[run]\nwarn_above = -100\nng_above = -99\n")
        run.process.send_signal(signal.SIGHUP)
        assert until(lambda: "NG" in verdicts())
        run.process.send_signal(signal.SIGTERM)
        _, err = run.process.communicate(timeout=30)
    assert "the thresholds stay as they are: warn_above is 5 and ng_above 1" in err
    assert "thresholds reloaded: WARN above -100, NG above -99" in err


def test_sighup_leaves_a_threshold_of_the_command_line_in_force(station: Path, tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    flags = ["--events", str(events), "--warn-above", "-100"]
    with running(station, tmp_path, str(station / "goods"), *flags) as run:
        assert run.ready()
        assert until(lambda: events.exists() and '"WARN"' in events.read_text())
        (tmp_path / "edge-ad.toml").write_text("[run]\nwarn_above = 50\nng_above = -99\n")  # 50 would lie above NG
        run.process.send_signal(signal.SIGHUP)
        assert until(lambda: '"NG"' in events.read_text())
        run.process.send_signal(signal.SIGTERM)
        _, err = run.process.communicate(timeout=30)
    assert "thresholds reloaded: WARN above -100, NG above -99" in err


def test_a_plc_triggers_a_part_and_reads_its_result(station: Path, tmp_path: Path) -> None:
    port = free_port()
    line = [
        "--alarm",
        f"modbus-server://127.0.0.1:{port}",
        "--trigger",
        "modbus",
        "--events",
        str(tmp_path / "e.jsonl"),
    ]
    with running(station, tmp_path, str(station / "goods"), *line) as run:
        assert run.ready()
        plc = ReadingPlc(port)
        assert until(lambda: plc.bits()[3])  # ready: frames come
        assert not plc.passed()
        sequence = plc.registers()[2]
        plc.client.write_registers(32, [ord("K") << 8 | ord("9"), 0])
        plc.client.write_coil(17, True)
        assert until(lambda: plc.registers()[2] != sequence)
        assert plc.registers()[8] == ord("K") << 8 | ord("9")
        assert plc.registers()[1] in (1, 2)
        plc.close()
        # The PLC comes first, the record a moment later.
        assert until(lambda: (tmp_path / "e.jsonl").read_text().endswith("\n"))
    lines = [json.loads(line) for line in (tmp_path / "e.jsonl").read_text().splitlines()]
    assert [line["part"] for line in lines] == ["K9"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_s7_and_a_logix_plc_call_for_parts_and_see_a_reject_after_a_kill(
    kind: str, station: Path, tmp_path: Path
) -> None:
    pytest.importorskip("snap7")
    pytest.importorskip("pylogix")
    with plc_of(kind) as plc:
        line = ["--output", uri_of(kind, plc.port), "--trigger", kind, "--hold-ms", "60000"]
        with running(station, tmp_path, str(station / "goods"), *line) as run:
            assert run.ready()
            assert ready_plc(plc)
            parts = [f"K{number}" for number in range(4)]
            assert all(call(plc, part)[0] in ("OK", "WARN") for part in parts)  # each with its id
            # Another part is heard as a call whether the bit was seen to fall in between or not.
            plc.put(REQUEST_WORD, (0b10, *text_registers("K4", 16)))
            assert until(lambda: plc.words()[0] & 0b100)  # a verdict stands for a minute
            run.process.send_signal(signal.SIGKILL)
            assert until(lambda: rejects(plc))
