"""The table of faults: every row is complete, and every test that it names exists."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

import pytest

from tests.docs.documents import ROOT

PAGE = ROOT / "docs" / "explanation" / "fail-safe.md"
KINDS = {"absent", "late", "repeated", "stale", "garbled", "swapped", "stuck", "duplicated"}
HEADER = ["kind", "what goes wrong", "noticed by", "within", "the output shows", "test"]
COMPONENTS = (
    "Camera",
    "Driver and buffers",
    "Preprocessing",
    "Engines",
    "Fusion and thresholds",
    "Loop",
    "Guard",
    "Modbus",
    "S7 and EtherNet/IP",
    "GPIO",
    "MQTT, OPC UA, webhook, files",
    "Trigger",
    "PLC program",
    "Clock",
    "Disk and record",
    "Operator",
)


@dataclass(frozen=True)
class Row:
    """A row of a component's table."""

    component: str
    cells: tuple[str, ...]

    @property
    def tests(self) -> list[str]:
        """The tests that it names, as path::name."""
        return re.findall(r"`([\w/]+\.py::\w+)`", self.cells[-1])


def rows() -> list[Row]:
    results: list[Row] = []
    for section in PAGE.read_text(encoding="utf-8").split("\n### ")[1:]:
        name, *lines = section.splitlines()
        table = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines if line.startswith("|")]
        assert table[0] == HEADER, name
        results += [Row(name, tuple(cells)) for cells in table[2:]]
    return results


def functions(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}


def test_every_component_has_a_table() -> None:
    assert set(COMPONENTS) <= {row.component for row in rows()}


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row.component}: {row.cells[1]}")
def test_a_row_is_complete_and_its_tests_exist(row: Row) -> None:
    assert len(row.cells) == len(HEADER)
    assert row.cells[0] in KINDS
    assert all(row.cells)
    assert row.tests or row.cells[-1] == "none", "name a test as `tests/path.py::name`, or write none"
    for test in row.tests:
        path, _, name = test.partition("::")
        assert (ROOT / path).is_file(), test
        assert name in functions(path), test
