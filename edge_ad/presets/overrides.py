"""Single values of a preset, given as ``key=value`` with the key's path as `edge-ad info` prints it."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from edge_ad.errors import BadInput
from edge_ad.presets.presets import Preset

FIXED = ("name",)
AT_MIN_ONE = (
    "batch", "codes", "count", "depth", "feed_forward", "grid", "heads", "image_side", "layers", "student_width",
    "structure_pool", "structure_top", "token_grid", "top", "width",
)  # fmt: skip
SHARES = ("attention_dropout", "dropout", "hard_quantile", "least_share", "quantile", "share", "train_least_share")


def with_values(preset: Preset, texts: Sequence[str]) -> Preset:
    """Return ``preset`` with every ``key=value`` applied, such as ``efficientad.dfsc.mode=off`` or ``lavit.width=256``.

    Values are JSON, or plain text for names. BadInput names an unknown key with those that exist, and a value of
    another kind or outside what is allowed.
    """
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise BadInput(f"--setting {text!r} has no '=': write KEY=VALUE, such as efficientad.dfsc.mode=off")
        preset = _put(preset, key.strip().split("."), value.strip(), key.strip())
    return preset


def _put(node: Any, path: list[str], text: str, key: str) -> Any:
    names = [entry.name for entry in fields(node) if entry.name not in FIXED]
    if path[0] not in names:
        close = difflib.get_close_matches(path[0], names, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise BadInput(f"--setting {key}: there is no {path[0]!r} here: {hint}Allowed: {', '.join(names)}")
    value = getattr(node, path[0])
    if is_dataclass(value):
        if len(path) == 1:
            inner = ", ".join(f"{key}.{entry.name}" for entry in fields(value))
            raise BadInput(f"--setting {key} is a group of values: set one of {inner}")
        return replace(node, **{path[0]: _put(value, path[1:], text, key)})
    if len(path) > 1:
        raise BadInput(f"--setting {key}: {path[0]!r} is a single value and holds no {path[1]!r}")
    return replace(node, **{path[0]: _parsed(get_type_hints(type(node))[path[0]], text, key)})


def _parsed(hint: Any, text: str, key: str) -> Any:
    if get_origin(hint) is Literal:
        if text not in get_args(hint):
            raise BadInput(f"--setting {key}={text}: choose one of {', '.join(get_args(hint))}")
        return text
    try:
        value = json.loads(text)
    except ValueError as error:
        raise BadInput(f"--setting {key}={text}: {text!r} is not {_reported(hint)}") from error
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise BadInput(f"--setting {key}={text}: {text!r} is not {_reported(hint)}")
        return tuple(_checked(get_args(hint)[0], item, key, text) for item in value)
    return _checked(hint, value, key, text)


def _checked(hint: Any, result: object, key: str, text: str) -> Any:
    kinds: tuple[type, ...] = (int, float) if hint is float else (hint,)
    if not isinstance(result, kinds) or (hint is not bool and isinstance(result, bool)):
        raise BadInput(f"--setting {key}={text}: {text!r} is not {_reported(hint)}")
    if hint is bool:
        return result
    value: Any = result
    name = key.rsplit(".", 1)[-1]
    minimum = 1 if name in AT_MIN_ONE else 0
    maximum = 1 if name in SHARES else math.inf
    if not (math.isfinite(value) and minimum <= value <= maximum):
        limit = f"from {minimum} to {maximum}" if name in SHARES else f"{minimum} or more"
        raise BadInput(f"--setting {key}={text}: the value must be {limit}")
    return hint(value)


def _reported(hint: Any) -> str:
    if get_origin(hint) is tuple:
        return f"a list in brackets, each {_reported(get_args(hint)[0])}"
    return {bool: "true or false", int: "a whole number", float: "a number"}[hint]
