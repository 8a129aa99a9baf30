"""Routes of what is now: the state, its stream, pictures, acknowledges."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path, Query, Request, Response
from starlette.responses import StreamingResponse

from edge_ad.web.mirror import DashboardState, Picture
from edge_ad.web.schemas import State, Told

MAX_PAGES = 32
MAX_QUIET_S = 1.0

Ask = Callable[[dict[str, Any]], None]
Place = Annotated[int, Path(ge=0, le=1000)]
Wanted = Annotated[int | None, Query(ge=1, le=2**53)]


def live_routes(mirror: DashboardState, ask: Ask, wanted: bool) -> APIRouter:
    """Return the routes; ``ask`` sends a wish to the run, ``wanted`` tells whether a token is needed here."""
    router = APIRouter(prefix="/api", tags=["now"])

    @router.get("/state", response_model=State)
    def state(request: Request, since: Annotated[int, Query(ge=0, le=2**53)] = 0) -> dict[str, Any]:
        """Return the state of the run, and the events after the first ``since``."""
        return state_of(mirror, request.scope["role"], wanted, since)

    @router.get("/stream", response_class=StreamingResponse, responses={503: {"model": Told}})
    async def stream(request: Request) -> StreamingResponse:
        """Send the state as server-sent events, at least once a second, as long as the page is open."""
        if mirror.pages >= MAX_PAGES:
            raise HTTPException(503, f"{MAX_PAGES} pages are open already: close one")
        states = _states(mirror, ask, request.scope["role"], wanted)
        return StreamingResponse(states, media_type="text/event-stream", headers={"cache-control": "no-store"})

    @router.get("/cameras/{place}/picture", response_class=Response, responses={404: {"model": Told}})
    def picture(place: Place, number: Wanted = None) -> Response:
        """Return the newest picture of a camera as JPEG, or one of the last five (204: gone); `X-Picture` is its number."""
        return _image(mirror.picture(place, number), number, "image/jpeg", Picture.jpeg)

    @router.get("/cameras/{place}/heat", response_class=Response, responses={404: {"model": Told}})
    def heat(place: Place, number: Wanted = None) -> Response:
        """Return the heat map of such a picture as PNG, transparent where the part is like the goods."""
        return _image(mirror.picture(place, number), number, "image/png", Picture.overlay)

    @router.post("/alarms/{number}/acknowledge", status_code=202, responses={409: {"model": Told}})
    def acknowledge(number: Annotated[int, Path(ge=0, le=2**53)]) -> dict[str, int]:
        """Acknowledge all alarms up to this number; one that came later stays."""
        if not mirror.attached:
            raise HTTPException(409, "no inspector is connected: a record has no alarms to acknowledge")
        ask({"kind": "acknowledge", "number": number})
        return {"number": number}

    return router


def state_of(mirror: DashboardState, role: str, wanted: bool, since: int) -> dict[str, Any]:
    """Return the state for one page."""
    count, events = mirror.events_since(since)
    return {
        "role": role,
        "login": wanted,
        "attached": mirror.attached,
        "silent_s": mirror.silent_s,
        "pages": mirror.pages,
        "about": mirror.hello.get("about", {}),
        "run": mirror.state,
        "count": count,
        "events": events,
        "pictures": mirror.pictures(),
    }


async def _states(mirror: DashboardState, ask: Ask, role: str, wanted: bool) -> AsyncIterator[str]:
    news, since = mirror.enter(), 0
    mirror.pages += 1
    ask({"kind": "watching", "pages": mirror.pages})
    try:
        while True:
            found = state_of(mirror, role, wanted, since)
            since = found["count"]
            yield f"data: {json.dumps(found, allow_nan=False, separators=(',', ':'))}\n\n"
            news.clear()
            try:
                await asyncio.wait_for(news.wait(), MAX_QUIET_S)
            except asyncio.TimeoutError:
                continue
    finally:
        mirror.leave(news)
        mirror.pages -= 1
        ask({"kind": "watching", "pages": mirror.pages})


def _image(found: Picture | None, wanted: int | None, kind: str, encode: Callable[[Picture], bytes | None]) -> Response:
    data = None if found is None else encode(found)
    if data is None and wanted is not None:
        return Response(status_code=204)
    if found is None or data is None:
        raise HTTPException(404, "there is no such picture now")
    headers = {"cache-control": "no-store", "x-picture": str(found.number)}
    return Response(data, media_type=kind, headers=headers)
