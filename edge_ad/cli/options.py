"""Options of a command, made from keys of edge-ad.toml, and the arguments that more than one command takes."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import typer

from edge_ad.config import Config, Flag, load_config, with_flags
from edge_ad.errors import BadInput
from edge_ad.utils.logs import FORMATS, PACKAGE, log_handler

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


Verbose = Annotated[bool, typer.Option("--verbose", help="Log what helps to find a fault, too.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Log warnings and errors only.")]
LogFormat = Annotated[str | None, typer.Option(metavar="text|json", help="Log lines for people or programs [text].")]


def set_log_options(verbose: bool, quiet: bool, log_format: str | None) -> None:
    """Change level and format of the log as far as options are given; BadInput for some that do not fit together."""
    if verbose and quiet:
        raise BadInput("--verbose and --quiet exclude each other: leave one out")
    if log_format not in (None, *FORMATS):
        raise BadInput(f"--log-format is {log_format!r}: choose one of {', '.join(FORMATS)}")
    handler = log_handler()
    if log_format is not None and handler is not None:
        handler.log_format = log_format
    if verbose or quiet:
        PACKAGE.setLevel("DEBUG" if verbose else "WARNING")


def bundle_and_folder(
    paths: Sequence[Path], command: str, folder: str = "folder of good images", configured: Path | None = None
) -> tuple[Path, Path]:
    """Return the bundle and the folder of ``[BUNDLE] [FOLDER]``.

    One that is not named is the newest bundle under runs/, or the ``configured`` folder; a single path that is a file or
    ends in .edgead is the bundle. Raises BadInput for more than two paths, two the wrong way round, and no folder.
    """
    from edge_ad.utils.files import newest_bundle

    if len(paths) > 2:
        raise BadInput(f"edge-ad {command} takes a bundle and a {folder}, but {len(paths)} paths were given")
    if len(paths) == 2:
        if paths[0].is_dir() and paths[1].is_file():
            raise BadInput(f"{paths[0]} is a folder: the bundle comes first, `edge-ad {command} {paths[1]} {paths[0]}`")
        return paths[0], paths[1]
    if paths and not paths[0].is_file() and paths[0].suffix != ".edgead":
        return newest_bundle(), paths[0]
    if configured is None and paths:
        raise BadInput(f"{paths[0]} is a bundle: add the {folder}, `edge-ad {command} {paths[0]} FOLDER`")
    if configured is None:
        raise BadInput(f"there is no {folder}: name one, or put `path` under [data] in edge-ad.toml")
    return paths[0] if paths else newest_bundle(), configured
