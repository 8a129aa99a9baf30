"""Options of a command, made from the keys of its tables in edge-ad.toml: name, type, help and default are stated there."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Annotated, Any, Literal, Union

import typer

from edge_ad.config import Flag, Table

Command = Callable[..., None]


def options_of(*tables: type[Table]) -> Callable[[Command], Command]:
    """Return a decorator that gives a command an option for every key with a ``Flag``.

    The command takes the values as one mapping, ``flags``: None where an option was not given (see ``with_flags``).
    """
    options = [option for table in tables for option in _options(table)]

    def decorate(command: Command) -> Command:
        own = [one for one in inspect.signature(command, eval_str=True).parameters.values() if one.name != "flags"]

        @wraps(command)
        def called(**values: Any) -> None:
            flags = {option.name: values.pop(option.name) for option in options}
            command(**values, flags=flags)

        parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*own, *options)]
        called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        called.__annotations__ = {one.name: one.annotation for one in parameters}
        return called

    return decorate


def _options(table: type[Table]) -> Iterator[inspect.Parameter]:
    for key, field in table.model_fields.items():
        flag = next((entry for entry in field.metadata if isinstance(entry, Flag)), None)
        if flag is None:
            continue
        option = typer.Option(*flag.names, help=_help(flag, field.default), metavar=flag.metavar)
        annotation = Annotated[Union[_cli_type(field.annotation), None], option]  # type: ignore[valid-type]  # noqa: UP007
        yield inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _help(flag: Flag, default: object) -> str:
    """Return the help with the default, unless the text ends with what stands in its place."""
    if (
        flag.help.endswith(("]", "]."))
        or default is None
        or isinstance(default, bool)
        or not isinstance(default, (int, float, str))
    ):
        return flag.help
    shown = f"{default:g}" if isinstance(default, float) else str(default)
    return f"{flag.help.rstrip('.')} [{shown}]."


def _cli_type(annotation: Any) -> Any:
    """Return what an option of a key has: a choice is text, checked with the table, and None is left to the option."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _cli_type(inner[0])
    if origin in (Union, types.UnionType):
        return _cli_type(next(one for one in inner if one is not type(None)))
    return str if origin is Literal else annotation
