#!/usr/bin/env python3
"""Ask the package index whether everything that a Jetson installs has a wheel for it.

    python tools/check_aarch64.py [--python 3.10 3.12] [--extras jetson line plc] [--keep DIR] [--json FILE]

Follows the dependencies of the extras in pyproject.toml, at the versions of tools/constraints.txt, with the markers of the
Jetson and not of this machine. A package is "wheel", or it is one of the few that come from JetPack or are compiled there;
anything else is a fault (exit code 1). --keep leaves the wheels in DIR/<python>, which is what tools/wheelhouse.sh does.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from email.parser import Parser
from pathlib import Path
from typing import Any

try:
    from packaging.markers import default_environment
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name
except ImportError:  # a bare Python has pip, and pip has a copy
    from pip._vendor.packaging.markers import default_environment
    from pip._vendor.packaging.requirements import Requirement
    from pip._vendor.packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    try:
        import tomli as tomllib
    except ImportError:
        from pip._vendor import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
GLIBC = {"3.10": 35, "3.12": 39}  # Ubuntu 22.04 of JetPack 6, Ubuntu 24.04 of JetPack 7
# No wheel is wanted for these; what they need themselves is.
COMPILED = {"pycuda": ("mako", "platformdirs", "pytools")}
# The OpenCV of Ubuntu 22.04 and 24.04 is built against NumPy 1, and ml_dtypes 0.6 wants NumPy 2.
REPLACED = {"ml-dtypes": "ml_dtypes==0.5.4", "numpy": "numpy==1.26.4"}
ALSO = ("onnxruntime",)  # the reference that engines of TensorRT are compared with


def environment(python: str) -> dict[str, str]:
    """Return the marker environment of a Jetson with this Python."""
    return {
        **{key: str(value) for key, value in default_environment().items()},
        "python_version": python,
        "python_full_version": f"{python}.0",
        "platform_machine": "aarch64",
        "platform_system": "Linux",
        "sys_platform": "linux",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "extra": "",
    }


def asked(extras: Iterable[str], place: dict[str, str]) -> Iterator[Requirement]:
    """Yield the requirements of edge-ad with these extras that hold on the Jetson."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    known = project["optional-dependencies"]
    for extra in extras:
        if extra not in known:
            raise SystemExit(f"error: there is no extra {extra!r}: name some of {', '.join(known)}")
    for line in [*project["dependencies"], *(line for extra in extras for line in known[extra])]:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate(place):
            yield requirement


def pins(place: dict[str, str]) -> dict[str, str]:
    """Return ``name==version`` by name, as tools/constraints.txt has it for the Jetson."""
    result = dict(REPLACED)
    for line in (ROOT / "tools" / "constraints.txt").read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if text:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate(place):
                result.setdefault(canonicalize_name(requirement.name), f"{requirement.name}{requirement.specifier}")
    return result


def pip_flags(python: str) -> list[str]:
    """Return the flags that make pip choose wheels for a Jetson."""
    platforms = ["manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in range(17, GLIBC[python] + 1))]
    flags = ["--implementation", "cp", "--python-version", python]
    flags += [word for platform in platforms for word in ("--platform", platform)]
    return [*flags, "--abi", f"cp{python.replace('.', '')}", "--abi", "abi3", "--abi", "none"]


def download(wanted: list[str], python: str, folder: Path) -> str:
    """Fetch wheels for the Jetson into ``folder`` by pip; return what pip says when it cannot, else nothing."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--dest",
        str(folder),
    ]
    command += [*pip_flags(python), "--disable-pip-version-check"]
    done = subprocess.run([*command, *wanted], capture_output=True, text=True, check=False)
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    return "" if done.returncode == 0 else (errors or done.stderr.splitlines() or ["pip failed"])[-1]


def write_stand_ins(folder: Path) -> None:
    """Write an empty wheel with the right needs for each package that is compiled on the Jetson."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, inner in COMPILED.items():
        place = f"{name}-9999.dist-info"
        metadata = "".join(["Metadata-Version: 2.1\n", f"Name: {name}\n", "Version: 9999\n"])
        metadata += "".join(f"Requires-Dist: {other}\n" for other in inner)
        with zipfile.ZipFile(folder / f"{name}-9999-py3-none-any.whl", "w") as archive:
            archive.writestr(f"{place}/METADATA", metadata)
            archive.writestr(f"{place}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{place}/RECORD", "")


def needs(wheel: Path, extras: frozenset[str], place: dict[str, str]) -> Iterator[Requirement]:
    """Yield what a wheel requires on the Jetson."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode("utf-8", "replace"))
    for line in metadata.get_all("Requires-Dist") or []:
        requirement = Requirement(line)
        if requirement.marker is None or any(
            requirement.marker.evaluate({**place, "extra": extra}) for extra in ("", *extras)
        ):
            yield requirement


def wheel_of(name: str, folder: Path) -> Path | None:
    """Return the wheel of a package in a folder."""
    result = (path for path in folder.glob("*.whl") if canonicalize_name(path.name.split("-")[0]) == name)
    return next(result, None)


def examine(python: str, extras: Iterable[str], folder: Path) -> dict[str, dict[str, Any]]:
    """Return every package with ``{"status", "file" or "why", "pinned"}``, level by level of the dependencies."""
    place = environment(python)
    pinned = pins(place)
    result: dict[str, dict[str, Any]] = {}
    level = [*asked(extras, place), *map(Requirement, ALSO)]
    while level:
        new = {canonicalize_name(requirement.name): requirement for requirement in level}
        new = {name: requirement for name, requirement in new.items() if name not in result}
        wanted = {
            name: pinned.get(name, f"{requirement.name}{requirement.specifier}")
            for name, requirement in new.items()
            if name not in COMPILED
        }
        if wanted and download(list(wanted.values()), python, folder):
            message = {name: download([text], python, folder) for name, text in wanted.items()}
        else:
            message = dict.fromkeys(wanted, "")
        level = [Requirement(inner) for name in new for inner in COMPILED.get(name, ())]
        for name, requirement in new.items():
            wheel = None if name in COMPILED else wheel_of(name, folder)
            result[name] = {"pinned": name in pinned}
            if name in COMPILED:
                result[name] |= {"status": "compiled", "why": "compiled on the Jetson against its CUDA"}
            elif wheel is None:
                result[name] |= {"status": "missing", "why": message[name]}
            else:
                result[name] |= {"status": "wheel", "file": wheel.name}
                level += needs(wheel, frozenset(requirement.extras), place)
    return dict(sorted(result.items()))


def main(arguments: list[str] | None = None) -> int:
    """Print one line a package; 1 when something has no wheel."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", nargs="+", default=list(GLIBC), choices=list(GLIBC))
    parser.add_argument("--extras", nargs="+", default=["jetson", "line", "plc"])
    parser.add_argument("--keep", type=Path, help="leave the wheels in DIR/<python>")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--pip-flags", choices=list(GLIBC), help="print the flags of pip for a Jetson and stop")
    parser.add_argument("--stand-ins", type=Path, help="write empty wheels for what is compiled there and stop")
    options = parser.parse_args(arguments)
    if options.pip_flags or options.stand_ins:
        if options.stand_ins:
            write_stand_ins(options.stand_ins)
        print(*(pip_flags(options.pip_flags) if options.pip_flags else ()))
        return 0
    report = {}
    with tempfile.TemporaryDirectory() as scratch:
        for python in options.python:
            folder = (options.keep or Path(scratch)) / python
            folder.mkdir(parents=True, exist_ok=True)
            report[python] = examine(python, options.extras, folder)
            for name, facts in report[python].items():
                remark = "" if facts["pinned"] or facts["status"] != "wheel" else "  (not pinned)"
                print(f"{python}  {facts['status']:<9}{name:<22}{facts.get('file') or facts.get('why')}{remark}")
    print("TensorRT, CUDA and OpenCV come with JetPack.")
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return int(any(facts["status"] == "missing" for packages in report.values() for facts in packages.values()))


if __name__ == "__main__":
    raise SystemExit(main())
