"""The folder of wheels for a Jetson: what its installer does and refuses, with stand-ins for the machine."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from tests.tools.loading import TOOLS

# A Python that makes an environment whose programs write down how they were called.
PYTHON = """#!/bin/bash
venv="${@: -1}"; mkdir -p "$venv/bin"
echo "python $*" >>"$CALLS"
for name in python edge-ad; do
    printf '#!/bin/bash\\necho "%s $*" >>"$CALLS"\\n' "$name" >"$venv/bin/$name"; chmod +x "$venv/bin/$name"
done
"""


def program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


def install(folder: Path, *arguments: str, machine: str = "aarch64") -> subprocess.CompletedProcess[str]:
    """Run the installer of a wheelhouse beside programs that stand in for a Jetson's."""
    programs = folder.parent / "bin"
    program(programs, "uname", f"#!/bin/bash\necho {machine}\n")
    program(programs, "nvcc", "#!/bin/bash\n")
    program(programs, "python3.12", PYTHON)
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "CALLS": str(folder.parent / "calls"),
    }
    return subprocess.run(
        ["bash", str(folder / "install.sh"), *arguments],
        cwd=folder.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def wheelhouse(tmp_path: Path) -> Path:
    folder = tmp_path / "wheelhouse"
    folder.mkdir()
    (folder / "install.sh").write_bytes((TOOLS / "offline_install.sh").read_bytes())
    (folder / "python.txt").write_text("3.12\n")
    (folder / "a-1-py3-none-any.whl").write_bytes(b"wheel")
    (folder / "sha256.txt").write_text(f"{hashlib.sha256(b'wheel').hexdigest()}  a-1-py3-none-any.whl\n")
    return folder


def test_it_installs_from_the_folder_alone(wheelhouse: Path) -> None:
    done = install(wheelhouse)
    assert done.returncode == 0, done.stderr
    made, installed, version = (wheelhouse.parent / "calls").read_text().splitlines()
    assert made == "python -m venv --system-site-packages .venv"
    assert "--no-index" in installed
    assert f"--find-links {wheelhouse} edge-ad[jetson,line,plc] onnxruntime" in installed
    assert version == "edge-ad --version"
    assert "next: .venv/bin/edge-ad doctor" in done.stdout


def test_an_environment_that_is_there_is_filled(wheelhouse: Path) -> None:
    assert install(wheelhouse, "station").returncode == 0
    assert install(wheelhouse, "station").returncode == 0
    assert (wheelhouse.parent / "calls").read_text().count("-m venv") == 1


@pytest.mark.parametrize(
    ("file", "text", "machine", "sentence"),
    [
        ("a-1-py3-none-any.whl", "torn", "aarch64", "the folder is damaged: copy it again"),
        ("python.txt", "3.99", "aarch64", "there is no python3.99: these wheels are for another JetPack"),
        ("python.txt", None, "aarch64", "is no folder of tools/wheelhouse.sh"),
        ("python.txt", "3.12", "x86_64", "these wheels are for aarch64, and this is x86_64"),
    ],
)
def test_what_it_refuses(file: str, text: str | None, machine: str, sentence: str, wheelhouse: Path) -> None:
    (wheelhouse / file).unlink()
    if text is not None:
        (wheelhouse / file).write_text(text)
    done = install(wheelhouse, machine=machine)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert sentence in done.stderr
    assert not (wheelhouse.parent / ".venv").exists()


@pytest.mark.parametrize(
    ("script", "arguments", "sentence"),
    [
        ("offline_install.sh", ["--fast"], "unknown argument --fast: allowed is the path of a virtual environment"),
        ("wheelhouse.sh", ["--fast"], "unknown argument --fast: allowed are --python and --out"),
        ("wheelhouse.sh", ["--out"], "--out needs a value; --help tells which"),
        ("wheelhouse.sh", ["--python", "3.11"], "--python is 3.11: allowed are 3.10 and 3.12"),
        ("docs.sh", ["--fast"], "unknown argument --fast: allowed is --serve"),
    ],
)
def test_wrong_arguments_are_reported_in_a_sentence(script: str, arguments: list[str], sentence: str) -> None:
    done = subprocess.run(
        ["bash", str(TOOLS / script), *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr.strip()) == (2, f"error: {sentence}")
