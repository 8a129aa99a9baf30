"""TensorRT's own words: a logger that keeps errors for our sentences, and what they mean for the user."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

_MAX_ERRORS = 20
_MEMORY = re.compile(
    r"out ?of ?memory|insufficient memory|memoryallocation|could not allocate|cudaError(_t)? ?2\b", re.I
)
_BROKEN = re.compile(
    r"illegal (memory access|address|instruction)|misaligned address|launch (failure|failed|timed out)|device-side assert"
    r"|uncorrectable ECC|hardware stack error|cudaErrorUnknown|unknown error",
    re.I,
)
MEMORY_ADVICE = (
    "there is too little free memory: close other programs (on a Jetson also the desktop, "
    "`sudo systemctl isolate multi-user.target`) and try again"
)


def logger_for(trt: Any) -> Any:
    """Return the logger of this process, emptied of earlier messages.

    Its list ``errors`` holds the last error messages, one line each; nothing is printed. TensorRT keeps the first
    logger that it is given, for good and for everything that is opened later: a second one would hear nothing, and the
    first one must never be freed.
    """
    logger = _process_logger(trt)
    logger.errors.clear()
    return logger


@cache
def _process_logger(trt: Any) -> Any:

    class Logger(trt.ILogger):  # type: ignore[misc]  # the base class comes with the module that is passed in
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))
                del self.errors[:-_MAX_ERRORS]

    return Logger()


def reason(logger: Any, otherwise: str) -> str:
    """Return the last error that was logged, or what lies behind it where that is known; else ``otherwise``."""
    if any(_MEMORY.search(message) for message in logger.errors):
        return MEMORY_ADVICE
    return str(logger.errors[-1]) if logger.errors else otherwise


def device_broke(logger: Any) -> bool:
    """Return whether what was logged speaks of a GPU that failed, whatever it was given."""
    return any(_BROKEN.search(message) for message in logger.errors)


def parser_errors(parser: Any) -> list[str]:
    """Return the errors of an OnnxParser, each with the name and the operator of its node."""
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    return [_describe(error) for error in errors] or ["the parser gave no reason"]


def _describe(error: Any) -> str:
    name = error.node_name() if hasattr(error, "node_name") else ""
    operator = error.node_operator() if hasattr(error, "node_operator") else ""
    where = f"node {name or error.node()} ({operator or 'unknown operator'})"
    return f"{where}: {' '.join(str(error.desc()).split())}"
