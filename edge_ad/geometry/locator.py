"""What every locator is: it finds parts in an image, and is data (arrays and plain values) that a bundle can store."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_ad.errors import BadInput
from edge_ad.geometry.pose import Image, Location

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
_HEADER = "header"


class Locator(Protocol):
    """Finds parts in images u8[H,W,3] (RGB) of the size it was fitted to."""

    kind: ClassVar[str]

    @property
    def box(self) -> tuple[float, float]:
        """Width and height of the part's box in pixels of the original, at scale 1."""

    def locate(self, image: Image) -> Location:
        """Return the pose of the one part that is expected, or why there is none."""

    def locate_all(self, image: Image) -> list[Location]:
        """Return every part in view, from left to right; a reason for each part that could not be posed."""

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return plain values and arrays from which the same locator can be made again."""


def pack(values: Mapping[str, Any], arrays: Arrays) -> bytes:
    """Return plain values and arrays as one compressed file (NumPy's npz, without pickle)."""
    stream = io.BytesIO()
    header = np.frombuffer(json.dumps(values, sort_keys=True, allow_nan=False).encode(), np.uint8)
    members: dict[str, Any] = {**arrays, _HEADER: header}
    np.savez_compressed(stream, **members)
    return stream.getvalue()


def unpack(data: bytes) -> tuple[dict[str, Any], Arrays]:
    """Return what ``pack`` was given; BadInput where the bytes are no such file."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        values = json.loads(arrays.pop(_HEADER).tobytes())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise BadInput(f"the part's template cannot be read ({error}): train again, or use an undamaged bundle") from error
    if not isinstance(values, dict):
        raise BadInput("the part's template cannot be read (no header): train again, or use an undamaged bundle")
    return values, arrays
