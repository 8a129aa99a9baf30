"""What pyproject.toml and docs/architecture.md promise of the layout, and import-linter cannot say."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from tests.fixtures.extras import NEED_RTX, NEED_TRAINING

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
FILES = sorted(path for package in ("edge_ad", "calibration") for path in (ROOT / package).rglob("*.py"))
ALL = sorted([*FILES, *(path for folder in ("tests", "tools") for path in (ROOT / folder).rglob("*.py"))])
MAX_LINES = 500
MAX_FUNCTION_LINES = 60
MAX_POSITIONAL = 4
FREE = ("packing", "forward")  # a row of sizes; what torch calls by position


def layers() -> list[str]:
    """Return the packages of the layers contract."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    (contract,) = [contract for contract in contracts if contract["type"] == "layers"]
    return [name.strip() for layer in contract["layers"] for name in layer.split("|")]


def test_every_package_has_its_layer() -> None:
    there = [path for path in (ROOT / "edge_ad").iterdir() if not path.name.startswith("_") and path.suffix in ("", ".py")]
    assert sorted(layers()) == sorted(["calibration", *(f"edge_ad.{path.stem}" for path in there)])


def test_a_call_names_what_is_beyond_four_arguments() -> None:
    """Except callbacks of paho, which passes five by position."""
    long = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                names = [one.arg for one in (*node.args.posonlyargs, *node.args.args) if one.arg not in ("self", "cls")]
                if len(names) > MAX_POSITIONAL and names[:2] != ["client", "data"] and node.name not in FREE:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert not long


@pytest.mark.parametrize("path", [path for path in FILES if path.name == "__init__.py"], ids=lambda path: path.parent.name)
def test_every_package_states_what_belongs_into_it(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_no_file_is_longer_than_a_reader_stands() -> None:
    assert not [path.name for path in ALL if len(path.read_text(encoding="utf-8").splitlines()) > MAX_LINES]


def test_no_function_is_longer_than_a_page() -> None:
    long = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in ALL
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno is not None
        if node.end_lineno - node.lineno >= MAX_FUNCTION_LINES
    ]
    assert not long


@pytest.mark.parametrize("name", [*NEED_TRAINING, *NEED_RTX])
def test_what_is_left_out_without_an_extra_exists(name: str) -> None:
    assert (ROOT / "tests" / name).exists()
