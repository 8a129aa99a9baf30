"""What every command says where the package that it needs is not installed, and that judging needs no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edge_ad.cli.app import COMMANDS
from edge_ad.errors import EXTRAS, missing_package
from edge_ad.store import Store
from tests.fixtures.tiny_bundle import make_tiny_bundle

pytestmark = pytest.mark.any_version

# A child that cannot import the packages of these extras, and runs commands one after the other.
CHILD = """
import contextlib, io, json, sys
blocked, lines = json.loads(sys.argv[1]), json.loads(sys.argv[2])

sys.modules.update(dict.fromkeys(blocked))
from edge_ad.cli.app import main
found = []
for words in lines:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(words)
        except BaseException as error:
            code = repr(error)
    found.append([code, out.getvalue()[-2000:], err.getvalue()])
print(json.dumps([found, sorted(name for name, module in sys.modules.items() if module and "." not in name)]))
"""

BUNDLE = "runs/part.edgead"
# What each command needs before anything else: an extra, or None where it works with no extra at all.
BARE: list[tuple[list[str], str | None]] = [
    (["init", "--yes"], None),
    (["capture", "--camera", "0"], "cpu"),
    (["zones", "show", BUNDLE], "cpu"),
    (["train", "goods"], "train"),
    (["evaluate", BUNDLE, "goods"], "cpu"),
    (["recalibrate", BUNDLE, "goods"], "cpu"),
    (["calibrate", BUNDLE, "goods"], "cpu"),
    (["build-engine", BUNDLE, "--fp16"], "cpu"),
    (["export", BUNDLE, "--onnx", "part.onnx"], "cpu"),
    (["run", BUNDLE, "--camera", "0"], "cpu"),
    (["service", "print", "--bundle", BUNDLE, "--user", "nobody"], None),
    (["pause", "--reason", "new belt"], None),
    (["product", "list"], None),
    (["resume"], None),
    (["fleet", "key"], "fleet"),
    (["challenge", "list"], None),
    (["outputs", "list"], None),
    (["dataset", "from-record", "--store", "runs/line.sqlite"], "cpu"),
    (["improve", BUNDLE, "--store", "runs/line.sqlite"], "cpu"),
    (["users", "list"], None),
    (["views", "list"], "cpu"),
    (["report", "--now", "--store", "runs/line.sqlite"], None),
    (["benchmark", BUNDLE], "cpu"),
    (["info", BUNDLE], None),
    (["info", "--networks"], "train"),
    (["distill-teacher", "goods"], "train"),
    (["demo", "--quick"], "cpu"),
    (["events", "list"], None),
    (["web", "--store", "line.sqlite"], "cpu"),
]
TELLS_ITSELF = {"doctor"}  # its work is to say what is missing


def run(folder: Path, blocked: list[str], lines: list[list[str]]) -> tuple[list[Any], list[str]]:
    (folder / "goods").mkdir(exist_ok=True)
    root = Path(__file__).parents[2]
    arguments = [sys.executable, "-c", CHILD, json.dumps(blocked), json.dumps(lines)]
    environment = {"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=folder, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    found, loaded = json.loads(done.stdout.splitlines()[-1])
    return found, loaded


def test_the_table_has_every_command() -> None:
    assert {words[0] for words, _ in BARE} | TELLS_ITSELF == {name for name, _, _ in COMMANDS}


def test_without_extras_every_command_works_or_names_what_to_install(tmp_path: Path) -> None:
    make_tiny_bundle(tmp_path / BUNDLE)
    assert Store(tmp_path / "runs" / "line.sqlite").close(60.0)
    found, _ = run(tmp_path, list(EXTRAS), [words for words, _ in BARE])
    for (words, extra), (code, _, err) in zip(BARE, found, strict=True):
        if extra is None:
            assert code == 0, f"{words}: {err}"
        else:
            assert code == 2, f"{words}: {code} {err}"
            assert err.startswith("error: ")
            assert err.count("\n") == 1
            assert f"pip install 'edge-ad[{extra}]'" in err, f"{words}: {err}"


def test_with_the_extra_cpu_alone_a_line_is_judged_without_torch(tmp_path: Path) -> None:
    make_tiny_bundle(tmp_path / BUNDLE)
    blocked = [package for package, extra in EXTRAS.items() if extra != "cpu"]
    camera = "synthetic://line?frames=4&size=64&fps=100"
    lines = [
        ["run", BUNDLE, "--camera", camera, "--events", "events.jsonl"],
        ["run", BUNDLE, "--camera", camera, "--web", "0"],
    ]
    (judged, served), loaded = run(tmp_path, blocked, lines)
    assert judged[0] == 0, judged
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) == 4
    assert served[0] == 2
    assert "pip install 'edge-ad[line]'" in served[2]
    assert "torch" not in loaded


@pytest.mark.parametrize(("name", "told"), [("cv2.dnn", True), ("edge_ad.nonsense", False), (None, False)])
def test_only_packages_of_extras_are_a_users_matter(name: str | None, told: bool) -> None:
    found = missing_package(ModuleNotFoundError("no", name=name), "edge-ad run")
    assert (found is not None) == told
