"""The doctor on the machine that runs the tests, by its command; and what an import in a process of its own tells."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from edge_ad.cli.app import main
from edge_ad.system import machine as packages
from edge_ad.system.machine import Machine, Package, kernel_clock, probe


def test_the_command_reports_the_truth_of_this_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = main(["doctor", "--json", "doctor.json"])
    record = json.loads(Path("doctor.json").read_text())
    assert record["exit_code"] == code
    assert record["ready"] == (code == 0)
    result = {check["name"]: check for check in record["checks"]}
    assert f"{len(os.sched_getaffinity(0))} cores" in result["board"]["found"] or "Jetson" in result["board"]["found"]
    assert result["python"]["found"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}")
    import cv2
    import onnxruntime

    assert result["onnxruntime"] == {
        "name": "onnxruntime",
        "status": "ok",
        "found": onnxruntime.__version__,
        "advice": "",
    }
    assert result["opencv"]["found"].startswith(cv2.__version__)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    assert f"of {total:.1f} GiB free" in result["memory"]["found"]
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1].startswith("ready: " if code == 0 else "not ready: ")
    for name in result:
        assert any(line.split(None, 1)[1].startswith(name) for line in printed if line[:4].strip())


def test_the_clock_of_the_kernel_is_read_and_left_alone() -> None:
    assert kernel_clock() in (True, False, None)
    assert kernel_clock() == kernel_clock()


def test_a_package_may_be_there_or_absent_or_broken_or_fatal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        packages,
        "_SCRIPTS",
        {
            "there": "print('noise on import'); tell('1.2', fast=True)",
            "absent": "import no_such_package_here",
            "broken": "raise ImportError('libnvinfer.so.10: cannot open shared object file')",
            "fatal": "import os; os.kill(os.getpid(), 11)",
            "silent": "raise SystemExit(3)",
        },
    )
    result = probe()
    assert result["there"] == Package("1.2", facts={"fast": True})
    assert result["absent"].absent
    assert result["broken"] == Package(None, "ImportError: libnvinfer.so.10: cannot open shared object file")
    assert not result["broken"].absent
    assert result["fatal"] == Package(None, "its import was ended by signal 11")
    assert result["silent"] == Package(None, "its import left with 3")


def test_an_import_without_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "TIMEOUT_S", 0.2)
    monkeypatch.setattr(packages, "_SCRIPTS", {"endless": "import time; time.sleep(60)"})
    assert probe()["endless"].error == "its import did not end within 0.2 s"


def test_a_file_that_refuses_to_be_read_is_empty(tmp_path: Path) -> None:
    machine = Machine(tmp_path, (3, 11), {}, 0, None)
    (tmp_path / "folder").mkdir()
    (tmp_path / "words").write_text("twelve")
    assert machine.text("folder") == machine.text("nowhere") == ""
    assert machine.number("words") is None
