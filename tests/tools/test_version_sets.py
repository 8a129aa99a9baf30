"""tools/test.sh: the parts of the suite; of its sets of versions, which interpreter and versions each gets."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", f"set -euo pipefail; source tools/environment.sh; {command}"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def pins(name: str) -> dict[str, str]:
    """Return package and version of every line of a constraints file, without its markers."""
    found = re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / f"tools/constraints-{name}.txt").read_text("utf-8"), re.M)
    return {package.lower().replace("_", "-"): version for package, version in found}


def interpreter(folder: Path, version: str) -> Path:
    """Write what passes for Python ``version``: it answers the question of the scripts for it as a real one would."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "python3"
    asked = f"!= ({version.replace('.', ', ')})"
    path.write_text(f'#!/bin/sh\ncase "$2" in *"{asked}"*) exit 0 ;; esac\nexit 1\n')
    path.chmod(0o755)
    return path


def test_the_lowest_set_is_the_lower_bounds_of_the_package() -> None:
    asked = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["cpu"], *PROJECT["optional-dependencies"]["line"]]
    bounds = dict(re.fullmatch(r"([\w.-]+)>=([\d.]+).*", line).groups() for line in asked)  # type: ignore[union-attr]
    found = pins("lowest")
    assert {package: found[package] for package in bounds} == bounds


@pytest.mark.parametrize("name", ["jetpack6", "jetpack7"])
def test_a_board_has_numpy_1_and_an_old_opencv(name: str) -> None:
    assert pins(name)["numpy"] == "1.26.4"
    assert pins(name)["opencv-python-headless"].startswith("4.")


def test_a_set_replaces_versions_and_keeps_the_rest() -> None:
    lines = shell("set_constraints jetpack7").stdout.splitlines()
    assert [line for line in lines if re.match(r"(numpy|opencv-python-headless)==", line)] == [
        "numpy==1.26.4",
        "opencv-python-headless==4.6.0.66",
    ]
    assert any(line.startswith("fastapi==") for line in lines)


@pytest.mark.parametrize(
    ("place", "variable", "value"),
    [
        ("pyenv/versions/3.12.9/bin", "PYENV_ROOT", "pyenv"),
        (".pyenv/versions/3.12.9/bin", "HOME", ""),
        (".local/share/uv/python/cpython-3.12.9-linux/bin", "HOME", ""),
        ("anywhere", "EDGE_AD_PYTHON_JETPACK7", "anywhere/python3"),
    ],
)
def test_an_interpreter_is_found_where_pyenv_uv_and_people_keep_them(
    tmp_path: Path, place: str, variable: str, value: str
) -> None:
    path = interpreter(tmp_path / place, "3.12")
    done = shell("set_python jetpack7", **{"HOME": "/nowhere", "PATH": os.defpath, variable: str(tmp_path / value)})
    assert done.stdout.splitlines()[:1] in ([str(path)], ["/usr/bin/python3.12"]), done.stderr


def test_no_interpreter_is_nothing_and_a_wrong_one_is_told(tmp_path: Path) -> None:
    interpreter(tmp_path / ".pyenv/versions/3.12.9/bin", "3.11")  # says that it is another
    done = shell("set_python jetpack7", HOME=str(tmp_path), PATH="/bin:/usr/bin" if HERE != "3.12" else "/bin")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout in ("", "/usr/bin/python3.12\n", "/bin/python3.12\n")
    done = shell("set_python jetpack7", HOME="/nowhere", EDGE_AD_PYTHON_JETPACK7="/bin/true1")
    assert done.returncode == 2
    assert done.stderr == "error: EDGE_AD_PYTHON_JETPACK7=/bin/true1 is no Python 3.12 with venv\n"


def test_an_unknown_set_is_told_before_anything_runs() -> None:
    done = subprocess.run(
        ["bash", "tools/test.sh"],
        cwd=ROOT,
        env={**os.environ, "EDGE_AD_SETS": "jetpack6 jetpack5"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: there is no set of versions 'jetpack5': EDGE_AD_SETS takes all, none or some of jetpack6 jetpack7 lowest\n"
    )


# What tools/test.sh takes from environment.sh, with a Python that logs pytest's arguments and fails where it is asked to.
STUB_ENVIRONMENT = """
version_sets="board" python="$PWD/python"
set_version() { :; }
set_python() { echo python; }
set_tests() { [ "$1" = board ] && echo "tests/camera"; }
prepare_set() { [ "$FAILING" != "set-up of a set" ] && echo "making $1"; }
for name in have_venv have_uv prepare prepare_system prepare_host_programs prepare_object_store prepare_pycuda; do
    eval "$name() { :; }"
done
"""
STUB_PYTHON = """#!/bin/sh
case "$2" in pytest) ;; "$FAILING") exit 1 ;; *) exit 0 ;; esac
shift 2
echo "$*" | tee -a calls
echo "${OMP_NUM_THREADS:-as many as there are}" >>threads
case "$*" in *"$FAILING"*) exit 1 ;; esac
"""
TRAINING = "tests/demo tests/models tests/training"
EXPORTING = "tests/cli tests/export"
PAGES = "tests/web"
CALCULATING = " ".join(
    f"tests/{name}"
    for name in (
        "bundle", "calibration", "data", "evaluation", "export", "geometry", "models", "presets", "scoring", "synthetic", "training"
    )
)  # fmt: skip
LINE = "tests/inspection"
RECEIVERS = "tests/outputs tests/store tests/web"
ENGINES = "tests/deployment tests/engines"


def ignored(*folders: str) -> str:
    return " ".join(f"--ignore={path}" for path in " ".join(folders).split())


PARTS = {
    f"--color=no -p no:cacheprovider -m {chosen}"
    for chosen in (
        f"slow {TRAINING}",
        f"slow {EXPORTING}",
        f"slow {PAGES}",
        f"slow {ignored(TRAINING, EXPORTING, PAGES)}",
        f"not slow {LINE}",
        f"not slow {RECEIVERS}",
        f"not slow {ENGINES}",
        f"not slow {CALCULATING}",
        f"not slow {ignored(CALCULATING, LINE, RECEIVERS, ENGINES)}",
        "not any_version and (not slow or versions) tests/camera",
    )
}


@pytest.mark.parametrize(
    ("arguments", "failing", "status", "calls"),
    [
        ([], "none", 0, PARTS),
        ([], "mypy", 1, PARTS),
        ([], f"slow {TRAINING}", 1, PARTS),
        ([], f"slow {EXPORTING}", 1, PARTS),
        ([], "-m slow --ignore", 1, PARTS),
        ([], f"not slow {LINE}", 1, PARTS),
        ([], f"not slow {RECEIVERS}", 1, PARTS),
        ([], f"not slow {ENGINES}", 1, PARTS),
        ([], "not slow --ignore", 1, PARTS),
        ([], "or versions", 1, PARTS),
        ([], "set-up of a set", 1, set()),
        (["tests/x", "-x"], "none", 0, {"tests/x -x"}),
        (["tests/x", "-x"], "tests/x", 1, {"tests/x -x"}),
        (["tests/x", "-x"], "ruff", 1, set()),
    ],
)
def test_the_whole_suite_runs_in_parts_and_fails_with_any(
    tmp_path: Path, arguments: list[str], failing: str, status: int, calls: set[str]
) -> None:
    (tmp_path / "tools").mkdir()
    for name in ("calls", "threads"):
        (tmp_path / name).touch()
    shutil.copy(ROOT / "tools/test.sh", tmp_path / "tools")
    (tmp_path / "tools/environment.sh").write_text(STUB_ENVIRONMENT)
    programs = {"python": STUB_PYTHON, ".venv-board/bin/python": STUB_PYTHON, ".venv/bin/lint-imports": "#!/bin/sh\n"}
    for path, text in ((tmp_path / name, text) for name, text in programs.items()):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    done = subprocess.run(
        ["bash", "tools/test.sh", *arguments],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "FAILING": failing},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (status, "")
    assert set((tmp_path / "calls").read_text().splitlines()) == calls
    threads = "1" if calls == PARTS else "as many as there are"
    assert set((tmp_path / "threads").read_text().splitlines()) <= {threads}
    assert all(call in done.stdout for call in calls)


def test_the_folders_of_the_parts_exist() -> None:
    folders = " ".join((TRAINING, EXPORTING, PAGES, CALCULATING, LINE, RECEIVERS, ENGINES)).split()
    assert [path for path in folders if not (ROOT / path).is_dir()] == []


def test_apt_get_fetches_its_lists_once_for_all_packages() -> None:
    """On a machine that has none of them; what apt-get is called with is printed instead."""
    stubs = "dpkg() { return 1; }; id() { echo 0; }; env() { shift; \"$@\"; }; apt-get() { echo \"$@\" >&2; }; "
    done = shell(f"{stubs} prepare_system")
    calls = [line.split()[0] for line in done.stderr.splitlines()]
    assert calls == ["update", *["install"] * 5], done.stderr


def arguments(name: str) -> list[str]:
    return shell(f"set_tests {name}").stdout.split()


def imports_opencv(path: Path) -> bool:
    return re.search(r"^ *import cv2", path.read_text("utf-8"), re.M) is not None


def test_the_lowest_set_runs_all_but_what_is_of_the_repository() -> None:
    assert arguments("lowest") == [f"--ignore=tests/{name}" for name in ("docs", "tools", "test_architecture.py")]


def test_the_boards_run_the_same_files_which_exist() -> None:
    """They differ by Python, which `lowest` and the newest versions have on both sides, and by OpenCV alone."""
    assert arguments("jetpack6") == arguments("jetpack7")
    assert [path for path in arguments("jetpack6") if not (ROOT / path).exists()] == []
    ours, theirs = pins("jetpack6"), pins("jetpack7")
    assert {name for name in ours | theirs if ours.get(name) != theirs.get(name)} == {"opencv-python-headless"}


# Modules that no test there names: they make a picture smaller and write it, as others do, or are a part of one that is named.
UNNAMED = {
    "edge_ad.geometry.outline",
    "edge_ad.inspection.challenge",
    "edge_ad.inspection.improvement_report",
    "edge_ad.web.link",
    "edge_ad.web.zone_page",
}


def test_a_board_tests_every_module_of_its_side_that_calls_opencv() -> None:
    """Its side is what the import rules keep free of torch; a file tests a module when it names it."""
    contract = next(one for one in PYPROJECT["tool"]["importlinter"]["contracts"] if "torch" in one["forbidden_modules"])
    folders = [ROOT / name.replace(".", "/") for name in contract["source_modules"]]
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for folder in folders
        for path in folder.rglob("*.py")
        if imports_opencv(path)
    }
    assert len(modules) > 20
    chosen = map(ROOT.joinpath, arguments("jetpack6"))
    files = [file for path in chosen for file in ([path] if path.is_file() else path.rglob("*.py"))]
    named = {name for file in files for name in re.findall(r"edge_ad[.\w]+", file.read_text("utf-8"))}
    parents = {f"{package}.{name}" for file in files for package, name in imported_names(file)}
    assert modules - named - parents == UNNAMED


def imported_names(path: Path) -> Iterable[tuple[str, str]]:
    """Return package and name of every ``from edge_ad... import ...`` of a file."""
    for package, names in re.findall(r"^from (edge_ad[.\w]*) import (\([^)]*\)|.*)$", path.read_text("utf-8"), re.M):
        yield from ((package, name) for name in re.findall(r"\w+", names))
