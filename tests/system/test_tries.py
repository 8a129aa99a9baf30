"""What the doctor tries: real cameras, graphs and processes, and what it says of those that fail, hang or crash."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edge_ad.cli.app import main
from edge_ad.errors import BadInput
from edge_ad.system import tries
from edge_ad.system import tries as attempts
from edge_ad.system.machine import Machine, Package
from edge_ad.system.trial import TRIALS, outcome, trial_graph
from edge_ad.system.tries import CameraTarget, attempt, camera_targets, try_backends, try_cameras
from tests.camera.test_gstreamer import LAUNCHER, TEST
from tests.camera.test_pipeline_end import stand_in
from tests.fixtures.fake_gpu import fake_gpu
from tests.system.recorded import GONE, lay_out, workstation

real = pytest.mark.skipif(shutil.which(LAUNCHER) is None, reason=f"{LAUNCHER} is not installed")


def shell(script: str) -> tuple[str, ...]:
    """A command to run a trial under that runs ``script`` in its place, with the trial's words as $*."""
    return ("bash", "-c", script, "--")


def test_opencv_and_a_graph_are_tried_on_this_machine(tmp_path: Path) -> None:
    found = {one.finding.name: one for one in try_backends(workstation(tmp_path))}
    assert list(found) == ["opencv tried", "gpu memory", "graph on onnxruntime"]
    assert all(one.finding.status == "ok" for one in found.values()), found
    assert found["opencv tried"].finding.found.startswith("OpenCV ")
    assert found["gpu memory"].finding.found == "not tried: no NVIDIA GPU"
    assert found["graph on onnxruntime"].facts["difference"] < 1e-5
    assert found["graph on onnxruntime"].seconds > 0


def test_an_opencv_that_imports_and_cannot_do_its_work_is_no_longer_ok(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its version can be read, and that was all that the doctor once asked for."""
    (tmp_path / "cv2.py").write_text("__version__ = '4.5.4'\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    one = try_backends(workstation(tmp_path / "machine"))[0]
    assert one.finding.status == "fail"
    assert one.finding.code == 2
    assert "AttributeError" in one.finding.found
    assert "take that of JetPack or Ubuntu" in one.finding.advice


def test_the_graph_of_the_trial_is_one_that_tensorrt_takes() -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX, which compiles without a GPU, is not installed")
    from edge_ad.engines.tensorrt.build import compile_check

    assert compile_check(trial_graph(), name="trial") > 0


def test_what_a_machine_lacks_is_not_tried_and_said(tmp_path: Path) -> None:
    machine = lay_out("orin_nano_jetpack6", tmp_path, packages={"pycuda": GONE, "onnxruntime": GONE, "tensorrt": GONE})
    found = {one.finding.name: one.finding for one in try_backends(machine, shell("exit 1"))}
    assert found["gpu memory"].found == "not tried: pycuda cannot be imported"
    assert found["gpu memory"].status == "warn"
    assert found["graph"].status == "fail"
    assert "no backend" in found["graph"].found


def test_a_jetson_tries_memory_and_both_backends(tmp_path: Path) -> None:
    said = 'printf \'{"ok": true, "found": "%s", "code": 0, "facts": {}}\\n\' "${*: -1}"'
    tried = try_backends(lay_out("orin_nano_jetpack6", tmp_path), shell(said))
    assert [(one.finding.name, one.finding.found) for one in tried] == [
        ("opencv tried", "opencv"),
        ("gpu memory", "gpu"),
        ("graph on onnxruntime", "graph onnxruntime"),
        ("graph on tensorrt", "graph tensorrt"),
    ]


@pytest.mark.parametrize(
    ("script", "found", "code"),
    [
        ("kill -SEGV $$", "it was ended by signal 11 (SIGSEGV)", 3),
        ("exit 7", "it left with 7 and no answer", 2),
        ("echo; echo 'ImportError: libcuda.so.1' >&2; exit 1", "ImportError: libcuda.so.1", 2),
        ("echo nonsense", "it left with 0 and no answer", 2),
        (
            'echo \'{"ok": false, "found": "the GPU does not work", "code": 3, "facts": {}}\'',
            "the GPU does not work",
            3,
        ),
    ],
)
def test_a_trial_that_breaks_says_how(script: str, found: str, code: int) -> None:
    done = attempt("gpu", prefix=shell(script))
    assert (done.ok, done.found, done.code) == (False, found, code)


def test_a_trial_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "GO_S", 0.2)
    numbers = tmp_path / "pids"
    script = f"trap '' INT; sleep 600 & echo $! $$ >{numbers}; wait; wait"
    done = attempt("gpu", timeout_s=1.0, prefix=shell(script))
    assert (done.ok, done.found, done.code) == (False, "no answer within 1 s", 3)
    end = time.monotonic() + 30.0
    while any(Path(f"/proc/{number}/stat").exists() and not zombie(number) for number in numbers.read_text().split()):
        assert time.monotonic() < end
        time.sleep(0.05)


def zombie(number: str) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(") ", 1)[1].startswith("Z")
    except OSError:
        return True


def test_credentials_of_a_camera_are_in_no_process_list() -> None:
    said = 'printf \'{"ok": true, "found": "%s", "code": 0, "facts": {}}\\n\' "$*"'
    done = attempt("camera", "rtsp://user:hunter2@10.0.0.1/", prefix=shell(said))
    assert "edge_ad.system.trial camera" in done.found
    assert "hunter2" not in done.found


@real
def test_a_frame_of_a_camera_is_told_with_size_and_time() -> None:
    (one,) = try_cameras([CameraTarget(f"gst:{TEST}", "gst", wanted=True)])
    assert one.finding.status == "ok", one.finding
    assert one.finding.found.startswith("gst: 64 x 48")
    assert "first frame after" in one.finding.found
    assert (one.facts["width"], one.facts["height"]) == (64, 48)


@pytest.mark.parametrize(("wanted", "status"), [(True, "fail"), (False, "warn")])
def test_a_camera_that_the_station_needs_must_give_a_frame(wanted: bool, status: str) -> None:
    (one,) = try_cameras([CameraTarget("/dev/video987", "/dev/video987", wanted)])
    assert one.finding.status == status
    assert one.finding.code == 3
    assert "/dev/video987 does not exist" in one.finding.found
    assert "cable" in one.finding.advice


@pytest.mark.any_version
def test_a_camera_that_hangs_is_left_and_its_pipeline_taken_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tries, "CAMERA_S", 3.0)
    log = stand_in(tmp_path, monkeypatch, wait=600.0)
    (one,) = try_cameras([CameraTarget("csi://0", "csi://0", wanted=True)])
    assert one.finding.found == "csi://0: no answer within 3 s"
    if log.exists():  # a slow machine may not have come so far
        assert "SIGINT" in log.read_text()


def names(machine: Machine, named: list[str]) -> list[tuple[str, bool]]:
    return [(target.name, target.wanted) for target in camera_targets(machine, named)]


def test_each_camera_is_asked_once_and_metadata_is_left_out(tmp_path: Path) -> None:
    machine = lay_out("orin_nano_jetpack6", tmp_path, {"sys/class/video4linux/video1/index": "1\n"})
    assert names(machine, []) == [("/dev/video0", False)]
    by_id = "/dev/v4l/by-id/usb-046d_HD_Pro_Webcam_C920_00000000-video-index0"
    assert names(machine, [by_id]) == [(by_id, True)]
    assert names(machine, ["0", "rtsp://u:p@10.0.0.1/a"]) == [("0", True), ("rtsp://***@10.0.0.1/a", True)]
    assert camera_targets(machine, [], search=False) == []


def test_a_sensor_of_a_jetson_is_asked_through_argus(tmp_path: Path) -> None:
    sensors = {f"sys/class/video4linux/video{n}/name": f"vi-output, imx219 {n + 9}-0010" for n in (0, 1)}
    machine = lay_out("orin_nano_jetpack6", tmp_path, {**sensors})
    assert names(machine, ["csi://1"]) == [("csi://1", True), ("csi://0", False)]


def test_no_secret_is_in_the_names_of_targets() -> None:
    target = CameraTarget("rtsp://user:hunter2@10.0.0.1/", "rtsp://***@10.0.0.1/", wanted=True)
    assert "hunter2" not in repr(target)


def test_the_command_takes_a_frame_of_the_cameras_of_the_station(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("edge-ad.toml").write_text(
        '[run]\ncamera = ["synthetic://line?frames=2", "rtsp://user:hunter2@127.0.0.1:9/a"]\n'
    )
    assert main(["doctor", "--cameras", "--json", "doctor.json"]) == 3
    text = Path("doctor.json").read_text()
    record = json.loads(text)
    assert set(record) == {"ready", "exit_code", "checks", "tried", "machine", "packages", "made"}
    assert record["ready"] is False
    frames = {one["target"]: one for one in record["tried"] if one["name"] == "frame"}
    assert frames["synthetic://line?frames=2"]["status"] == "ok"
    assert frames["synthetic://line?frames=2"]["facts"]["width"] == 256
    assert frames["rtsp://***@127.0.0.1:9/a"]["status"] == "fail"
    assert "hunter2" not in text + capsys.readouterr().out
    assert {one["name"] for one in record["tried"]} <= {one["name"] for one in record["checks"]}


def test_the_report_holds_what_one_wants_to_know_of_a_board(tmp_path: Path) -> None:
    from edge_ad.system.examine import examine, report

    machine = lay_out("orin_nano_jetpack6", tmp_path)
    record = report(machine, examine(machine), [])
    facts = record["machine"]
    assert facts["jetson"] is True
    assert facts["board"] == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert (facts["l4t"], facts["jetpack"], facts["python"]) == ("36.4.7", "6.2.1", "3.10")
    assert facts["memory_bytes"] == pytest.approx(7.4 * 2**30, rel=0.02)
    checks = {check["name"]: check["found"] for check in record["checks"]}
    assert "MAXN_SUPER" in checks["power mode"]
    assert "MHz" in checks["clocks"]
    assert record["packages"]["tensorrt"]["version"] == "10.3.0"
    assert record["packages"]["pycuda"] == {"version": "2026.1", "error": "", "device": "Orin", "sm": "8.7"}
    assert record["packages"]["numpy"]["version"] == np.__version__
    assert os.uname().nodename not in json.dumps(record) or os.uname().nodename == "localhost"


def test_a_camera_that_is_no_uri_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "--camera", "ftp://x"]) == 2


def test_every_trial_ends_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(target: str) -> tuple[str, dict[str, object]]:
        raise BadInput("too old")

    def broken(target: str) -> tuple[str, dict[str, object]]:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("edge_ad.system.trial.TRIALS", {**TRIALS, "gpu": refused, "camera": broken})
    assert outcome("gpu", "") == {"ok": False, "found": "too old", "code": 2, "facts": {}}
    assert outcome("camera", "") == {"ok": False, "found": "RuntimeError: two lines", "code": 3, "facts": {}}
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert outcome("graph onnxruntime", "")["code"] == 2


def test_packages_that_were_not_asked_are_not_tried(tmp_path: Path) -> None:
    machine = workstation(tmp_path, packages={"onnxruntime": Package(None, "ImportError: broken")})
    assert [one.finding.name for one in try_backends(machine, shell("exit 1"))][-1] == "graph"


@pytest.mark.parametrize("integrated", [True, False])
def test_memory_and_a_graph_on_a_fake_gpu(integrated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_gpu(monkeypatch, integrated=integrated) as gpu:
        done = outcome("gpu", "")
        assert done["ok"], done
        assert done["facts"]["integrated"] is integrated
        assert gpu.faults() == {}
        done = outcome("graph tensorrt", "")
        assert done["ok"], done
        assert done["facts"]["difference"] < 1e-3
        assert gpu.faults() == {}
        gpu.configure(memory=0)
        done = outcome("gpu", "")
        assert (done["ok"], done["code"]) == (False, 3)
        assert "no memory left" in done["found"]
