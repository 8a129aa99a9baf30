"""The log: records of all loggers on standard error, one line each, as text or as JSON.

A program that uses edge-ad as a library sets up its own logging; without any, Python shows warnings and errors.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from typing import TextIO

from edge_ad.utils.text import format_time, redact, storable

FORMATS = ("text", "json")
CLEAR_LINE = "\r\x1b[K"
PACKAGE = logging.getLogger("edge_ad")


class LogHandler(logging.Handler):
    """Writes to what ``sys.stderr`` is at that moment; one that is closed, full or gone must not end a thread or a run.

    Passwords are redacted, in records of other packages too.
    """

    def __init__(self, log_format: str) -> None:
        super().__init__()
        self.log_format = log_format

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text (a traceback on lines of its own) or as one JSON object."""
        time, message = format_time(record.created), redact(record.getMessage())
        trace = logging.Formatter().formatException(record.exc_info) if record.exc_info else ""
        trace = _clean("\n".join(map(redact, trace.splitlines())))
        if self.log_format == "text":
            return "\n".join([f"{time} {record.levelname} {storable(message)}", *trace.splitlines()])
        fields = {"time": time, "level": record.levelname, "logger": record.name, "message": _clean(message)}
        return json.dumps(fields | ({"exception": trace} if trace else {}))

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, on a terminal in place of a live line."""
        with contextlib.suppress(Exception):
            try:
                line = self.format(record)
            except Exception:  # arguments that do not fit the message
                self.handleError(record)
                return
            live = sys.stderr.isatty() and self.log_format == "text"
            sys.stderr.write(f"{CLEAR_LINE if live else ''}{line}\n")
            sys.stderr.flush()


def _clean(text: str) -> str:
    return "\n".join(map(storable, text.splitlines()))


def write_to(stream: TextIO | None, text: str) -> None:
    """Write text at once; a terminal or pipe that is closed, full or gone must end no work."""
    with contextlib.suppress(OSError, ValueError):
        if stream is not None:
            stream.write(text)
            stream.flush()


def print_message(text: str) -> None:
    """Print a line that is for the person who started the command alone, and for no log."""
    write_to(sys.stderr, f"{text}\n")


@contextlib.contextmanager
def log_to_stderr(level: str = "INFO", log_format: str = "text") -> Iterator[None]:
    """Log to stderr inside the block: our records from ``level`` on, those of other packages from WARNING on."""
    handler, before = LogHandler(log_format), PACKAGE.level
    logging.getLogger().addHandler(handler)
    PACKAGE.setLevel(level)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        PACKAGE.setLevel(before)


def log_handler() -> LogHandler | None:
    """Return the handler of ``log_to_stderr`` inside its block."""
    handlers = logging.getLogger().handlers
    return next((handler for handler in reversed(handlers) if isinstance(handler, LogHandler)), None)


def log_arguments() -> tuple[str, str]:
    """Return what gives ``log_to_stderr`` the settings of this process in another one."""
    handler = log_handler()
    return ("WARNING", "text") if handler is None else (logging.getLevelName(PACKAGE.level), handler.log_format)
