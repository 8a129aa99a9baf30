"""Who may do what: tokens, sessions and the checks that every request passes before anything else."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import logging
import os
import secrets
import tempfile
import threading
import time
import urllib.parse
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge_ad.errors import BadInput
from edge_ad.utils.supervision import describe
from edge_ad.web.address import TOKEN, Names, Tokens
from edge_ad.web.users import TOKEN_ROLES, Identity, TokenRole, User, Users, needed, why_refused

SECRET_BYTES = 32
MAX_ENDED = 4096
LARGEST_FILE = 1 << 20


class Sessions:
    """Seals the cookies of sessions; for any thread.

    With ``path`` the secret and what was ended are in a file that only this user may read, so that a restart ends no
    session and brings none back; without one, or where it cannot be written, they last as long as this object. Seals
    are bound to the tokens too: other tokens end all sessions.
    """

    def __init__(self, keys: Tokens, path: Path | None = None, clock: Callable[[], float] = time.time) -> None:
        self._tokens = f"{keys.full}\0{keys.read}".encode()
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._secret = secrets.token_bytes(SECRET_BYTES)
        self._ended: dict[str, int] = {}
        self._read_at: int | None = None
        with self._lock:
            self._read()
            if self._read_at is None:
                self._write()

    def seal(self, text: str) -> str:
        """Return the seal of the text of a session."""
        with self._lock:
            self._read()
            key = hmac.new(self._secret, self._tokens, hashlib.sha256).digest()
        return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()

    def ended(self, session: str) -> bool:
        """Whether a logout has ended this session."""
        with self._lock:
            self._read()
            return session in self._ended

    def end(self, session: str, until: int) -> None:
        """End a session that would have lasted ``until``."""
        with self._lock:
            self._read()
            now = self._clock()
            self._ended = {name: end for name, end in self._ended.items() if end > now}
            if len(self._ended) >= MAX_ENDED:  # with another secret no session is left that could come back
                self._secret, self._ended = secrets.token_bytes(SECRET_BYTES), {}
            self._ended[session] = until
            self._write()

    def _read(self) -> None:
        """Take over what another process has written."""
        if self._path is None:
            return
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            changed = os.stat(self._path).st_mtime_ns
            if changed == self._read_at:
                return
            with self._path.open("rb") as stream:
                result = json.loads(stream.read(LARGEST_FILE))
            secret = bytes.fromhex(result["secret"])
            ended = {str(name): int(end) for name, end in result["ended"].items()}
            if len(secret) == SECRET_BYTES:
                self._secret, self._ended, self._read_at = secret, ended, changed

    def _write(self) -> None:
        if self._path is None:
            return
        with contextlib.suppress(OSError):
            handle, temporary = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)  # mode 0600
            try:
                with os.fdopen(handle, "w") as stream:
                    json.dump({"secret": self._secret.hex(), "ended": self._ended}, stream)
                os.replace(temporary, self._path)
                self._read_at = os.stat(self._path).st_mtime_ns
            finally:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)


def sessions_file(store: Path) -> Path:
    """Return where the sessions of a record are kept: ``line.sessions`` beside ``line.sqlite``."""
    return store.with_suffix(".sessions")


_log = logging.getLogger(__name__)

COOKIE = "edge_ad_session"
HEADER = "x-edge-ad"
SESSION_S = 7 * 24 * 3600
MAX_FAILURES = 10
FAILURES_OVER_S = 60.0
MAX_CLIENTS = 1024
MAX_COOKIES = 50
MAX_BODY = 64 * 1024
MAX_UPLOAD = 20 * 2**20  # of an image
UPLOADS = frozenset({"/api/judge"})
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/login", "/static/style.css", "/static/icon.svg"})
SAFE = frozenset({"GET", "HEAD"})
FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")  # what a reverse proxy adds


@dataclass(frozen=True)
class Refusal:
    """Why a request is not served."""

    status: int
    message: str


@dataclass(frozen=True)
class Request:
    """What the checks look at; header names in small letters, ``raw_path`` as it was sent."""

    method: str
    path: str
    raw_path: str
    _: KW_ONLY
    headers: Mapping[str, str]
    client: str


class Throttle:
    """Counts wrong tokens and passwords by client; a client with too many of them within a minute has to wait."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    def blocked(self, client: str) -> bool:
        """Whether this client has to wait."""
        with self._lock:
            failures = self._failures.get(client)
            while failures and self._clock() - failures[0] > FAILURES_OVER_S:
                failures.popleft()
            return bool(failures) and len(failures or ()) >= MAX_FAILURES

    def failed(self, client: str) -> int:
        """Count a wrong one, and return how many there were within a minute."""
        with self._lock:
            failures = self._failures.setdefault(client, deque(maxlen=MAX_FAILURES))
            while failures and self._clock() - failures[0] > FAILURES_OVER_S:
                failures.popleft()
            failures.append(self._clock())
            self._failures.move_to_end(client)
            while len(self._failures) > MAX_CLIENTS:
                self._failures.popitem(last=False)
            return len(failures)


class Access:
    """Decides about requests: their Host, their Origin, their path, their token or session, and the role that needs.

    ``users`` log in by name and password where there are any; ``on_refused`` hears of the first wrong password of a client
    in a minute, with the name it was for.
    """

    def __init__(
        self,
        keys: Tokens,
        names: Names,
        clock: Callable[[], float] = time.time,
        sessions: Sessions | None = None,
        *,
        users: Users | None = None,
    ) -> None:
        self.users = users
        self.hashing = threading.Lock()  # one password at a time, so that many take neither all cores nor all memory
        self.on_refused: Callable[[str, str], None] = lambda name, client: None
        self._tokens = keys
        self._names = names
        self._clock = clock
        self._throttle = Throttle()
        self._sessions = sessions or Sessions(keys, clock=clock)

    @property
    def wanted(self) -> bool:
        """Whether a token or a user is needed."""
        return self._tokens.wanted or self.has_users

    @property
    def has_users(self) -> bool:
        """Whether users log in here."""
        return self.users is not None and self.users.exist

    @property
    def has_tokens(self) -> bool:
        """Whether there are tokens."""
        return self._tokens.wanted

    def check(self, request: Request) -> Identity | Refusal | None:
        """Return who sends a request, None for one that may do without, or why it is refused."""
        refusal = self._position(request) or self._origin(request) or self._path(request) or self._proxy(request)
        if refusal is not None:
            return refusal
        identity = self._identity(request)
        if isinstance(identity, Refusal):
            return identity
        if request.path in OPEN_PATHS or request.path == "/logout":
            return identity
        if identity is None:
            return Refusal(401, "a token is needed: send `Authorization: Bearer TOKEN`, or log in at /login")
        permission = needed(request.method, request.path)
        if permission is not None and permission not in identity.may:
            return Refusal(403, why_refused(identity, permission))
        return identity

    def login_user(self, name: str, password: str, client: str) -> User | Refusal:
        """Return the user whose name and password these are; wrong ones are counted. Takes a tenth of a second and more."""
        sender = f"passwords of {client}"  # counted beside wrong tokens
        if self._throttle.blocked(sender):
            return Refusal(429, f"too many wrong passwords: wait {FAILURES_OVER_S:g} s")
        try:
            with self.hashing:
                user = None if self.users is None else self.users.verify(name, password)
        except BadInput as error:
            _log.error("dashboard: %s", error)
            return Refusal(503, "users cannot log in now: the log of the station says why")
        if user is None:
            if self._throttle.failed(sender) == 1:
                self.on_refused(name, client)
            return Refusal(401, "name or password is wrong")
        return user

    def login(self, token: str, client: str) -> TokenRole | Refusal:
        """Return the role of a token; wrong ones are counted."""
        if self._throttle.blocked(client):
            return Refusal(429, f"too many wrong tokens: wait {FAILURES_OVER_S:g} s")
        result: TokenRole | None = None
        for role in TOKEN_ROLES:  # always all of them, so that the time tells nothing
            if _equal(token, getattr(self._tokens, role)):
                result = role
        if result is None:
            self._throttle.failed(client)
            return Refusal(401, "the token is wrong")
        return result

    def session(self, holder: TokenRole | User) -> str:
        """Return the value of a cookie for a session of a token or of a user."""
        role = f"{holder.name.encode().hex()}-{holder.version}" if isinstance(holder, User) else holder
        text = f"{role}.{int(self._clock()) + SESSION_S}.{secrets.token_hex(8)}"
        return f"{text}.{self._sessions.seal(text)}"

    def logout(self, cookies: str) -> None:
        """End the sessions in a Cookie header for good."""
        for _, until, session in self._open_sessions(cookies):
            self._sessions.end(session, until)

    def _identity(self, request: Request) -> Identity | Refusal | None:
        if not self.wanted:
            return Identity("full")
        identity = next((one for one, _, _ in self._open_sessions(request.headers.get("cookie", ""))), None)
        if identity is not None:
            return identity
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if not token:
            return None
        if scheme.lower() != "bearer":
            return Refusal(401, "write `Authorization: Bearer TOKEN`")
        role = self.login(token.strip(), request.client)
        return role if isinstance(role, Refusal) else Identity(role)

    def _holder(self, role: str) -> Identity | None:
        """Return whose session it is; None for a user who is gone or has another password or role since."""
        if role in TOKEN_ROLES:
            return Identity("full" if role == "full" else "read") if self._tokens.wanted else None
        name, _, version = role.partition("-")
        try:
            user = None if self.users is None else self.users.all().get(bytes.fromhex(name).decode())
        except BadInput:
            return None
        return None if user is None or str(user.version) != version else Identity(user.role, user.name)

    def _open_sessions(self, cookies: str) -> Iterator[tuple[Identity, int, str]]:
        """Yield holder, end and name of the sessions in a Cookie header that hold."""
        for part in cookies.split(";")[:MAX_COOKIES]:
            name, _, value = part.strip().partition("=")
            text, _, seal = value.rpartition(".")
            if name != COOKIE or not hmac.compare_digest(seal.encode(), self._sessions.seal(text).encode()):
                continue
            role, until, session = text.split(".")
            holder = self._holder(role)
            if holder is not None and int(until) > self._clock() and not self._sessions.ended(session):
                yield holder, int(until), session

    def _proxy(self, request: Request) -> Refusal | None:
        """Refuse what comes from the network through a proxy where everybody of this machine may do everything."""
        if self.wanted or request.path in OPEN_PATHS or not any(name in request.headers for name in FORWARDED):
            return None
        return Refusal(403, f"behind a reverse proxy a token is needed: give web_names, or set {TOKEN}")

    def _position(self, request: Request) -> Refusal | None:
        if self._names.allows(request.headers.get("host", "")):
            return None
        return Refusal(
            403, "this name is not one of this server: use its address, or give the name under `[run] web_names`"
        )

    def _origin(self, request: Request) -> Refusal | None:
        """Refuse what another page sent; what changes something must come from our page or not from a page at all."""
        headers, origin = request.headers, request.headers.get("origin")
        foreign = Refusal(403, "requests of other pages are refused")
        if origin is not None and _authority_of(origin) != headers.get("host", "").lower():
            return foreign
        site = headers.get("sec-fetch-site", "none")
        visit = headers.get("sec-fetch-mode") == "navigate" and request.method in SAFE
        if site in ("cross-site", "same-site") and not (visit and not request.path.startswith("/api")):
            return foreign
        if request.method in SAFE or HEADER in headers:
            return None
        if request.path in ("/login", "/logout") and (origin is not None or site == "same-origin"):
            return None
        return Refusal(403, f"what changes something needs the header {HEADER.title()}: 1")

    def _path(self, request: Request) -> Refusal | None:
        raw = request.raw_path.lower()
        tricks = ("..", "//", "\\", "%2e", "%2f", "%5c", "%00", "%25", ";")
        if any(trick in raw for trick in tricks) or any(ord(queued) < 32 for queued in request.path):
            return Refusal(400, "there is no such path")
        length = request.headers.get("content-length") or "0"
        limit = max_body(request.path)
        if not (length.isascii() and length.isdigit()) or int(length[:12]) > limit:
            return Refusal(413, f"at most {limit // 1024} KiB are taken")
        return None


def _authority_of(origin: str) -> str | None:
    """Return host and port of an Origin header; None for one that names none."""
    try:
        return urllib.parse.urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _equal(given: str, token: str | None) -> bool:
    return token is not None and hmac.compare_digest(given.encode(errors="replace"), token.encode())


BODY_S = 10.0
HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        b"form-action 'self'; frame-ancestors 'none'; base-uri 'none'; manifest-src 'self'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    # Not no-referrer: with it a browser sends the login form with the origin "null".
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
)


class AuthMiddleware:
    """Refuses before any route is looked at; what passes has ``scope["identity"]``, None on a page that needs nobody."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        sending = _dressed(send)
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        request = request_of(scope)
        try:
            result = self._access.check(request)
        except Exception as error:  # whatever a header holds, the answer is a refusal with all its headers
            _log.warning("dashboard: a request was refused: %s", describe(error))
            result = Refusal(400, "the request cannot be understood")
        if isinstance(result, Refusal):
            await _refuse(result, request, sending)
            return
        scope["identity"] = result
        scope["client_name"] = request.client
        await self._app(scope, _limited(receive, max_body(request.path)), sending)


def request_of(scope: Scope) -> Request:
    """Return what the checks need of an ASGI request; a header that comes twice counts as joined, so it fits nothing.
    """
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        key = name.decode("latin-1").lower()
        headers[key] = f"{headers[key]};{value.decode('latin-1')}" if key in headers else value.decode("latin-1")
    client = scope.get("client")
    raw = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1").partition("?")[0]
    return Request(scope["method"], scope["path"], raw, headers=headers, client=client[0] if client else "local")


async def _refuse(refusal: Refusal, request: Request, send: Send) -> None:
    headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
    status, body = refusal.status, json.dumps({"error": refusal.message}).encode()
    if status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="edge-ad"'))
    if status == 429:
        headers.append((b"retry-after", b"60"))
    if status == 401 and request.method == "GET" and request.path == "/" and "authorization" not in request.headers:
        status, body = 303, b""
        headers.append((b"location", b"/login"))
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body if request.method != "HEAD" else b""})


def _dressed(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *HEADERS]
        await send(message)

    return sending


def max_body(path: str) -> int:
    """Return how many bytes a request to a path may have."""
    return MAX_UPLOAD if path in UPLOADS else MAX_BODY


def _limited(receive: Receive, limit: int) -> Receive:
    """Cut a body off that is longer than it may be, whatever its headers said; one that does not come in time ends."""
    left, whole = limit, False
    ends = asyncio.get_running_loop().time() + BODY_S

    async def receiving() -> Message:
        nonlocal left, whole
        if whole:
            return await receive()
        try:
            message: dict[str, Any] = dict(
                await asyncio.wait_for(receive(), max(ends - asyncio.get_running_loop().time(), 0.0))
            )
        except asyncio.TimeoutError:  # before Python 3.11 not the built-in one
            return {"type": "http.disconnect"}
        body = message.get("body", b"")
        if len(body) > left:
            message["body"], message["more_body"] = body[:left], False
        left -= len(message.get("body", b""))
        whole = not message.get("more_body", False)
        return message

    return receiving
