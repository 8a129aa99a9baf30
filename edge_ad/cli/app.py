"""The command line: every command by name, and one place where errors become sentences and exit codes."""

from __future__ import annotations

import difflib
import errno
import importlib
import io
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from edge_ad import __version__
from edge_ad.cli.arguments import LogFormat, Quiet, Verbose, set_log_options
from edge_ad.errors import BadInput, EdgeAdError, is_out_of_memory, missing_package
from edge_ad.utils.logs import log_handler, log_to_stderr, print_message
from edge_ad.utils.supervision import leave
from edge_ad.utils.text import is_utf8, storable

_log = logging.getLogger(__name__)

# Name, module in edge_ad.cli and what `edge-ad --help` says. A module is imported when its command is asked for.
COMMANDS: tuple[tuple[str, str, str], ...] = (
    ("init", "init", "Write edge-ad.toml with your answers."),
    ("capture", "capture", "Collect images of good parts from a camera."),
    ("zones", "zones", "Show, edit or import zones: what is inspected, ignored or weighed."),
    ("train", "train", "Train on images of good parts and write a bundle."),
    ("evaluate", "evaluate", "Measure a bundle on a test set: AUROC, sPRO, false rejects, report."),
    ("recalibrate", "recalibrate", "Teach a bundle a new lot from normal images of it, in a minute, without training."),
    ("calibrate", "calibrate", "Measure INT8 ranges on normal images and plan what stays in floating point."),
    ("build-engine", "build_engine", "Build engines for this device and prove them against the bundle."),
    ("export", "export", "Write a bundle as one ONNX file for programs of your own."),
    ("run", "run", "Judge every part that a camera, a video or a folder shows."),
    ("product", "product", "List the products of a station, choose the one to judge, replace its bundle."),
    ("views", "views", "List the views of a part, or learn one threshold for all of them."),
    ("dataset", "dataset", "Write the images of marked events into good/ and defects/NAME/."),
    ("improve", "improve", "Learn from marks, compare with the bundle in use, replace it; or roll back."),
    ("pause", "pause", "Pause a line: outputs show not ready until somebody resumes."),
    ("resume", "resume", "End the pause of a line."),
    ("challenge", "challenge", "Show a station its known good and bad parts; list, verify and report that."),
    ("service", "service", "Install, show or remove the systemd unit of this station."),
    ("fleet", "fleet", "Bring bundles to many stations: publish, roll out by way of canaries, status, rollback."),
    ("events", "events", "List, filter, export and mark what was recorded; verify the audit trail; make a lost index anew."),
    ("web", "web", "Serve the dashboard over a record, without a line."),
    ("users", "users", "Add, remove and list the users of the dashboard, with roles and passwords."),
    ("report", "report", "Report a shift: parts, yield, where and why NG, downtime, changes; as HTML and CSV."),
    ("outputs", "outputs", "List the outputs and what waits for them, or let them reject."),
    ("benchmark", "benchmark", "Measure time per stage and memory on this device."),
    ("info", "info", "Tell what is in a bundle, or list the networks of every preset."),
    ("doctor", "doctor", "Examine this machine: board, packages, cameras, power, heat, clock."),
    ("distill-teacher", "distill_teacher", "Make a teacher of your own from photographs."),
    ("demo", "demo", "Go the whole road on a synthetic line: train, build, judge, evaluate."),
)

INTERRUPTED = 130

# What other tools call it, for "did you mean".
SYNONYMS = {
    **dict.fromkeys(("predict", "detect", "infer", "inference", "inspect", "judge", "live"), "run"),
    **dict.fromkeys(("val", "validate", "eval", "test", "score"), "evaluate"),
    **dict.fromkeys(("convert", "compile", "build", "tensorrt", "quantize"), "build-engine"),
    **dict.fromkeys(("fit", "learn"), "train"),
    **dict.fromkeys(("check", "status", "env"), "doctor"),
    **dict.fromkeys(("bench", "profile"), "benchmark"),
    **dict.fromkeys(("collect", "record", "grab"), "capture"),
}

STEPS = """The usual order:

\b
  edge-ad init                                writes edge-ad.toml: where the good parts are, which camera
  edge-ad capture --count 300                 collects images of good parts
  edge-ad train                               good parts to a bundle
  edge-ad evaluate data/test                  measures it, where there are labelled images
  edge-ad build-engine --fp16                 engines for this device
  edge-ad run --camera 0 --web 127.0.0.1:8080 judges parts, and shows them in a browser

`edge-ad COMMAND --help` tells more. The first three and the last two need no arguments once edge-ad.toml is there."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# The system says no to a path that a person gave: never a fault of the program.
REFUSED_PATHS = (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR)


class _Commands(TyperGroup):
    """The commands, each imported when it is asked for, with an unknown name answered by the known ones."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*(name for name, *_ in COMMANDS), *super().list_commands(ctx)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        entry = next((entry for entry in COMMANDS if entry[0] == cmd_name), None)
        return super().get_command(ctx, cmd_name) if entry is None else _command(*entry)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, _, summary in COMMANDS])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            known = self.list_commands(ctx)
            hint = _similar(args[0], known)
            meant = f"did you mean {hint!r}? " if hint else ""
            raise BadInput(f"unknown command {args[0]!r}: {meant}Choose one of {', '.join(known)}")
        return super().resolve_command(ctx, args)


def _similar(name: str, known: Sequence[str]) -> str | None:
    """Return the command that other tools call ``name``, or whose name is close to it."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    return SYNONYMS.get(name.casefold(), close[0] if close else None)


app = typer.Typer(
    name="edge-ad",
    epilog=STEPS,
    cls=_Commands,
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"edge-ad {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    log_format: LogFormat = None,
) -> None:
    """Train an inspector from images of good parts only and run it beside the line."""
    set_log_options(verbose, quiet, log_format)
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
    elif context.invoked_subcommand != "init" and os.path.exists("edge-ad.toml"):
        from edge_ad.config import load_config

        context.obj = load_config()


@cache
def _command(name: str, module: str, summary: str) -> Any:
    alone = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    alone.command(name, short_help=summary)(importlib.import_module(f"edge_ad.cli.{module}").command)
    return typer.main.get_command(alone)


def _fail(message: str, exit_code: int) -> int:
    line = " ".join(message.split())
    if _logs_json():
        _log.error("%s", line)
    else:
        print_message(f"error: {line}")
    return exit_code


def _logs_json() -> bool:
    handler = log_handler()
    return handler is not None and handler.log_format == "json"


def _explain_usage(error: typer.TyperException) -> str:
    """Say what the command allows, for an unknown option, or else where to read about it."""
    message = error.format_message().rstrip(".")
    context = getattr(error, "ctx", None)
    if context is None:
        return message
    if " extra argument" in message and (images := _image_files(message)):
        return f"{message}; to judge or read several images name their folder, not the files (the shell made {images} of *)"
    if " extra argument" in message and context.info_name == "run":
        return f"{message}; what is to be judged follows --camera: `{context.command_path} BUNDLE --camera FOLDER`"
    if hasattr(error, "possibilities"):
        options = sorted(name for parameter in context.command.params for name in parameter.opts if name[:2] == "--")
        return f"{message}; `{context.command_path}` takes {', '.join(options)}"
    return f"{message}; `{context.command_path} --help` tells what is allowed"


def _is_in_a_folder() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def _image_files(message: str) -> int:
    """Return how many words of a message name files of images: a shell makes these of an asterisk."""
    return sum(word.strip("()").lower().endswith((".png", ".jpg", ".jpeg", ".bmp", ".tif")) for word in message.split())


def _bear_any_text() -> None:
    """Let a terminal that cannot show a character show its code, and take in bytes that are no text, as in arguments."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (``sys.argv`` by default) and return its exit code.

    A user's mistake ends in one sentence on stderr: 2 bad input, 3 device fault, 4 refused by a gate, 130 Ctrl-C.
    Any other exception is a fault of the program and stays loud: it leaves with its traceback (exit code 1).
    Where the log is JSON, these are records of it.
    """
    _bear_any_text()
    with log_to_stderr():
        return _main(arguments)


def _main(arguments: Sequence[str] | None) -> int:
    try:
        result = app(args=None if arguments is None else list(arguments), prog_name="edge-ad", standalone_mode=False)
    except EdgeAdError as error:
        return _fail(str(error), error.exit_code)
    except typer.TyperException as error:
        return _fail(_explain_usage(error), 2)
    except ModuleNotFoundError as error:
        given = sys.argv[1:] if arguments is None else arguments
        message = missing_package(error, " ".join(["edge-ad", *given[:1]]))
        if message is None:
            raise
        return _fail(str(message), message.exit_code)
    except OSError as error:
        if is_out_of_memory(error):
            return _fail(f"out of memory ({error}): close other programs", 3)
        if isinstance(error, FileNotFoundError) and not _is_in_a_folder():
            return _fail("the current folder does not exist any more: change into another one", 2)
        if error.errno in FULL:
            where = "standard output" if error.filename is None else str(error.filename)[:200]
            return _fail(f"cannot write to {where}: {error.strerror}; make room, then run the command again", 3)
        if error.errno not in REFUSED_PATHS or error.filename is None:
            raise
        return _fail(f"cannot use {str(error.filename)[:200]!r}: {error.strerror}; name a path that you may use", 2)
    except UnicodeEncodeError as error:
        if is_utf8(error.object):
            raise
        return _fail(f"{storable(error.object, 200)!r} is no UTF-8 text: rename it, or write another name", 2)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except Exception as error:
        if not is_out_of_memory(error):
            if not _logs_json():
                raise
            _log.critical("the program failed", exc_info=error)
            return 1
        return _fail(f"out of memory ({error}): close other programs, give smaller images or choose a smaller preset", 3)
    return result if isinstance(result, int) else 0


def _open_closed_streams() -> None:
    """Open what the parent has closed of the first three files.

    A file of ours, such as the record, would get its number, and libraries and children would write messages into it.
    """
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(handle, True)
    os.close(handle)
    for name, handle, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(handle, mode, encoding="utf-8", closefd=False))


def entry() -> NoReturn:
    """Run the command line of this process and leave it; an internal error with its traceback and exit code 1."""
    _open_closed_streams()
    try:
        code = main()
    except Exception:
        traceback.print_exc()
        code = 1
    leave(code)

