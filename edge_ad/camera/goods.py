"""What a bundle keeps of the camera that took its goods, for the loop to compare its own camera with."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, islice
from pathlib import Path
from typing import Any

from edge_ad.camera.frames import Image
from edge_ad.camera.measure import measure_reference
from edge_ad.camera.record import read_record
from edge_ad.camera.reference import MIN_PICTURES


def camera_report(goods: Iterable[Image], folder: Path) -> dict[str, Any]:
    """Return ``health_reference``, how goods look, and ``camera``, the settings that `edge-ad capture` noted in a folder.

    None stands for what cannot be told: fewer than MIN_PICTURES goods, or pictures of another origin.
    """
    pictures = iter(goods)
    first = list(islice(pictures, MIN_PICTURES))
    enough = len(first) == MIN_PICTURES
    record = read_record(folder)
    return {
        "health_reference": measure_reference(chain(first, pictures)).to_json() if enough else None,
        "camera": None if record is None else record.to_json(),
    }
