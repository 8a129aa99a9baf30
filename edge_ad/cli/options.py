"""Options of a command, made from keys of edge-ad.toml: name, type, help and default are stated there."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import Annotated, Any, Literal, Union

import typer

from edge_ad.config import Config, Flag, load_config, with_flags

Command = Callable[..., None]


def options_of(*names: str, without: Sequence[str] = ()) -> Callable[[Command], Command]:
    """Return a decorator that gives a command an option for every key with a ``Flag`` in the named tables.

    A name is that of a table (``run``) or of one key (``engine.backend``); keys in ``without`` get none. The command takes
    ``settings``: edge-ad.toml with the values of the options in the place of its keys. If it takes ``flags`` too, it gets
    the values of the options alone, by table, None where one was not given.
    """
    options = [(table, option) for table, option in _options(names) if option.name not in without]

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        own = [one for one in signature.parameters.values() if one.name not in ("settings", "flags")]
        context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)

        @wraps(command)
        def called(context: typer.Context, **values: Any) -> None:
            flags: dict[str, dict[str, object]] = {table: {} for table, _ in options}
            for table, option in options:
                flags[table][option.name] = values.pop(option.name)
            values["settings"] = with_flags(context.find_object(Config) or load_config(), flags)
            if "flags" in signature.parameters:
                values["flags"] = flags
            command(**values)

        shown = [context, *own, *(option for _, option in options)]
        parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in shown]
        called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        called.__annotations__ = {one.name: one.annotation for one in parameters}
        return called

    return decorate


def _options(names: Sequence[str]) -> Iterator[tuple[str, inspect.Parameter]]:
    for name in names:
        table, _, only = name.partition(".")
        kind: Any = Config.model_fields[table].annotation
        for key, field in kind.model_fields.items():
            flag = next((entry for entry in field.metadata if isinstance(entry, Flag)), None)
            if flag is None or only not in ("", key):
                continue
            option = typer.Option(*flag.names, help=_help(flag, field.default), metavar=flag.metavar)
            annotation = Annotated[Union[_cli_type(field.annotation), None], option]  # type: ignore[valid-type]  # noqa: UP007
            yield table, inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


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
