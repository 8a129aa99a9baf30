"""The checks for a real card, run over the fake driver: all of them pass, and one that fails says so."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.fake_cuda.build import CannotBuildError, driver_for_pycuda

ROOT = Path(__file__).parents[2]
CHECKS = [
    "doctor",
    "frames, memory of its own",
    "frames, memory shared with the host",
    "threads",
    "50 openings",
    "memory ends",
    "an illegal address",
    "compute-sanitizer",
]
pytestmark = pytest.mark.slow


def run(out: Path, **environment: str) -> tuple[int, str, dict[str, Any]]:
    try:
        driver_for_pycuda()
    except CannotBuildError as error:
        pytest.skip(str(error))
    done = subprocess.run(
        ["bash", str(ROOT / "tools/release/gpu_slice.sh"), "--fake", str(out)],
        env={**os.environ, "FRAMES": "20", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert out.exists(), done.stderr
    return done.returncode, done.stdout, json.loads(out.read_text())


def test_every_check_passes_over_the_fake_driver(tmp_path: Path) -> None:
    code, printed, result = run(tmp_path / "found.json")
    assert code == 0, printed
    assert list(result["checks"]) == CHECKS
    assert result["fake"] is True
    assert result["summary"] == {"ok": 7, "skipped": 1, "failed": 0}
    assert printed.splitlines()[-1] == "7 ok, 1 skipped, 0 failed"


def test_a_check_that_fails_is_reported_and_the_others_go_on(tmp_path: Path) -> None:
    code, printed, result = run(tmp_path / "found.json", FAKE_CUDA_FAIL="cuStreamBeginCapture_v2:0:900")
    assert code == 1, printed
    failed = {name for name, row in result["checks"].items() if row["result"] == "failed"}
    assert failed == {"frames, memory of its own", "frames, memory shared with the host"}
    assert "the frame was not captured: recording failed" in result["checks"]["frames, memory of its own"]["why"]
    assert result["summary"] == {"ok": 5, "skipped": 1, "failed": 2}
