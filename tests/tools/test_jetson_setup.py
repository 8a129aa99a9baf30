"""The set-up of a Jetson, as far as a machine that is none can tell: what it would do on recorded boards, and what it refuses."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.doctor.recorded import lay_out

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
    assert planned[1].startswith("apt-get install -y nvidia-jetpack python3-venv")
    assert planned[2] == "/usr/bin/python3.10 -m venv --clear --system-site-packages .venv"
    assert any("pip uninstall" in line and "opencv-python-headless" in line for line in planned)
    assert any("CUDA_ROOT=/usr/local/cuda" in line and "onnxruntime" in line for line in planned)
    assert "nvpmodel -m 2" in planned
    assert "systemctl enable --now edge-ad-clocks.service" in planned
    assert planned[-5:] == [
        ".venv/bin/edge-ad doctor",
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
