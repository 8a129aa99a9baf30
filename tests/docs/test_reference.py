"""What the documentation takes from the code holds every flag and every key, and is up to date."""

from __future__ import annotations

import importlib.util
import re
from types import ModuleType
from typing import Any

import pytest
import typer

from edge_ad.cli.app import app
from edge_ad.config import Config, model_of
from tests.docs.documents import ROOT


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_reference", ROOT / "tools" / "docs_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_commands_is_what_the_code_states(reference: ModuleType) -> None:
    page = page_text(reference)
    assert page == reference.commands_page(page), "run `python tools/docs_reference.py`"


def test_every_flag_of_every_command_is_there(reference: ModuleType) -> None:
    blocks = {name: text for text, name in re.findall(r"(<!-- options of ([a-z-]+):.*?<!-- end -->)", page_text(reference), re.S)}
    group: Any = typer.main.get_command(app)
    assert set(blocks) == set(group.list_commands(None))
    for name, block in blocks.items():
        parameters = group.get_command(None, name).params
        flags = [flag for one in parameters for flag in (*one.opts, *one.secondary_opts) if flag.startswith("--")]
        assert not [flag for flag in flags if flag != "--help" and not re.search(rf"`{flag}[ `]", block)], name


def page_text(reference: ModuleType) -> str:
    return str(reference.COMMANDS_PAGE.read_text(encoding="utf-8"))


def test_every_key_is_there_with_its_limits(reference: ModuleType) -> None:
    parts = reference.keys_page().split("\n## ")[1:]
    sections = {part.splitlines()[0].strip("[]").removesuffix(".NAME"): part for part in parts}
    assert set(sections) == set(Config.model_fields)
    for table in Config.model_fields:
        for key in model_of(table)[0].model_fields:
            assert f"| `{key}` |" in sections[table], f"{table}.{key}"
    assert "| `target_ng` | number | `0.01` | above 0; below 1 |" in sections["thresholds"]
    assert "`fp32`, `fp16`, `int8`" in sections["engine"]
