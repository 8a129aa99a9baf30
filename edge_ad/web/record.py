"""Routes of the record: events, their images, marks, counts per hour, and what people did."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path as File
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path, Query, Request
from starlette.responses import FileResponse

from edge_ad.errors import BadInput
from edge_ad.events import Mark, Verdict
from edge_ad.store.actions import Action as DoneAction
from edge_ad.store.actions import ActionLog, action_log, actions_path
from edge_ad.store.reader import EventFilter, Reader, set_mark
from edge_ad.store.schema import StoredEvent
from edge_ad.utils.text import storable
from edge_ad.web.schemas import DIGITS, Action, Event, EventPage, Hour, MarkRequest, Message, Moment, Number, Text

KINDS = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png"}
EventId = Annotated[str, Path(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9\-]+$")]


class Record:
    """The store of a run, opened when it is first needed."""

    def __init__(self, path: File | None) -> None:
        self.path = path
        self._reader: Reader | None = None

    def reader(self) -> Reader:
        """Return the reader; HTTPException 404 where no record is kept or there is none yet."""
        if self.path is None:
            raise HTTPException(404, "no record is kept: start with --store FILE")
        if self._reader is None:
            try:
                self._reader = Reader(self.path)
            except BadInput as error:
                raise HTTPException(404, str(error)) from error
        return self._reader

    def note(self, kind: str, by: str, reason: str = "", **details: Any) -> None:
        """Put what somebody did by a page into the audit trail, where a record is kept."""
        if self.path is not None:
            action_log(self.path).keep(DoneAction(kind, by, "dashboard", reason, details=details))

    def event(self, event_id: str) -> StoredEvent:
        """Return one event; HTTPException 404 when there is none."""
        result = self.reader().event(event_id)
        if result is None:
            raise HTTPException(404, f"there is no event {event_id}")
        return result


def record_routes(record: Record, marked: Callable[[], None]) -> APIRouter:
    """Return the routes; ``marked`` is called after a mark was set."""
    router = APIRouter(prefix="/api", tags=["record"], responses={404: {"model": Message}})

    @router.get("/events", response_model=EventPage)
    def events(
        *,
        verdict: Annotated[list[Verdict] | None, Query(max_length=4)] = None,
        camera: Annotated[Text | None, Query()] = None,
        part: Annotated[Text | None, Query()] = None,
        since: Annotated[Moment | None, Query()] = None,
        until: Annotated[Moment | None, Query()] = None,
        mark: Annotated[Mark | None, Query()] = None,
        before: Annotated[Number | None, Query()] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> dict[str, Any]:
        """Return events, newest first; ``verdict`` repeats; ``before`` is that of the page before."""
        wanted = EventFilter(camera, tuple(verdict or ()), since, until, part, mark)
        found_events = record.reader().events(wanted, limit + 1, before)
        more = len(found_events) > limit
        return {
            "events": [shown(event) for event in found_events[:limit]],
            "before": found_events[limit - 1].sequence if more else None,
        }

    @router.get("/events/{event_id}", response_model=Event)
    def event(event_id: EventId) -> dict[str, Any]:
        """Return one event."""
        return shown(record.event(event_id))

    @router.get("/events/{event_id}/images/{number}", response_class=FileResponse)
    def image(event_id: EventId, number: Annotated[int, Path(ge=0, le=100)]) -> FileResponse:
        """Return an image of an event: 0 is what was judged, 1 with its heat map."""
        path = evidence(record.reader(), record.event(event_id), number)
        if path is None:
            raise HTTPException(404, "there is no such image, or it was cleared away")
        return FileResponse(path, media_type=KINDS[path.suffix], headers={"cache-control": "private, max-age=3600"})

    @router.post("/events/{event_id}/mark", response_model=Event)
    def mark_event(event_id: EventId, wanted: MarkRequest, request: Request) -> dict[str, Any]:
        """Say that a part was good, or bad, or take that back."""
        found_events, path = record.event(event_id), record.reader().path
        set_mark(path, found_events.id, wanted.mark, sender(request), origin="dashboard")
        marked()
        return shown(record.event(event_id))

    @router.get("/actions", response_model=list[Action])
    def actions(limit: Annotated[int, Query(ge=1, le=200)] = 30) -> list[dict[str, Any]]:
        """Return what people and PLCs did, such as pauses and challenges, the newest first."""
        done = list(ActionLog(actions_path(record.reader().path)).actions())
        return [asdict(action) for action in done[: -limit - 1 : -1]]

    @router.get("/counts", response_model=list[Hour])
    def counts(hours: Annotated[int, Query(ge=1, le=24 * 31)] = 24) -> list[dict[str, Any]]:
        """Return the verdicts of each of the last hours that had any."""
        now = time.time()
        buckets = record.reader().counts(3600.0, now - hours * 3600.0, now + 1.0)
        return [{"start": bucket.start, "verdicts": bucket.verdicts} for bucket in buckets]

    return router


def sender(request: Request, name: str = "") -> str:
    """Return who sends a request: the user who is logged in, else the ``name`` that was given, else the address of the page."""
    user: str | None = request.scope["identity"].user
    return user or storable(name.strip()) or f"dashboard {request.scope['client_name']}"


def shown(event: StoredEvent) -> dict[str, Any]:
    """Return an event as the API gives it."""
    return {**event.record(DIGITS), "sequence": event.sequence, "mark": event.mark, "images": len(event.images)}


def evidence(reader: Reader, event: StoredEvent, number: int) -> File | None:
    """Return the file of an image of an event; None unless it is a plain image inside the evidence folder.

    No piece of a URL becomes a path: a request gives the number of an image, the store its name.
    """
    folder = reader.evidence
    if folder is None or number >= len(event.images):
        return None
    root = folder.resolve()
    path = (root / event.images[number]).resolve()
    inside = path.is_relative_to(root) and path.suffix.lower() in KINDS and path.is_file()
    return path if inside else None
