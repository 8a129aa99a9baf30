"""Who follows a run: the base of all observers, and those that write a file, call a function, watch drift, show a line or
take over new thresholds.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from edge_ad.camera.frames import Frame, Source
from edge_ad.data.images import resize
from edge_ad.errors import BadInput, DeviceFault, EdgeAdError
from edge_ad.events import VERDICTS, Event
from edge_ad.inspection.drift import Drift
from edge_ad.inspection.judge import InspectionResult, Judge
from edge_ad.inspection.part_tracking import CycleState
from edge_ad.inspection.view import View
from edge_ad.scoring import Thresholds
from edge_ad.utils.files import is_at
from edge_ad.utils.logs import CLEAR_LINE, write_to
from edge_ad.utils.supervision import SupervisedThread, ThreadFaults
from edge_ad.utils.text import storable

if TYPE_CHECKING:
    from edge_ad.inspection.products import Product

_log = logging.getLogger(__name__)

REFRESH_S = 0.2
WARN_EVERY_S = 60.0
SYNC_EVERY_S = 1.0


class Observer:
    """Follows a run; what it does not override does nothing.

    Results come in the order of the observers, one after the other, in the thread of the loop.
    """

    def on_result(self, result: InspectionResult, source: Source) -> None:
        """Take one result made on ``source``."""

    def on_results(self, results: Sequence[InspectionResult], source: Source) -> None:
        """Take the results of one frame or call: one, or those of several parts that were located in it."""
        for result in results:
            self.on_result(result, source)

    def on_cycle(self, camera: str, state: CycleState) -> None:
        """A frame was looked at and needs no verdict by itself."""

    def on_tick(self) -> None:
        """A round is over; comes at least every 0.02 s while the loop is alive."""

    def on_product(self, product: Product) -> None:
        """Another product is judged from now on."""

    def close(self) -> None:
        """Write out what is pending."""


class EventFile(Observer):
    """Appends events to a file, or to standard output for ``-``.

    Every line goes to the operating system at once, so it survives the end of this process however it comes. A file is
    also synced to the disk once a second and at the end: a power cut can cost the last second. A line that an earlier
    power cut tore is closed first, so that it spoils no other. Raises BadInput when the file cannot be opened and
    DeviceFault when it cannot be written: inspection without a record must not go on.
    """

    def __init__(self, target: str) -> None:
        self._name = "standard output" if target == "-" else target
        self._file = target != "-"
        self._stream: TextIO = _open(Path(target)) if self._file else sys.stdout
        self._synced = time.monotonic()

    def on_result(self, result: InspectionResult, source: Source) -> None:
        """Append the event of a result."""
        self.write(result.event)

    def write(self, event: Event) -> None:
        """Append one event; into a new file where somebody has removed or rotated the one that is open."""
        try:
            if self._file and not is_at(self._stream.fileno(), Path(self._name)):
                self._reopen()
            self._stream.write(event.line() + "\n")
            self._stream.flush()
            if self._file and time.monotonic() - self._synced >= SYNC_EVERY_S:
                self._sync()
        except OSError as error:
            raise self._abandon(error) from error

    def close(self) -> None:
        """Sync and close the file; standard output stays open."""
        if not self._file or self._stream.closed:
            return
        try:
            self._sync()
            self._stream.close()
        except OSError as error:
            raise self._abandon(error) from error

    def _reopen(self) -> None:
        self._stream.close()
        try:
            self._stream = _open(Path(self._name))
        except BadInput as error:
            raise DeviceFault(str(error)) from error
        _log.warning("the file of events %s was removed or renamed: events go on in a new one", storable(self._name))

    def _sync(self) -> None:
        self._synced = time.monotonic()
        try:
            os.fsync(self._stream.fileno())
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EROFS):  # pipes and devices have nothing to sync
                raise

    def _abandon(self, error: OSError) -> DeviceFault:
        """Let go of the stream, so that what it still holds cannot fail a second time, and tell the fault."""
        if self._file:
            with contextlib.suppress(OSError):
                self._stream.close()
        else:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        reason = error.strerror or error
        return DeviceFault(f"events cannot be written to {self._name}: {reason}; free it and start again")


class EventCallback(Observer):
    """Hands every event to a function."""

    def __init__(self, function: Callable[[Event], None]) -> None:
        self._function = function

    def on_result(self, result: InspectionResult, source: Source) -> None:
        """Call the function."""
        self._function(result.event)


class DriftObserver(Observer):
    """Watches all parts for drift; logs when it begins and when it is over. None watches nothing.

    Of every few parts the ``view`` of the image is measured, where the drift asks for it. Where parts have several views each
    is watched by itself: ``views`` has the products that judge them.
    """

    def __init__(self, drift: Drift | None, view: View = View(), views: Mapping[str, Product] | None = None) -> None:
        self._drift = drift
        self._view = view
        self._drifted = False
        self._warnings: list[str] = []
        self._views = _watches(views)

    @property
    def drift(self) -> Drift | None:
        """What is watched; of several views one that drifts, else the first."""
        if not self._views:
            return self._drift
        return next((one for one in self._views.values() if one._drifted), next(iter(self._views.values())))._drift

    @property
    def warnings(self) -> list[str]:
        """What was warned of, in order, view by view."""
        return [*self._warnings, *(f"view {name}: {text}" for name, one in self._views.items() for text in one.warnings)]

    def on_result(self, result: InspectionResult, source: Source) -> None:
        """Look at the part; every window has its test."""
        for view in result.views:
            if view.name in self._views:
                self._views[view.name].on_result(view.result, view.source)
        event, drift = result.event, self._drift
        if drift is None or result.views:
            return
        self._measure(drift, result)
        if not drift.add(event.verdict, event.score, event.z):
            return
        warning = drift.report().warning
        if warning and not self._drifted:
            self._warnings.append(warning)
            _log.warning("%s", warning)
        elif self._drifted and not warning:
            _log.info("drift: the parts are like the normal images again")
        self._drifted = warning is not None

    def on_product(self, product: Product) -> None:
        """Go on with the drift of another product."""
        self._drift, self._view = product.drift, product.view
        self._drifted = False if self._drift is None else self._drift.report().warning is not None
        self._warnings, self._views = self.warnings, _watches(product.views)

    def _measure(self, drift: Drift, result: InspectionResult) -> None:
        event, images = result.event, drift.images
        if images is None or event.verdict not in ("OK", "WARN") or not isinstance(result.frame, Frame) or not images.wants():
            return
        size = images.reference.size
        whole = self._view.roi is None
        shown = result.frame.resized(size) if whole else resize(self._view.crop(result.frame.image), size)
        images.add(shown, f"{event.camera} part {event.part}" if event.part is not None else f"{event.camera} frame {event.frame}")


def _watches(views: Mapping[str, Product] | None) -> dict[str, DriftObserver]:
    """Return a watch over each view."""
    watches = {name: DriftObserver(product.drift, product.view) for name, product in (views or {}).items()}
    for watch in watches.values():  # one that comes back goes on where it was
        watch._drifted = watch._drift is not None and watch._drift.report().warning is not None
    return watches


class PoseObserver(Observer):
    """Warns of parts whose pose leaves that of the normal images: at once, then at most once a minute and camera.

    ``count`` is over all cameras.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next: dict[str, float] = {}
        self._unreported: Counter[str] = Counter()
        self.count = 0

    def on_result(self, result: InspectionResult, source: Source) -> None:
        """Look at where the part lies, in every view of it."""
        for view in result.views:
            self.on_result(view.result, view.source)
        if result.views:
            return
        outside = None if result.place is None else result.place.outside
        if outside is None:
            return
        self.count += 1
        self._unreported[source.name] += 1
        now = self._clock()
        if now < self._next.get(source.name, now):
            return
        self._next[source.name] = now + WARN_EVERY_S
        more = self._unreported.pop(source.name) - 1
        others = f" ({more} more since the last warning)" if more else ""
        _log.warning("%s: part %s: %s%s", source.name, result.event.part, outside, others)

    @property
    def warnings(self) -> list[str]:
        """What a summary says of it."""
        parts = "part lay" if self.count == 1 else "parts lay"
        return [f"{self.count} {parts} outside the poses of the normal images"] if self.count else []


class StatusLine(Observer):
    """One line on a terminal, rewritten five times a second: the last verdict and the counts."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._counts = dict.fromkeys(VERDICTS, 0)
        self._shown = 0.0
        self._started = time.monotonic()

    def on_result(self, result: InspectionResult, source: Source) -> None:
        """Count the event and refresh the line when it is time."""
        event = result.event
        self._counts[event.verdict] += 1
        now = time.monotonic()
        if now - self._shown >= REFRESH_S:
            self._shown = now
            self._show(event, now)

    def close(self) -> None:
        """Clear the line."""
        write_to(self._stream, CLEAR_LINE)

    def _show(self, event: Event, now: float) -> None:
        counts = "  ".join(f"{name} {count}" for name, count in self._counts.items())
        rate = sum(self._counts.values()) / max(now - self._started, 1e-3)
        latency = "" if event.latency_ms is None else f"  {event.latency_ms:.0f} ms"
        frame = "-" if event.frame is None else event.frame
        text = f"frame {frame}  {event.verdict:4}  {counts}  {rate:.1f}/s{latency}  {event.reason or ''}"
        write_to(self._stream, f"{CLEAR_LINE}{text[:118]}")


def _open(path: Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("a", encoding="utf-8")
        if _torn(path):
            stream.write("\n")
            stream.flush()
    except OSError as error:
        raise BadInput(f"events cannot be written to {path}: {error.strerror or error}; name another file") from error
    return stream


def _torn(path: Path) -> bool:
    if not path.is_file() or path.stat().st_size == 0:
        return False
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) != b"\n"


LoadThresholds = Callable[[Path], Thresholds]


class Reloader(Observer):
    """On ``ask`` reads the thresholds in a bundle's file again, in a thread, and gives them to the judge between two
    frames.

    What cannot be read changes nothing; both are logged.
    """

    def __init__(self, judge: Judge, load: LoadThresholds, path: Path, faults: ThreadFaults | None = None) -> None:
        self._read_from = [(judge, load, path)]
        self._faults = faults
        self.on_read: Callable[[Path, Thresholds], None] = lambda path, thresholds: None  # in a thread of its own
        self._asked = threading.Event()
        self._fresh: list[tuple[Judge, Thresholds]] = []
        self._thread: SupervisedThread | None = None

    def on_product(self, product: Product) -> None:
        """Read the thresholds of another product from now on, in every view of it."""
        judged = product.views.values() or [product]
        self._read_from = [(one.judge, one.load_thresholds, one.bundle.path) for one in judged]

    def ask(self) -> None:
        """Ask for it; safe in a signal handler."""
        self._asked.set()

    def take_over(self, path: str) -> None:
        """Ask for the thresholds of another file, from now on."""
        self._read_from = [(judge, load, Path(path)) for judge, load, _ in self._read_from]
        self.ask()

    def on_tick(self) -> None:
        """Start reading when asked, and take over what was read."""
        if self._thread is None and self._asked.is_set():
            self._asked.clear()
            self._thread = SupervisedThread("reload", self._read, self._faults, restart=False)
            self._thread.start()
        elif self._thread is not None and not self._thread.is_alive():
            self._thread = None
            fresh, self._fresh = self._fresh, []
            for judge, limits in fresh:
                judge.thresholds = limits
                _log.info("thresholds reloaded: WARN above %.4g, NG above %.4g", limits.warn, limits.ng)

    def _read(self) -> None:
        try:
            self._fresh = [(judge, load(path)) for judge, load, path in self._read_from]  # all of them, or none
            for (_, limits), (_, _, path) in zip(self._fresh, self._read_from, strict=True):
                self.on_read(path, limits)
        except EdgeAdError as error:
            _log.warning("the thresholds stay as they are: %s", error)
