"""What the addresses of all outputs share."""

from __future__ import annotations

import socket
import urllib.parse
from collections.abc import Iterable
from pathlib import Path


def settings_of(query: str) -> dict[str, str]:
    """Return the settings NAME=VALUE after the question mark of an address; ValueError for anything else there."""
    return dict(urllib.parse.parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))


def first_missing(files: Iterable[str]) -> str | None:
    """Return the first name that is no file, None when all are."""
    return next((name for name in files if not Path(name).is_file()), None)


def check_port(host: str, port: int) -> None:
    """Listen on an address for an instant; OSError when that cannot be."""
    with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
        pass


def bracketed(host: str) -> str:
    """Return a host as an address writes it: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host
