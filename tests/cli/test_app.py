"""The frame of the command line: what it imports, how it fails, and with which exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from edge_ad import __version__
from edge_ad.cli import app as app_module
from edge_ad.cli.app import COMMANDS, app, main
from edge_ad.errors import BadInput, DeviceFault, EdgeAdError, GateRefused

HEAVY = ("torch", "cv2", "onnxruntime", "onnx", "sklearn", "matplotlib", "numpy", "pydantic", "rich")


def python(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=folder, timeout=120)


def test_the_frame_imports_nothing_heavy() -> None:
    code = f"import sys, edge_ad.cli.app; print([name for name in {HEAVY} if name in sys.modules])"
    done = python("-c", code)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_help_lists_every_command_in_one_line() -> None:
    done = python("-m", "edge_ad", "--help")
    assert done.returncode == 0
    for name, _, summary in COMMANDS:
        assert any(line.split()[:1] == [name] for line in done.stdout.splitlines()), name
        assert summary.split()[0] in done.stdout


@pytest.mark.parametrize("name", [name for name, _, _ in COMMANDS])
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert f"edge-ad {name}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_is_the_answer_to_nothing(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    assert "Usage: edge-ad" in capsys.readouterr().out


def test_help_shows_the_order_of_steps_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.split("The usual order:")[1].splitlines()
    steps = [line.split()[1] for line in lines if line.strip().startswith("edge-ad ")]
    assert steps == ["init", "capture", "train", "evaluate", "build-engine", "run"]


def test_help_of_train_states_what_it_reads_and_what_it_costs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "PNG, JPEG, BMP, TIFF, WebP, PPM of 8 or 16 bits; at least 10 of 32 x 32 pixels or more, better 100" in text
    assert "--data DATA" in text
    for cost in ("demo (a first look: 6 minutes", "fast (11 to 13 minutes", "paper-m (as published: a GPU)"):
        assert cost in text


def test_what_other_tools_call_it_leads_to_commands_that_exist() -> None:
    known = {name for name, _, _ in COMMANDS}
    assert set(app_module.SYNONYMS.values()) <= known
    assert not known & set(app_module.SYNONYMS)


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252"])
def test_a_terminal_that_lacks_a_character_shows_its_code(encoding: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-m", "edge_ad", "info", "\u96f6\u4ef6.edgead"]
    done = subprocess.run(command, capture_output=True, cwd=tmp_path, env=environment, timeout=120)
    assert done.returncode == 2
    assert rb"\u96f6" in done.stderr
    assert b"Traceback" not in done.stderr


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"edge-ad {__version__}"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], ["unknown command 'trian'", "did you mean 'train'?", "train, evaluate"]),
        (["predict"], ["unknown command 'predict'", "did you mean 'run'?"]),
        (["detect"], ["did you mean 'run'?"]),
        (["val"], ["did you mean 'evaluate'?"]),
        (["convert"], ["did you mean 'build-engine'?"]),
        (["xyzzy"], ["unknown command 'xyzzy': Choose one of init, capture"]),
        (["run", "b.edgead", "one.png", "two.png"], ["name their folder", "the shell made"]),
        (["run", "b.edgead", "goods/"], ["extra", "follows --camera: `edge-ad run BUNDLE --camera FOLDER`"]),
        (["run", "goods/"], ["goods is not a bundle but something to judge", "edge-ad run --camera goods"]),
        (["run", "0"], ["edge-ad run --camera 0"]),
        (["run", "rtsp://camera/1"], ["edge-ad run --camera rtsp://camera/1"]),
        (["run", "film.mp4"], ["edge-ad run --camera film.mp4"]),
        (["run", "x" * 300], ["cannot use", "File name too long", "name a path that you may use"]),
        (["evaluate", "x" * 300], ["File name too long"]),
        (["recalibrate", "a.edgead"], ["a.edgead is a bundle: add the folder of good images"]),
        (["recalibrate", "a", "b", "c"], ["takes a bundle and a folder of good images, but 3 paths"]),
        (["calibrate", "goods"], ["no bundle (*.edgead) under"]),
        (["train", "a", "--data", "b"], ["DATA is a and --data is b: name one of them"]),
        (["--nonsense"], ["--nonsense", "--version"]),
        (["init", "--presett", "fast"], ["--presett", "--preset", "--data", "--camera"]),
        (["init", "--preset"], ["--preset", "argument"]),
        (["init", "extra"], ["extra", "edge-ad init --help"]),
    ],
)
def test_usage_errors_are_one_sentence(
    arguments: list[str],
    words: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("goods").mkdir()
    assert main(arguments) == 2
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1
    for word in words:
        assert word in stderr


def raising(error: BaseException) -> typer.Typer:
    single = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)

    @single.command()
    def command() -> None:
        raise error

    return single


@pytest.mark.parametrize(
    ("error", "code", "stderr"),
    [
        (BadInput("a: b;\nsay c"), 2, "error: a: b; say c\n"),
        (DeviceFault("no camera 0"), 3, "error: no camera 0\n"),
        (GateRefused("parity 3.2"), 4, "error: parity 3.2\n"),
        (EdgeAdError("other"), 1, "error: other\n"),
        (
            MemoryError("8 GiB"),
            3,
            "error: out of memory (8 GiB): close other programs, give smaller images or choose a smaller preset\n",
        ),
        (KeyboardInterrupt(), 130, ""),
        (typer.Abort(), 130, ""),
        (typer.Exit(3), 3, ""),
    ],
)
def test_errors_become_exit_codes(
    error: BaseException, code: int, stderr: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(app_module, "app", raising(error))
    assert main([]) == code
    assert capsys.readouterr().err == stderr


def test_a_fault_of_the_program_stays_loud(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_module, "app", raising(ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError, match="a bug"):
        main([])


@pytest.mark.parametrize("end", ["sys.exit(frame.main(['break']))", "sys.argv[1:] = ['break']\nframe.entry()"])
def test_a_fault_of_the_program_leaves_a_traceback_and_exit_code_1(end: str) -> None:
    """With a thread left behind, as of a camera that hangs."""
    code = (
        "import sys, threading, edge_ad.cli.app as frame\n"
        "@frame.app.command('break')\n"
        "def command() -> None:\n"
        "    threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "    raise ZeroDivisionError('a bug')\n" + end
    )
    done = python("-c", code)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError: a bug" in done.stderr


def test_the_installed_command_ends_with_the_exit_code(tmp_path: Path) -> None:
    (tmp_path / "edge-ad.toml").write_text("")
    done = python("-m", "edge_ad", "init", "--yes", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: edge-ad.toml exists already")
    assert "Traceback" not in done.stderr


def test_commands_are_all_registered() -> None:
    group: Any = typer.main.get_command(app)
    assert group.list_commands(None) == [name for name, _, _ in COMMANDS]
    for name, _, summary in COMMANDS:
        command = group.get_command(None, name)
        assert (command.name, command.short_help) == (name, summary)
