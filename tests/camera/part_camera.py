"""A network camera that shows good and bad parts of the tiny bundle, and that can freeze while its clock goes on."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tests.camera.rtsp import RtspServer
from tests.fixtures.tiny_bundle import tiny_image

FPS = 12.0
CLOCK, SIDE = 32, 128
ROI = f"0,{CLOCK},{SIDE},{SIDE}"
LIGHT = (0, 0, CLOCK, CLOCK)
LIGHT_HZ = 1.0
LIVENESS = "blink:{},{},{},{}@{:g}".format(*LIGHT, LIGHT_HZ)
PART_S = (1.0, 3.5)


class PartCamera:
    """Shows good and bad parts by turns in a thread of its own, or what it showed before.

    Above the part, outside ``ROI``, are a blinking light, which stands in the scene, and a clock, which the camera writes into
    every image, be it old or new.

    ``told`` is called with "bad part", "frozen" or "old images", whether that is so, and since which monotonic second.
    """

    def __init__(self, chance: random.Random, told: Callable[[str, bool, float], None]) -> None:
        self.server = RtspServer(size=(SIDE, CLOCK + SIDE))
        self.server.start()
        self.frames = 0
        self.stale = 0  # so many old images in turn
        self._chance, self._told = chance, told
        self._shown: deque[NDArray[np.uint8]] = deque(maxlen=8)
        self._ring: list[NDArray[np.uint8]] = []
        self._bad, self._part_ends = False, 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._ended.is_set():
            due = max(due + 1.0 / FPS, time.monotonic())
            self._ended.wait(due - time.monotonic())
            self._frame()

    def _frame(self) -> None:
        now = time.monotonic()
        if now > self._part_ends:
            self._bad = self._chance.random() < 0.5
            self._part_ends = now + self._chance.uniform(*PART_S)
        self.frames += 1
        ring = list(self._shown)[-self.stale :] if self.stale else []
        self._ring = self._ring if ring and self._ring else ring
        if self._ring:
            picture = self._ring[self.frames % len(self._ring)]
        else:
            part = tiny_image(100_000 + self.frames, blob=self._bad).repeat(2, axis=0).repeat(2, axis=1)
            strip = np.zeros((CLOCK, SIDE, 3), np.uint8)
            strip[:, :CLOCK] = 200 if now * LIGHT_HZ % 1.0 < 0.5 else 20
            picture = np.concatenate([strip, part])
            self._shown.append(picture)
        # What becomes wrong was so before the image is out, and what becomes right is so only after it.
        states = {"bad part": self._bad, "frozen" if self.stale == 1 else "old images": bool(self._ring)}
        states.update({what: False for what in ("frozen", "old images") if what not in states})
        for what in [what for what, wrong in states.items() if wrong]:
            self._told(what, True, now)
        at = self.server.show(_with_clock(picture, self.frames))
        for what in [what for what, wrong in states.items() if not wrong]:
            self._told(what, False, at)

    def close(self) -> None:
        """Stop it."""
        self._ended.set()
        self._thread.join(5)
        self.server.kill()


def _with_clock(picture: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """Return the image with a number written above its part as 16 bars."""
    written = picture.copy()
    for bit in range(16):
        left = CLOCK + 6 * bit
        written[:CLOCK, left : left + 5] = 200 if count >> bit & 1 else 40
    return written
