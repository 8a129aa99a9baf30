"""One run from a bundle and cameras to verdicts: what `edge-ad run` does, for programs too.

An ``Inspector`` is built, run and closed. Observers get every result in the order of effects: outputs, record,
evidence, terminal, dashboard.

What a run came to.
"""

from __future__ import annotations

import contextlib
import resource
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, Protocol, TextIO

from edge_ad.bundle import Bundle
from edge_ad.camera.frames import Source
from edge_ad.camera.health import HealthLimits
from edge_ad.camera.sources import open_source
from edge_ad.config import Config
from edge_ad.engines.pipeline import Pipeline
from edge_ad.errors import BadInput
from edge_ad.events import VERDICTS, Event
from edge_ad.inspection.assembly import (
    Wiring,
    lock_line,
)
from edge_ad.inspection.bundle_swap import REPLACE, ROLL_BACK, STATE, BundleReplacement
from edge_ad.inspection.camera_adjustment import CameraAdjuster, check_adjustments
from edge_ad.inspection.camera_worker import Counters, Latencies
from edge_ad.inspection.canary import Canary, score_of
from edge_ad.inspection.changeover import Changeover
from edge_ad.inspection.evidence import Evidence, StoreObserver
from edge_ad.inspection.judge import Judge
from edge_ad.inspection.loop import Loop, Stop
from edge_ad.inspection.observers import (
    DriftObserver,
    EventCallback,
    EventFile,
    Observer,
    PoseObserver,
    Reloader,
    StatusLine,
)
from edge_ad.inspection.part_tracking import PartDetector
from edge_ad.inspection.products import Product, check_products, open_product, open_products
from edge_ad.inspection.settings import check_settings, lag_s, presence_of, store_of
from edge_ad.inspection.view import View
from edge_ad.inspection.viewed_product import cameras_of, judged_views, make_joiner, open_viewed, part_detectors_of
from edge_ad.inspection.watchdog import Notifier, ThreadWatch, Watchdog
from edge_ad.outputs.delivery import ChannelState
from edge_ad.store.next_run import BundlePointer, Choice, choice_path, pointer_path
from edge_ad.utils.supervision import ThreadFaults
from edge_ad.utils.text import redact, storable


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Counters of all cameras together and by name, latency in milliseconds (None without a verdict), and the engine.

    ``fps`` counts judged frames over the whole run; ``peak_rss_mb`` is the most memory this process ever held;
    ``interrupted`` tells a Ctrl-C; ``warnings`` of drift, in order; ``faults`` of the threads of the run;
    ``none_reasons`` counts verdicts NONE by the word that their reason begins with. ``outputs`` is how each output was
    at the end.
    """

    total: Counters
    cameras: dict[str, Counters]
    latency_ms: dict[str, float | None]
    seconds: float
    fps: float
    backend: str
    precision: str
    peak_rss_mb: float
    interrupted: bool = False
    warnings: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    none_reasons: Mapping[str, int] = field(default_factory=dict)
    outputs: tuple[ChannelState, ...] = ()

    def table(self) -> str:
        """Return the summary as text, one row a camera and one for all where there are several."""
        rows = [("camera", *VERDICTS, "captured", "dropped", "faults", "lost")]
        rows += [_row(name, counters) for name, counters in self.cameras.items()]
        if len(self.cameras) > 1:
            rows.append(_row("all", self.total))
        reasons = ", ".join(f"{reason} ({count})" for reason, count in Counter(self.none_reasons).most_common())
        figures = ", ".join(f"{name} {value:.1f}" for name, value in self.latency_ms.items() if value is not None)
        return "\n".join(
            [
                *_align(rows),
                f"{self.fps:.1f} frames/s over {self.seconds:.1f} s; latency ms: {figures or 'none'}",
                f"{self.backend} {self.precision}; peak memory {self.peak_rss_mb:.0f} MB",
                *([f"NONE because of: {reasons}"] if reasons else []),
                *(_faults(state) for state in self.outputs if state.faults),
                *(f"warning: {warning}" for warning in self.warnings),
            ]
        )


def summarise(
    loop: Loop, backend: str, precision: str, *, interrupted: bool, warnings: Sequence[str] = ()
) -> Summary:
    """Sum up a loop that has ended."""
    cameras = {worker.name: worker.account() for worker in loop.workers}
    total = sum(cameras.values(), Counters())
    seconds = loop.elapsed_s
    return Summary(
        total=total,
        cameras=cameras,
        latency_ms=_latency(loop.latencies),
        seconds=seconds,
        fps=total.judged / seconds if seconds > 0 else 0.0,
        backend=backend,
        precision=precision,
        peak_rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0,
        interrupted=interrupted,
        warnings=tuple(warnings),
        none_reasons=dict(loop.none_reasons),
    )


def _faults(state: ChannelState) -> str:
    count = f"output {state.name}: {state.faults} fault{'s' * (state.faults > 1)}"
    return storable(
        f"{count}, {'works again' if state.fault is None else f'does not work at the end: {state.fault}'}", 700
    )


def _latency(latencies: Latencies) -> dict[str, float | None]:
    figures: dict[str, float | None] = {f"p{percent}": latencies.percentile(percent) for percent in (50, 90, 99)}
    return {**figures, "max": latencies.max if latencies.count else None}


def _row(name: str, counters: Counters) -> tuple[str, ...]:
    label = name if len(name) <= 48 else f"...{name[-45:]}"
    numbers = [*(counters.verdicts[verdict] for verdict in VERDICTS), counters.captured, counters.dropped]
    return (label, *(str(number) for number in [*numbers, counters.faulted + counters.outages, counters.lost]))


def _align(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]


SELF_TEST_S = 10.0  # a dashboard asks for a completed cycle within so many seconds where no service manager does


class Companion(Protocol):
    """What goes along with a run, such as its dashboard: it follows the run, and hands over what it is asked for."""

    @property
    def observer(self) -> Observer:
        """What follows the run for it."""

    def begin(self, inspector: Inspector) -> None:
        """Begin, beside a run that is about to start."""

    def close(self) -> None:
        """End it."""


class Agent(Companion, Protocol):
    """The companion that follows what a fleet asks of the station."""

    def state(self) -> dict[str, Any]:
        """Return how the station stands in its fleet, as plain values."""


@dataclass(frozen=True)
class RunOptions:
    """The settings of a run, and what a program adds to them.

    ``settings`` are those of edge-ad.toml: the tables run, alarm, camera, record, and backend and precision of engine.
    The cameras are named beside them. ``read_again`` reads them anew when the thresholds are reloaded (None: they
    stay). ``limits`` are those of a healthy image. ``on_event`` is called with every event in order; ``status`` is a
    terminal for a live line. With ``signals`` (main thread only) SIGTERM and Ctrl-C end the run in good order and
    SIGHUP reloads the thresholds. ``dashboard`` opens the page that ``web`` asks for (``edge_ad.web.link.open_web``),
    ``agent`` follows the fleet of [fleet] (``edge_ad.fleet.station.RunAgent``).
    """

    settings: Config = field(default_factory=Config)
    _: KW_ONLY
    read_again: Callable[[], Config] | None = None
    limits: HealthLimits = HealthLimits()
    on_event: Callable[[Event], None] | None = None
    status: TextIO | None = None
    signals: bool = False
    dashboard: Callable[[Inspector], Companion] | None = None
    agent: Callable[[Inspector], Agent] | None = None


def inspect(bundle: Bundle | Path | str | None, cameras: str | Sequence[str], options: RunOptions | None = None) -> Summary:
    """Judge what one camera URI shows, or several in turn, and return the counts; BadInput and DeviceFault as the parts
    do. Without a ``bundle`` the products of the settings are judged.
    """
    with contextlib.closing(Inspector(bundle, cameras, options)) as inspector:
        summary = inspector.run()
    # With what came at the end: the record was still being written, and outputs still delivered.
    return inspector.completed(summary)


class Inspector:
    """Everything of one run. The constructor opens all of it and proves the engines; ``run`` judges; ``close`` lets go.

    Without a ``bundle`` the products of the settings are judged, one at a time; ``product`` is the one in force.
    Raises BadInput and DeviceFault as the parts do; what was opened by then is closed again.
    """

    loop: Loop

    def __init__(
        self, bundle: Bundle | Path | str | None, cameras: str | Sequence[str], options: RunOptions | None = None
    ) -> None:
        self.options = options or RunOptions()
        self.settings = self.options.settings
        check_settings(self.settings)
        if self.settings.run.web is not None and self.options.dashboard is None:
            raise BadInput("web is set without a dashboard: give dashboard=edge_ad.web.link.open_web")
        check_products(self.settings)
        self.changeover: Changeover | None = None  # None for a station without products
        self._gate: Changeover
        self._pointer = BundlePointer(pointer_path(store_of(self.settings.run)))
        self._bundle = bundle
        self._notifier = Notifier()
        self.faults = ThreadFaults()
        self._changed = threading.Condition()
        self._stop = Stop()
        self._stack = contextlib.ExitStack()
        try:
            self._build([cameras] if isinstance(cameras, str) else list(cameras))
        except BaseException:
            self._stack.close()
            raise

    def run(self) -> Summary:
        """Judge until the sources end or the run is stopped, and return the counts."""
        self.watchdog.ready()
        for companion in self._companions:
            companion.begin(self)
        self.loop.run()
        return summarise(
            self.loop,
            self.product.pipeline.backend.name,
            self.product.pipeline.precision,
            interrupted=self._stop.interrupted,
            warnings=[*self.drift.warnings, *self.poses.warnings],
        )

    def close(self) -> None:
        """Let go of everything; the outputs reject first."""
        self._stack.close()

    def completed(self, summary: Summary) -> Summary:
        """Return a summary with the faults of threads and the states of outputs up to now."""
        return replace(summary, faults=self.faults.summary(), outputs=tuple(self.wiring.outputs()))

    def _build(self, named: Sequence[str]) -> None:
        cameras = cameras_of(self.settings, named)
        check_adjustments(self.settings, cameras)
        lock_line(self.settings.run, self._stack)
        if self.options.signals:
            self._stack.enter_context(self._stop.listening())
        opened = self._stack.enter_context(contextlib.ExitStack())
        products, unfit = self._products()
        sources = self._open_sources(cameras, opened, next(iter(products.values())).image_bits)
        self.names = [source.name for source in sources]
        self.product = self._open_engines(products, unfit)
        self.wiring = Wiring(
            self.names, self.product.settings, self._changed, self.faults, bundle=self.bundle, judged_by=self.product.judged_by
        )
        self._stack.callback(self.wiring.close)
        self.reloader = Reloader(self.judge, self.product.load_thresholds, self.bundle.path, self.faults)
        self.reloader.on_product(self.product)
        self._stop.on_reload = self.reloader.ask
        self.reloader.on_read = self.wiring.note_thresholds
        if self.changeover is not None:
            self.changeover.on_settled = self.wiring.note_product
        self._observing = self._observers()
        first = self.wiring.first_parts(self.names)
        self.loop = Loop(
            self.judge,
            sources,
            self._observing,
            self.product.settings,
            conditions=self.product.conditions,
            patient=self._notifier.managed,
            detectors=self._detectors(self.product, first),
            changed=self._changed,
            pause=self.wiring.pause,
            gate=self._gate,
            views=judged_views(self.product),
            joiner=make_joiner(self.settings, cameras, first),
            fused=self.product.fused,
        )
        for worker, number in zip(self.loop.workers, first, strict=True):
            worker.first_part = number
        self._gate.on_change = self._adopt
        self._replace_bundles()
        if self.changeover is not None:
            self._connect_products(self.changeover, sources)
        self._stack.callback(self.watchdog.close)
        if self._record is not None:
            self._stack.callback(self._record.close)
        self._stack.callback(self.wiring.reject)  # whatever ends the run, the outputs come first
        self._stop.attach(self.loop)
        opened.pop_all()  # from here on the loop closes the sources

    def _connect_products(self, changeover: Changeover, sources: Sequence[Source]) -> None:
        """Let all that may choose a product ask for it, and have cameras and outputs follow."""
        adjuster = CameraAdjuster(self.settings, sources)
        changeover.set_cameras = adjuster.apply
        if changeover.active is not None:
            adjuster.begin(str(changeover.active.name))
        self.wiring.follow_products(changeover)
        if self.settings.run.commands is not None:
            self._stack.callback(changeover.listen(self.settings.run.commands, self.faults).close)
        changeover.begin()

    def _products(self) -> tuple[dict[str, Product], dict[str, str]]:
        """Return the products whose bundles can be read, by name, and why the others cannot; one of no name for a bundle."""
        settings = self.settings
        if self._bundle is None and settings.product:
            return open_products(list(settings.product), partial(self._make_product, named=None))
        if self._bundle is None and not settings.part.views:
            raise BadInput("no bundle is named, and edge-ad.toml has no products: name a bundle")
        if settings.product:
            names = ", ".join(settings.product)
            raise BadInput(f"edge-ad.toml names products ({names}): leave the bundle {self._bundle} out, or the products")
        return {"": self._make_product("", self._bundle)}, {}

    def _make_product(self, name: str, named: Bundle | Path | str | None) -> Product:
        options, pointer = self.options, self._pointer
        return open_viewed(name, self.settings, named, pointer, limits=options.limits, read_again=options.read_again)

    def _open_engines(self, products: dict[str, Product], unfit: Mapping[str, str]) -> Product:
        """Open and prove the engines; return the product to begin with."""
        for product in products.values():
            self._stack.callback(product.close)
        run, named = self.settings.run, "" not in products
        self._gate = Changeover(
            products,
            unfit,
            choice=Choice(choice_path(store_of(run)) if named else None),
            budget_mb=run.memory_budget_mb,
            changed=self._changed,
            threads=self.faults,
        )
        self._stack.callback(self._gate.close)
        if not named:
            return self._gate.start_single(products[""])
        self.changeover = self._gate
        return self.changeover.start(run.product)

    def _replace_bundles(self) -> None:
        """Let bundles be replaced while the run goes on, where it keeps a record."""
        store, options, bits = self.wiring.store, self.options, self.bundle.image_bits

        def make(name: str, path: Path, view: str) -> Product:
            again, limits = options.read_again, options.limits
            if not view:
                return open_product(self.settings, name, path, image_bits=bits, limits=limits, read_again=again)
            before = self._gate.products[name]
            bundles: dict[str, Bundle | Path] = {other: one.bundle for other, one in before.views.items()}
            bundles[view] = path
            fresh = open_viewed(name, self.settings, None, self._pointer, limits=limits, read_again=again, instead=bundles)
            if fresh.image_bits != before.image_bits:
                raise BadInput(f"the images of {path} have another number of bits than those of view {view}")
            return fresh

        def fit(product: Product) -> None:
            if presence_of(product.settings.run) != "trigger":
                self._detectors(product, [1] * len(self.names))

        if store is None:
            return
        replacement = BundleReplacement(self._gate, self._pointer, make, fit, log=self.wiring.actions, threads=self.faults)
        self._stack.callback(replacement.close)
        for kind in (REPLACE, ROLL_BACK):
            self.wiring.requests.register(kind, replacement.handle)
        self.wiring.requests.register(STATE, replacement.answer_state, logged=False)

    def _detectors(self, product: Product, first: Sequence[int]) -> list[PartDetector] | None:
        """Return what gathers frames to parts of a product, one for each camera."""
        return part_detectors_of(product, len(self.names), calls=self.wiring.calls, first=first)

    def _adopt(self, product: Product) -> None:
        """Judge another product from now on; in the thread of the loop, between two frames."""
        self.product = product
        self.loop.adopt(
            product.judge,
            product.settings,
            product.conditions,
            lambda first: self._detectors(product, first),
            views=judged_views(product),
            fused=product.fused,
        )
        for observer in self._observing:
            observer.on_product(product)

    @property
    def bundle(self) -> Bundle:
        """The bundle of the product that is judged."""
        return self.product.bundle

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline of the product that is judged."""
        return self.product.pipeline

    @property
    def judge(self) -> Judge:
        """The judge of the product that is judged."""
        return self.product.judge

    @property
    def view(self) -> View:
        """The region that is judged."""
        return self.product.view

    def _open_sources(self, uris: Sequence[str], stack: contextlib.ExitStack, image_bits: Sequence[int]) -> list[Source]:
        if not uris:
            raise BadInput("no camera is named: give --camera URI, or `camera` under [run] in edge-ad.toml")
        repeated = next((uri for uri in uris if uris.count(uri) > 1), None)
        if repeated is not None:
            raise BadInput(f"--camera {redact(repeated)} is given twice: name every camera once")
        sources = []
        for uri, bits in zip(uris, cycle(image_bits), strict=False):
            source = open_source(
                uri,
                self.settings.run.realtime,
                patient=self._notifier.managed,
                lag_s=lag_s(self.settings),
                image_bits=bits,
            )
            stack.callback(source.close)
            sources.append(source)
        return sources

    def _observers(self) -> list[Observer]:
        """Return who follows the run, in the order of effects: the outputs first, then the record, then what shows."""
        run = self.settings.run
        self.watchdog = Watchdog(self._notifier, self.product.self_test, limit_s=SELF_TEST_S if run.web else None)
        self.drift = DriftObserver(self.product.drift, self.view, self.product.views)
        self.poses = PoseObserver()
        self._record = self._make_record()
        observers: list[Observer] = [self.wiring.alarm_manager]
        observers += [] if self._record is None else [self._record]
        observers += self._writers()
        self.agent = None if self.options.agent is None else self.options.agent(self)
        dashboard = None if self.options.dashboard is None else self.options.dashboard(self)
        self._companions: list[Companion] = [one for one in (dashboard, self.agent) if one is not None]
        for companion in self._companions:
            self._stack.callback(companion.close)
            observers.append(companion.observer)
        canary = Canary(score_of(self.product.inferring), self.product.known, self._is_busy)
        challenge = [] if self.wiring.challenge is None else [self.wiring.challenge]
        return [*observers, *challenge, self.drift, self.poses, self.watchdog, canary, self.reloader, ThreadWatch(self.faults)]

    def _make_record(self) -> StoreObserver | None:
        store = self.wiring.store
        if store is None:
            return None
        wake = self.wiring.maintenance.wake
        evidence = Evidence(
            store, self.settings.record, self.view, reference=self.product.reference, short=wake, faults=self.faults
        )
        return StoreObserver(store, lambda name: self.loop.account(name), evidence, stopped=lambda: self._stop.asked)

    def _writers(self) -> list[Observer]:
        """Open what follows outputs and store: the file of events first, images and the terminal after it."""
        options, run = self.options, self.settings.run
        writers: list[Observer] = []
        if run.events is not None:
            writers.append(EventFile(str(run.events)))
        if options.on_event is not None:
            writers.append(EventCallback(options.on_event))
        if run.save is not None:
            from edge_ad.inspection.recorder import Recorder

            writers.append(Recorder(run.save, self.product.reference, self.view, len(self.names) > 1))
        if options.status is not None:
            writers.append(StatusLine(options.status))
        for writer in reversed(writers):
            self._stack.callback(writer.close)
        return writers

    def _is_busy(self) -> bool:
        """Whether a frame waits to be judged."""
        return any(worker.ready for worker in self.loop.workers)
