"""Positional arguments, and the options of the log, that more than one command takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from edge_ad.errors import BadInput
from edge_ad.utils.logs import FORMATS, PACKAGE, log_handler

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

    One that is not named is the newest bundle under runs/, or the ``configured`` folder; a single path that is a file, but
    no manifest, or ends in .edgead is the bundle. A manifest stands for a folder. Raises BadInput for more than two paths,
    two the wrong way round, and no folder.
    """
    from edge_ad.data.manifests import is_manifest
    from edge_ad.utils.files import newest_bundle

    if len(paths) > 2:
        raise BadInput(f"edge-ad {command} takes a bundle and a {folder}, but {len(paths)} paths were given")
    if len(paths) == 2:
        if paths[0].is_dir() and paths[1].is_file() and not is_manifest(paths[1]):
            raise BadInput(f"{paths[0]} is a folder: the bundle comes first, `edge-ad {command} {paths[1]} {paths[0]}`")
        return paths[0], paths[1]
    if paths and (not paths[0].is_file() or is_manifest(paths[0])) and paths[0].suffix != ".edgead":
        return newest_bundle(), paths[0]
    if configured is None and paths:
        raise BadInput(f"{paths[0]} is a bundle: add the {folder}, `edge-ad {command} {paths[0]} FOLDER`")
    if configured is None:
        raise BadInput(f"there is no {folder}: name one, or put `path` under [data] in edge-ad.toml")
    return paths[0] if paths else newest_bundle(), configured
