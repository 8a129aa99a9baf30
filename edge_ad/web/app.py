"""The server of the dashboard: routes, errors as sentences, and the gate in front."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from edge_ad import __version__
from edge_ad.errors import DeviceFault, EdgeAdError
from edge_ad.web.access import Access
from edge_ad.web.gate import Gate
from edge_ad.web.live import live_routes
from edge_ad.web.metrics import metrics_text
from edge_ad.web.mirror import Mirror
from edge_ad.web.pages import page_routes
from edge_ad.web.record import Record, record_routes
from edge_ad.web.schemas import Life, Told
from edge_ad.web.tuning import Tuning, tuning_routes

ABOUT = (
    "What `edge-ad run --web` tells and takes. Where a token is needed send `Authorization: Bearer TOKEN`; what changes "
    "something needs the header `X-Edge-Ad: 1`."
)
REFUSED: dict[int | str, dict[str, Any]] = {
    status: {"model": Told, "description": told}
    for status, told in ((400, "Bad request"), (401, "A token is needed"), (403, "Refused"), (422, "A value is wrong"))
}


def make_app(mirror: Mirror, access: Access, store: Path | None, ask: Callable[[dict[str, Any]], None]) -> ASGIApp:
    """Return the server; ``ask`` sends a wish to the run and may be called from any thread."""
    app = FastAPI(
        title="edge-ad", version=__version__, description=ABOUT, docs_url=None, redoc_url=None, responses=REFUSED
    )
    record = Record(store)
    tuning = Tuning(mirror, record, ask)
    app.include_router(page_routes(access))
    app.include_router(live_routes(mirror, ask, access.wanted))
    app.include_router(record_routes(record, tuning.forget))
    app.include_router(tuning_routes(tuning, lambda: bool(mirror.hello.get("about", {}).get("warn_rejects"))))
    _service_routes(app, mirror)
    _errors(app)
    return Gate(app, access)


def _service_routes(app: FastAPI, mirror: Mirror) -> None:
    def tell(good: bool, told: str) -> JSONResponse:
        return JSONResponse(
            {"status": "ok" if good else "failed", "told": told}, 200 if good else 503, {"cache-control": "no-store"}
        )

    dead: dict[int | str, dict[str, Any]] = {503: {"model": Life, "description": "It does not"}}

    @app.get("/healthz", tags=["service"], response_model=Life, responses=dead)
    async def healthz() -> JSONResponse:  # in the event loop: it must not wait for a free thread
        """Tell whether cycles complete, by the rule of the watchdog; needs no token."""
        life = mirror.life()
        return tell(life.healthy, life.told)

    @app.get("/readyz", tags=["service"], response_model=Life, responses=dead)
    async def readyz() -> JSONResponse:
        """Tell whether the inspector has given its first proof and lives; needs no token."""
        life = mirror.life()
        return tell(life.ready, life.told)

    @app.get("/metrics", tags=["service"], response_class=Response)
    def metrics() -> Response:
        """Return the metrics for Prometheus."""
        return Response(metrics_text(mirror), media_type="text/plain; version=0.0.4; charset=utf-8")


def _errors(app: FastAPI) -> None:
    """Every error is one sentence; none repeats what was sent, and none shows the inside of the server."""

    async def ours(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, 503 if isinstance(error, DeviceFault) else 400)

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)

    async def wrong(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        told = "; ".join(f"{'.'.join(map(str, fault['loc'][1:]))}: {fault['msg']}" for fault in error.errors()[:3])
        return JSONResponse({"error": told.encode("ascii", "replace").decode()}, 422)

    app.add_exception_handler(EdgeAdError, ours)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, wrong)
