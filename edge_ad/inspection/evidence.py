"""Images of what was judged, kept as evidence by a thread of their own.

Events, their counters and their images on their way into the record.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.camera.frames import Image, Source
from edge_ad.config import RecordTable
from edge_ad.errors import BadInput
from edge_ad.events import Event
from edge_ad.inspection.camera_worker import Counters
from edge_ad.inspection.judge import InspectionResult
from edge_ad.inspection.locating import draw_outlines
from edge_ad.inspection.observers import Observer
from edge_ad.inspection.pause import PAUSED
from edge_ad.inspection.recorder import HeatScale, bounded, heat_of, outlines_of, overlay, safe_name
from edge_ad.inspection.view import View
from edge_ad.store import Store, StoredImage
from edge_ad.store.journal import day_of, event_line
from edge_ad.store.retention import GB, evidence_folder, yield_to_others
from edge_ad.store.schema import with_comment, with_png_text
from edge_ad.utils.files import atomic_write
from edge_ad.utils.supervision import SupervisedThread, ThreadFaults

if TYPE_CHECKING:
    from edge_ad.inspection.products import Product

_log = logging.getLogger(__name__)

CROP_QUALITY = 90  # of JPEG, 0 to 100
MAP_QUALITY = 80
MAX_BYTES = 64 * 2**20  # of images that wait
CLOSE_S = 1.0
CLOSE_PATIENTLY_S = 60.0  # where what was judged came from files and nobody asked for the end


@dataclass(frozen=True, eq=False)
class _ViewEvidence:
    """What one camera saw of a part; ``ending`` is that of its files."""

    image: Image
    result: InspectionResult
    view: View
    reference: NDArray[np.float32] | None
    ending: str = ""

    @property
    def bytes(self) -> int:
        inference = self.result.inference
        return self.image.nbytes + (0 if inference is None else inference.map.nbytes)


@dataclass(frozen=True, eq=False)
class _Item:
    event: Event
    shots: tuple[_ViewEvidence, ...]

    @property
    def bytes(self) -> int:
        return sum(shot.bytes for shot in self.shots)


def _shots(result: InspectionResult, view: View, reference: NDArray[np.float32] | None) -> tuple[_ViewEvidence, ...]:
    """Return what cameras saw of a part, the view that decided first; of one camera its ``view`` and ``reference``."""
    if not result.views:
        return () if result.image is None else (_ViewEvidence(result.image, result, view, reference),)
    views = sorted(result.views, key=lambda one: one.result.frame is not result.frame)
    return tuple(
        _ViewEvidence(one.result.image, one.result, one.region, one.reference, f"_{safe_name(one.name)}")
        for one in views
        if one.result.image is not None
    )


class Evidence:
    """Writes the judged region, and the same with the heat map and the part's outline, of every NG, WARN and NONE and of
    some OK; and the region without loss, as training and recalibration read it, of what is likely to be marked.

    ``offer`` costs the loop next to nothing: at most 64 MiB of images wait, first for the commit of their event, then
    for the thread. Beyond that the oldest OK goes, else the oldest, counted in ``dropped`` by camera; so does everything
    while less than ``free_gb`` are free or the disk refuses, which is logged once when it begins and when it is
    over. Files are JPEG of quality 90 and 80 with the event as JSON in their comment, and PNG with the same as its text, which is
    left out where half of these MiB wait: the others come first. They are synced to the disk before
    the store is told of them. ``short`` is called when space is short. ``reference`` as for HeatScale.
    """

    def __init__(
        self,
        store: Store,
        settings: RecordTable,
        view: View,
        *,
        reference: NDArray[np.float32] | None = None,
        short: Callable[[], None] = lambda: None,
        faults: ThreadFaults | None = None,
    ) -> None:
        self._store = store
        self._folder = evidence_folder(settings, store.path)
        self._settings = settings
        self._view = view
        self._reference = reference
        self._short = short
        self._scales: dict[tuple[str, str | None], HeatScale] = {}  # by camera and product
        self._changed = threading.Condition()
        self._waiting: dict[str, _Item] = {}  # by id, until their event is committed
        self._ready: dict[str, _Item] = {}
        self._bytes = 0
        self._closing: float | None = None
        self.fault: str | None = None
        self.dropped: Counter[str] = Counter()
        self.written = 0
        self._lossless = 0  # bytes since space was asked for
        self._at_work_on = ""
        self._thread = SupervisedThread("evidence", self._run, faults, on_fault=self._broke)
        self._thread.start()
        store.listen(self.committed)

    def wants(self, event: Event) -> bool:
        """Whether this event keeps its images: all that are not OK, and some OK; in a pause as few as of OK."""
        usual = event.verdict == "OK" or (event.verdict == "NONE" and (event.reason or "").startswith(PAUSED))
        return not usual or _drawn(event, self._settings.ok_every) or self.wants_lossless(event)

    def wants_lossless(self, event: Event) -> bool:
        """Whether this event keeps its image without loss: NG, WARN and some OK."""
        every = self._settings.ok_every if self._settings.lossless_ok_every is None else self._settings.lossless_ok_every
        likely = event.verdict in ("NG", "WARN") or (event.verdict == "OK" and _drawn(event, every))
        return likely and self._settings.lossless_gb > 0

    def offer(self, event: Event, result: InspectionResult) -> None:
        """Hand over what an event was made from, before the event goes to the store."""
        shots = _shots(result, self._view, self._reference)
        if not shots or not self.wants(event):
            return
        item = _Item(event, shots)
        with self._changed:
            self._waiting[event.id] = item
            self._bytes += item.bytes
            while self._bytes > MAX_BYTES and len(self._waiting) + len(self._ready) > 1:
                self._drop_one()

    def adopt(self, product: Product) -> None:
        """Keep images as they are judged for another product."""
        self._view, self._reference = product.view, product.reference

    def committed(self, rows: Sequence[Event]) -> None:
        """Let the images of events go to the disk; called by the store."""
        with self._changed:
            for row in rows:
                if row.id in self._waiting:
                    self._ready[row.id] = self._waiting.pop(row.id)
            self._changed.notify()

    def close(self, wait_s: float = CLOSE_S) -> None:
        """Write what waits, for at most so many seconds; the store must still be open."""
        with self._changed:
            self._closing = time.monotonic() + wait_s
            self._changed.notify()
        self._thread.join(wait_s + CLOSE_S)
        with self._changed:
            if self._thread.is_alive():  # the disk, or the image, is too slow: what waits is given up
                left = [*self._waiting.values(), *self._ready.values()]
                self.dropped.update([self._at_work_on, *(item.event.camera for item in left)])
                self._waiting, self._ready = {}, {}
        dropped = sum(self.dropped.values())
        if dropped:
            _log.warning("%d images were not kept in %s", dropped, self._folder)

    def _run(self) -> None:
        yield_to_others()
        while True:
            with self._changed:
                while not self._ready and not self._ended():
                    self._changed.wait(0.05 if self._closing is not None else None)
                if self._ended():
                    self.dropped.update(item.event.camera for item in (*self._waiting.values(), *self._ready.values()))
                    return
                item = self._ready.pop(next(iter(self._ready)))
                self._bytes -= item.bytes
                self._at_work_on = item.event.camera
            self._keep(item)

    def _broke(self, error: BaseException) -> None:
        """Count the image that was under way; the next one is tried when the thread is started again."""
        with self._changed:
            self.dropped[self._at_work_on] += 1

    def _ended(self) -> bool:
        """Whether nothing is left to write, as far as the wait at the end allows; no event waits that is never stored."""
        if self._closing is None:
            return False
        return not (self._ready or (self._waiting and self._store.pending)) or time.monotonic() > self._closing

    def _keep(self, item: _Item) -> None:
        fault = self._write(item)
        if fault is not None:
            with self._changed:
                self.dropped[item.event.camera] += 1
            self._short()
        if fault is not None and self.fault is None:
            _log.warning("no images are kept, events go on: %s", fault)
        elif fault is None and self.fault is not None:
            _log.info("images are kept again; %d were not", sum(self.dropped.values()))
        self.fault = fault

    def _write(self, item: _Item) -> str | None:
        """Write both images; returns why that cannot be."""
        floor = self._settings.free_gb
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(self._folder).free < floor * GB:
                return f"less than {floor:g} GB are free for {self._folder}"
            for shot in item.shots:
                self._write_shot(item.event, shot)
            if len(item.shots) == 1 and self.wants_lossless(item.event) and self._bytes <= MAX_BYTES / 2:
                self._write_lossless(item.event, item.shots[0].view.seen(item.shots[0].image))
        except (OSError, BadInput, cv2.error) as error:
            return " ".join(str(error).split())
        self.written += 1
        return None

    def _write_shot(self, event: Event, shot: _ViewEvidence) -> None:
        """Write the judged region, and with the heat map where there is one."""
        region = shot.view.seen(shot.image)
        crop = bounded(region)
        self._write_one(event, crop, shot.ending, CROP_QUALITY)
        key = (shot.result.event.camera, event.product)
        heat = heat_of([shot.result], self._scales.setdefault(key, HeatScale(shot.reference)))
        if heat is not None:
            outlines, size = outlines_of([shot.result]), (region.shape[0], region.shape[1])
            shown = draw_outlines(overlay(crop, heat), outlines, size)
            self._write_one(event, shown, f"{shot.ending}_map", MAP_QUALITY)

    def _write_one(self, event: Event, image: Image, ending: str, quality: int) -> None:
        done, data = cv2.imencode(
            ".jpg", cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
        )
        if not done:
            raise BadInput("this OpenCV cannot encode JPEG")
        name = image_name(event, ending)
        jpeg = with_comment(data.tobytes(), event_line(0, event))
        atomic_write(self._folder / name, jpeg)
        self._store.add_image(StoredImage(name, event.id, event.verdict, event.time, len(jpeg)))

    def _write_lossless(self, event: Event, region: Image) -> None:
        """Write the region as PNG, grey where it is, and ask for space once in a while: these are large."""
        plain = region[:, :, 0] if np.array_equal(region[:, :, 0], region[:, :, 1]) and np.array_equal(
            region[:, :, 1], region[:, :, 2]) else region[:, :, ::-1]  # fmt: skip
        done, data = cv2.imencode(".png", np.ascontiguousarray(plain), [cv2.IMWRITE_PNG_COMPRESSION, 1])
        if not done:
            raise BadInput("this OpenCV cannot encode PNG")
        name, png = image_name(event, kind=".png"), with_png_text(data.tobytes(), event_line(0, event))
        atomic_write(self._folder / name, png)
        self._store.add_image(StoredImage(name, event.id, event.verdict, event.time, len(png)))
        self._lossless += len(png)
        if self._lossless > self._settings.lossless_gb * GB / 8:
            self._lossless = 0
            self._short()

    def _drop_one(self) -> None:
        """Throw away the oldest OK that waits, else the oldest."""
        waiting = [*self._ready.values(), *self._waiting.values()]
        item = next((item for item in waiting if item.event.verdict == "OK"), waiting[0])
        for items in (self._ready, self._waiting):
            if items.pop(item.event.id, None) is not None:
                self._bytes -= item.bytes
        self.dropped[item.event.camera] += 1


def _drawn(event: Event, every: int) -> bool:
    """Whether the id of an event falls on one of so many; of none for 0."""
    return every > 0 and zlib.crc32(event.id.encode()) % every == 0


def image_name(event: Event, ending: str = "", kind: str = ".jpg") -> str:
    """Return the path of an image below the evidence folder: day, camera, then time (UTC), verdict and id."""
    moment = time.strftime("%H%M%S", time.gmtime(event.time))
    thousandths = int(event.time % 1 * 1000)
    camera = safe_name(event.camera)
    return f"{day_of(event.time)}/{camera}/{moment}.{thousandths:03d}_{event.verdict}_{event.id}{ending}{kind}"


Account = Callable[[str], Counters]


class StoreObserver(Observer):
    """Hands every event to the store, with the counters of its camera over all runs, and its images to ``evidence``.

    ``account`` gives the counters of a camera in this run; to them come the events and images that were not kept, and
    what earlier runs left in the store. A store that cannot write is logged once each time it begins. At the end it waits longer
    for the images of what came from files, unless the run is ``stopped``.
    """

    def __init__(
        self, store: Store, account: Account, evidence: Evidence | None = None, *, stopped: Callable[[], bool] = lambda: True
    ) -> None:
        self._store = store
        self._account = account
        self._evidence = evidence
        self._stopped = stopped
        self._live = False
        self._before: Mapping[str, Mapping[str, int]] = {name: dict(result) for name, result in store.counters.items()}
        self._cameras: set[str] = set()
        self._reported: str | None = None

    def on_result(self, result: InspectionResult, source: Source) -> None:
        """Hand over one event."""
        self._cameras |= {source.name, *(view.source.name for view in result.views)}
        self._live = self._live or source.kind == "live"
        event = result.event
        if self._evidence is not None:
            self._evidence.offer(event, result)
        self._store.record(event, self._totals(source.name))
        fault = self._store.fault
        if fault != self._reported:
            _log.log(logging.INFO if fault is None else logging.ERROR, "%s", fault or "events are stored again")
            self._reported = fault

    def on_product(self, product: Product) -> None:
        """Keep images as they are judged for another product."""
        if self._evidence is not None:
            self._evidence.adopt(product)

    def close(self) -> None:
        """Write the images that wait, hand over the last counters and wait for the disk."""
        if self._evidence is not None:
            self._evidence.close(CLOSE_S if self._live or self._stopped() else CLOSE_PATIENTLY_S)
        for camera in self._cameras:
            self._store.count(camera, self._totals(camera))
        if not self._store.close() or self._store.dropped:
            dropped = f"{self._store.dropped} events" if self._store.dropped else "the last events"
            _log.warning("%s is slow or full: %s were not stored", self._store.path, dropped)

    def _totals(self, camera: str) -> dict[str, int]:
        counted = self._account(camera).numbers()
        counted["events_dropped"] = self._store.dropped_of[camera]
        counted["pictures_dropped"] = self._evidence.dropped[camera] if self._evidence is not None else 0
        before = self._before.get(camera, {})
        return {name: value + before.get(name, 0) for name, value in counted.items()}
