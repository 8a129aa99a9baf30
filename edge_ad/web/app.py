"""The server of the dashboard: its routes, errors as sentences, and the authentication in front.

Pages are files that are read once at the start, so that no path of a request ever reaches the disk.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import fastapi
from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, StreamingResponse
from starlette.types import ASGIApp

from edge_ad import __version__
from edge_ad.errors import DeviceFault, EdgeAdError
from edge_ad.web.access import Access, AuthMiddleware, request_of
from edge_ad.web.accounts import login_routes, user_routes
from edge_ad.web.dashboard_state import DashboardImage, DashboardState
from edge_ad.web.judging import JudgeService, judge_routes
from edge_ad.web.metrics import metrics_text
from edge_ad.web.record import Record, record_routes, sender
from edge_ad.web.schemas import ActionRequest, Done, Life, Message, ProductRequest, State
from edge_ad.web.thresholds import ThresholdService, thresholds_routes
from edge_ad.web.users import Identity
from edge_ad.web.zone_editor import ZoneService, zone_routes

MAX_PAGES = 32
MAX_QUIET_S = 1.0
ANSWER_S = 10.0  # of the run to a request

Ask = Callable[[dict[str, Any]], None]
CameraIndex = Annotated[int, fastapi.Path(ge=0, le=1000)]
Wanted = Annotated[int | None, Query(ge=1, le=2**53)]


def live_routes(dashboard: DashboardState, ask: Ask, access: Access, record: Record) -> APIRouter:
    """Return the routes; ``ask`` sends a wish to the run."""
    router = APIRouter(prefix="/api", tags=["now"])

    @router.get("/state", response_model=State)
    def state(request: Request, since: Annotated[int, Query(ge=0, le=2**53)] = 0) -> dict[str, Any]:
        """Return the state of the run, and the events after the first ``since``."""
        return state_of(dashboard, request.scope["identity"], access.wanted, since)

    @router.get("/stream", response_class=StreamingResponse, responses={503: {"model": Message}})
    async def stream(request: Request) -> StreamingResponse:
        """Send the state as server-sent events, at least once a second, as long as the page is open."""
        if dashboard.pages >= MAX_PAGES:
            raise HTTPException(503, f"{MAX_PAGES} pages are open already: close one")
        states = _states(dashboard, ask, request, access)
        return StreamingResponse(states, media_type="text/event-stream", headers={"cache-control": "no-store"})

    @router.get("/cameras/{index}/picture", response_class=Response, responses={404: {"model": Message}})
    def image(index: CameraIndex, number: Wanted = None) -> Response:
        """Return the newest image of a camera as JPEG, or one of the last five (204: gone); `X-Picture` is its number.
        """
        return _image(dashboard.image(index, number), number, "image/jpeg", DashboardImage.jpeg)

    @router.get("/cameras/{index}/heat", response_class=Response, responses={404: {"model": Message}})
    def heat(index: CameraIndex, number: Wanted = None) -> Response:
        """Return the heat map of such an image as PNG, transparent where the part is like the normal images."""
        return _image(dashboard.image(index, number), number, "image/png", DashboardImage.overlay)

    @router.post("/alarms/{number}/acknowledge", status_code=202, responses={409: {"model": Message}})
    def acknowledge(number: Annotated[int, fastapi.Path(ge=0, le=2**53)], request: Request) -> dict[str, int]:
        """Acknowledge all alarms up to this number; one that came later stays."""
        if not dashboard.attached:
            raise HTTPException(409, "no inspector is connected: a record has no alarms to acknowledge")
        ask({"kind": "acknowledge", "number": number})
        record.note("acknowledge", sender(request), f"alarms up to {number}", number=number)
        return {"number": number}

    return router


def request_routes(dashboard: DashboardState, ask: Ask) -> APIRouter:
    """Return the routes of what a page asks of the run and waits for."""
    router = APIRouter(prefix="/api", tags=["requests"])

    def submit(kind: str, wanted: ActionRequest, request: Request) -> dict[str, str]:
        """Have the run handle a request; HTTPException 409 where it is refused."""
        return submitted(dashboard, ask, {"kind": kind, "by": sender(request, wanted.by), "values": {"reason": wanted.reason}})

    @router.post("/product", response_model=Done, responses={409: {"model": Message}})
    def product(wanted: ProductRequest, request: Request) -> dict[str, str]:
        """Judge another product; the state tells when it is in force."""
        return submitted(dashboard, ask, {"kind": "product", "by": sender(request, wanted.by), "values": {"name": wanted.name}})

    @router.post("/pause", response_model=Done, responses={409: {"model": Message}})
    def pause(wanted: ActionRequest, request: Request) -> dict[str, str]:
        """Pause the line: outputs show not ready, and nothing is judged until a resume."""
        return submit("pause", wanted, request)

    @router.post("/resume", response_model=Done, responses={409: {"model": Message}})
    def resume(wanted: ActionRequest, request: Request) -> dict[str, str]:
        """End the pause."""
        return submit("resume", wanted, request)

    @router.post("/challenge", response_model=Done, responses={409: {"model": Message}})
    def challenge(wanted: ActionRequest, request: Request) -> dict[str, str]:
        """Begin to ask for the known parts."""
        return submit("challenge", wanted, request)

    @router.post("/challenge/override", response_model=Done, responses={409: {"model": Message}})
    def override(wanted: ActionRequest, request: Request) -> dict[str, str]:
        """Let the line pass again after a challenge that failed; a name and a reason are needed."""
        if not wanted.by.strip() and request.scope["identity"].user is None:
            raise HTTPException(409, "an override needs a name: who says that the line may go on?")
        return submit("override", wanted, request)

    return router


def submitted(dashboard: DashboardState, ask: Ask, request: dict[str, Any]) -> dict[str, str]:
    """Have the run handle a request of a page and return its sentence; HTTPException 409 where it is refused."""
    if not dashboard.attached:
        raise HTTPException(409, f"no inspector is connected: a record takes no {request['kind']}")
    answer = dashboard.submit(request, ask, ANSWER_S)
    if answer is None or "error" in answer:
        raise HTTPException(409, "the run does not answer: look at its log" if answer is None else str(answer["error"]))
    return {"told": str(answer["done"])}


def state_of(dashboard: DashboardState, identity: Identity, wanted: bool, since: int) -> dict[str, Any]:
    """Return the state for one page."""
    count, events = dashboard.events_since(since)
    return {
        "role": identity.role,
        "user": identity.user,
        "may": sorted(identity.may),
        "login": wanted,
        "attached": dashboard.attached,
        "silent_s": dashboard.silent_s,
        "pages": dashboard.pages,
        "about": dashboard.hello.get("about", {}),
        "run": dashboard.state,
        "count": count,
        "events": events,
        "pictures": dashboard.images(),
    }


async def _states(dashboard: DashboardState, ask: Ask, request: Request, access: Access) -> AsyncIterator[str]:
    news, since = dashboard.enter(), 0
    dashboard.pages += 1
    ask({"kind": "watching", "pages": dashboard.pages})
    try:
        while True:
            identity = access.check(request_of(request.scope))
            if not isinstance(identity, Identity):  # the session has ended, or the user is gone: the page asks for a login
                return
            result = state_of(dashboard, identity, access.wanted, since)
            since = result["count"]
            yield f"data: {json.dumps(result, allow_nan=False, separators=(',', ':'))}\n\n"
            news.clear()
            try:
                await asyncio.wait_for(news.wait(), MAX_QUIET_S)
            except asyncio.TimeoutError:
                continue
    finally:
        dashboard.leave(news)
        dashboard.pages -= 1
        ask({"kind": "watching", "pages": dashboard.pages})


def newest_image(dashboard: DashboardState) -> Any:
    """Return the newest image u8[H,W,3] that a camera has sent here, None without one."""
    shown = dashboard.image(0, None)
    return None if shown is None else shown.image


def _image(
    result: DashboardImage | None, wanted: int | None, kind: str, encode: Callable[[DashboardImage], bytes | None]
) -> Response:
    data = None if result is None else encode(result)
    if data is None and wanted is not None:
        return Response(status_code=204)
    if result is None or data is None:
        raise HTTPException(404, "there is no such image now")
    headers = {"cache-control": "no-store", "x-picture": str(result.number)}
    return Response(data, media_type=kind, headers=headers)


KINDS = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


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


def page_routes(pages: Mapping[str, Page]) -> APIRouter:
    """Return the routes of pages; they are not part of the API."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    def index(request: Request) -> Response:
        return _page(pages["index.html"], request)

    @router.get("/static/{name}")
    def static(name: str, request: Request) -> Response:
        if name not in pages or name.endswith(".html"):
            raise HTTPException(404, "there is no such file")
        return _page(pages[name], request)

    return router


def _page(page: Page, request: Request) -> Response:
    headers = {"cache-control": "no-cache", "etag": page.tag}
    if request.headers.get("if-none-match") == page.tag:
        return Response(status_code=304, headers=headers)
    return Response(page.data, media_type=page.kind, headers=headers)


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
    pages = load_pages()
    app.include_router(page_routes(pages))
    app.include_router(login_routes(access, record, pages["login.html"].data.decode()))
    app.include_router(user_routes(access, record))
    app.include_router(live_routes(dashboard, ask, access, record))
    app.include_router(request_routes(dashboard, ask))
    judging = JudgeService(dashboard)
    app.include_router(judge_routes(judging))
    zones = ZoneService(judging.judged_by, lambda: newest_image(dashboard))
    app.include_router(zone_routes(zones, lambda request, text: record.note("zones", sender(request), text)))
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
