"""Which nodes of a graph stay in floating point, as plain data that a person can edit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from calibration.placement import DIALECTS, operators
from calibration.view import View

ALL = "*"


@dataclass(frozen=True)
class Plan:
    """For one graph and each dialect the keys of the nodes that are not quantised; ``*`` means all of them."""

    graph_sha256: str
    keep: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def kept(self, dialect: str, view: View) -> tuple[str, ...]:
        """Return the nodes of ``view`` that stay in floating point."""
        named = self.keep.get(dialect, ())
        return tuple(item.key for item in operators(view)) if ALL in named else named

    def skips(self, dialect: str) -> bool:
        """Whether the whole graph stays in floating point."""
        return ALL in self.keep.get(dialect, ())

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"graph_sha256": self.graph_sha256, "keep": {name: list(keys) for name, keys in self.keep.items()}}

    @classmethod
    def from_json(cls, value: object) -> Plan:
        """Build from what ``to_json`` gave, perhaps edited; ValueError with one sentence for anything else."""
        if not isinstance(value, Mapping) or set(value) != {"graph_sha256", "keep"}:
            raise ValueError("a plan must be a JSON object with graph_sha256 and keep")
        sha256, keep = value["graph_sha256"], value["keep"]
        if not isinstance(sha256, str) or not isinstance(keep, Mapping) or not set(keep) <= set(DIALECTS):
            raise ValueError(f"a plan must name the hash of a graph, and keep only for {' and '.join(DIALECTS)}")
        for dialect, keys in keep.items():
            if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
                raise ValueError(f'keep for {dialect} must be a list of names of nodes, or ["*"] for all')
        return cls(sha256, {dialect: tuple(keys) for dialect, keys in keep.items()})
