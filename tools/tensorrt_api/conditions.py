"""Decide conditions on the version, by evaluating them with a stand-in of that version."""

from __future__ import annotations

import ast
from types import SimpleNamespace
from typing import Any

Table = dict[str, dict[str, str]]


class _Unknown:
    """A value that is not known: whatever is asked of it ends the evaluation."""

    def __bool__(self) -> bool:
        raise ValueError("not known")

    def __eq__(self, other: object) -> bool:
        raise ValueError("not known")

    def __hash__(self) -> int:
        raise ValueError("not known")


_UNKNOWN = _Unknown()


def stand_in(table: Table, version: str) -> Any:
    """Return an object that has the names of a version and nothing behind them, for predicates on the version."""
    classes = {owner: type(owner, (), dict.fromkeys(members)) for owner, members in table.items() if owner}
    others = {name: None for name in table[""] if name not in classes}
    return SimpleNamespace(**{**others, **classes, "__version__": f"{version}.0", "__name__": "tensorrt"})


def holds(test: ast.expr, known: dict[str, Any], unknown: list[str], module: Any) -> bool | None:
    """Return what a condition comes to with the ``known`` names; None where it does not depend on them alone."""
    if isinstance(test, ast.BoolOp):
        parts = [holds(part, known, unknown, module) for part in test.values]
        decided = isinstance(test.op, ast.Or)
        if decided in parts:
            return decided
        return None if None in parts else not decided
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        held = holds(test.operand, known, unknown, module)
        return None if held is None else not held
    if not any(isinstance(part, ast.Name) and part.id in known for part in ast.walk(test)):
        return None
    names = {**vars(module), **dict.fromkeys(unknown, _UNKNOWN), **known}
    try:
        return bool(eval(compile(ast.Expression(test), "<condition>", "eval"), names))  # noqa: S307 (our own source)
    except Exception:
        return None
