"""What a value is, as far as it matters: the module, an object of one of its classes, something to call, or one of ours."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import Any

from tensorrt_api.source import methods

Env = dict[str, Any]
MODULE = "module"
PARAMETER = "trt"


@dataclass(frozen=True, order=True)
class Use:
    """One name that is asked of a class ("" for the module) at a line of a file; ``there`` says whether it exists."""

    file: str
    line: int
    owner: str
    name: str
    there: bool


@dataclass(frozen=True)
class Callable_:
    """A value that gives ``gives`` when it is called: a class, a bound method, or a lambda."""

    gives: Any
    owner: str = ""


@dataclass
class Instance:
    """An object of a class of edge_ad, with what is known of its attributes."""

    node: ast.ClassDef
    attributes: Env = field(default_factory=dict)
    base: str | None = None


def bound(instance: Instance, name: str) -> Any:
    """Return a method of an object of ours, None where it has none of that name."""
    method = next((method for method in methods(instance.node) if method.name == name), None)
    return None if method is None else Callable_(("local", method, {"self": instance}))
