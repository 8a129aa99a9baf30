"""The run's side of the dashboard: starts its process, feeds it, starts it again, and does what it asks for.

A dashboard for a run: what it is told once, and what it may ask for.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import select
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import IO, Any

import numpy as np

from edge_ad import __version__
from edge_ad.bundle import Bundle
from edge_ad.camera.frames import Image
from edge_ad.config import Config
from edge_ad.engines.pipeline import Pipeline
from edge_ad.errors import BadInput, EdgeAdError
from edge_ad.inspection.inspector import Inspector
from edge_ad.inspection.judge import worst_result
from edge_ad.inspection.locating import draw_outlines
from edge_ad.inspection.observers import Observer
from edge_ad.inspection.products import Product
from edge_ad.inspection.recorder import HeatScale, heat_of, outlines_of
from edge_ad.inspection.requests import Request, parse_request
from edge_ad.inspection.settings import presence_of, set_by_hand
from edge_ad.outputs.delivery import ChannelState
from edge_ad.scoring import Thresholds
from edge_ad.utils.logs import log_arguments
from edge_ad.utils.supervision import MAX_RESTARTS, Ends, SupervisedThread, ThreadFaults
from edge_ad.web.address import READ_TOKEN, TOKEN, find_tokens, listen, parse_address, print_address
from edge_ad.web.dashboard_feed import DashboardFeed, PendingImage
from edge_ad.web.schemas import write_message
from edge_ad.web.status import StatusReporter, Watched, event_row

_log = logging.getLogger(__name__)

BEAT_S = 0.05
WATCHED_EVERY_S = 0.2
UNWATCHED_EVERY_S = 1.0
START_S = 60.0  # for the first word of a process: a small board loads the server for many seconds
ANSWER_S = 10.0
PRODUCTS_LOCK = "this station has products: set their thresholds in edge-ad.toml, or recalibrate their bundles"
VIEWS_LOCK = "parts have several views: set the thresholds of each in edge-ad.toml, or recalibrate its bundle"
LARGEST_SIDE = 1280
NEEDED = ("fastapi", "uvicorn", "prometheus_client")


@dataclass(frozen=True)
class Asked:
    """What a page may ask of the run: acknowledge alarms up to a number, take over the thresholds of a bundle, and any
    request that the run takes, such as a pause.
    """

    acknowledge: Callable[[int], None]
    take_over: Callable[[str], None]
    submit: Callable[[Request], str]


class WebLink:
    """A running dashboard. Nothing here stops the line: one that dies, or is stopped or hangs and so does not answer
    for 10 s, is started again, five times a minute at most.

    ``hello`` gives what a page knows of the run, and is asked again when another product or bundle is judged. BadInput when a
    package is missing, an address cannot be had or a token is no good.
    """

    def __init__(
        self,
        address: str,
        names: Sequence[str],
        hello: Callable[[], Mapping[str, Any]],
        feed: DashboardFeed,
        *,
        asked: Asked,
        faults: ThreadFaults | None = None,
        outputs: Callable[[], list[ChannelState]] = list,
    ) -> None:
        check_packages()
        where = parse_address(address)
        keys, made = find_tokens(where, os.environ, names)
        self._listener = listen(where)
        self.feed = feed
        self._asked = asked
        self._about_run = hello
        self._used: Callable[[], list[object]] = list  # bundles and thresholds of all products
        self._hello = {"kind": "hello", "host": where.host, "names": list(names), "keys": asdict(keys), **hello()}
        self._faults = faults or ThreadFaults()
        self._outputs = outputs
        self._started_at = time.monotonic()
        self._up = False
        self.answers: deque[dict[str, Any]] = deque(maxlen=100)  # to requests of pages, not yet sent
        self._silence = 0  # beats since it was heard: a run that was stopped itself must not count that time
        self._closing = threading.Event()
        self._ends = Ends()
        self._process = self._start()
        print_address(where, self._listener, keys.full if made else None)

    @property
    def observer(self) -> Observer:
        """What follows the run for the dashboard."""
        return self.feed

    def begin(self, inspector: Inspector) -> None:
        """Begin to feed the dashboard."""
        watched = Watched(
            loop=inspector.loop,
            alarm_manager=inspector.wiring.alarm_manager,
            watchdog=inspector.watchdog,
            drift=inspector.drift,
            store=inspector.wiring.store,
            faults=self._faults,
            outputs=self._outputs,
            pause=inspector.wiring.pause,
            challenge=inspector.wiring.challenge,
            changeover=inspector.changeover,
            agent=inspector.agent,
        )
        self._used = lambda: _used_by(inspector)
        reporter = StatusReporter(watched, self.feed)
        SupervisedThread("web", lambda: self._feed(reporter), self._faults).start()

    def close(self) -> None:
        """End the dashboard; open pages say since when there is no inspector. It keeps nothing that could be lost."""
        self._closing.set()
        self._process.kill()
        self._process.wait()
        self._listener.close()

    def _start(self) -> subprocess.Popen[bytes]:
        """Start the process; the tokens go through the pipe, so that neither arguments nor environment show them."""
        process = subprocess.Popen(
            [sys.executable, "-m", "edge_ad.web.serve", str(self._listener.fileno()), *log_arguments()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(self._listener.fileno(),),
            env={name: value for name, value in os.environ.items() if name not in (TOKEN, READ_TOKEN)},
            start_new_session=True,
        )
        assert process.stdin is not None
        self._stdin = _Pipe(process.stdin)
        self._started_at, self._up, self._silence = time.monotonic(), False, 0
        SupervisedThread("web-listen", lambda: self._listen(process), self._faults).start()
        with contextlib.suppress(OSError):
            write_message(self._stdin, self._hello)
        return process

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if process.stdin is self._stdin.stream:  # not one that was given up
                self._up, self._silence = True, 0
            with self._faults.caught("web-listen"):
                self._do(json.loads(line))
        process.stdout.close()

    def _do(self, record: Mapping[str, Any]) -> None:
        if record["kind"] == "watching":
            self.feed.watching = int(record["pages"]) > 0
        elif record["kind"] == "acknowledge":
            self._asked.acknowledge(int(record["number"]))
        elif record["kind"] == "take_over":
            self._asked.take_over(str(record["path"]))
        elif record["kind"] == "request":
            self._submit(record)

    def _submit(self, record: Mapping[str, Any]) -> None:
        """Have the run handle a request, and send its sentence back to the page that waits for it."""
        try:
            answer = {"done": self._asked.submit(parse_request(record["request"], "dashboard"))}
        except EdgeAdError as error:
            answer = {"error": str(error)}
        self.answers.append({"kind": "answer", "number": int(record["number"]), **answer})

    def _feed(self, reporter: StatusReporter) -> None:
        feed = self.feed
        shown, scales = feed.shown, [HeatScale(reference) for _, reference in feed.shown]
        state_at, used = -float("inf"), self._used()
        events: deque[dict[str, Any]] = deque(maxlen=1000)
        while not self._closing.wait(BEAT_S):
            released = feed.release()
            events += [event_row(index, event) for index, event in released.events]
            self._silence += 1
            loading = not self._up and time.monotonic() - self._started_at < START_S
            if loading and self._process.poll() is None:
                continue  # what came meanwhile is shown later
            try:
                self._expect_answer()
                while self.answers:
                    write_message(self._stdin, self.answers.popleft())
                if feed.shown is not shown or self._used() != used:  # another product, or another bundle of one
                    used = self._used()
                    shown, scales = feed.shown, [HeatScale(reference) for _, reference in feed.shown]
                    changed = self._about_run()
                    self._hello |= changed
                    write_message(self._stdin, {"kind": "changed", **changed})
                for raw in released.shots:
                    self._show(raw, scales[raw.index])
                now = time.monotonic()
                if now - state_at >= (WATCHED_EVERY_S if feed.watching else UNWATCHED_EVERY_S):
                    state_at = now
                    write_message(self._stdin, {"kind": "state", "state": reporter.take(), "events": list(events)})
                    events.clear()
            except (OSError, ValueError):  # the pipe is closed or full: the process is gone or stopped
                if not self._closing.is_set() and not self._restart():
                    return

    def _expect_answer(self) -> None:
        """Raise TimeoutError for a process that takes everything and says nothing."""
        if not self._up or self._silence * BEAT_S > ANSWER_S:
            raise TimeoutError("the dashboard does not answer")

    def _show(self, raw: PendingImage, scale: HeatScale) -> None:
        result = worst_result(raw.results)
        blobs: list[memoryview] = []
        record: dict[str, Any] = {
            "kind": "picture",
            "event": event_row(raw.index, result.event),
            "image": None,
            "heat": None,
        }
        if result.image is not None:
            region = self.feed.shown[raw.index][0].seen(result.image)
            outlines, size = outlines_of(raw.results), (region.shape[0], region.shape[1])
            image = np.ascontiguousarray(smaller(region))
            image = draw_outlines(image, outlines, size) if outlines else image
            record["image"] = list(image.shape)
            blobs.append(image.data.cast("B"))
        strength = heat_of(raw.results, scale)
        if strength is not None:
            heat = np.ascontiguousarray((strength * 255.0).astype(np.uint8))
            record["heat"] = list(heat.shape)
            blobs.append(heat.data.cast("B"))
        write_message(self._stdin, record, blobs)

    def _restart(self) -> bool:
        """Start another process; False when too many have ended."""
        ended = self._ends.count()
        what = "ended" if self._process.poll() is not None else "did not answer"
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(OSError):
            self._stdin.stream.close()
        self.feed.watching = False
        if ended > MAX_RESTARTS:
            message = f"the dashboard ended {ended} times within a minute and stays away"
            _log.error("%s", message)
            self._faults.lose("dashboard", message)
            self._listener.close()  # a connection that nobody would answer is refused
            return False
        _log.warning("the dashboard %s and is started again", what)
        self._process = self._start()
        return True


class _Pipe:
    """Writes into a process and gives up (TimeoutError) where it does not read for ANSWER_S."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self._handle = stream.fileno()
        os.set_blocking(self._handle, False)

    def write(self, data: bytes | memoryview) -> None:
        left = memoryview(data)
        poll = select.poll()
        poll.register(self._handle, select.POLLOUT)
        while left:
            try:
                left = left[os.write(self._handle, left) :]
            except BlockingIOError:
                if not poll.poll(ANSWER_S * 1000.0):
                    raise TimeoutError("the dashboard does not read") from None

    def flush(self) -> None:
        """Nothing is kept back."""


def check_packages() -> None:
    """Raise BadInput for a missing package, without importing what only the dashboard's process needs."""
    for module in NEEDED:
        if importlib.util.find_spec(module) is None:
            raise BadInput(f"the dashboard needs the package {module!r}: pip install 'edge-ad[line]'")


def smaller(image: Image) -> Image:
    """Return the image with at most LARGEST_SIDE pixels a side."""
    height, width = image.shape[:2]
    factor = LARGEST_SIDE / max(height, width)
    if factor >= 1.0:
        return image
    import cv2

    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def open_web(inspector: Inspector) -> WebLink:
    """Start the dashboard that the line of a run asks for; the page may change its thresholds through the reloader."""
    run, wiring = inspector.settings.run, inspector.wiring
    assert run.web is not None
    store = wiring.store
    settled = None if store is None else lambda: store.committed + store.dropped
    feed = DashboardFeed(inspector.names, settled)
    feed.on_product(inspector.product)
    asked = Asked(wiring.alarm_manager.acknowledge, inspector.reloader.take_over, wiring.requests.submit)
    started = time.time()
    return WebLink(
        run.web, run.web_names, lambda: _hello(inspector, started), feed, asked=asked, faults=wiring.faults, outputs=wiring.outputs
    )


def _hello(inspector: Inspector, started: float) -> dict[str, Any]:
    """Return what a page knows of a run that began at ``started``: where its record and its bundle are, and what it is about."""
    run, bundle, product, store = inspector.settings.run, inspector.bundle, inspector.product, inspector.wiring.store
    why_locked = PRODUCTS_LOCK if inspector.changeover is not None else locked(product.thresholds, bundle, product.tiled)
    why_locked = VIEWS_LOCK if product.views else why_locked
    return {
        "store": None if store is None else str(store.path.resolve()),
        "bundle_path": str(bundle.path.resolve()),
        "judge": _single_images(inspector),
        "about": {
            **about(bundle, inspector.pipeline, inspector.settings, why_locked),
            "require_alarms": run.require_alarms,
            "started": started,
        },
    }


def _used_by(inspector: Inspector) -> list[object]:
    """Return what tells whether the products are judged otherwise by now: bundles, and thresholds of views."""
    changeover = inspector.changeover
    products = [inspector.product] if changeover is None else list(changeover.products.values())
    used: list[object] = []
    for product in products:
        used.append(product.bundle.sha256)
        for one in product.views.values():
            limits = one.judge.thresholds if one.opened else one.bundle.thresholds
            used.append((one.bundle.sha256, limits.warn, limits.ng))
    return used


def _single_images(inspector: Inspector) -> dict[str, Any]:
    """Return how the dashboard's process judges single images as this run does, by product ("" on a station without any)."""
    changeover = inspector.changeover
    if changeover is None:
        return {"": _judged_by(inspector.product)}
    known = {name: _judged_by(product) for name, product in changeover.products.items() if name not in changeover.faults}
    return known | {name: {"locked": reason} for name, reason in changeover.faults.items()}


def _judged_by(product: Product) -> dict[str, Any]:
    """Return what judges a product, and why single images cannot be (``locked``)."""
    if product.views:
        views = {view: _judged_by(one) for view, one in product.views.items()}
        locked = next((one["locked"] for one in views.values() if one["locked"]), None)
        return {"views": views, "fused": None if product.fused is None else product.fused.to_json(), "locked": locked}
    run, opened = product.settings.run, product.opened
    backend = product.pipeline.backend.name if opened else "onnxruntime"
    # Statistics of tiles are those of an engine, and a GPU is the run's own.
    tiled = run.tiles is not None and backend != "onnxruntime"
    thresholds = product.judge.thresholds if opened else set_by_hand(run, product.bundle.thresholds)
    return {
        "path": str(product.bundle.path.resolve()),
        "members": product.bundle.scoring_members,
        "backend": backend,
        "precision": product.pipeline.precision if opened else "fp32",
        "roi": run.roi,
        "tiles": run.tiles,
        "tile_goods": None if run.tile_goods is None else str(run.tile_goods.resolve()),
        "many": run.parts == "many",
        "unlocated": "NG" if run.unlocated == "ng" else "NONE",
        "thresholds": {"warn": thresholds.warn, "ng": thresholds.ng},
        "locked": f"with --tiles the statistics are those of the engines on {backend}" if tiled else None,
    }


def about(bundle: Bundle, pipeline: Pipeline, settings: Config, why_locked: str | None) -> dict[str, Any]:
    """Return what a page tells of a run and does not change; no paths, no addresses."""
    weights = dict(zip(bundle.statistics.branches, map(float, bundle.statistics.weight), strict=True))
    return {
        "version": __version__,
        "bundle": bundle.path.name,
        "name": bundle.name,
        "preset": bundle.preset,
        "sha256": bundle.sha256,
        "backend": pipeline.backend.name,
        "precision": pipeline.precision,
        "weights": {name: weight for name, weight in weights.items() if name in pipeline.branches},
        "presence": presence_of(settings.run),
        "warn_rejects": settings.alarm.warn_rejects,
        "latch": settings.alarm.latch,
        "locked": why_locked,
    }


def locked(thresholds: Thresholds, bundle: Bundle, tiled: bool) -> str | None:
    """Return why the page cannot change the ``thresholds`` of this run, None when it can."""
    if tiled:
        return "with tiles the thresholds come from --tile-goods"
    result = bundle.thresholds
    if (thresholds.warn, thresholds.ng) != (result.warn, result.ng):
        return "warn_above or ng_above of edge-ad.toml count before the bundle's; remove them and start again"
    return None
