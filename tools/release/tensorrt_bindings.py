"""Read the names of TensorRT's published bindings and of pycuda's published source.

The wheel's own module is imported, over libraries that do nothing: it holds the classes, and the libraries that it links
(``libnvinfer`` and others) need not be there to list them, only the few functions that they export. So no GPU and none of
NVIDIA's libraries are needed, but a C compiler and a wheel for the Python that runs this. pycuda is compiled where it is
installed, so its names are read in its source.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

VERSIONS = {"10.3": "10.3.0", "10.13": "10.13.3.9", "10.16": "10.16.1.11", "11.4": "11.4.0.106"}
PACKAGE = "tensorrt-cu12-bindings"
PYCUDA = "2026.1"
_LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
_PYCUDA_FILES = ("wrap_cudadrv.cpp", "pycuda/driver.py")

# Run in a process of its own: prints {class: {member: what it gives}}; "" stands for the module itself. A member that
# may be assigned begins with "=", one that must be called ends with "()".
_LIST = r"""
import json, re
import tensorrt_bindings as trt
def gives(doc):
    found = re.search(r"-> (?:Optional\[)?(?:tensorrt_bindings\.tensorrt\.|nvinfer1::|nvonnxparser::)(\w+(?:\.\w+)*)", doc or "")
    return found.group(1).split(".")[-1] if found else ""
def member(owner, name):
    value = next((vars(c)[name] for c in owner.__mro__ if name in vars(c)), None)
    if isinstance(value, property):
        return ("=" if value.fset else "") + gives(value.fget.__doc__ if value.fget else "")
    if isinstance(value, owner) or name in getattr(owner, "__members__", {}):
        return owner.__name__
    return gives(getattr(owner, name).__doc__) + "()" if callable(getattr(owner, name, None)) else ""
def public(owner):
    return [name for name in dir(owner) if not name.startswith("_")]
table = {"": {}}
for name in public(trt):
    value = getattr(trt, name)
    table[""][name] = "class" if isinstance(value, type) else "()" if callable(value) else ""
    if isinstance(value, type) and value.__module__.startswith("tensorrt"):
        table[name] = {inner: member(value, inner) for inner in public(value)}
known = {**{"I" + name: name for name in table}, **{name: name for name in table}}
for members in table.values():
    for name, told in members.items():
        inner = told.strip("=()")  # a parser's errors are told by their name in C++
        if members is not table[""] and inner:
            members[name] = told.replace(inner, known.get(inner, ""))
table[""]["__version__"] = table[""]["__name__"] = ""
print(json.dumps(table))
"""


def fetch(folder: Path) -> None:
    """Download the wheels of every version and the source of pycuda into ``folder``; what is there already stays."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder)]
    for exact in VERSIONS.values():
        if _wheel(folder, exact) is None:
            subprocess.run([*command, f"{PACKAGE}=={exact}"], check=True)
    if _pycuda(folder) is None:
        source = ["--no-build-isolation", "--no-binary", ":all:"]
        subprocess.run([*command, *source, f"pycuda=={PYCUDA}"], check=True)


def have(folder: Path) -> bool:
    """Whether everything, and a C compiler, is there."""
    wheels = all(_wheel(folder, exact) is not None for exact in VERSIONS.values())
    return wheels and _pycuda(folder) is not None and shutil.which("cc") is not None


def read(folder: Path) -> dict[str, dict[str, dict[str, str]]]:
    """Return ``{version: {class: {member: what it gives}}}`` of the wheels in ``folder``; SystemExit where one lacks."""
    return {version: json.loads(run(folder, exact, _LIST)) for version, exact in VERSIONS.items()}


def read_pycuda(folder: Path) -> set[str]:
    """Return the names in the source of pycuda; SystemExit where it is not in ``folder``."""
    path = _pycuda(folder)
    if path is None:
        raise SystemExit(f"error: pycuda {PYCUDA} is not in {folder}: run with --fetch")
    text = ""
    with tarfile.open(path) as archive:
        for member in archive.getmembers():
            if member.name.endswith(_PYCUDA_FILES) and (stream := archive.extractfile(member)):
                text += stream.read().decode()
    macros = re.findall(r"\bDEF_SIMPLE_\w+\((\w+)\)", text) + re.findall(
        r"\b(?:DECLARE_EXC|MAP_METHOD\w*)\((\w+)", text
    )
    return set(re.findall(r'"(\w+)"', text)) | set(macros)


def _pycuda(folder: Path) -> Path | None:
    return next(iter(sorted(folder.glob(f"pycuda-{PYCUDA}*.gz"))), None)


def _wheel(folder: Path, exact: str) -> Path | None:
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    result = sorted(folder.glob(f"{PACKAGE.replace('-', '_')}-{exact}-{python}-*.whl"))
    return result[0] if result else None


def run(folder: Path, exact: str, script: str, *search: Path) -> str:
    """Run a script beside the bindings (``import tensorrt_bindings``) of one version and return what it prints.

    ``search`` are further folders to import from. SystemExit for a wheel that is not there and a script that fails.
    """
    wheel = _wheel(folder, exact)
    if wheel is None:
        raise SystemExit(f"error: no wheel of {PACKAGE} {exact} for this Python in {folder}: run with --fetch")
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(place)
        _make_libraries(place / "tensorrt_bindings" / "tensorrt.so", place, exact.split(".")[0])
        path = os.pathsep.join([name, *map(str, search)])
        environment = {**os.environ, "PYTHONPATH": path, "LD_LIBRARY_PATH": name}
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise SystemExit(f"error: the bindings {exact} cannot be read: {' '.join(done.stderr.split())[-500:]}")
    return done.stdout


def _make_libraries(module: Path, place: Path, major: str) -> None:
    """Compile libraries with the functions that the module asks for; each returns 0."""
    names = re.findall(
        rb"\0((?:create|get|init)\w*(?:_INTERNAL|Registry|ParserVersion|InferPlugins))(?=\0)", module.read_bytes()
    )
    source = "\n".join(f"void *{name.decode()}(void) {{ return 0; }}" for name in sorted(set(names)))
    (place / "nothing.c").write_text(source + "\n")
    for library in _LIBRARIES:
        file = f"lib{library}.so.{major}"
        command = ["cc", "-shared", "-fPIC", f"-Wl,-soname,{file}", "-o", str(place / file), str(place / "nothing.c")]
        subprocess.run(command, check=True, capture_output=True)
