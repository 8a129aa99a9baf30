"""Events as HTTP POST requests, one an event, over a connection that is kept open."""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import http.client
import json
import os
import re
import time
import urllib.parse
from dataclasses import dataclass

import edge_ad
from edge_ad.errors import BadInput
from edge_ad.outputs.delivery import NotNow, Refused
from edge_ad.utils.text import HIDDEN, redact_uri

TOKEN = "EDGE_AD_WEBHOOK_TOKEN"
TIMEOUT_S = 10.0
PAUSE_S = 5.0  # asked for by a receiver that does not say how long
MAX_MESSAGE = 200
# The receiver does not know us or this address now: no fault of the event, so it waits.
OF_ADDRESS = (401, 403, 404, 407, 410)
LATER = (408, 425, 429)


@dataclass(frozen=True)
class Address:
    """A checked address; ``target`` is path and query."""

    tls: bool
    host: str
    port: int
    target: str
    name: str


def parse_address(uri: str) -> Address:
    """Check an http or https URI; BadInput for anything else, and for one with a user or password in it."""
    # What follows the host may be a secret too, as with chat services.
    prefix = "--alarm " + re.sub(r"(:/{0,2}[^/?#]*)[/?#].*", rf"\1/{HIDDEN}", redact_uri(uri), count=1, flags=re.DOTALL)
    try:
        parts = urllib.parse.urlsplit(uri)
        port = parts.port
    except ValueError as error:  # whose words repeat parts of the address
        raise BadInput(f"{prefix} has no valid port: write https://HOST/PATH or https://HOST:PORT/PATH") from error
    if parts.username is not None or "@" in parts.netloc:
        raise BadInput(
            f"{prefix}: a user or password does not belong in an address, which lists and logs show; set "
            f"{TOKEN} in the environment"
        )
    if not parts.hostname or parts.fragment or not uri.isascii() or re.search(r"[\s\x00-\x1f]", uri):
        raise BadInput(f"{prefix} is no web address: write https://HOST/PATH in ASCII, without blanks")
    tls = parts.scheme == "https"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Address(tls, parts.hostname, port or (443 if tls else 80), target, _name(parts))


class Webhook:
    """Posts each event as JSON with its id as ``Idempotency-Key``.

    2xx confirms. A receiver that is away, answers 5xx, 408, 425 or 429, or does not know this address or token (401,
    403, 404, 407, 410, 3xx) is tried again; any other 4xx refuses the event. Redirects are not followed.
    """

    spooled = True

    def __init__(self, uri: str) -> None:
        self._address = parse_address(uri)
        self._connection: http.client.HTTPConnection | None = None
        self._used = False
        self.name = self._address.name

    def open(self) -> None:
        """The connection is made with the first event."""

    def deliver(self, line: str) -> None:
        """Post one event; OSError, http.client.HTTPException, NotNow or Refused when it was not taken."""
        status, reason, headers, text = self._post(line)
        if 200 <= status < 300:
            return
        answer = f"{status} {reason} {text}".strip()
        if status in LATER or (status == 503 and "retry-after" in headers):
            raise NotNow(_seconds(headers.get("retry-after", ""))) from None
        if 400 <= status < 500 and status not in OF_ADDRESS:
            raise Refused(f"it answers {answer}")
        raise ConnectionError(f"it answers {answer}")

    def close(self) -> None:
        """Hang up."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _post(self, line: str) -> tuple[int, str, dict[str, str], str]:
        """Post; a kept connection that the receiver has closed meanwhile is no fault, the key makes it safe."""
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": str(json.loads(line)["id"]),
            "User-Agent": f"edge-ad/{edge_ad.__version__}",
        }
        if token := os.environ.get(TOKEN):
            headers["Authorization"] = f"Bearer {token}"
        try:
            return self._ask(line, headers)
        except (ConnectionError, http.client.BadStatusLine):
            again = self._used
            self.close()
            if not again:
                raise
        except (OSError, http.client.HTTPException):
            self.close()
            raise
        return self._ask(line, headers)

    def _ask(self, line: str, headers: dict[str, str]) -> tuple[int, str, dict[str, str], str]:
        if self._connection is None:
            kind = http.client.HTTPSConnection if self._address.tls else http.client.HTTPConnection
            self._connection = kind(self._address.host, self._address.port, timeout=TIMEOUT_S)
            self._used = False
        self._connection.request("POST", self._address.target, line.encode(), headers)
        answer = self._connection.getresponse()
        text = answer.read(MAX_MESSAGE).decode("utf-8", "replace")
        if answer.read(65_536) and not answer.isclosed():
            self.close()  # it says more than we want to hear
        self._used = True
        results = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, answer.reason, results, "".join(char if char.isprintable() else " " for char in text)


def _seconds(text: str) -> float:
    """Return the seconds of a Retry-After, given in seconds or as a date."""
    if text.strip().isdigit():
        return float(text)
    with contextlib.suppress(ValueError, TypeError):
        return max(email.utils.parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    return PAUSE_S


def _name(parts: urllib.parse.SplitResult) -> str:
    """Return the address without what may be a secret: the query, and long path segments as chat services have them.

    A short hash of the whole keeps addresses apart that differ only in what is hidden.
    """
    path = "/".join(HIDDEN if len(segment) >= 16 else segment for segment in parts.path.split("/"))
    shown = f"{parts.scheme}://{parts.netloc}{path}"
    if parts.query or path != parts.path:
        shown += f"#{hashlib.sha256(parts.geturl().encode()).hexdigest()[:6]}"
    return shown
