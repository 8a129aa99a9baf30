"""Active proof that a camera shows what is now: a light that blinks in the image, a count of frames that goes on."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from edge_ad.camera.frames import Frame
from edge_ad.errors import BadInput

CONTRAST = 15.0
"""Grey levels between the light on and off, on average over its region."""
LOOSE = 0.25
COUNTER = "counter"
DIFFERENT = 2
MAX_DIFFERENT = 17
"""One more than a driver was seen to hold of old images, and than ``CameraHealth`` remembers."""
_DIFFERENT = re.compile(r"different:(\d{1,2})", re.ASCII)
_BLINK = re.compile(r"blink:(\d{1,5}),(\d{1,5}),(\d{1,5}),(\d{1,5})@(\d{1,2}(?:\.\d{1,3})?)", re.ASCII)
_ALLOWED = (
    "'counter' (the camera numbers its frames), 'blink:X,Y,WIDTH,HEIGHT@HZ' (a light in the image, 0.1 to 20 Hz) or "
    f"'different:N' (so many different images before the first verdict, {DIFFERENT} to {MAX_DIFFERENT})"
)


@dataclass(frozen=True)
class Blinking:
    """A light in the rectangle ``x``, ``y``, ``width``, ``height`` of the image, ``hz`` times a second on and off."""

    x: int
    y: int
    width: int
    height: int
    hz: float


@dataclass(frozen=True)
class Liveness:
    """Which proofs a camera must give.

    By default ``different`` alone: so many images that differ must have been seen since the camera was opened, before
    one of them is judged. The first may be what the driver or the camera has held since before; equality has nothing to
    compare it with.
    """

    counter: bool = False
    lights: tuple[Blinking, ...] = ()
    different: int = DIFFERENT


def parse_liveness(texts: Sequence[str]) -> Liveness:
    """Return the proofs named in ``[camera] liveness``; BadInput for anything else."""
    lights = []
    different = DIFFERENT
    for text in texts:
        count = _DIFFERENT.fullmatch(text.replace(" ", ""))
        if count is not None and DIFFERENT <= int(count[1]) <= MAX_DIFFERENT:
            different = int(count[1])
            continue
        match = _BLINK.fullmatch(text.replace(" ", ""))
        if match is not None and int(match[3]) and int(match[4]) and 0.1 <= float(match[5]) <= 20.0:
            x, y, width, height = (int(match[index]) for index in range(1, 5))
            lights.append(Blinking(x, y, width, height, float(match[5])))
        elif text.strip() != COUNTER:
            raise BadInput(f"liveness is {text!r}: write {_ALLOWED}")
    return Liveness(any(text.strip() == COUNTER for text in texts), tuple(lights), different)


class LivenessCheck:
    """Asks every frame of one camera for its proofs."""

    def __init__(self, liveness: Liveness) -> None:
        self._counter = liveness.counter
        self._lights = [Light(one) for one in liveness.lights]

    def fault(self, frame: Frame) -> str | None:
        """Return why a frame is no proof of life, or None."""
        if self._counter and frame.number is None:
            return "frozen: the camera does not number its frames; take 'counter' out of [camera] liveness"
        results = [light.fault(frame) for light in self._lights]
        return next((fault for fault in results if fault is not None), None)


class Light:
    """Follows a light that blinks.

    It must change within half a period, and not earlier, each by a quarter more or less and by the time between two
    frames. So an image that stands still is noticed within about a period, with whatever noise or clock on it; buffers
    that alternate change too early; a recording that is played again stumbles where it begins anew. Until the light was
    seen over a period and a half there is no proof.
    """

    def __init__(self, blinking: Blinking) -> None:
        self._where = blinking
        self._half_period = 0.5 / blinking.hz
        self._seen: deque[tuple[float, float]] = deque()
        self._on: bool | None = None
        self._edge: tuple[float, float] | None = None  # when it last changed, and how exactly that is known
        self._since = -math.inf  # from when on it has been seen without a gap
        self._bad_until = -math.inf

    def fault(self, frame: Frame) -> str | None:
        """Take in a frame; return why the light proves nothing, or None."""
        where, image = self._where, frame.image
        if where.y + where.height > image.shape[0] or where.x + where.width > image.shape[1]:
            return f"frozen: the light at {where.x},{where.y} lies outside the image; correct [camera] liveness"
        region = image[where.y : where.y + where.height, where.x : where.x + where.width]
        return self.see(frame.captured_at, float(region.mean()))

    def see(self, now: float, brightness: float) -> str | None:
        """Take in the brightness of the light at monotonic second ``now``; return why it proves nothing, or None."""
        name = f"the light at {self._where.x},{self._where.y}"
        gap = now - self._seen[-1][0] if self._seen else math.inf
        if not 0 <= gap <= self._half_period:
            self._begin(now)
            gap = 0.0
        self._seen.append((now, brightness))
        while now - self._seen[0][0] > 5 * self._half_period:
            self._seen.popleft()
        low, high = (pick(value for _, value in self._seen) for pick in (min, max))
        if now - self._since < 3 * self._half_period:
            if high - low >= CONTRAST:
                self._follow(now, gap, brightness > (low + high) / 2.0)
            return f"frozen: {name} was not seen long enough to prove that the image is new"
        if high - low < CONTRAST:
            return f"frozen: {name} does not blink"
        self._follow(now, gap, brightness > (low + high) / 2.0)
        if self._edge is None or now - self._edge[0] > self._half_period * (1 + LOOSE) + gap + self._edge[1]:
            return f"frozen: {name} stopped blinking"
        return f"frozen: {name} blinks out of step" if now < self._bad_until else None

    def _begin(self, now: float) -> None:
        self._seen.clear()
        self._on, self._edge, self._since, self._bad_until = None, None, now, -math.inf

    def _follow(self, now: float, gap: float, on: bool) -> None:
        if on == self._on:
            return
        if self._on is not None:
            if self._edge is not None and now - self._edge[0] < self._half_period * (1 - LOOSE) - gap - self._edge[1]:
                self._bad_until = now + 2 * self._half_period
            self._edge = (now - gap / 2, gap / 2)
        self._on = on
