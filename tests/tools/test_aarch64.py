"""The comparison of two machines' readings, by hand-made readings, and what the script refuses before it does anything."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tools.release.aarch64_reading import compare, differ

SCRIPT = Path(__file__).parents[2] / "tools" / "release" / "aarch64.sh"


def event(frame: int, score: float, verdict: str = "OK", logic: float = 0.0) -> dict[str, Any]:
    return {"frame": frame, "score": score, "verdict": verdict, "z": {"logic": logic}}


REFERENCE = [event(0, 0.5), event(1, 20.0, "NG", 9.0)]


@pytest.mark.parametrize(
    ("precision", "results", "fault"),
    [
        ("fp32", REFERENCE, None),
        ("fp16", [event(0, 0.549), event(1, 20.19, "NG", 9.0)], None),  # 0.05 z, or 1 % of the score
        ("fp16", [event(0, 0.551), event(1, 20.0, "NG", 9.0)], "scores differ by 0.051 z"),
        ("fp16", [event(0, 0.5), event(1, 20.21, "NG", 9.0)], "scores differ by 0.210 z"),
        ("fp32", [event(0, 0.5, "WARN"), event(1, 20.0, "NG", 9.0)], "frame 0: WARN where the reference has OK"),
        ("int8", [event(0, 0.9), event(1, 20.0, "NG", 10.4)], None),  # rms of 1.4 over two frames: 0.99
        ("int8", [event(0, 0.5), event(1, 20.0, "NG", 10.5)], r"a branch differs by 1.061 z"),
        ("fp32", REFERENCE[:1], "1 events where the reference has 2"),
    ],
)
def test_a_difference_beyond_the_gate_is_a_fault(
    precision: str, results: list[dict[str, Any]], fault: str | None
) -> None:
    row = differ(precision, REFERENCE, results)
    assert (row.fault is None) == (fault is None)
    assert fault is None or fault in str(row.fault)


def test_no_events_at_all_are_a_fault() -> None:
    assert differ("fp32", [], []).fault is not None


def write(folder: Path, machine: str, code: int, events: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    steps = {
        name: {"code": 0, "seconds": 1.0, "said": "said"} for name in ("build-engine --fp32", "run, fp32", "guard")
    }
    steps["guard"]["code"] = code
    reading = {"machine": machine, "python": "3.11.2", "packages": {}, "precisions": ["fp32"], "steps": steps}
    (folder / "reading.json").write_text(json.dumps(reading))
    (folder / "fp32.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return folder


@pytest.mark.parametrize(
    ("code", "events", "message"),
    [
        (0, REFERENCE, ""),
        (1, REFERENCE, "error: aarch64: guard: said"),
        (0, [event(0, 9.0), REFERENCE[1]], "error: fp32: scores differ by 8.500 z"),
    ],
)
def test_the_exit_code_reports_a_difference_or_a_failed_step(
    code: int, events: list[dict[str, Any]], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = write(tmp_path / "x86", "x86_64", 0, REFERENCE)
    assert compare(reference, write(tmp_path / "arm", "aarch64", code, events)) == bool(message)
    output = capsys.readouterr()
    assert output.err.startswith(message)
    assert "1 NG, 1 OK" in output.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--frames", "0"], "--frames is 0, but must be 1 or more"),
        (["--work"], "--work needs a value"),
        (["--bundle", "/nowhere/part.edgead"], "there is no bundle /nowhere/part.edgead"),
        (["--bundle", str(SCRIPT)], "--bundle needs --camera"),
        (["--swift"], "unknown argument --swift"),
    ],
)
def test_wrong_arguments_are_refused_in_a_sentence(arguments: list[str], message: str) -> None:
    done = subprocess.run(["bash", str(SCRIPT), *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert message in done.stderr
