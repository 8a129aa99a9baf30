"""Every script in tools explains itself and stands in tools/README.md; the lists for a Jetson follow its markers."""

from __future__ import annotations

import importlib
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.fixtures.extras import TRAINING

TOOLS = Path(__file__).parents[2] / "tools"
FOLDERS = ("benchmarks", "release", "soak")
FOUND = sorted(path for folder in ("", "benchmarks", "soak") for path in (TOOLS / folder).glob("*.py"))
SCRIPTS = [path for path in FOUND if '__name__ == "__main__"' in path.read_text(encoding="utf-8")]
FILES = sorted([*TOOLS.glob("*.sh"), *TOOLS.glob("*/*.sh")])
NEED_TRAINING = {"contamination.py", "plain_distance.py"}
SHELL = [path for path in FILES if path.read_text(encoding="utf-8").startswith("#!")]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.relative_to(TOOLS).as_posix())
def test_a_script_has_help(script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if script.name in NEED_TRAINING and not TRAINING:
        pytest.skip("edge-ad[train] is not installed")
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    monkeypatch.setattr(sys, "path", [str(script.parent), *sys.path])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert not ended.value.code
    assert "usage:" in capsys.readouterr().out


@pytest.mark.parametrize("script", SHELL, ids=lambda path: path.name)
def test_a_shell_script_has_help_and_refuses_no_machine(script: Path) -> None:
    done = subprocess.run(["bash", str(script), "--help"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 40
    assert not done.stderr


def test_shell_scripts_can_be_started_as_the_pages_say() -> None:
    assert [script.name for script in SHELL if not os.access(script, os.X_OK)] == []


def test_the_readme_names_every_tool_and_nothing_else() -> None:
    named = {
        word.rstrip("/") for word in re.findall(r"`([\w./-]+)`", (TOOLS / "README.md").read_text(encoding="utf-8"))
    }
    there = {
        path.relative_to(TOOLS).as_posix()
        for folder in ("", *FOLDERS)
        for path in (TOOLS / folder).iterdir()
        if path.name not in ("README.md", "__pycache__", *FOLDERS)
    }
    assert there <= named, there - named
    files = {word for word in named if word.endswith((".py", ".sh", ".txt"))}
    assert files - {"install.sh"} <= there


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module("check_aarch64")


@pytest.mark.parametrize(("python", "old"), [("3.10", True), ("3.12", False)])
def test_markers_are_those_of_the_jetson(check: ModuleType, python: str, old: bool) -> None:
    place = check.environment(python)
    asked = list(check.asked(["jetson", "line", "plc"], place))
    names = [requirement.name for requirement in asked]
    assert ("tomli" in names) == old
    assert "numpy<2" in map(str, asked)  # the OpenCV of Ubuntu 22.04 and of 24.04
    assert {"numpy", "onnx", "pycuda", "paho-mqtt", "gpiod"} <= set(names)
    assert "onnxruntime" not in names  # comes beside the extras, see ALSO
    pins = check.pins(place)
    assert pins["numpy"] == "numpy==1.26.4"
    assert pins["typer"].startswith("typer==")
    flags = check.pip_flags(python)
    assert f"cp{python.replace('.', '')}" in flags
    assert ("manylinux_2_39_aarch64" in flags) == (not old)


def test_an_unknown_extra_is_reported(check: ModuleType) -> None:
    with pytest.raises(SystemExit, match="there is no extra 'jetsen'"):
        list(check.asked(["jetsen"], check.environment("3.10")))


def test_stand_ins_are_wheels_with_the_needs_of_what_they_stand_for(
    check: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check.main(["--stand-ins", str(tmp_path)]) == 0
    (wheel,) = tmp_path.glob("*.whl")
    needs = [requirement.name for requirement in check.needs(wheel, frozenset(), check.environment("3.10"))]
    assert needs == list(check.COMPILED["pycuda"])
    assert check.wheel_of("pycuda", tmp_path) == wheel


def test_every_package_of_a_jetson_is_pinned(check: ModuleType) -> None:
    place = check.environment("3.10")
    pins = check.pins(place)
    missing = [r.name for r in check.asked(["jetson", "line", "plc"], place) if check.canonicalize_name(r.name) not in pins]
    assert not missing
