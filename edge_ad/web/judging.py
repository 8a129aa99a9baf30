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
from collections.abc import Callable, Mapping, Sequence
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
from edge_ad.inspection.judge import InspectionResult, Judge, worst_result
from edge_ad.inspection.locating import Locating
from edge_ad.inspection.part_tracking import Judgeable
from edge_ad.inspection.part_views import JoinedPart, ViewPlace, verdict_on
from edge_ad.inspection.view import View, view_of
from edge_ad.scoring import Thresholds
from edge_ad.scoring.fused_views import FusedViews
from edge_ad.web.access import MAX_UPLOAD
from edge_ad.web.dashboard_state import DashboardState
from edge_ad.web.schemas import Message

MAX_PIXELS = 40_000_000
SHARE = 0.25  # of the time of one core
MAX_CREDIT_S = 5.0
MAX_PARTS = 20  # of a form
REFUSALS = {404: "No such product", 409: "Not here", 413: "Too large", 429: "Beyond the budget: ask again after Retry-After"}
SOURCE = "api"
_PART = re.compile(rb'(?:^|\r\n)content-disposition:[^\r\n]*;\s*name="?([A-Za-z0-9_.-]{1,64})"?[;\r\n ]', re.IGNORECASE)
_NO_CAMERA: Any = None  # that a view came from
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
class _JudgedImage:
    """What judges one image: a bundle, the region and the engines."""

    bundle: Bundle
    view: View
    pipeline: Pipeline
    judge: Judge


@dataclass(frozen=True, eq=False)
class _Opened:
    """What judges the images of one product as ``how`` says, by view ("" without views); kept until another is asked for."""

    how: Mapping[str, Any]
    judged: Mapping[str, _JudgedImage]
    fused: FusedViews | None

    def close(self) -> None:
        """Close the engines."""
        for one in self.judged.values():
            one.pipeline.close()


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
        if "views" in how:
            raise HTTPException(409, "parts have several views here: draw the zones of each by `edge-ad zones edit`")
        return name, Path(how["path"]), how["roi"]

    def fields(self, product: str) -> list[str]:
        """Return the fields of a form that a product takes: an image, or one of each view."""
        return list(self._dashboard.hello["judge"][product].get("views", ["image"]))

    def event(self, images: Mapping[str, bytes], product: str = "") -> Event:
        """Return the event of encoded images by ``fields``, of several parts in one the worst, of several views that of the part.

        HTTPException 422 for what is no image.
        """
        opened, how = self.open(product), self._dashboard.hello["judge"][product]
        self._count += 1
        if "views" not in how:
            state, limits = self._dashboard.state, how["thresholds"]
            if state is not None and product == self._active():  # a page or a signal may have changed them
                limits = state["thresholds"]
            return self._result(opened.judged[""], images["image"], limits, product).event
        views = how["views"]
        results = {
            view: self._result(one, images[view], views[view]["thresholds"], product) for view, one in opened.judged.items()
        }
        places = [ViewPlace(view, _NO_CAMERA, one.view) for view, one in opened.judged.items()]
        part = JoinedPart(str(self._count), results, {})
        return verdict_on(part, places, opened.fused, withhold=lambda result: result, missing=_none_is_missing)[0].event

    def _result(self, judged: _JudgedImage, data: bytes, limits: Mapping[str, float], product: str) -> InspectionResult:
        image = _decoded(data, judged.bundle.image_bits)
        judged.judge.thresholds = Thresholds(limits["warn"], limits["ng"], zones=judged.bundle.thresholds.zones)
        now = time.monotonic()
        frame = Frame(image, self._count, now, time.time(), SOURCE, str(self._count))
        judgeable = Judgeable(frame, now, fault=judged.view.fault(image))
        result = worst_result(judged.judge.judge(SOURCE, judgeable, checks_age=False))
        return replace(result, event=replace(result.event, bundle=judged.bundle.sha256, product=product or None))

    def open(self, product: str = "") -> _Opened:
        """Return what judges a product on one core; opened once, until another product or bundle is asked for."""
        how = _without_thresholds(self._dashboard.hello["judge"][product])
        if self._opened is not None and self._opened.how == how:  # products may share a bundle, and judge other regions by it
            return self._opened
        before, self._opened = self._opened, None
        if before is not None:
            before.close()
        fused = how.get("fused")
        with contextlib.ExitStack() as stack:
            judged = {view: _open(stack, one) for view, one in how.get("views", {"": how}).items()}
            stack.pop_all()
        self._opened = _Opened(how, judged, None if fused is None else FusedViews.from_json(fused, "the run"))
        return self._opened

    def _active(self) -> str:
        """Return the product in force, "" without products or one in force."""
        products = (self._dashboard.state or {}).get("products")
        return "" if products is None or products["state"] != "active" else str(products["product"])


def _without_thresholds(how: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a product is judged but for its thresholds, which need no other engines."""
    views = {view: _without_thresholds(one) for view, one in how.get("views", {}).items()}
    return {key: value for key, value in how.items() if key not in ("thresholds", "views")} | ({"views": views} if views else {})


def _none_is_missing(place: ViewPlace, reason: str) -> InspectionResult:
    raise AssertionError(f"view {place.name}: {reason}")  # each view has an image here


def _open(stack: contextlib.ExitStack, how: Mapping[str, Any]) -> _JudgedImage:
    """Open a bundle as the run does, closed by ``stack``; where that has a GPU for itself, its graphs in FP32 on the processor.

    HTTPException 409 where it cannot be judged by.
    """
    bundle = open_bundle(Path(how["path"]))
    if bundle.scoring_members != how["members"]:
        raise HTTPException(409, f"{bundle.path.name} was replaced since the run began: start the run again")
    try:
        judged = _open_engines(bundle, how)
    except BadInput as error:
        raise HTTPException(409, f"single images cannot be judged: {error}") from error
    stack.callback(judged.pipeline.close)
    return judged


def _open_engines(bundle: Bundle, how: Mapping[str, Any]) -> _JudgedImage:
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
    return _JudgedImage(bundle, view, pipeline, judge)


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


def images_of_form(kind: str, body: bytes, fields: Sequence[str]) -> dict[str, bytes]:
    """Return the ``fields`` of a form (RFC 7578), or the body itself where it is the one image; HTTPException 422 else."""
    if kind.lower().startswith("image/") and len(fields) == 1:
        return {fields[0]: body}
    match = _BOUNDARY.match(kind)
    mark = b"--" + match[1].encode("ascii", "replace") if match else b""
    parts = body.split(mark, MAX_PARTS + 1)[1:] if mark else []
    if len(parts) > MAX_PARTS:
        raise HTTPException(422, f"a form of at most {MAX_PARTS} parts is taken: send {', '.join(fields)} alone")
    images: dict[str, bytes] = {}
    for part in parts:
        head, blank, data = part.partition(b"\r\n\r\n")
        field = _PART.search(head + b"\r\n")
        if blank and field and field[1].decode("ascii") in fields:
            images.setdefault(field[1].decode("ascii"), data.removesuffix(b"\r\n"))
    missing = next((field for field in fields if field not in images), None)
    if missing is None:
        return images
    if len(fields) > 1:
        raise HTTPException(422, f"send an image of each view as multipart/form-data ({', '.join(fields)}): {missing} is missing")
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

        Where several cameras see a part the form has an image of each view, by its name. `product` names one of the
        station's products; without it the one in force judges.
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
            kind = request.headers.get("content-type", "")
            data = await run_in_threadpool(images_of_form, kind, body, service.fields(name))
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
