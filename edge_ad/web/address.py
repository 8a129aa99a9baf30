"""Where the dashboard listens, under which names, and who may come in."""

from __future__ import annotations

import ipaddress
import re
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edge_ad.errors import BadInput
from edge_ad.outputs.channels import bracketed
from edge_ad.utils.logs import print_message

TOKEN = "EDGE_AD_WEB_TOKEN"
READ_TOKEN = "EDGE_AD_WEB_READ_TOKEN"
MIN_TOKEN = 16


@dataclass(frozen=True)
class Address:
    """A host (an address or a name) and a TCP port; port 0 takes a free one."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        return is_ip(self.host) and ipaddress.ip_address(self.host).is_loopback

    def __str__(self) -> str:
        return f"{bracketed(self.host)}:{self.port}"


@dataclass(frozen=True)
class Tokens:
    """The tokens: ``full`` may change things, ``read`` may look. Without both everybody may do everything."""

    full: str | None = None
    read: str | None = None

    @property
    def wanted(self) -> bool:
        """Whether a token is needed."""
        return bool(self.full or self.read)


def parse_address(text: str) -> Address:
    """Return the address in ``HOST:PORT``, ``[IPv6]:PORT`` or ``PORT`` (loopback); BadInput for anything else."""
    match = re.fullmatch(r"(?:(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.\-]+):)?(\d{1,5})", text.strip(), re.ASCII)
    host, port = (match[1] or "127.0.0.1", int(match[2])) if match else ("", 65536)
    bare = host.strip("[]")
    if port > 65535 or (host.startswith("[") and not is_ip(bare)):
        raise BadInput(f"--web is {text!r}: write HOST:PORT, such as 127.0.0.1:8080, or 0.0.0.0:8080 for the network")
    return Address(bare, port)


def listen(address: Address) -> socket.socket:
    """Return a listening socket; BadInput where the address cannot be had."""
    try:
        addresses = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, location = addresses[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise BadInput(f"--web {address}: {error.strerror or error}; name an address of this machine") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(location)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise BadInput(
            f"--web {address}: {error.strerror or error}; choose an address and a free port of this machine"
        ) from error
    return listener


def find_tokens(address: Address, environment: Mapping[str, str], names: Sequence[str] = ()) -> tuple[Tokens, bool]:
    """Return the tokens of the environment, and whether the full one was made here and must be told.

    One is made where the network could reach the address, directly or through a reverse proxy (``names`` are given for
    one), or a read-only token alone is given. BadInput for a token shorter than 16 characters and for two equal ones.
    """
    full, read = environment.get(TOKEN) or None, environment.get(READ_TOKEN) or None
    for name, token in ((TOKEN, full), (READ_TOKEN, read)):
        if token is not None and (len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable()):
            raise BadInput(
                f"{name} is no good token: give at least {MIN_TOKEN} printable ASCII characters, "
                "such as those of `openssl rand -hex 16`"
            )
    if full is not None and full == read:
        raise BadInput(f"{TOKEN} and {READ_TOKEN} are equal: the second one must not open what the first one does")
    made = full is None and (read is not None or bool(names) or not address.loopback)
    return Tokens(secrets.token_urlsafe(18) if made else full, read), made


def print_address(address: Address, listener: socket.socket, made: str | None) -> None:
    """Print on stderr where the dashboard is, and once the token that was made for it."""
    shown = address.host if address.host not in ("0.0.0.0", "::") else socket.gethostname()
    print_message(f"dashboard: http://{Address(shown, listener.getsockname()[1])}/")
    if made is not None:
        print_message(f"dashboard token (set {TOKEN} to choose your own): {made}")


@dataclass(frozen=True)
class Names:
    """The names that a request may call this server by (its Host header): what stops DNS rebinding.

    A loopback address answers to ``localhost`` and loopback addresses, any other one to every IP address and to this
    machine's name; ``more`` are names given by hand (a reverse proxy's).
    """

    loopback: bool
    more: tuple[str, ...] = ()

    def allows(self, host: str) -> bool:
        """Whether a Host header, with or without a port, names this server."""
        match = re.fullmatch(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9.\-_]{1,253})(?::\d{1,5})?", host, re.ASCII)
        if match is None:
            return False
        name = match[1].strip("[]").lower().rstrip(".")
        if name == "localhost" or name in self.more:
            return True
        if is_ip(name):
            return not self.loopback or ipaddress.ip_address(name).is_loopback
        own = socket.gethostname().lower()
        return not self.loopback and name in (own, f"{own}.local")


def names_for(address: Address, more: Sequence[str]) -> Names:
    """Return the names of a server at an address."""
    own = () if is_ip(address.host) else (address.host.lower(),)
    return Names(address.loopback, (*own, *(name.lower().rstrip(".") for name in more)))


def is_ip(text: str) -> bool:
    """Whether a text is an IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
