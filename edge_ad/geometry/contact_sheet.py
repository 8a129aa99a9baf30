"""One image of many cut-outs side by side: what a person looks at to see whether the parts are aligned."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from edge_ad.geometry.pose import Image

MAX_WIDTH = 1600
GAP = 4
_MISSING = (200, 40, 40)


def contact_sheet(cut_outs: Sequence[Image | None], columns: int = 0) -> Image:
    """Return cut-outs u8[H,W,3] as one u8 image, the mean of all first; a red field stands for a part that was not located.

    Lines at the middle make a remaining shift visible.
    """
    shown = [cut for cut in cut_outs if cut is not None]
    if not shown:
        return np.full((64, 64, 3), _MISSING, np.uint8)
    high, wide = shown[0].shape[:2]
    mean = np.rint(np.mean(np.stack(shown), axis=0, dtype=np.float32)).astype(np.uint8)
    empty = np.full((high, wide, 3), _MISSING, np.uint8)
    tiles = [mean, *(empty if cut is None else cut for cut in cut_outs)]
    columns = columns or max(1, min(len(tiles), round(math.sqrt(len(tiles) * high / wide * 1.6))))
    shrink = min(1.0, MAX_WIDTH / (columns * (wide + GAP)))
    rows = math.ceil(len(tiles) / columns)
    sheet = np.full((rows * (high + GAP), columns * (wide + GAP), 3), 255, np.uint8)
    for index, tile in enumerate(tiles):
        top, left = index // columns * (high + GAP), index % columns * (wide + GAP)
        sheet[top : top + high, left : left + wide] = _crossed(tile)
    size = (max(1, round(sheet.shape[1] * shrink)), max(1, round(sheet.shape[0] * shrink)))
    return np.asarray(cv2.resize(sheet, size, interpolation=cv2.INTER_AREA), np.uint8)


def _crossed(tile: Image) -> Image:
    """Return a tile with short lines at the middle of its sides."""
    tile = tile.copy()
    high, wide = tile.shape[:2]
    length = max(4, min(high, wide) // 12)
    ends = ((wide // 2, 0, 0, 1), (wide // 2, high - 1, 0, -1), (0, high // 2, 1, 0), (wide - 1, high // 2, -1, 0))
    for x, y, step_x, step_y in ends:
        cv2.line(tile, (x, y), (x + step_x * length, y + step_y * length), (0, 220, 90), 1)
    return tile
