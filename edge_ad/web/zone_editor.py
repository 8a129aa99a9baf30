"""The dashboard's page of zones: drawn on a fresh image of what is judged, and saved beside the settings.

Nothing of it reaches the line: zones are trained with, so a bundle that was trained with them is another step.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from fastapi import APIRouter, HTTPException, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, Response

from edge_ad.bundle import open_bundle
from edge_ad.errors import BadInput
from edge_ad.geometry.pose import Image
from edge_ad.geometry.zone_files import read_zones, write_zones
from edge_ad.geometry.zones import parse_zones
from edge_ad.web.zone_page import encoded, filled_page, page_data

MAX_BYTES = 1 << 20


class ZoneService:
    """What the dashboard's page is drawn on, and where it saves: of the product that ``judged_by`` gives.

    ``judged_by`` returns its name ("" without products), its bundle and its region as text; ``frame`` the newest image of the
    region u8[H,W,3], None where there is none. HTTPException 409 where nothing can be shown.
    """

    def __init__(self, judged_by: Callable[[], tuple[str, Path, str | None]], frame: Callable[[], Image | None]) -> None:
        self._judged_by, self._frame = judged_by, frame

    def place(self) -> Path:
        """Return the file of the product's zones: beside the settings, in the folder that the run was started in."""
        name, _, _ = self._judged_by()
        return Path(f"zones-{name}.json" if name else "zones.json").resolve()

    def image(self) -> Image:
        """Return a fresh image of what is judged; of parts that are located the mean part, upright as it is judged."""
        _, path, _ = self._judged_by()
        bundle = open_bundle(path)
        if bundle.geometry.locates:
            golden = bundle.golden.images
            mean: Image = golden[: max(1, len(golden) // 2)].mean(axis=0).round().astype("uint8")  # the first half is normal
            return mean if bundle.geometry.zones is None else bundle.geometry.zones.mean
        image = self._frame()
        if image is None:
            raise HTTPException(409, "no image of the camera is here yet: open the dashboard, then load this page again")
        return image

    def page(self) -> str:
        """Return the page, with the zones that were saved before, or else those of the bundle."""
        _, path, roi = self._judged_by()
        image, place = self.image(), self.place()
        known = open_bundle(path).geometry.zones
        zones = read_zones(place) if place.exists() else None if known is None else known.zones
        size = (image.shape[0], image.shape[1])
        if roi is not None and not open_bundle(path).geometry.locates:
            _, _, width, height = map(int, roi.split(","))
            size = height, width
        data = page_data(size, zones, Path(place.name)) | {"image": "/zones/image", "save": "/api/zones"}
        style = '<link rel="stylesheet" href="/static/zones.css">'
        return filled_page(data, style, '<script src="/static/zones.js"></script>')

    def save(self, text: bytes) -> str:
        """Write zones beside the settings, and say what makes the line use them; BadInput for anything else."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BadInput("this is no JSON: save by the page, or send what `edge-ad zones` writes") from error
        zones, place = parse_zones(value, "what was sent"), self.place()
        name, _, _ = self._judged_by()
        try:
            write_zones(place, zones)
        except OSError as error:
            raise BadInput(f"{place.name} cannot be written: {error.strerror}") from error
        product = f" {name}" if name else ""
        return (
            f"{len(zones.zones)} zones written to {place.name} in the folder of the run; the line goes on without them until it "
            f"has a bundle that was trained with them: edge-ad train DATA --zones {place.name}, then edge-ad product "
            f"replace{product} --bundle FILE"
        )


def zone_routes(service: ZoneService, note: Callable[[Request, str], None]) -> APIRouter:
    """Return the routes; ``note`` puts what was saved into the audit trail."""
    router = APIRouter()

    @router.get("/zones", include_in_schema=False)
    def page() -> Response:
        return HTMLResponse(service.page(), headers={"cache-control": "no-store"})

    @router.get("/zones/image", include_in_schema=False)
    def image() -> Response:
        return Response(encoded(service.image()), media_type="image/jpeg", headers={"cache-control": "no-store"})

    @router.post("/api/zones", tags=["zones"])
    async def save(request: Request) -> dict[str, str]:
        """Save zones for the next training; the line does not use them before."""
        body = await request.body()
        if len(body) > MAX_BYTES:
            raise HTTPException(413, f"zones take at most {MAX_BYTES >> 10} KiB")
        message = await run_in_threadpool(service.save, body)
        await run_in_threadpool(note, request, message)  # it waits for the disk
        return {"told": message}

    return router
