#!/usr/bin/env python3
"""Write the reference pages that come from the code: every flag of every command, every key of edge-ad.toml.

    python tools/docs_reference.py [--out DIR]

MkDocs calls it as a hook while it builds the site (mkdocs.yml), so these two pages are never out of date.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

PAGES = ("reference/flags.md", "reference/keys.md")
WORDS = {Path: "PATH", int: "N", float: "X", str: "TEXT"}


def flags_page() -> str:
    """Return the page of all commands, from the functions that they are."""
    from edge_ad.cli.app import COMMANDS

    lines = ["# All flags", "", "Made from the commands themselves. [Commands](../commands.md) explains them."]
    for name, module, summary in COMMANDS:
        command = importlib.import_module(f"edge_ad.cli.{module}").command
        hints = typing.get_type_hints(command, include_extras=True)
        lines += ["", f"## edge-ad {name}", "", summary, "", "| flag | default | meaning |", "|---|---|---|"]
        for parameter in [one for one in inspect.signature(command).parameters.values() if one.name != "context"]:
            lines.append(_row(parameter, *typing.get_args(_annotated(hints[parameter.name]))))
    return "\n".join(lines) + "\n"


def _annotated(hint: Any) -> Any:
    """Return a hint without the Optional that Python 3.10 puts around one whose default is None."""
    return hint if hasattr(hint, "__metadata__") else typing.get_args(hint)[0]


def _row(parameter: inspect.Parameter, kind: Any, facts: Any) -> str:
    kinds = [inner for inner in (kind, *typing.get_args(kind)) if isinstance(inner, type)]
    word = next((WORDS[inner] for inner in kinds if inner in WORDS), "")
    # With Annotated, typer keeps the first name given by hand as the default.
    given = [name for name in (facts.default, *(facts.param_decls or ())) if str(name).startswith("-")]
    names = ", ".join(name.replace("/", ", ") for name in given)
    if type(facts).__name__ == "ArgumentInfo":
        told = facts.metavar or parameter.name.upper()
    else:
        told = f"{names or '--' + parameter.name.replace('_', '-')} {facts.metavar or word}".strip()
    default = parameter.default
    shown = "" if default is None or default is False or default is inspect.Parameter.empty else f"`{default}`"
    return f"| `{_cell(told)}` | {_cell(shown)} | {_cell(facts.help or '')} |"


def keys_page() -> str:
    """Return the page of all keys, from the schema that checks the file."""
    from edge_ad.config import Config

    schema = Config.model_json_schema()
    lines = ["# All keys of edge-ad.toml", "", "Made from the schema that checks the file. A flag wins over its key."]
    for table, reference in schema["properties"].items():
        model = schema["$defs"][reference["$ref"].rsplit("/", 1)[1]]
        lines += ["", f"## [{table}]", "", " ".join(model.get("description", "").replace("``", "`").split()), ""]
        lines += ["| key | type | default | allowed |", "|---|---|---|---|"]
        lines += [_key(name, facts) for name, facts in model["properties"].items()]
    return "\n".join(lines) + "\n"


def _key(name: str, facts: dict[str, Any]) -> str:
    default = facts.get("default")
    told = (
        ""
        if default is None or default == []
        else f"`{str(default).lower() if isinstance(default, bool) else default}`"
    )
    return f"| `{name}` | {_cell(_kind(facts))} | {_cell(told)} | {_cell('; '.join(_limits(facts)))} |"


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
    """Hook of MkDocs: add both pages to the site."""
    from mkdocs.structure.files import File

    for name, text in zip(PAGES, (flags_page(), keys_page()), strict=True):
        files.append(File.generated(config, name, content=text))
    return files


def main() -> int:
    """Write both pages into a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/reference"))
    out = parser.parse_args().out
    for name, text in zip(PAGES, (flags_page(), keys_page()), strict=True):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text, encoding="utf-8")
        print(out / name)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
