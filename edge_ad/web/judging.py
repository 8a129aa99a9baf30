"""`POST /api/judge`: one image to the event that the line would make of it.

It is judged in the dashboard's process, at its lower priority, by engines of its own on one core and within a budget of
time, so the line does not wait for it. Nothing of it reaches the outputs or the record.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from edge_ad.bundle import Bundle, open_bundle
from edge_ad.camera.frames import Frame, Image
from edge_ad.config import RunTable
from edge_ad.data.images import check_image, read_image
from edge_ad.engines.onnxruntime import physical_cores
from edge_ad.engines.pipeline import Pipeline
from edge_ad.engines.selection import shared_backend
from edge_ad.errors import BadInput
from edge_ad.events import Event
from edge_ad.inspection.assembly import tile_combiner
from edge_ad.inspection.judge import Judge, worst_result
from edge_ad.inspection.locating import Locating
from edge_ad.inspection.part_tracking import Judgeable
from edge_ad.inspection.view import View, view_of
from edge_ad.scoring import Thresholds
from edge_ad.web.access import MAX_UPLOAD
from edge_ad.web.dashboard_state import DashboardState
from edge_ad.web.schemas import Message

MAX_PIXELS = 40_000_000
SHARE = 0.25  # of the time of one core
MAX_CREDIT_S = 5.0
MAX_PARTS = 20  # of a form
REFUSALS = {404: "No such product", 409: "Not here", 413: "Too large", 429: "Beyond the budget: ask again after Retry-After"}
SOURCE = "api"
_PART = re.compile(rb'(?:^|\r\n)content-disposition:[^\r\n]*;\s*name="?image"?[;\r\n ]', re.IGNORECASE)
_BOUNDARY = re.compile(r'^multipart/form-data;.*?boundary="?([^";,\s]{1,70})"?', re.IGNORECASE)


class Budget:
    """Lets one through at a time, and ``SHARE`` of the time in all; what was not used is kept for MAX_CREDIT_S seconds of work."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._busy = False
        self._credit_s = MAX_CREDIT_S
        self._at = clock()

    def enter(self) -> float | None:
        """Take the place; return None, or after how many seconds to ask again where it is refused."""
        with self._lock:
            now = self._clock()
            self._credit_s = min(MAX_CREDIT_S, self._credit_s + SHARE * (now - self._at))
            self._at = now
            if self._busy:
                return 1.0
            if self._credit_s <= 0.0:
                return max(1.0, -self._credit_s / SHARE)
            self._busy = True
            return None

    def leave(self, spent_s: float) -> None:
        """Give the place back after so many seconds of work."""
        with self._lock:
            self._busy = False
            self._credit_s -= spent_s


@dataclass(frozen=True, eq=False)
class _Opened:
    """What judges the images of one product, as ``how`` says: made once, and kept until another is asked for."""

    how: Mapping[str, Any]
    bundle: Bundle
    view: View
    pipeline: Pipeline
    judge: Judge


class JudgeService:
    """Judges single images as the run does that feeds ``dashboard``; the engines are opened with the first one of a product."""

    def __init__(self, dashboard: DashboardState) -> None:
        self._dashboard = dashboard
        self.budget = Budget()
        self._opened: _Opened | None = None
        self._count = 0

    def choose(self, product: str | None) -> str:
        """Return the product to judge by, "" on a station without any: the named one, else that in force.

        HTTPException 404 for one that is not there, 409 where no image can be judged.
        """
        known = self._dashboard.hello.get("judge")
        if not self._dashboard.attached or known is None:
            raise HTTPException(409, "no inspector is connected: nothing judges here")
        names = ", ".join(known) or "none: this station has no products"
        if product is not None and (product not in known or not product):
            raise HTTPException(404, f"there is no product {product!r:.80}; there are {'none here' if '' in known else names}")
        name = self._active() if product is None else product
        if name not in known:
            raise HTTPException(409, f"no product is in force: name one by ?product=NAME, of {names}")
        if known[name]["locked"]:
            raise HTTPException(409, f"single images are not judged here: {known[name]['locked']}")
        return name

    def judged_by(self) -> tuple[str, Path, str | None]:
        """Return the product in force ("" without any), its bundle and its region as text; HTTPException 409 without one."""
        name = self.choose(None)
        how = self._dashboard.hello["judge"][name]
        return name, Path(how["path"]), how["roi"]

    def event(self, data: bytes, product: str = "") -> Event:
        """Return the event of an encoded image, of several parts in it the worst; HTTPException 422 for none."""
        opened = self.open(product)
        image = _decoded(data, opened.bundle.image_bits)
        state, limits = self._dashboard.state, self._dashboard.hello["judge"][product]["thresholds"]
        if state is not None and product == self._active():  # a page or a signal may have changed them
            limits = state["thresholds"]
        opened.judge.thresholds = Thresholds(limits["warn"], limits["ng"], zones=opened.bundle.thresholds.zones)
        now, self._count = time.monotonic(), self._count + 1
        frame = Frame(image, self._count, now, time.time(), SOURCE, str(self._count))
        judgeable = Judgeable(frame, now, fault=opened.view.fault(image))
        result = worst_result(opened.judge.judge(SOURCE, judgeable, checks_age=False))
        return replace(result.event, bundle=opened.bundle.sha256, product=product or None)

    def open(self, product: str = "") -> _Opened:
        """Return what judges a product on one core; opened once, until another product or bundle is asked for."""
        how = {key: value for key, value in self._dashboard.hello["judge"][product].items() if key != "thresholds"}
        if self._opened is not None and self._opened.how == how:  # products may share a bundle, and judge other regions by it
            return self._opened
        before, self._opened = self._opened, None
        if before is not None:
            before.pipeline.close()
        bundle = open_bundle(Path(how["path"]))
        if bundle.scoring_members != how["members"]:
            raise HTTPException(409, f"{bundle.path.name} was replaced since the run began: start the run again")
        try:
            self._opened = _open(bundle, how)
        except BadInput as error:
            raise HTTPException(409, f"single images cannot be judged: {error}") from error
        return self._opened

    def _active(self) -> str:
        """Return the product in force, "" without products or one in force."""
        products = (self._dashboard.state or {}).get("products")
        return "" if products is None or products["state"] != "active" else str(products["product"])


def _open(bundle: Bundle, how: Mapping[str, Any]) -> _Opened:
    """Open a bundle as the run does; where that has a GPU for itself, its graphs in FP32 on the processor."""
    precision = how["precision"] if how["backend"] == "onnxruntime" else "fp32"
    view = view_of(RunTable(roi=how["roi"], tiles=how["tiles"]))
    with contextlib.ExitStack() as stack:
        pipeline = stack.enter_context(
            Pipeline(bundle, precision=precision, backend=shared_backend("onnxruntime", physical_cores()))
        )
        _, combine = tile_combiner(pipeline, bundle, view, None if how["tile_goods"] is None else Path(how["tile_goods"]))
        locating = Locating(bundle.geometry, view, many=how["many"])
        judge = Judge(
            pipeline,
            bundle.thresholds,
            bundle.statistics.weight,
            float("inf"),
            view=view,
            combine=combine,
            locating=locating,
            unlocated=how["unlocated"],
        )
        stack.pop_all()
    return _Opened(how, bundle, view, pipeline, judge)


def _decoded(data: bytes, bits: int) -> Image:
    with tempfile.NamedTemporaryFile(prefix="edge-ad-judge-") as file:
        file.write(data)
        file.flush()
        path = Path(file.name)
        try:
            height, width = check_image(path)
            if height * width > MAX_PIXELS:
                raise HTTPException(422, f"the image has {width} x {height} pixels, and {MAX_PIXELS:,} are allowed: shrink it")
            return read_image(path, bits)
        except BadInput as error:
            raise HTTPException(422, f"this is no image: {str(error).replace(str(path), 'it')}") from error


def image_of_form(kind: str, body: bytes) -> bytes:
    """Return the field ``image`` of a form (RFC 7578), or the body itself where it is an image; HTTPException 422 else."""
    if kind.lower().startswith("image/"):
        return body
    match = _BOUNDARY.match(kind)
    mark = b"--" + match[1].encode("ascii", "replace") if match else b""
    parts = body.split(mark, MAX_PARTS + 1)[1:] if mark else []
    if len(parts) > MAX_PARTS:
        raise HTTPException(422, f"a form of at most {MAX_PARTS} parts is taken: send the field `image` alone")
    for part in parts:
        head, blank, data = part.partition(b"\r\n\r\n")
        if blank and _PART.search(head + b"\r\n"):
            return data.removesuffix(b"\r\n")
    raise HTTPException(422, "send the image as the field `image` of multipart/form-data, or as the body with the type image/...")


def judge_routes(service: JudgeService) -> APIRouter:
    """Return the route."""
    router = APIRouter(prefix="/api", tags=["judge"])
    answers: dict[int | str, dict[str, Any]] = {
        status: {"model": Message, "description": text}
        for status, text in REFUSALS.items()
    }

    @router.post("/judge", response_class=Response, responses=answers)
    async def judge(request: Request, product: Annotated[str | None, Query(max_length=64)] = None) -> Response:
        """Judge one image, the field `image` of a form or the body itself, and return its event; nothing is recorded.

        `product` names one of the station's products; without it the one in force judges.
        """
        name = service.choose(product)
        wait_s = service.budget.enter()
        if wait_s is not None:
            headers = {"retry-after": str(int(wait_s) + 1)}
            raise HTTPException(429, f"the line comes first: ask again in {wait_s:.0f} s", headers=headers)
        spent_s = 0.0
        try:
            body = await request.body()
            if len(body) >= MAX_UPLOAD:  # and was cut off there
                raise HTTPException(413, f"less than {MAX_UPLOAD >> 20} MiB are taken")
            data = await run_in_threadpool(image_of_form, request.headers.get("content-type", ""), body)
            await run_in_threadpool(service.open, name)
            began = time.monotonic()
            try:
                event = await run_in_threadpool(service.event, data, name)
            finally:
                spent_s = time.monotonic() - began
        finally:
            service.budget.leave(spent_s)
        return Response(event.message(), media_type="application/json", headers={"cache-control": "no-store"})

    return router
