"""The synthetic line as a belt: trays come in, stop, are looked at and leave, with an empty belt in between."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from typing import Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from edge_ad.errors import BadInput
from edge_ad.synthetic.line import SEEDS_PER_LINE, VIDEO_START, part_defect
from edge_ad.synthetic.tray import GOOD, kind_of, render_tray

BeltState = Literal["empty", "entering", "settled", "leaving"]

_TIMES, _BELT, _NOISE = 21, 22, 23
_COLOUR = (66, 74, 70)
_MAX_TRAYS = 3  # drawn trays that are kept


class BeltTruth(TypedDict):
    """What one frame shows: ``part`` from 0 (None on the empty belt), its kind and defect, and what it does."""

    frame: int
    part: int | None
    state: BeltState
    kind: str
    defect: str


class Belt:
    """``parts`` trays of line ``seed`` on a belt, ``size`` pixels a side; frames can be had in any order.

    Before each tray and after the last one the belt is empty for 3 to 9 frames, in every other gap standing still; a
    tray comes in over 4 to 7 frames, lies still for ``still`` to ``still`` + 5 frames and leaves over 4 to 7. Frames of
    a resting tray differ by sensor noise only. Equal arguments give equal frames. BadInput for values out of range.
    """

    def __init__(self, parts: int, seed: int, size: int = 256, anomaly_rate: float = 0.5, *, still: int = 10) -> None:
        if not 1 <= parts <= 1_000_000 or seed < 0 or not 3 <= still <= 1000:
            raise BadInput(
                f"a belt of {parts} parts, seed {seed}, {still} still frames: allowed are 1 to 1,000,000 parts, seeds "
                "of 0 or more and 3 to 1,000 still frames"
            )
        self.parts = parts
        self._seed, self._size, self._rate = seed, size, anomaly_rate
        rng = np.random.default_rng([seed, _TIMES])
        # Rows: empty, entering, settled, leaving; the last part is a gap alone.
        self._times = rng.integers((3, 4, still, 4), (10, 8, still + 6, 8), (parts + 1, 4))
        self._times[-1, 1:] = 0
        self._ends = np.cumsum(self._times.sum(axis=1))
        self._drawn: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()
        self._texture = self._draw_belt()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def truth(self, index: int) -> BeltTruth:
        """Return what frame ``index`` shows."""
        part, state, _ = self._position(index)
        if state == "empty":
            return BeltTruth(frame=index, part=None, state=state, kind=GOOD, defect=GOOD)
        defect = part_defect(part, self._seed, self._rate)
        return BeltTruth(frame=index, part=part, state=state, kind=kind_of(defect), defect=defect)

    def frame(self, index: int) -> tuple[NDArray[np.uint8], BeltTruth]:
        """Return frame ``index`` (below ``len``): the image u8[size,size,3] RGB and its truth."""
        part, state, share = self._position(index)
        size = self._size
        way = {"empty": -size, "entering": round((share - 1) * size), "settled": 0, "leaving": round(share * size)}
        offset = way[state]
        pixels = self._empty(part, state, share, offset)
        if state != "empty":
            tray = self._tray(part)
            left, right = max(offset, 0), min(offset + size, size)
            pixels[:, left:right] = tray[:, left - offset : right - offset]
        noise = np.random.default_rng([self._seed, _NOISE, index]).normal(0.0, 1.6, pixels.shape)
        image = np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8)
        return image, self.truth(index)

    def _position(self, index: int) -> tuple[int, BeltState, float]:
        """Return the part, its state and how much of that state is over (0 to 1)."""
        if not 0 <= index < len(self):
            raise BadInput(f"frame {index} of a belt of {len(self)} frames: choose 0 to {len(self) - 1}")
        part = bisect_right(self._ends, index)
        since = index - (int(self._ends[part - 1]) if part else 0)
        states: tuple[BeltState, ...] = ("empty", "entering", "settled", "leaving")
        for state, length in zip(states, self._times[part], strict=True):
            if since < length:
                return part, state, (since + 1) / (int(length) + 1)
            since -= int(length)
        raise AssertionError(f"frame {index} lies in no state")

    def _empty(self, part: int, state: BeltState, share: float, offset: int) -> NDArray[np.float32]:
        """Return the belt without trays; it moves with them, and in every other gap it stands still."""
        size = self._size
        moved = offset if state != "empty" else -size + (0 if part % 2 else int(share * size) % size)
        return np.roll(self._texture, moved, axis=1).astype(np.float32)

    def _draw_belt(self) -> NDArray[np.float32]:
        rng = np.random.default_rng([self._seed, _BELT])
        coarse = rng.normal(0.0, 5.0, (-(-self._size // 16), -(-self._size // 16), 1))
        grain = np.kron(coarse, np.ones((16, 16, 1)))[: self._size, : self._size]
        fine = rng.normal(0.0, 3.0, (self._size, self._size, 1))
        return (np.array(_COLOUR, np.float32) + grain + fine).astype(np.float32)

    def _tray(self, part: int) -> NDArray[np.uint8]:
        if part not in self._drawn:
            seed = self._seed * SEEDS_PER_LINE + VIDEO_START + part
            self._drawn[part] = render_tray(seed, part_defect(part, self._seed, self._rate), self._size).image
            while len(self._drawn) > _MAX_TRAYS:
                self._drawn.popitem(last=False)
        return self._drawn[part]
