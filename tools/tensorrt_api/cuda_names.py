"""The names that edge_ad asks of pycuda, and those that its published source has.

pycuda is compiled where it is installed, so its names are read in its source. They are checked by name alone, not by
class.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

PACKAGES = {"pycuda": "2026.1"}
_PYCUDA_FILES = ("wrap_cudadrv.cpp", "pycuda/driver.py")
_COMMON = {*dir(str), *dir(memoryview), "base", "dtype", "driver"}  # what texts, arrays and ours have too


def asked(paths: Sequence[Path]) -> dict[str, set[str]]:
    """Return the names that the files ask of each package.

    pycuda: what follows ``.driver``, and what ``cuda.py`` asks of anything but ``np`` and itself.
    """
    found: dict[str, set[str]] = {name: set() for name in PACKAGES}
    for path in paths:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        own = {
            node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        }
        own |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and _of_pycuda(node, path.name, own):
                found["pycuda"].add(node.attr)
    return found


def fetch(folder: Path) -> None:
    """Download the source of pycuda into ``folder``, where it is not there."""
    for name, version in PACKAGES.items():
        if _file(folder, name) is None:
            command = [
                "-m",
                "pip",
                "download",
                "-q",
                "--no-deps",
                "--no-build-isolation",
                "--no-binary",
                ":all:",
                "-d",
                str(folder),
            ]
            subprocess.run([sys.executable, *command, f"{name}=={version}"], check=True)


def have(folder: Path) -> bool:
    """Whether its file is there."""
    return all(_file(folder, name) is not None for name in PACKAGES)


def read(folder: Path) -> dict[str, set[str]]:
    """Return the names that each package has; SystemExit where its file is not there."""
    found = {}
    for name in PACKAGES:
        path = _file(folder, name)
        if path is None:
            raise SystemExit(f"error: {name} {PACKAGES[name]} is not in {folder}: run with --fetch")
        found[name] = _pycuda(path)
    return found


def _file(folder: Path, name: str) -> Path | None:
    found = sorted(folder.glob(f"{name.replace('-', '_')}-{PACKAGES[name]}*"))
    return next((path for path in found if path.suffix in (".whl", ".gz")), None)


def _pycuda(path: Path) -> set[str]:
    text = ""
    with tarfile.open(path) as archive:
        for member in archive.getmembers():
            if member.name.endswith(_PYCUDA_FILES) and (stream := archive.extractfile(member)):
                text += stream.read().decode()
    macros = re.findall(r"\bDEF_SIMPLE_\w+\((\w+)\)", text) + re.findall(
        r"\b(?:DECLARE_EXC|MAP_METHOD\w*)\((\w+)", text
    )
    return set(re.findall(r'"(\w+)"', text)) | set(macros)


def _of_pycuda(node: ast.Attribute, file: str, own: set[str]) -> bool:
    if isinstance(node.value, ast.Attribute) and node.value.attr == "driver":
        return True
    plain = isinstance(node.value, ast.Name) and node.value.id in ("np", "self", "cls")
    return file == "cuda.py" and not plain and node.attr not in own | _COMMON
