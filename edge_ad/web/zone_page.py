"""A page that zones are drawn on: one file with the image in itself, which any browser opens and which saves our JSON."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import cv2

from edge_ad.geometry.pose import Image
from edge_ad.geometry.zone_files import FORMAT, VERSION
from edge_ad.geometry.zones import Zones
from edge_ad.utils.files import atomic_write

TEMPLATE, MARK = "zones.html", "@DATA@"
QUALITY = 85


def write_zone_page(page: Path, image: Image, zones: Zones | None, place: Path) -> None:
    """Write the page for an image u8[H,W,3] with the ``zones`` that there are; its file belongs at ``place``."""
    data = page_data((image.shape[0], image.shape[1]), zones, place) | {
        "image": "data:image/jpeg;base64," + base64.b64encode(encoded(image)).decode()
    }
    files = resources.files("edge_ad.web").joinpath("static")
    style, script = (files.joinpath(f"zones.{suffix}").read_text(encoding="utf-8") for suffix in ("css", "js"))
    atomic_write(page, filled_page(data, f"<style>\n{style}</style>", f"<script>\n{script}</script>"))


def page_data(size: tuple[int, int], zones: Zones | None, place: Path) -> dict[str, Any]:
    """Return what the page knows of an image of ``size`` (height, width)."""
    known = {"width": size[1], "height": size[0], "zones": []} if zones is None else zones.as_dict()
    return {"format": FORMAT, "version": VERSION, **known, "file": place.name, "place": str(place)}


def filled_page(data: Mapping[str, Any], style: str, script: str) -> str:
    """Return the page with what it knows, and the tags of its style and script."""
    template = resources.files("edge_ad.web").joinpath(TEMPLATE).read_text(encoding="utf-8")
    filled = template.replace("@STYLE@", style).replace("@SCRIPT@", script)
    return filled.replace(MARK, json.dumps(data).replace("<", "\\u003c"))


def encoded(image: Image) -> bytes:
    """Return an image u8[H,W,3] as JPEG."""
    return cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
