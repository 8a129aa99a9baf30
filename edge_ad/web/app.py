"""The server of the dashboard: routes, errors as sentences, and the gate in front.

The pages: files that are read once at the start, so that no path of a request ever reaches the disk; and the login.
"""

from __future__ import annotations

import hashlib
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp

from edge_ad import __version__
from edge_ad.errors import DeviceFault, EdgeAdError
from edge_ad.web.access import COOKIE, SESSION_S, Access, AuthMiddleware, Refusal
from edge_ad.web.dashboard_state import DashboardState
from edge_ad.web.live import live_routes
from edge_ad.web.metrics import metrics_text
from edge_ad.web.record import Record, record_routes
from edge_ad.web.schemas import Life, Message
from edge_ad.web.thresholds import ThresholdService, thresholds_routes

KINDS = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
ALERT = '<p class="alert" role="alert">{message}</p>'


@dataclass(frozen=True)
class Page:
    """A file of the dashboard."""

    kind: str
    data: bytes
    tag: str


def load_pages() -> dict[str, Page]:
    """Return all files of the dashboard by name."""
    pages: dict[str, Page] = {}
    for file in resources.files("edge_ad.web").joinpath("static").iterdir():
        suffix = file.name.rpartition(".")[2]
        if suffix in KINDS:
            data = file.read_bytes()
            pages[file.name] = Page(KINDS[suffix], data, f'"{hashlib.sha256(data).hexdigest()[:16]}"')
    return pages


def page_routes(access: Access) -> APIRouter:
    """Return the routes of pages, login and logout; they are not part of the API."""
    router = APIRouter(include_in_schema=False)
    pages = load_pages()

    @router.get("/")
    def index(request: Request) -> Response:
        return _page(pages["index.html"], request)

    @router.get("/static/{name}")
    def static(name: str, request: Request) -> Response:
        if name not in pages or name.endswith(".html"):
            raise HTTPException(404, "there is no such file")
        return _page(pages[name], request)

    @router.get("/login")
    def login_page() -> Response:
        return _login(pages["login.html"], None, 200) if access.wanted else RedirectResponse("/", 303)

    @router.post("/login")
    async def login(request: Request) -> Response:
        body = (await request.body()).decode("utf-8", "replace")
        token = urllib.parse.parse_qs(body, max_num_fields=4).get("token", [""])[0] if len(body) < 4096 else ""
        if not access.wanted:
            return RedirectResponse("/", 303)
        result = access.login(token.strip(), request.scope["client_name"])
        if isinstance(result, Refusal):
            return _login(pages["login.html"], result.message, result.status)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(COOKIE, access.session(result), max_age=SESSION_S, httponly=True, samesite="strict", path="/")
        return answer

    @router.post("/logout")
    def logout(request: Request) -> Response:
        access.logout(request.headers.get("cookie", ""))
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE, httponly=True, samesite="strict", path="/")
        return answer

    return router


def _page(page: Page, request: Request) -> Response:
    headers = {"cache-control": "no-cache", "etag": page.tag}
    if request.headers.get("if-none-match") == page.tag:
        return Response(status_code=304, headers=headers)
    return Response(page.data, media_type=page.kind, headers=headers)


def _login(page: Page, message: str | None, status: int) -> Response:
    alert = ALERT.format(message=message.capitalize()) if message else ""
    text = page.data.decode().replace("<!-- alert -->", alert)
    return Response(text, status, {"cache-control": "no-store"}, page.kind)


ABOUT = (
    "What `edge-ad run --web` tells and takes. Where a token is needed send `Authorization: Bearer TOKEN`; what changes "
    "something needs the header `X-Edge-Ad: 1`."
)
REFUSED: dict[int | str, dict[str, Any]] = {
    status: {"model": Message, "description": text}
    for status, text in ((400, "Bad request"), (401, "A token is needed"), (403, "Refused"), (422, "A value is wrong"))
}


def make_app(dashboard: DashboardState, access: Access, store: Path | None, ask: Callable[[dict[str, Any]], None]) -> ASGIApp:
    """Return the server; ``ask`` sends a wish to the run and may be called from any thread."""
    app = FastAPI(
        title="edge-ad", version=__version__, description=ABOUT, docs_url=None, redoc_url=None, responses=REFUSED
    )
    record = Record(store)
    thresholds_api = ThresholdService(dashboard, record, ask)
    app.include_router(page_routes(access))
    app.include_router(live_routes(dashboard, ask, access.wanted))
    app.include_router(record_routes(record, thresholds_api.forget))
    app.include_router(thresholds_routes(thresholds_api, lambda: bool(dashboard.hello.get("about", {}).get("warn_rejects"))))
    _service_routes(app, dashboard)
    _errors(app)
    return AuthMiddleware(app, access)


def _service_routes(app: FastAPI, dashboard: DashboardState) -> None:
    def answer(good: bool, message: str) -> JSONResponse:
        return JSONResponse(
            {"status": "ok" if good else "failed", "told": message}, 200 if good else 503, {"cache-control": "no-store"}
        )

    dead: dict[int | str, dict[str, Any]] = {503: {"model": Life, "description": "It does not"}}

    @app.get("/healthz", tags=["service"], response_model=Life, responses=dead)
    async def healthz() -> JSONResponse:  # in the event loop: it must not wait for a free thread
        """Tell whether cycles complete, by the rule of the watchdog; needs no token."""
        life = dashboard.life()
        return answer(life.healthy, life.told)

    @app.get("/readyz", tags=["service"], response_model=Life, responses=dead)
    async def readyz() -> JSONResponse:
        """Tell whether the inspector has given its first proof and lives; needs no token."""
        life = dashboard.life()
        return answer(life.ready, life.told)

    @app.get("/metrics", tags=["service"], response_class=Response)
    def metrics() -> Response:
        """Return the metrics for Prometheus."""
        return Response(metrics_text(dashboard), media_type="text/plain; version=0.0.4; charset=utf-8")


def _errors(app: FastAPI) -> None:
    """Every error is one sentence; none repeats what was sent, and none shows the inside of the server."""

    async def ours(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, 503 if isinstance(error, DeviceFault) else 400)

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)

    async def wrong(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        message = "; ".join(f"{'.'.join(map(str, fault['loc'][1:]))}: {fault['msg']}" for fault in error.errors()[:3])
        return JSONResponse({"error": message.encode("ascii", "replace").decode()}, 422)

    app.add_exception_handler(EdgeAdError, ours)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, wrong)
