"""The access checks as the outermost layer of the server, with the headers that every answer gets."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge_ad.supervision import describe, tell
from edge_ad.web.access import MOST_BODY, Access, Refusal, Request

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


class Gate:
    """Refuses before any route is looked at; what passes has ``scope["role"]``."""

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
            found = self._access.check(request)
        except Exception as error:  # whatever a header holds, the answer is a refusal with all its headers
            tell(f"dashboard: a request was refused: {describe(error)}")
            found = Refusal(400, "the request cannot be understood")
        if isinstance(found, Refusal):
            await _refuse(found, request, sending)
            return
        scope["role"] = found
        scope["client_name"] = request.client
        await self._app(scope, _limited(receive), sending)


def request_of(scope: Scope) -> Request:
    """Return what the checks need of an ASGI request; a header that comes twice counts as joined, so it fits nothing."""
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        key = name.decode("latin-1").lower()
        headers[key] = f"{headers[key]};{value.decode('latin-1')}" if key in headers else value.decode("latin-1")
    client = scope.get("client")
    raw = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1").partition("?")[0]
    return Request(scope["method"], scope["path"], raw, headers, client[0] if client else "local")


async def _refuse(refusal: Refusal, request: Request, send: Send) -> None:
    headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
    status, body = refusal.status, json.dumps({"error": refusal.told}).encode()
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


def _limited(receive: Receive) -> Receive:
    """Cut a body off that is longer than it may be, whatever its headers said; one that does not come in time ends."""
    left, whole = MOST_BODY, False
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
