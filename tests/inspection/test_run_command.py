"""`edge-ad run` as a process: exit codes, signals, what goes to which stream, and what is imported."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.camera.pictures import write_video
from tests.fixtures.loopback import free_port
from tests.fixtures.tiny_bundle import make_tiny_bundle, tiny_image

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle under runs/, a video and an edge-ad.toml."""
    folder = tmp_path_factory.mktemp("station")
    (folder / "runs" / "one").mkdir(parents=True)
    make_tiny_bundle(folder / "runs" / "one" / "tiny.edgead")
    write_video(folder / "clip.mkv", [tiny_image(9000 + index, blob=index % 2 == 0) for index in range(6)])
    (folder / "edge-ad.toml").write_text('[run]\ncamera = "clip.mkv"\n')
    return folder


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "edge_ad", "run", *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), cwd=folder, env=environment(), capture_output=True, text=True, timeout=120, check=False
    )


def test_without_arguments_the_folder_tells_all(station: Path) -> None:
    done = run(station)
    assert done.returncode == 0, done.stderr
    assert "clip.mkv" in done.stdout
    assert "onnxruntime fp32" in done.stdout
    assert "\x1b" not in done.stderr  # no live line where there is no terminal


def test_the_table_says_why_nothing_could_be_said(station: Path) -> None:
    done = run(station, "--camera", "synthetic://line?frames=8&black=2-4&size=128")
    assert done.returncode == 0, done.stderr
    (reasons,) = [line for line in done.stdout.splitlines() if line.startswith("NONE")]
    assert re.search(r"because of: .*\bdark \(3\)", reasons)


def test_a_run_without_none_names_no_reasons(station: Path) -> None:
    assert "because of" not in run(station).stdout


def test_events_on_standard_output_stand_alone(station: Path) -> None:
    done = run(station, "--camera", "clip.mkv", "--events", "-", "--max-frames", "4")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["frame"] for line in done.stdout.splitlines()] == [0, 1, 2, 3]
    assert "captured" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--camera", "97"], 3, "/dev/video97 does not exist"),
        (["--camera", "missing.mp4"], 2, "missing.mp4 does not exist"),
        (["--camera", "ftp://x"], 2, "unknown scheme 'ftp'"),
        (["--camera", "runs"], 2, "holds no image"),
        (["missing.edgead"], 2, "missing.edgead"),
        (["--max-frames", "0"], 2, "max-frames"),
    ],
)
def test_mistakes_end_in_one_sentence(station: Path, arguments: list[str], code: int, told: str) -> None:
    done = run(station, *arguments)
    assert done.returncode == code
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.any_version
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_signals_end_in_good_order(station: Path, tmp_path: Path, number: signal.Signals, code: int) -> None:
    events = tmp_path / "events.jsonl"
    uri = "synthetic://line?frames=100000&fps=20"
    arguments = command("--camera", uri, "--realtime", "--events", str(events), "--save", str(tmp_path / "out"))
    with subprocess.Popen(
        arguments, cwd=station, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and (not events.exists() or events.read_text().count("\n") < 5):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    lines = events.read_text().splitlines()
    assert len(lines) >= 5
    assert all(json.loads(line)["verdict"] in ("OK", "WARN", "NG", "NONE") for line in lines)
    assert "captured" in out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["synthetic_line.mp4"]


def test_the_loop_imports_no_training_code() -> None:
    code = (
        "import sys, edge_ad.inspection.loop, edge_ad.inspection.inspector, edge_ad.cli.run;"
        "print([name for name in ('torch', 'matplotlib', 'sklearn', 'onnx') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_thresholds_of_the_call_decide(station: Path) -> None:
    done = run(station, "--warn-above", "-100", "--ng-above", "-99", "--events", "-")
    assert [json.loads(line)["verdict"] for line in done.stdout.splitlines()] == ["NG"] * 6
    done = run(station, "--warn-above", "5", "--ng-above", "1")
    assert (done.returncode, done.stdout) == (2, "")
    assert "warn_above is 5 and ng_above 1: WARN must not lie above NG" in done.stderr


@pytest.mark.any_version
@pytest.mark.parametrize(
    "closed", ["2>&-", "1>&- 2>&-", "0<&- 1>&- 2>&-", "2>/dev/full", "2> >(:)"], ids=lambda text: text.replace("/", "-")
)
def test_a_run_whose_messages_nobody_reads_judges_all_the_same(station: Path, tmp_path: Path, closed: str) -> None:
    """Its first message ended the run, or was written into the record where a closed stream had left its number."""
    options = f"--events e.jsonl --store s.sqlite --alarm modbus://127.0.0.1:{free_port()}"
    uri = "synthetic://line?frames=6&seed=1&black=0-3"
    line = f'"{sys.executable}" -m edge_ad run "{station}/runs/one/tiny.edgead" --camera "{uri}" {options} {closed}'
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=environment(), timeout=120, check=False)
    assert done.returncode == 0
    assert len((tmp_path / "e.jsonl").read_text().splitlines()) == 6
    assert all(json.loads(event)["frame"] is not None for event in (tmp_path / "e.jsonl").read_text().splitlines())


def test_a_table_that_cannot_be_written_is_told(station: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command(), cwd=station, env=environment(), stdout=full, stderr=subprocess.PIPE, text=True, timeout=120
        )
    assert done.returncode == 3
    assert "cannot write to standard output: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_standstill_after_sigterm_is_cut_off_though_stderr_is_gone(station: Path, tmp_path: Path) -> None:
    script = (
        "import time\n"
        "from edge_ad.cli.app import main\n"
        "from edge_ad.inspection import inspector, loop\n"
        "loop.DRAIN_S = 0.2\n"
        "inspector.Loop.run = lambda self: (print('up', flush=True), time.sleep(300))\n"
        "main(['run'])\n"
    )
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=station, env=environment(), stdout=subprocess.PIPE, stderr=writing
    )
    os.close(writing)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        os.close(reading)  # from here on each message fails
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 3
