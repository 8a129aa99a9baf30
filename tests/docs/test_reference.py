"""The pages that come from the code hold every flag and every key."""

from __future__ import annotations

import importlib.util
from types import ModuleType
from typing import Any

import pytest
import typer

from edge_ad.cli.app import app
from edge_ad.config import Config
from tests.docs.documents import ROOT


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_reference", ROOT / "tools" / "docs_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_flag_of_every_command_is_there(reference: ModuleType) -> None:
    sections = {part.splitlines()[0]: part for part in reference.flags_page().split("\n## edge-ad ")[1:]}
    group: Any = typer.main.get_command(app)
    names = group.list_commands(None)
    assert list(sections) == names
    for name in names:
        flags = [flag for parameter in group.get_command(None, name).params for flag in parameter.opts if flag.startswith("--")]
        missing = [flag for flag in flags if flag != "--help" and f"{flag}" not in sections[name]]
        assert not missing, name


def test_every_key_is_there_with_its_limits(reference: ModuleType) -> None:
    sections = {part.splitlines()[0].strip("[]"): part for part in reference.keys_page().split("\n## ")[1:]}
    assert set(sections) == set(Config.model_fields)
    for table, field in Config.model_fields.items():
        for key in field.annotation.model_fields:  # type: ignore[union-attr]
            assert f"| `{key}` |" in sections[table], f"{table}.{key}"
    assert "| `target_ng` | number | `0.01` | above 0; below 1 |" in sections["thresholds"]
    assert "`fp32`, `fp16`, `int8`" in sections["engine"]
