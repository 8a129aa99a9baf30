"""Routes of what is now: the state, its stream, images, acknowledges."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path, Query, Request, Response
from starlette.responses import StreamingResponse

from edge_ad.web.dashboard_state import DashboardImage, DashboardState
from edge_ad.web.schemas import Message, State

MAX_PAGES = 32
MAX_QUIET_S = 1.0

Ask = Callable[[dict[str, Any]], None]
CameraIndex = Annotated[int, Path(ge=0, le=1000)]
Wanted = Annotated[int | None, Query(ge=1, le=2**53)]


def live_routes(dashboard: DashboardState, ask: Ask, wanted: bool) -> APIRouter:
    """Return the routes; ``ask`` sends a wish to the run, ``wanted`` tells whether a token is needed here."""
    router = APIRouter(prefix="/api", tags=["now"])

    @router.get("/state", response_model=State)
    def state(request: Request, since: Annotated[int, Query(ge=0, le=2**53)] = 0) -> dict[str, Any]:
        """Return the state of the run, and the events after the first ``since``."""
        return state_of(dashboard, request.scope["role"], wanted, since)

    @router.get("/stream", response_class=StreamingResponse, responses={503: {"model": Message}})
    async def stream(request: Request) -> StreamingResponse:
        """Send the state as server-sent events, at least once a second, as long as the page is open."""
        if dashboard.pages >= MAX_PAGES:
            raise HTTPException(503, f"{MAX_PAGES} pages are open already: close one")
        states = _states(dashboard, ask, request.scope["role"], wanted)
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
    def acknowledge(number: Annotated[int, Path(ge=0, le=2**53)]) -> dict[str, int]:
        """Acknowledge all alarms up to this number; one that came later stays."""
        if not dashboard.attached:
            raise HTTPException(409, "no inspector is connected: a record has no alarms to acknowledge")
        ask({"kind": "acknowledge", "number": number})
        return {"number": number}

    return router


def state_of(dashboard: DashboardState, role: str, wanted: bool, since: int) -> dict[str, Any]:
    """Return the state for one page."""
    count, events = dashboard.events_since(since)
    return {
        "role": role,
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


async def _states(dashboard: DashboardState, ask: Ask, role: str, wanted: bool) -> AsyncIterator[str]:
    news, since = dashboard.enter(), 0
    dashboard.pages += 1
    ask({"kind": "watching", "pages": dashboard.pages})
    try:
        while True:
            result = state_of(dashboard, role, wanted, since)
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
