"""A page that zones are drawn on: one file with the image in itself, which any browser opens and which saves our JSON."""

from __future__ import annotations

import base64
import json
from importlib import resources
from pathlib import Path

import cv2

from edge_ad.geometry.pose import Image
from edge_ad.geometry.zone_files import FORMAT, VERSION
from edge_ad.geometry.zones import Zones
from edge_ad.utils.files import atomic_write

TEMPLATE, MARK = "zones.html", "@DATA@"


def write_zone_page(page: Path, image: Image, zones: Zones | None, place: Path) -> None:
    """Write the page for an image u8[H,W,3] with the ``zones`` that there are; its file belongs at ``place``."""
    encoded = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
    height, width = image.shape[:2]
    known = {"width": width, "height": height, "zones": []} if zones is None else zones.as_dict()
    data = {
        "format": FORMAT,
        "version": VERSION,
        **known,
        "file": place.name,
        "place": str(place),
        "image": "data:image/jpeg;base64," + base64.b64encode(encoded).decode(),
    }
    template = resources.files("edge_ad.web").joinpath(TEMPLATE).read_text(encoding="utf-8")
    atomic_write(page, template.replace(MARK, json.dumps(data).replace("<", "\\u003c")))
