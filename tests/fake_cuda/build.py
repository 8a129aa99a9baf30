"""Builds what the tests of the GPU need: the fake driver by gcc, and the real pycuda from its source.

`python tests/fake_cuda/build.py` prepares both, once per Python, and keeps them in ``$XDG_CACHE_HOME/edge-ad-tests``;
`--cuda 13` compiles pycuda against the headers of CUDA 13, for a real driver, and prints its folder.
pycuda is compiled against CUDA's headers as PyPI has them and linked against the fake driver, whose name and symbols are
those of NVIDIA's. Where that cannot be done, the reason is printed and the tests that need it are skipped.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PYCUDA = "2026.1"
HEADERS = {
    "12": ("nvidia-cuda-runtime-cu12==12.9.79", "nvidia-cuda-profiler-api-cu12==12.9.79"),
    "13": ("nvidia-cuda-runtime==13.0.96", "nvidia-cuda-profiler-api==13.0.85"),
}
_HERE = Path(__file__).resolve().parent
_SOURCES = tuple(_HERE / name for name in ("core.c", "memory.c", "streams.c"))
_FLAGS = ("-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden", "-fPIC", "-pthread")
_TAG = f"cp{sys.version_info.major}{sys.version_info.minor}-{platform.machine()}"

# pycuda's own configuration: no OpenGL, no cuRAND (edge-ad uses neither), no optimisation, so that it compiles in a minute.
_SETTINGS = """
USE_SHIPPED_BOOST = True
CUDA_ROOT = None
CUDA_ENABLE_GL = False
CUDA_ENABLE_CURAND = False
CUDA_INC_DIR = {includes!r}
CUDADRV_LIB_DIR = [{library!r}]
CXXFLAGS = ["-O0", "-g0", "-w"]
"""

# Where what was built is kept; asked for once, because tests move XDG_CACHE_HOME for the product.
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edge-ad-tests"


class CannotBuildError(Exception):
    """One sentence that says what is missing."""


def pycuda_folder(cuda: str = "12") -> Path:
    """Return the folder to put on ``sys.path`` for pycuda; it exists once pycuda is built for this Python."""
    return CACHE / f"pycuda-{PYCUDA}-cuda{cuda}-{_TAG}"


def build_driver(folder: Path, needed: set[str] | None = None) -> Path:
    """Build ``libcuda.so.1`` in ``folder``; names that are ``needed`` and not written answer "not supported"."""
    if shutil.which("gcc") is None:
        raise CannotBuildError("gcc is not installed: apt-get install gcc libc6-dev")
    folder.mkdir(parents=True, exist_ok=True)
    absent = sorted((needed or set()) - _defined())
    stubs = folder / "absent.c"
    lines = [
        f'__attribute__((visibility("default"))) int {name}(void) {{ return fake_cuda_absent("{name}"); }}'
        for name in absent
    ]
    stubs.write_text("\n".join(["int fake_cuda_absent(const char *name);", *lines, ""]))
    made = folder / "libcuda.so.1"
    # Under another name first: another process may build the same.
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        scratch = Path(file.name)
    command = [
        "gcc",
        *_FLAGS,
        "-shared",
        "-Wl,-soname,libcuda.so.1",
        "-o",
        str(scratch),
        *map(str, _SOURCES),
        str(stubs),
    ]
    _run(command, f"the fake driver of {_HERE.name}")
    scratch.replace(made)
    return made


def needed_names(module: Path) -> set[str]:
    """Return the calls of CUDA that a compiled module asks the driver for."""
    shown = subprocess.run(["nm", "-D", "--undefined-only", str(module)], check=True, capture_output=True, text=True)
    return set(re.findall(r"\b(cu[A-Z]\w*)", shown.stdout))


def find_pycuda() -> Path:
    """Return the folder with pycuda; CannotBuildError where it was not built."""
    folder = pycuda_folder()
    if not (folder / "pycuda").is_dir():
        raise CannotBuildError(f"pycuda is not built for this Python: {sys.executable} tests/fake_cuda/build.py")
    return folder


def driver_for_pycuda() -> Path:
    """Return the fake driver with every name that the built pycuda needs, built if it is not there yet."""
    module = next((find_pycuda() / "pycuda").glob("_driver.*.so"))
    digest = hashlib.sha256()
    for path in (*_SOURCES, _HERE / "fake_cuda.h", Path(__file__), module):
        digest.update(path.read_bytes())
    folder = CACHE / f"driver-{_TAG}-{digest.hexdigest()[:16]}"
    made = folder / "libcuda.so.1"
    return made if made.exists() else build_driver(folder, needed_names(module))


def build_pycuda(cuda: str = "12") -> Path:
    """Compile pycuda for a version of CUDA, which takes about a minute, and return its folder."""
    folder = pycuda_folder(cuda)
    if (folder / "pycuda").is_dir():
        return folder
    with tempfile.TemporaryDirectory(prefix="edge-ad-pycuda-") as name:
        work = Path(name)
        library = build_driver(work / "library")
        shutil.copy(library, library.with_name("libcuda.so"))
        _pip(["install", "--no-deps", "--target", str(work / "headers"), *HEADERS[cuda]], "CUDA's headers")
        includes = [str(path) for path in sorted((work / "headers").glob("nvidia/*/include"))]
        (work / ".aksetup-defaults.py").write_text(_SETTINGS.format(includes=includes, library=str(library.parent)))
        target = work / "site"
        _pip(
            ["install", "--no-deps", "--no-binary", "pycuda", "--target", str(target), f"pycuda=={PYCUDA}"],
            f"pycuda {PYCUDA}",
            home=work,
        )
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = folder.with_name(f"{folder.name}.{os.getpid()}")
        shutil.copytree(target, scratch)
    try:
        scratch.rename(folder)
    except OSError:  # another process was faster
        shutil.rmtree(scratch)
    return folder


def _pip(arguments: list[str], what: str, home: Path | None = None) -> None:
    """Run pip; ``home`` is where pycuda's set-up looks for its settings, in place of the user's."""
    environment = dict(os.environ)
    if home is not None:
        for own in (Path.home() / ".config/pip/pip.conf", Path.home() / ".pip/pip.conf"):
            if own.exists():
                environment.setdefault("PIP_CONFIG_FILE", str(own))
        environment |= {"HOME": str(home), "PIP_CACHE_DIR": str(CACHE / "pip")}
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", *arguments]
    _run(command, what, environment)


def _run(command: list[str], what: str, environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()] or lines or ["no reason given"]
        raise CannotBuildError(f"{what} cannot be built: {errors[-1][:300]}")


def _defined() -> set[str]:
    return {name for path in _SOURCES for name in re.findall(r"^EXPORT int (cu[A-Z]\w*)\(", path.read_text(), re.M)}


def main() -> int:
    """Build both; 0 also where that cannot be done, since the tests then say so."""
    if sys.argv[1:] == ["--cuda", "13"]:
        print(build_pycuda("13"))
        return 0
    try:
        build_pycuda()
        driver_for_pycuda()
    except (CannotBuildError, OSError, subprocess.CalledProcessError) as error:
        print(f"== {error}: tests with the real pycuda will be skipped")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
