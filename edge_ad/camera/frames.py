"""What a read from a source can give: a frame, a frame that is unusable, nothing yet, the end, or an error.

A source slowed to its nominal rate, so that a file behaves like a camera.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeVar, cast

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Made = TypeVar("Made")

SourceKind = Literal["live", "synthetic", "video", "images", "watch"]


@dataclass(frozen=True, eq=False)
class Frame:
    """One image: ``image`` u8[H,W,3] RGB, its ``index`` at the source (from 0), and when it was captured.

    ``captured_at`` is in monotonic seconds (ages, timeouts), ``captured_wall`` in seconds since 1970 UTC (records).
    ``part`` names what is on the image: the id that came with the trigger, the file name of an image, else a number
    as text. ``stamp`` is the camera's own clock in seconds, None where it has none. ``lag_s`` is how late the image
    arrived by that clock, already taken off ``captured_at``; None where it cannot be told. ``number`` is the camera's
    own count of frames, None where it gives none. ``opening`` counts how often the camera was opened, from 1; 0 where
    nothing is opened that could hold an old image.
    """

    image: Image
    index: int
    captured_at: float
    captured_wall: float
    source: str
    part: str
    stamp: float | None = None
    lag_s: float | None = None
    number: int | None = None
    opening: int = 0
    _made: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Return what ``make`` gives, made once for all threads that ask for ``key``."""
        with self._lock:
            if key not in self._made:
                self._made[key] = make()
            return cast(Made, self._made[key])

    def resized(self, size: tuple[int, int]) -> Image:
        """Return the image at ``size`` = (height, width), u8[H,W,3]; computed once for all who ask."""
        return self.once(size, lambda: _resized(self.image, size))


def _resized(image: Image, size: tuple[int, int]) -> Image:
    from edge_ad.data.images import resize

    return resize(image, size)


@dataclass(frozen=True)
class BadFrame:
    """A frame that was delivered but holds no usable image; ``reason`` says why. Other fields as for Frame."""

    reason: str
    index: int
    captured_at: float
    captured_wall: float
    source: str
    part: str


@dataclass(frozen=True)
class Timeout:
    """Nothing came within ``after_s`` seconds; not an error by itself."""

    after_s: float


@dataclass(frozen=True)
class End:
    """No more frames will come.

    ``reason`` is given when the source ended earlier than it had announced; ``broken`` when it failed for good.
    """

    reason: str | None = None
    broken: bool = False


@dataclass(frozen=True)
class SourceError:
    """The source cannot deliver now and may come back; ``reason`` is one sentence without credentials."""

    reason: str


Delivered = Frame | BadFrame
Read = Frame | BadFrame | Timeout | End | SourceError


class Source(Protocol):
    """A source of frames; one thread at a time owns it.

    ``kind`` is ``live`` (a camera), ``synthetic`` (a pretend camera), ``video``, ``images`` or ``watch`` (images that
    come now and then). ``fps`` is the nominal frame rate, None where there is none.
    """

    @property
    def name(self) -> str:
        """The URI as shown in events and logs, free of credentials."""

    @property
    def kind(self) -> SourceKind:
        """What sort of source this is."""

    @property
    def fps(self) -> float | None:
        """Nominal frames per second, or None."""

    def read(self, timeout_s: float) -> Read:
        """Return the next frame, waiting at most about ``timeout_s`` seconds for it."""

    def close(self) -> None:
        """Release the handle; reading afterwards returns End."""


class SourceWrapper:
    """A source that changes what another one gives, under the other's name and kind."""

    def __init__(self, source: Source) -> None:
        self._source = source

    @property
    def name(self) -> str:
        """The name of the source inside."""
        return self._source.name

    @property
    def kind(self) -> SourceKind:
        """The kind of the source inside."""
        return self._source.kind


class Paced(SourceWrapper):
    """Gives frame ``i`` of ``source`` not before ``start + i / fps``, and calls that moment its capture.

    A reader that comes late gets frames at once until it has caught up: the schedule does not shift.
    """

    def __init__(self, source: Source, fps: float) -> None:
        super().__init__(source)
        self._period = 1.0 / fps
        self._start: float | None = None
        self._closed = threading.Event()
        self.fps: float | None = fps

    def read(self, timeout_s: float) -> Read:
        """Return the next frame when it is due."""
        result = self._source.read(timeout_s)
        if not isinstance(result, (Frame, BadFrame)):
            return result
        if self._start is None:
            self._start = time.monotonic() - result.index * self._period
        due = self._start + result.index * self._period
        wait = due - time.monotonic()
        if wait > 0:
            self._closed.wait(wait)
        captured = max(result.captured_at, due)
        return replace(result, captured_at=captured, captured_wall=time.time() - (time.monotonic() - captured))

    def close(self) -> None:
        """Close the source inside and wake a waiting read."""
        self._closed.set()
        self._source.close()
