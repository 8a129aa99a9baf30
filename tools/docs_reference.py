#!/usr/bin/env python3
"""Write what the documentation takes from the code: the options of every command, the keys of edge-ad.toml.

    python tools/docs_reference.py

The first go into docs/commands.md, between its marks; a test says when they are out of date. MkDocs takes the page of
keys by a hook while it builds the site (mkdocs.yml).
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
COMMANDS_PAGE = ROOT / "docs" / "commands.md"
KEYS_PAGE = "reference/keys.md"
BLOCK = re.compile(r"^(<!-- options of ([a-z-]+): .*? -->)$.*?^(<!-- end -->)$", re.MULTILINE | re.DOTALL)
sys.path.insert(0, str(ROOT))
WORDS = {Path: "PATH", int: "N", float: "X", str: "TEXT"}


def commands_page(page: str) -> str:
    """Return the page of commands with the tables of their options, from the functions that they are."""
    return BLOCK.sub(lambda match: f"{match[1]}\n{_options_table(match[2])}\n{match[3]}", page)


def _options_table(name: str) -> str:
    from edge_ad.cli.app import COMMANDS

    modules = {command: module for command, module, _ in COMMANDS}
    command = importlib.import_module(f"edge_ad.cli.{modules[name]}").command
    hints = typing.get_type_hints(command, include_extras=True)
    lines = ["| option | meaning [default] |", "|---|---|"]
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name != "context":
            lines.append(_row(parameter, *typing.get_args(_annotated(hints[parameter.name]))))
    return "\n".join(lines)


def _annotated(hint: Any) -> Any:
    """Return a hint without the Optional that Python 3.10 puts around one whose default is None."""
    return hint if hasattr(hint, "__metadata__") else typing.get_args(hint)[0]


def _row(parameter: inspect.Parameter, kind: Any, option: Any) -> str:
    inner = [kind, *typing.get_args(kind)]
    kinds = [one for outer in inner for one in (outer, *typing.get_args(outer)) if isinstance(one, type)]
    word = next((WORDS[one] for one in kinds if one in WORDS), "")
    # With Annotated, typer keeps the first name given by hand as the default.
    names = [name for name in (option.default, *(option.param_decls or ())) if str(name).startswith("-")]
    own = parameter.name.replace("_", "-")
    names = names or [f"--{own}/--no-{own}" if bool in kinds else f"--{own}"]
    if type(option).__name__ == "ArgumentInfo":
        shown = f"`{option.metavar or parameter.name.upper()}`"
    else:
        shown = ", ".join(f"`{f'{name} {option.metavar or word}'.strip()}`" for given in names for name in given.split("/"))
    default, text = parameter.default, option.help or ""
    if isinstance(default, (str, int, float, Path)) and default not in ("", False) and not text.endswith(("]", "].")):
        text = f"{text.rstrip('.')} [{default}]."
    return f"| {_cell(shown)} | {_cell(text)} |".replace("<", "\\<")


def keys_page() -> str:
    """Return the page of all keys, from the schema that checks the file."""
    from edge_ad.config import Config

    schema = Config.model_json_schema()
    lines = ["# All keys of edge-ad.toml", "", "Made from the schema that checks the file. A flag wins over its key."]
    for table, reference in schema["properties"].items():
        many = "additionalProperties" in reference  # a table of tables, each with a name of its own
        model = schema["$defs"][(reference["additionalProperties"] if many else reference)["$ref"].rsplit("/", 1)[1]]
        described = " ".join(model.get("description", "").replace("``", "`").split())
        lines += ["", f"## [{table}{'.NAME' if many else ''}]", "", described, ""]
        lines += ["| key | type | default | allowed |", "|---|---|---|---|"]
        lines += [_key(name, facts) for name, facts in model["properties"].items()]
    return "\n".join(lines) + "\n"


def _key(name: str, facts: dict[str, Any]) -> str:
    default = facts.get("default")
    message = (
        ""
        if default is None or default == []
        else f"`{str(default).lower() if isinstance(default, bool) else default}`"
    )
    return f"| `{name}` | {_cell(_kind(facts))} | {_cell(message)} | {_cell('; '.join(_limits(facts)))} |"


def _kind(facts: dict[str, Any]) -> str:
    if "anyOf" in facts:
        return " or ".join(_kind(option) for option in facts["anyOf"] if option.get("type") != "null")
    if "enum" in facts or "const" in facts:
        return "text"
    if facts.get("format") == "path":
        return "path"
    if facts.get("type") == "array":
        return f"list of {_kind(facts['items'])}"
    return {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}.get(
        facts.get("type", ""), "table"
    )


def _limits(facts: dict[str, Any]) -> Iterator[str]:
    for option in facts.get("anyOf", [facts]):
        if "enum" in option:
            yield ", ".join(f"`{value}`" for value in option["enum"])
        for key, words in (
            ("minimum", "at least {}"),
            ("exclusiveMinimum", "above {}"),
            ("maximum", "at most {}"),
            ("exclusiveMaximum", "below {}"),
            ("pattern", "form `{}`"),
        ):
            if key in option:
                limit = option[key]
                yield words.format(f"{limit:g}" if isinstance(limit, float) else limit)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def on_files(files: Any, config: Any) -> Any:
    """Hook of MkDocs: add the page of keys to the site."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, KEYS_PAGE, content=keys_page()))
    return files


def main() -> int:
    """Bring the page of commands up to date."""
    argparse.ArgumentParser(description=main.__doc__).parse_args()
    COMMANDS_PAGE.write_text(commands_page(COMMANDS_PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(COMMANDS_PAGE)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
