"""Check every TensorRT name that edge_ad uses against the published bindings of each supported version.

`python tools/release/check_tensorrt_api.py` checks against the kept table and needs nothing; `--wheels DIR --fetch` downloads
the bindings and the source of pycuda (16 MB), reads their names, checks, and with `--write` renews the table.

The source is read, not run. What an object is, its variable says: RECEIVERS lists the names that edge_ad gives to objects of
TensorRT. A name of TensorRT on any other variable is a fault too, so the list stays complete.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).parent))

import tensorrt_bindings as bindings  # noqa: E402 (the folder of tools is no package)

Table = dict[str, dict[str, str]]
TABLE = ROOT / "tests" / "fixtures" / "tensorrt_names.json"
PACKAGE = ROOT / "edge_ad"

# Variables, attributes and methods by what they are or give; "" is the module itself. "function.name" holds there alone.
RECEIVERS = {
    "trt": "",
    "builder": "Builder",
    "config": "IBuilderConfig",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "_describe.error": "ParserError",
    "layer": "ILayer",
    "get_output": "ITensor",
    "filled": "ITimingCache",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "_spec.dtype": "DataType",
}
IMPORTS_PYCUDA = 'require("pycuda.driver"'
ONLY = {"_type_weakly": ("10.3",), "_nodes_of": ("10.3",)}  # functions that no other version reaches


@dataclass(frozen=True, order=True)
class Use:
    """A name that is asked of a class ("" for the module), or assigned, at a line of a file, in some functions."""

    file: str
    line: int
    owner: str
    name: str
    assigned: bool = False
    functions: tuple[str, ...] = ()

    def fault(self, version: str, table: Table) -> str | None:
        """Return what is wrong with it in a version, None when nothing is or the version does not come here."""
        if any(version not in ONLY.get(function, (version,)) for function in self.functions):
            return None
        member = table.get(self.owner, {}).get(self.name)
        if member is not None and (not self.assigned or member.startswith("=")):
            return None
        asked = f"{self.owner}.{self.name}" if self.owner else self.name
        return f"{self.file}:{self.line}: TensorRT {version} has no {asked}"


class Reader(ast.NodeVisitor):
    """Collect the uses of a file; ``own`` are names of edge_ad, ``members`` those of TensorRT by class in any version."""

    def __init__(self, file: str, own: set[str], members: dict[str, set[str]]) -> None:
        self.uses: list[Use] = []
        self.unplaced: list[str] = []
        self._file, self._own, self._members = file, own, members
        # Others, such as `name`, are asked of much else.
        self._known = {name for owner, names in members.items() if owner for name in names if "_" in name.strip("_")}
        self._functions: tuple[str, ...] = ()
        self._optional: set[str] = set()
        self._here = False

    def read(self, tree: ast.AST) -> Reader:
        """Visit a whole file: RECEIVERS hold where it is given `trt`, and what it asks for with `hasattr` may be missing."""
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _named(node.func, "hasattr")]
        self._optional = {str(call.args[1].value) for call in calls if isinstance(call.args[1], ast.Constant)}
        self._here = any(isinstance(node, ast.arg) and node.arg == "trt" for node in ast.walk(tree))
        self.visit(tree)
        return self

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """Remember the function while its body is visited."""
        before, self._functions = self._functions, (*self._functions, node.name)
        self.generic_visit(node)
        self._functions = before

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """The methods of a class of ours on one of TensorRT must exist there, for it is TensorRT that calls them."""
        for owner in filter(None, map(self._owner, node.bases)):
            for item in node.body:
                if isinstance(item, ast.FunctionDef) and not item.name.startswith("_"):
                    self.uses.append(Use(self._file, item.lineno, owner, item.name))
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """Note a name of TensorRT, and one on a receiver that is not known."""
        self.generic_visit(node)
        owner, name = self._owner(node.value), node.attr
        if owner is not None:
            excused = name in self._own | self._optional or (name.startswith("__") and owner)
            if not excused or name in self._members.get(owner, ()):
                assigned = isinstance(node.ctx, ast.Store)
                self.uses.append(Use(self._file, node.lineno, owner, name, assigned, self._functions))
        elif name in self._known - self._own:
            self.unplaced.append(
                f"{self._file}:{node.lineno}: what {ast.unparse(node.value)} is, RECEIVERS does not say"
            )

    def _owner(self, node: ast.expr) -> str | None:
        """Return the class of an expression, None when it is nothing of TensorRT as far as its name says."""
        if not self._here:
            return None
        node = node.func if isinstance(node, ast.Call) else node
        if isinstance(node, ast.Attribute) and self._owner(node.value) == "":
            return node.attr  # a class of the module, its enumerators, or an object of it
        name = (
            node.id if isinstance(node, ast.Name) else node.attr.lstrip("_") if isinstance(node, ast.Attribute) else ""
        )
        here = (RECEIVERS.get(f"{function}.{name}") for function in reversed(self._functions))
        return next((owner for owner in here if owner is not None), RECEIVERS.get(name))


def files() -> list[Path]:
    """Return the files of edge_ad that speak of TensorRT or CUDA."""
    return sorted(path for path in PACKAGE.rglob("*.py") if re.search("tensorrt|cuda", path.read_text("utf-8"), re.I))


def read(tables: dict[str, Table], paths: Sequence[Path]) -> list[Reader]:
    """Read files; those without an object of TensorRT may not name anything of its own."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in paths}
    own = {name for tree in trees.values() for name in own_names(tree)}
    members: dict[str, set[str]] = {}
    for table in tables.values():
        for owner, names in table.items():
            members.setdefault(owner, set()).update(names)
    return [Reader(path.name, own, members).read(tree) for path, tree in trees.items()]


def own_names(tree: ast.AST) -> Iterator[str]:
    """Yield the names that a file gives to functions, methods and attributes of `self`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _named(node.value, "self"):
            yield node.attr


def _named(node: ast.expr, *names: str) -> bool:
    return isinstance(node, ast.Name) and node.id in names


def faults(tables: dict[str, Table], paths: Sequence[Path]) -> list[str]:
    """Return a line for every name that a version lacks, and for every one whose class is not known."""
    readers = read(tables, paths)
    uses = sorted(use for reader in readers for use in reader.uses)
    missing = [fault for v, table in tables.items() for use in uses if (fault := use.fault(v, table)) is not None]
    return [*missing, *(line for reader in readers for line in reader.unplaced)]


def pycuda_names(paths: Sequence[Path]) -> set[str]:
    """Return what the files ask of pycuda: names after `.driver`, and in the file that imports it every foreign name."""
    asked = set()
    for path in paths:
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        own = {*own_names(tree), *dir(str), *dir(memoryview), "base", "dtype", "driver"}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                ours = _named(node.value, "np", "self", "cls") or node.attr in own
                after = isinstance(node.value, ast.Attribute) and node.value.attr == "driver"
                if after or (IMPORTS_PYCUDA in text and not ours):
                    asked.add(node.attr)
    return asked


def load(path: Path = TABLE) -> dict[str, Table]:
    """Return the kept table, by version."""
    kept = json.loads(path.read_text(encoding="utf-8"))
    tables: dict[str, Table] = {version: {} for version in kept["versions"]}
    for owner, members in kept["classes"].items():
        for name, value in members.items():
            by_version = value if isinstance(value, dict) else dict.fromkeys(tables, value)
            for version, one in by_version.items():
                tables[version].setdefault(owner, {})[name] = one
    return tables


def load_pycuda(path: Path = TABLE) -> set[str]:
    """Return the kept names of pycuda."""
    return set(json.loads(path.read_text(encoding="utf-8"))["cuda"]["pycuda"])


def kept_text(tables: dict[str, Table], cuda: set[str]) -> str:
    """Return the table as JSON with one class a line: classes that are used; what differs is there for each version."""
    rows = []
    for owner in sorted({use.owner for reader in read(tables, files()) for use in reader.uses}):
        merged: dict[str, object] = {}
        for name in sorted({name for table in tables.values() for name in table.get(owner, {})}):
            result = {version: table[owner][name] for version, table in tables.items() if name in table.get(owner, {})}
            same = len(result) == len(tables) and len(set(result.values())) == 1
            merged[name] = next(iter(result.values())) if same else result
        rows.append(f"  {json.dumps(owner)}: {json.dumps(merged)}")
    parts = [f' "versions": {json.dumps(bindings.VERSIONS)}', f' "cuda": {json.dumps({"pycuda": sorted(cuda)})}']
    parts.append(' "classes": {\n' + ",\n".join(rows) + "\n }")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 when every version has every name, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheels", type=Path, help="folder with the wheels; default: the kept table")
    parser.add_argument("--fetch", action="store_true", help="download the wheels that are not there")
    parser.add_argument("--write", action="store_true", help="renew the kept table from the wheels")
    chosen = parser.parse_args(arguments)
    if chosen.wheels is None and (chosen.fetch or chosen.write):
        parser.error("--fetch and --write need --wheels DIR")
    if chosen.fetch:
        bindings.fetch(chosen.wheels)
    tables = bindings.read(chosen.wheels) if chosen.wheels else load()
    cuda = bindings.read_pycuda(chosen.wheels) if chosen.wheels else load_pycuda()
    if chosen.write:
        TABLE.write_text(kept_text(tables, cuda), encoding="utf-8")
    result = faults(tables, files())
    result += [f"pycuda {bindings.PYCUDA} has no {name}" for name in sorted(pycuda_names(files()) - cuda)]
    for line in result:
        print(line)
    if result and chosen.wheels is None:
        print("what is new in edge_ad may be missing in the kept table: run with --wheels DIR --fetch --write")
    names = {(use.owner, use.name) for reader in read(tables, files()) for use in reader.uses}
    print(f"{len(names)} names in TensorRT {', '.join(tables)}")
    return 1 if result else 0


if __name__ == "__main__":
    sys.exit(main())
