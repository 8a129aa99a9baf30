"""The source that is looked at: its functions and classes by name, and its modules for their predicates."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Source:
    """The functions and classes of the files that are looked at, by name."""

    functions: dict[str, tuple[str, ast.FunctionDef]] = field(default_factory=dict)
    classes: dict[str, tuple[str, ast.ClassDef]] = field(default_factory=dict)
    modules: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, files: Sequence[Path], root: Path) -> Source:
        """Parse files under ``root`` and import them for their predicates."""
        source = cls()
        for path in files:
            name = str(path.relative_to(root))
            source.modules[name] = importlib.import_module(name.removesuffix(".py").replace("/", "."))
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.FunctionDef):
                    source.functions[node.name] = (name, node)
                elif isinstance(node, ast.ClassDef):
                    source.classes[node.name] = (name, node)
        return source

    def texts(self, file: str) -> Iterator[str]:
        """Yield the texts in the constants of a file: what a name that is computed there may be."""
        stack = list(vars(self.modules[file]).values())
        while stack:
            item = stack.pop()
            if isinstance(item, str):
                yield item
            elif isinstance(item, dict):
                stack.extend([*item.keys(), *item.values()])
            elif isinstance(item, tuple | list):
                stack.extend(item)


def parameters(node: ast.FunctionDef) -> list[str]:
    """Return the names of the parameters."""
    return [argument.arg for argument in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]]


def methods(node: ast.ClassDef) -> list[ast.FunctionDef]:
    """Return the methods of a class."""
    return [item for item in node.body if isinstance(item, ast.FunctionDef)]
