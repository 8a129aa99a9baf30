"""Check every TensorRT name that edge_ad uses against the published bindings of each supported version.

`python tools/check_tensorrt_api.py` checks against the kept table and needs nothing; `--wheels DIR --fetch` downloads the
bindings and the source of pycuda (16 MB), reads their names, checks, and with `--write` renews the table.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

from tensorrt_api import bindings, cuda_names  # noqa: E402 (the folder of tools is no package)
from tensorrt_api.conditions import Table  # noqa: E402
from tensorrt_api.source import Source  # noqa: E402
from tensorrt_api.uses import Follower  # noqa: E402
from tensorrt_api.values import Use  # noqa: E402

TABLE = ROOT / "tests" / "fixtures" / "tensorrt_names.json"
ENGINES = ROOT / "edge_ad" / "engines"


def files() -> list[Path]:
    """Return the files of edge_ad/engines, where all of TensorRT is."""
    return sorted(path for path in ENGINES.glob("*.py") if path.name != "__init__.py")


def follow(tables: dict[str, Table], paths: Sequence[Path] | None = None, root: Path = ROOT) -> dict[str, set[Use]]:
    """Return the uses in each version."""
    source = Source.read(paths if paths is not None else files(), root)
    return {version: Follower(source, table, version).run() for version, table in tables.items()}


def missing(uses: dict[str, set[Use]]) -> list[str]:
    """Return a line for every name that a version lacks."""
    return [
        f"{use.file}:{use.line}: TensorRT {version} has no {use.owner + '.' if use.owner else ''}{use.name}"
        for version, found in uses.items()
        for use in sorted(found)
        if not use.there
    ]


def unplaced(
    uses: dict[str, set[Use]], tables: dict[str, Table], paths: Sequence[Path], root: Path = ROOT
) -> list[str]:
    """Return a line for every name of TensorRT's own (with an underscore) in the source that was not followed to."""
    placed = {(use.file, use.name) for found in uses.values() for use in found}
    own = {
        name for table in tables.values() for members in table.values() for name in members if "_" in name.strip("_")
    }
    faults = []
    for path in paths:
        text, file = path.read_text(encoding="utf-8"), str(path.relative_to(root))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and node.attr in own and (file, node.attr) not in placed:
                faults.append(f"{file}:{node.lineno}: {ast.unparse(node)} was not followed")
    return faults


def lacking(has: dict[str, set[str]], paths: Sequence[Path]) -> list[str]:
    """Return a line for every name that pycuda lacks."""
    wanted = cuda_names.asked(paths)
    return [
        f"{package} {version} has no {name}"
        for package, version in cuda_names.PACKAGES.items()
        for name in sorted(wanted[package] - has[package])
    ]


def load_cuda(path: Path = TABLE) -> dict[str, set[str]]:
    """Return the kept names of pycuda."""
    return {name: set(names) for name, names in json.loads(path.read_text(encoding="utf-8"))["cuda"].items()}


def load(path: Path = TABLE) -> dict[str, Table]:
    """Return the kept table, by version."""
    kept = json.loads(path.read_text(encoding="utf-8"))
    tables: dict[str, Table] = {version: {} for version in kept["versions"]}
    for owner, members in kept["classes"].items():
        for name, told in members.items():
            by_version = told if isinstance(told, dict) else dict.fromkeys(tables, told)
            for version, value in by_version.items():
                tables[version].setdefault(owner, {})[name] = value
    return tables


def dump(tables: dict[str, Table], cuda: dict[str, set[str]]) -> str:
    """Return the table as JSON with one class a line; what differs between versions is told for each."""
    rows = []
    for owner in sorted({owner for table in tables.values() for owner in table}):
        merged: dict[str, object] = {}
        for name in sorted({name for table in tables.values() for name in table.get(owner, {})}):
            told = {version: table[owner][name] for version, table in tables.items() if name in table.get(owner, {})}
            same = len(told) == len(tables) and len(set(told.values())) == 1
            merged[name] = next(iter(told.values())) if same else told
        rows.append(f"  {json.dumps(owner)}: {json.dumps(merged)}")
    parts = [f' "versions": {json.dumps(bindings.VERSIONS)}']
    parts.append(f' "cuda": {json.dumps({name: sorted(names) for name, names in cuda.items()})}')
    parts.append(' "classes": {\n' + ",\n".join(rows) + "\n }")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def kept_text(tables: dict[str, Table], cuda: dict[str, set[str]], uses: dict[str, set[Use]]) -> str:
    """Return what is kept: the classes that are used, whole, and the names of pycuda."""
    classes = {use.owner for found in uses.values() for use in found}
    return dump(bindings.slim(tables, classes), cuda)


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 when every version has every name, else 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wheels", type=Path, help="folder with the wheels; default: the kept table")
    parser.add_argument("--fetch", action="store_true", help="download the wheels that are not there")
    parser.add_argument("--write", action="store_true", help="renew the kept table from the wheels")
    chosen = parser.parse_args(arguments)
    if chosen.wheels is None and (chosen.fetch or chosen.write):
        parser.error("--fetch and --write need --wheels DIR")
    if chosen.fetch:
        chosen.wheels.mkdir(parents=True, exist_ok=True)
        bindings.fetch(chosen.wheels)
        cuda_names.fetch(chosen.wheels)
    tables = bindings.read(chosen.wheels) if chosen.wheels else load()
    cuda = cuda_names.read(chosen.wheels) if chosen.wheels else load_cuda()
    uses = follow(tables)
    if chosen.write:
        TABLE.write_text(kept_text(tables, cuda, uses), encoding="utf-8")
    faults = missing(uses) + unplaced(uses, tables, files()) + lacking(cuda, files())
    for line in faults:
        print(line)
    if faults and chosen.wheels is None:
        print(
            "a class or name that is new in edge_ad may lack in the kept table: run with --wheels DIR --fetch --write"
        )
    for version, found in uses.items():
        names = {(use.owner, use.name) for use in found}
        print(f"TensorRT {version}: {len(names)} names in {len({use.file for use in found})} files")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
