"""The set-up of a Jetson, as far as a machine that is none can tell: what it would do on recorded boards, and what it refuses."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.system.recorded import lay_out

SCRIPT = Path(__file__).parents[2] / "tools" / "jetson_setup.sh"


def dry_run(folder: Path, board: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    return subprocess.run(
        ["bash", str(SCRIPT), "--dry-run", *arguments],
        cwd=folder,
        env={**os.environ, "EDGE_AD_ROOT": str(board)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def commands(text: str) -> list[str]:
    return [
        line.removeprefix("would run: ").removeprefix("sudo ") for line in text.splitlines() if "would run: " in line
    ]


def test_what_it_would_do_on_an_orin_nano(tmp_path: Path) -> None:
    lay_out("orin_nano_jetpack6", tmp_path / "board")
    station = tmp_path / "station"
    station.mkdir()
    (station / "kit.edgead").write_bytes(b"bundle")
    done = dry_run(station, tmp_path / "board", "--bundle", "kit.edgead", "--camera", "csi://0", "--user", "root")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("L4T 36.4.7, python3.10 (dry run")
    planned = commands(done.stdout)
    assert planned[0] == "apt-get update"
    assert planned[1].startswith(
        "env DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=a apt-get install -y nvidia-jetpack python3-venv"
    )
    assert planned[2] == "/usr/bin/python3.10 -m venv --clear --system-site-packages .venv"
    assert any("pip uninstall" in line and "opencv-python-headless" in line for line in planned)
    assert any("CUDA_ROOT=/usr/local/cuda" in line and "onnxruntime" in line for line in planned)
    assert not any(" pip " in line and " -q" in line for line in planned), "minutes of silence look like a hang"
    assert "systemctl enable --now edge-ad-clocks.service" in planned
    assert planned[-7:] == [
        ".venv/bin/edge-ad doctor",
        "nvpmodel -m 2",
        "sh -c sync\\ \\&\\&\\ echo\\ 1\\ \\>/proc/sys/vm/drop_caches",
        ".venv/bin/edge-ad build-engine kit.edgead --fp16",
        ".venv/bin/edge-ad run kit.edgead --camera csi://0 --max-frames 20",
        f"{station}/.venv/bin/edge-ad service install --bundle kit.edgead --user root --folder {station}",
        "systemctl enable --now edge-ad.service",
    ]
    assert sorted(path.name for path in station.iterdir()) == ["kit.edgead"]


def test_what_is_done_is_left_alone(tmp_path: Path) -> None:
    names = ["libnvinfer10", "python3-libnvinfer", "python3-venv", "python3-dev", "build-essential"]
    names += [f"gstreamer1.0-{name}" for name in ("tools", "plugins-good", "plugins-bad")]
    status = "\n".join(f"Package: {name}\nStatus: install ok installed\n" for name in names)
    unit = "etc/systemd/system/edge-ad-clocks.service"
    files = {"var/lib/dpkg/status": status, "usr/local/cuda/bin/nvcc": "", unit: ""}
    files["usr/lib/python3.12/dist-packages/cv2/__init__.py"] = ""
    lay_out("thor_jetpack7", tmp_path / "board", files)
    (tmp_path / "board/usr/local/cuda/bin/nvcc").chmod(0o755)
    station = tmp_path / "station"
    (station / ".venv/bin").mkdir(parents=True)
    (station / ".venv/pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = true\n")
    (station / ".venv/bin/python3.12").touch()
    done = dry_run(station, tmp_path / "board", "--user", "root")
    assert done.returncode == 0, done.stderr
    planned = [line for line in commands(done.stdout) if " pip " not in line and "usermod" not in line]
    assert planned == [".venv/bin/edge-ad doctor"]
    assert "all there\n" in done.stdout
    assert "mode 0 stays\n" in done.stdout
    assert "run this again with --bundle FILE" in done.stdout


RELEASE = "etc/nv_tegra_release"

# Stands in for a command: writes its words down, says what it was told to say, and leaves with the code it was given.
STUB = """#!/bin/bash
name="$(basename "$0")"
echo "$name $*" >>"$STUBS/calls"
[ ! -f "$STUBS/$name.says" ] || cat "$STUBS/$name.says"
[ ! -f "$STUBS/$name.reads" ] || { read -r answer && echo "answer $answer" >>"$STUBS/calls"; }
exit "$(cat "$STUBS/$name.code" 2>/dev/null || echo 0)"
"""
# Root's commands: the stubs are run, what would touch this machine is written down only. `sudo -u USER` makes a login's
# groups, which the stub of edge-ad can see.
SUDO = """#!/bin/bash
echo "sudo $*" >>"$STUBS/calls"
case "$1" in
    -u) shift 2; LOGIN=yes exec "$@" ;;
    nvpmodel | systemctl | usermod) exec "$@" ;;
esac
"""
# `id -nG` is this session, `id -nG USER` the database; usermod changes the database alone.
ID = """#!/bin/bash
case "$*" in
    -u) echo 1000 ;;
    -un) echo inspector ;;
    -nG) echo inspector ;;
    *) if [ -e "$STUBS/usermod.done" ]; then echo inspector video render gpio; else echo inspector; fi ;;
esac
"""


class Board:
    """A station on a recorded board, where every command that would change something is a stub."""

    def __init__(self, folder: Path) -> None:
        lay_out("orin_nano_jetpack6", folder / "board")
        self.station, self.stubs = folder / "station", folder / "stubs"
        self.stubs.mkdir()
        (self.station / ".venv/bin").mkdir(parents=True)
        (self.station / ".venv/pyvenv.cfg").write_text("include-system-site-packages = true\n")
        (self.station / "kit.edgead").write_bytes(b"bundle")
        for name in ("apt-get", "systemctl", "nvpmodel", "getent", "install"):
            self.stub(self.stubs / name, STUB)
        self.stub(self.stubs / "sudo", SUDO)
        self.stub(self.stubs / "id", ID)
        self.stub(self.stubs / "usermod", STUB.replace("exit", 'touch "$STUBS/usermod.done"\nexit'))
        for name in ("python", "python3.10", "edge-ad"):
            self.stub(self.station / ".venv/bin" / name, STUB)
        self._board = folder / "board"

    @staticmethod
    def stub(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)

    def answers(self, name: str, text: str = "", code: int = 0, reads: bool = False) -> None:
        """Let a stub say ``text`` and leave with ``code``; with ``reads`` it asks for an answer."""
        (self.stubs / f"{name}.says").write_text(text)
        (self.stubs / f"{name}.code").write_text(str(code))
        if reads:
            (self.stubs / f"{name}.reads").touch()

    def set_up(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(SCRIPT), *arguments],
            cwd=self.station,
            env={
                **os.environ,
                "EDGE_AD_ROOT": str(self._board),
                "STUBS": str(self.stubs),
                "PATH": f"{self.stubs}{os.pathsep}{os.environ['PATH']}",
            },
            input="yes\n",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def calls(self) -> list[str]:
        return (self.stubs / "calls").read_text().splitlines()


BUNDLE = ("--bundle", "kit.edgead", "--camera", "csi://0", "--user", "inspector")


def test_the_whole_way_with_a_bundle(tmp_path: Path) -> None:
    board = Board(tmp_path)
    done = board.set_up(*BUNDLE)
    assert done.returncode == 0, done.stderr
    calls = board.calls()
    wanted = [
        "edge-ad doctor",
        "sudo nvpmodel -m 2",
        "sudo sh -c sync && echo 1 >/proc/sys/vm/drop_caches",
        "edge-ad build-engine kit.edgead --fp16",
        "edge-ad run kit.edgead --camera csi://0 --max-frames 20",
        "sudo systemctl enable --now edge-ad.service",
    ]
    assert [call for call in calls if call in wanted] == wanted
    assert any(
        call.startswith("sudo") and "service install --bundle kit.edgead --user inspector" in call for call in calls
    )


def test_a_power_mode_that_wants_a_restart_is_a_note_and_gets_no_answer(tmp_path: Path) -> None:
    board = Board(tmp_path)
    asked = "NVPM WARN: Reboot required for changing to this power mode: 2\nDO YOU WANT TO REBOOT NOW? enter YES/yes to confirm:\n"
    board.answers("nvpmodel", asked, code=255, reads=True)
    done = board.set_up(*BUNDLE)
    assert done.returncode == 0, done.stderr
    assert not [call for call in board.calls() if call.startswith("answer")], "our own input is no answer to it"
    assert "edge-ad build-engine kit.edgead --fp16" in board.calls()
    left = done.stdout.partition("== what is left to do")[2]
    assert "- power mode 2 wants a restart: sudo nvpmodel -m 2, answer yes, and run this again" in left


def test_a_power_mode_that_is_not_taken_is_a_note(tmp_path: Path) -> None:
    board = Board(tmp_path)
    board.answers("nvpmodel", "NVPM ERROR: failed to set power mode!\n", code=1)
    done = board.set_up(*BUNDLE)
    assert done.returncode == 0
    assert "- nvpmodel did not take mode 2" in done.stdout


def test_a_doctor_that_is_not_content_is_a_note(tmp_path: Path) -> None:
    board = Board(tmp_path)
    board.answers("edge-ad", code=2)
    done = board.set_up("--user", "inspector")
    assert done.returncode == 0, done.stderr
    assert "sudo nvpmodel -m 2" in board.calls(), "what comes after it is done"
    assert "- edge-ad doctor is not content: do what it says above" in done.stdout


def test_new_groups_are_in_force_for_what_the_script_runs(tmp_path: Path) -> None:
    """usermod changes the next login, not this shell: a GPU of the group render would not open."""
    board = Board(tmp_path)
    Board.stub(board.station / ".venv/bin/edge-ad", STUB.replace('echo "$name', 'echo "login=${LOGIN:-no} $name'))
    done = board.set_up(*BUNDLE)
    assert done.returncode == 0, done.stderr
    assert "sudo usermod -aG video,render,gpio inspector" in board.calls()
    for word in ("doctor", "build-engine", "run kit"):
        assert [call for call in board.calls() if f"edge-ad {word}" in call and call.startswith("login=yes")], word
    assert "- log out and in again before you use edge-ad by hand" in done.stdout


@pytest.mark.parametrize(
    ("command", "sentence"),
    [("apt-get", "apt-get did not install"), ("python", "pip did not install edge-ad")],
)
def test_what_cannot_go_on_ends_in_a_sentence(command: str, sentence: str, tmp_path: Path) -> None:
    board = Board(tmp_path)
    board.answers(command, code=100)
    Board.stub(board.stubs / "sudo", SUDO.replace("nvpmodel |", "env | apt-get | nvpmodel |"))
    done = board.set_up(*BUNDLE)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "then run this again" in done.stderr


def test_no_engine_and_no_verdict_leave_no_service(tmp_path: Path) -> None:
    board = Board(tmp_path)
    broken = STUB.replace("exit", '[ "$1" != "$FAILS" ] || exit 3\nexit')
    for word, code, message in (
        ("build-engine", 2, "there is no engine"),
        ("run", 3, "no verdicts from camera 'csi://0'"),
    ):
        Board.stub(board.station / ".venv/bin/edge-ad", broken.replace("$FAILS", word))
        done = board.set_up(*BUNDLE)
        assert done.returncode == code
        assert message in done.stdout + done.stderr
        assert not [call for call in board.calls() if "edge-ad.service" in call]


@pytest.mark.parametrize(
    ("files", "arguments", "sentence"),
    [
        (
            {RELEASE: "# R36 (release), REVISION: 3.0, x\n"},
            [],
            "JetPack 6.0 with TensorRT 8.6: upgrade to JetPack 6.1 or newer",
        ),
        (
            {RELEASE: "# R35 (release), REVISION: 4.1, x\n"},
            [],
            "L4T 35.4.1 is not supported: flash JetPack 6.1 or newer",
        ),
        ({RELEASE: "nonsense\n"}, [], "does not tell its release"),
        ({RELEASE: None}, [], "this is no Jetson"),
        ({}, ["--power", "fast"], "--power 'fast' is no number of a mode"),
        ({}, ["--power", "9"], "power mode 9 is not one of: 0 15W;1 25W;2 MAXN_SUPER;3 7W"),
        ({}, ["--bundle", "none.edgead"], "there is no bundle 'none.edgead'"),
        ({}, ["--bundle"], "--bundle needs a value"),
        ({}, ["--fast"], "unknown option '--fast'"),
    ],
)
def test_what_it_refuses(files: dict[str, Any], arguments: list[str], sentence: str, tmp_path: Path) -> None:
    lay_out("orin_nano_jetpack6", tmp_path / "board", files)
    done = dry_run(tmp_path / "station", tmp_path / "board", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert sentence in done.stderr


@pytest.mark.skipif(
    shutil.which("shellcheck") is None, reason="shellcheck is not installed (apt-get install shellcheck)"
)
def test_shellcheck_has_nothing_to_say() -> None:
    done = subprocess.run(["shellcheck", str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.stdout == ""
