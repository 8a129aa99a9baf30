"""Puts a line together from a bundle, cameras and settings: what `inspect` runs."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_ad.bundle import Bundle, open_bundle
from edge_ad.bundle.graphs import is_tiled
from edge_ad.camera.frames import Image
from edge_ad.config import Config, Presence, RunTable
from edge_ad.data.images import list_images, read_image, resize
from edge_ad.engines.parity import TOLERANCE_SHARE, TOLERANCE_Z
from edge_ad.engines.pipeline import SKIPPED, Cascade, Pipeline, limit_of, min_scores
from edge_ad.engines.selection import Streams
from edge_ad.errors import BadInput, DeviceFault
from edge_ad.geometry.geometry import example_frame
from edge_ad.inspection.alarm_manager import AlarmManager
from edge_ad.inspection.challenge import Challenge, Station, is_unsettled
from edge_ad.inspection.drift import MIN_REFERENCE, Drift, ImageDrift
from edge_ad.inspection.judge import Combine, Inferring
from edge_ad.inspection.part_tracking import CalledParts, Calls, PartDetector, SeenParts
from edge_ad.inspection.pause import Pause
from edge_ad.inspection.presence import LikeNormal, Locatable, Matcher, PresenceDetector, UnlikeEmpty
from edge_ad.inspection.requests import ControlSocket, Request, Requests, control_path
from edge_ad.inspection.settings import conditions_of, flat_settings, has_challenge, presence_of, set_by_hand, store_of
from edge_ad.inspection.triggers import THROUGH_OUTPUTS, open_trigger, parse_trigger
from edge_ad.inspection.view import TileStatistics, View, combine, load_tiles, view_of
from edge_ad.inspection.watchdog import SelfTest, golden_test
from edge_ad.outputs.delivery import ChannelState, is_fast, make_output
from edge_ad.outputs.dispatcher import Dispatcher
from edge_ad.outputs.guard_client import GuardClient
from edge_ad.outputs.targets import ADVICE, targets_of
from edge_ad.scoring import BRANCHES, Thresholds, fuse
from edge_ad.store import Store
from edge_ad.store.actions import Action, action_log
from edge_ad.store.challenges import challenges_folder, key_path, read_key
from edge_ad.store.retention import MaintenanceThread, prepare_evidence
from edge_ad.utils.locks import Targets, lock_file
from edge_ad.utils.supervision import ThreadFaults
from edge_ad.utils.text import MAX_REASON, part_id, storable, user_name

if TYPE_CHECKING:
    from edge_ad.inspection.changeover import Changeover
    from edge_ad.inspection.products import Product

_log = logging.getLogger(__name__)

WARM_UP = 4
MAX_EMPTY = 50
PROVE_S = 10.0


def lock_line(run: RunTable, stack: contextlib.ExitStack) -> None:
    """Keep other runs from the store and the outputs until ``stack`` closes; BadInput names the run that has them."""
    store = store_of(run)
    if store is not None:
        path = store.with_name(f"{store.name}.lock")
        stack.callback(lock_file(path, f"the store {store}", ADVICE))
    targets = Targets()
    stack.callback(targets.close)
    targets.lock(targets_of(run.alarm), ADVICE)


def warm_up(pipeline: Inferring, bundle: Bundle) -> tuple[NDArray[np.float32], SelfTest]:
    """Judge golden images, so that the first frame is not late and the engines are known to be right.

    Returns the heat map f32[h,w] of the best of them, and the self-test of the watchdog. DeviceFault when a score
    is farther from the bundle's than `build-engine` would have accepted.
    """
    images = bundle.golden.images[:WARM_UP]
    expected = fuse(bundle.golden.raw[:WARM_UP], bundle.statistics)[1]
    results = [pipeline.infer(image) for image in images]
    for inference, score in zip(results, expected, strict=True):
        allowed = max(TOLERANCE_Z, TOLERANCE_SHARE * abs(float(score))) * 2
        if not abs(inference.score - float(score)) <= allowed:
            raise DeviceFault(
                f"a golden image scores {inference.score:.3f} on these engines and {float(score):.3f} in the bundle: "
                "rebuild them with `edge-ad build-engine`"
            )
    best = min(results, key=lambda inference: inference.score)
    # The same engine on the same image: only threads may change the last digits.
    tolerance = 1e-3 * max(1.0, abs(results[0].score))
    return best.map, golden_test(lambda: pipeline.infer(images[0]).score, results[0].score, tolerance)


def thresholds_of(bundle: Bundle, run: RunTable, tiles: TileStatistics | None) -> Thresholds:
    """Return the thresholds to judge by, changed as the settings say."""
    return set_by_hand(run, bundle.thresholds if tiles is None else tiles.thresholds)


def reload_thresholds(bundle: Bundle, run: RunTable, tiles: TileStatistics | None, path: Path) -> Thresholds:
    """Read the bundle's file again, or its child at ``path``; other graphs or statistics need a restart (BadInput)."""
    fresh = open_bundle(path)  # BadInput where it is gone: thresholds set by hand must not be replaced in silence
    same_graphs = fresh.graphs == bundle.graphs and all(
        fresh.graph_sha256(name) == bundle.graph_sha256(name) for name in bundle.graphs
    )
    arrays, stored = fresh.statistics.arrays(), bundle.statistics.arrays()
    if not same_graphs or any(not np.array_equal(arrays[name], stored[name]) for name in stored):
        raise BadInput(f"{path} is another model now: restart to use it")
    return thresholds_of(fresh, run, tiles)


def tile_combiner(
    pipeline: Pipeline, bundle: Bundle, view: View, folder: Path | None, *, streams: Streams | None = None
) -> tuple[TileStatistics | None, Combine | None]:
    """Return the per-tile statistics, measured on ``streams`` if there are any, and the function that joins tiles; None and
    None for a single tile.
    """
    if len(view.grid) == 1:
        return None, None
    if is_tiled(bundle.graphs):
        raise BadInput(f"--tiles: {bundle.path} was trained with tiles and cuts the image by itself; leave --tiles out")
    if folder is None:
        raise BadInput("tiles need --tile-goods DIR, a folder of normal images as the camera sees them (at least 10)")
    tiles = load_tiles(pipeline, bundle, view, folder, streams=streams)
    return tiles, lambda inferences: combine(inferences, view, tiles, bundle.statistics)


def golden_images(bundle: Bundle) -> list[Image]:
    """Return the golden images that are not NG: what good parts look like."""
    scores = fuse(bundle.golden.raw, bundle.statistics)[1]
    return [image for image, score in zip(bundle.golden.images, scores, strict=True) if score <= bundle.thresholds.ng]


def make_part_detectors(
    bundle: Bundle, run: RunTable, cameras: int, *, calls: Calls | None, first: Sequence[int]
) -> list[PartDetector] | None:
    """Return what gathers frames to parts, one for each camera; None where every frame is a part.

    ``first`` is the number of the next part of each camera.
    """
    presence = presence_of(run)
    if presence == "none":
        return None
    if presence == "trigger":
        assert calls is not None
        return [CalledParts(calls, run) for _ in range(cameras)]
    matcher, shown = _matcher(bundle, run, presence), _input_of(bundle)
    return [SeenParts(PresenceDetector(matcher, run.motion_limit, shown=shown), run, number) for number in first]


def _input_of(bundle: Bundle) -> Callable[[Image], Image] | None:
    """Return what makes whole images look as the golden images do, None where a resized image does."""
    geometry = bundle.geometry
    if geometry.locates or geometry.keeps_pixels:
        return None
    return lambda image: geometry.input_of(resize(np.ascontiguousarray(image), geometry.size))


def _matcher(bundle: Bundle, run: RunTable, presence: Presence) -> Matcher:
    """Return what tells a part from no part for presence settled or learned.

    A locator by foreground sees whatever is no background; one by a template cannot tell another part from none, which
    images of the empty station do.
    """
    geometry, normal = bundle.geometry, golden_images(bundle)
    if geometry.method == "foreground" or (geometry.locates and presence != "learned"):
        return Locatable(geometry)
    if presence != "learned":
        return LikeNormal(normal)
    assert run.empty is not None
    paths, view = list_images(run.empty)[:MAX_EMPTY], view_of(run)
    empty, shown = [view.crop(read_image(path, bundle.image_bits)) for path in paths], _input_of(bundle)
    empty = empty if shown is None else [shown(image) for image in empty]
    return UnlikeEmpty(empty, _framed(bundle, normal, empty))


def _framed(bundle: Bundle, normal_images: Sequence[Image], empty: Sequence[Image]) -> list[Image]:
    """Return the golden images as a camera sees them: cut-outs of located parts are drawn into an image of the empty station."""
    geometry = bundle.geometry
    if not geometry.locates or not empty:
        return list(normal_images)
    ground = resize(np.ascontiguousarray(empty[0]), geometry.image_size)
    return [example_frame(geometry, image, ground) for image in normal_images]


def make_cascade(
    pipeline: Pipeline,
    bundle: Bundle,
    rate: float | None,
    *,
    tiled: bool,
    first: Thresholds,
    now: Callable[[], Thresholds],
) -> Pipeline | Cascade:
    """Return what judges the frames: the pipeline, or the cascade in which at most ``rate`` of anomalies may come out OK.

    ``first`` are the thresholds that the run begins with, ``now`` gives those in force.
    """
    if rate is None:
        return pipeline
    if tiled:
        raise BadInput("--cascade and --tiles exclude each other: leave one out")
    if first.zones:
        raise BadInput("--cascade leaves out a part of the map, by which zones with thresholds of their own are judged: drop it")
    cascade = Cascade(pipeline, bundle, rate, now)
    limit = limit_of(bundle, first, rate)
    share = float((min_scores(bundle.raw_scores["threshold"], bundle.statistics) < limit).mean())
    _log.info("cascade: LAViT is left out below %.2f, as for %.0f%% of the bundle's normal images", limit, 100.0 * share)
    return cascade


def make_drift(bundle: Bundle, cascade: bool = False) -> Drift | None:
    """Return the watch over drift; None for a bundle with too few normal images in its record.

    With a cascade ``logic`` and ``score`` are not watched: they are known of the doubtful parts alone.
    """
    raw = bundle.raw_scores.get("threshold")
    if raw is None or len(raw) < MIN_REFERENCE:
        return None
    z, score = fuse(raw, bundle.statistics)
    watched = {**{name: z[:, BRANCHES.index(name)] for name in bundle.statistics.active}, "score": score}
    left_out = (*SKIPPED, "score") if cascade else ()
    streams = {name: values for name, values in watched.items() if name not in left_out}
    if not streams:
        return None
    drift, reference = Drift(streams), conditions_of(bundle).reference
    if reference is not None:
        drift.images = ImageDrift(reference, layout=not bundle.geometry.locates)
    return drift


def _no_challenge(request: Request) -> str:
    raise BadInput("this station has no challenge: set good and bad under [challenge] in edge-ad.toml and start the run again")


class Wiring:
    """The guard, the trigger, the store with its dispatcher, the pause and the alarm manager of one run; ``close`` in
    reverse order.

    ``requests`` takes what a PLC, a page or a command asks for.
    """

    def __init__(
        self,
        names: Sequence[str],
        settings: Config,
        changed: threading.Condition,
        faults: ThreadFaults | None = None,
        *,
        bundle: Bundle | None = None,
        judged_by: Mapping[str, str] | None = None,
    ) -> None:
        self._bundle, self._judged_by = bundle, judged_by
        self.faults = faults or ThreadFaults()
        self.calls = Calls(changed)
        self.requests = Requests()
        self.challenge: Challenge | None = None
        self.on_choice: Callable[[int, int], None] = lambda code, number: None  # a PLC asks for a product
        self._faulty: set[str] = set()
        self._stack = contextlib.ExitStack()
        try:
            self.store = self._open_store(settings)
            self.actions = None if self.store is None else action_log(self.store.path, self.store.evidence)
            self._note_start(settings)
            self._wire(names, settings)
        except BaseException:
            self._stack.close()
            raise

    def first_parts(self, names: Sequence[str]) -> list[int]:
        """Return the number of the next part of each camera: numbers go on where an earlier run ended."""
        counted = self.store.counters if self.store else {}
        return [counted.get(name, {}).get("parts", 0) + 1 for name in names]

    def outputs(self) -> list[ChannelState]:
        """Return whether every output works, those of the guard first; from any thread."""
        return [*(self.guard.states() if self.guard is not None else ()), *self.dispatcher.channels()]

    def follow_products(self, changeover: Changeover) -> None:
        """Let all that may choose a product ask for it, and tell them how products stand."""
        self.calls.numbered = not changeover.by_part
        self.requests.register("product", changeover.handle)
        self.requests.register("products", changeover.answer_state, logged=False)
        self.on_choice = changeover.select_code
        guard, dispatcher = self.guard, self.dispatcher
        if guard is not None:
            changeover.on_standing.append(lambda one: guard.product(one.code, one.state, one.number))
        dispatcher.let_choose(lambda name: changeover.ask(name, "OPC UA"))
        changeover.on_standing.append(lambda one: dispatcher.show_product(changeover.message(one)))

    def reject(self) -> None:
        """Let the outputs reject, now and for the rest of the run."""
        if self.guard is not None:
            self.guard.close()

    def close(self) -> None:
        """Let go of everything; the outputs reject first."""
        self._stack.close()

    def _open_store(self, settings: Config) -> Store | None:
        run, path = settings.run, store_of(settings.run)
        expensive = [make_output(uri) for uri in run.alarm if not is_fast(uri)]
        self.dispatcher = Dispatcher(expensive, run.backlog, faults=self.faults)
        if path is None:
            return None
        folder = prepare_evidence(settings.record, path)
        store = Store(path, self.dispatcher.committed, self.dispatcher.outbox.add, folder, faults=self.faults)
        self._stack.callback(store.close)
        self.maintenance = MaintenanceThread(path, folder, settings.record, self.faults)
        self._stack.callback(self.maintenance.close)
        self._stack.callback(self.dispatcher.close)
        self.dispatcher.start(path)
        return store

    def _wire(self, names: Sequence[str], settings: Config) -> None:
        run = settings.run
        self.guard: GuardClient | None = None
        address = None if run.trigger is None else parse_trigger(run.trigger, run.alarm)
        self._trigger = address.kind if address is not None else ""
        fast = [uri for uri in run.alarm if is_fast(uri)]
        if fast:
            calls = self._trigger not in ("", "camera")
            through = self._trigger if self._trigger in THROUGH_OUTPUTS else ""
            self.guard = GuardClient(
                fast, run.hold_ms, len(names), self._heard, calls=calls, trigger=through, faults=self.faults
            )
            self._stack.callback(self.guard.close)
            self.calls.on_call = self.guard.called
        self._take_requests()
        self.challenge = self._make_challenge(settings)
        trigger = None if address is None else open_trigger(address, self.calls, self.faults)
        if trigger is not None:
            self._stack.callback(trigger.close)
        if run.require_alarms:
            self._prove()
        store = self.store
        self.alarm_manager = AlarmManager(
            names,
            settings.alarm,
            self.guard,
            latches=store.latches if store else None,
            save=store.save_alarm_state if store else None,
            withheld=lambda: self._withheld(settings.record.required),
            on_sent=lambda result, at: None if self.challenge is None else self.challenge.take(result, at),
            paused=lambda: self.pause.action is not None,
        )

    def note(self, kind: str, by: str, reason: str = "", **details: Any) -> None:
        """Put an action of the station into the audit trail, where there is one; not from the loop: it waits for the disk."""
        if self.actions is not None:
            self.actions.keep(Action(kind, by, "station", reason, details=details))

    def note_product(self, product: Product, by: str) -> None:
        """Put the choice of a product into the audit trail."""
        self.note("product", by, str(product.name), product=product.name, bundle_sha256=product.bundle.sha256)

    def note_thresholds(self, path: Path, limits: Thresholds) -> None:
        """Put thresholds that come into force into the audit trail."""
        text = f"WARN above {limits.warn:.4g}, NG above {limits.ng:.4g}"
        self.note("thresholds in force", "station", text, warn=limits.warn, ng=limits.ng, bundle=path.name)

    def _note_start(self, settings: Config) -> None:
        """Put the start of this run into the audit trail, with the settings that are others than those of the last one."""
        if self.actions is None:
            return
        values, last = flat_settings(settings), self.actions.last(("settings",))
        known = last.details.get("values") if last is not None else None
        before = known if isinstance(known, dict) else {}
        changed = sorted(name for name in {*values, *before} if values.get(name) != before.get(name))
        if changed or last is None:
            shown = ", ".join(f"{name} = {values.get(name, 'default')}" for name in changed) if last is not None else "first run"
            self.note("settings", user_name(), storable(shown, MAX_REASON), values=values, changed=changed)
        bundle = self._bundle
        judges = {} if bundle is None else {"bundle": bundle.path.name, "bundle_sha256": bundle.sha256}
        self.note("run started", user_name(), **judges)
        self._stack.callback(self.note, "run ended", "station")

    def _take_requests(self) -> None:
        """Take requests from now on; where there is a store, those of commands too, and the pause that it keeps."""
        log = self.actions
        self.pause = Pause(log, self.guard.pause if self.guard is not None else lambda paused: None)
        if self.pause.action is not None:
            _log.warning("the line comes up paused, %s; `edge-ad resume` ends that", self.pause.action.describe())
        self.requests.register("pause", self.pause.pause)
        self.requests.register("resume", self.pause.resume)
        if self.store is not None:
            try:
                control = ControlSocket(control_path(self.store.path), self.requests, self.faults)
            except BadInput as error:  # a file system without sockets; the line itself needs none
                _log.warning("%s; `edge-ad pause` does not work for this run", error)
            else:
                self._stack.callback(control.close)

    def _make_challenge(self, settings: Config) -> Challenge | None:
        """Return the challenges of this station, None where it has none; BadInput without a key that signs them."""
        store, judged_by, table = self.store, self._judged_by, settings.challenge
        for kind in ("challenge", "override"):
            self.requests.register(kind, _no_challenge)
        if store is None or judged_by is None:
            return None
        log = self.actions or action_log(store.path, store.evidence)
        if not has_challenge(table) and not is_unsettled(log.actions()):
            return None
        station = Station(
            table=table,
            rule=settings.alarm,
            log=log,
            folder=challenges_folder(store.path),
            key=read_key(table.key or key_path(store.path)),
            bundle=judged_by,
            show=self.guard.challenge if self.guard is not None else lambda opened, locked: None,
            measures=any(is_fast(uri) for uri in settings.run.alarm),
        )
        challenge = Challenge(station)
        if not challenge.asks and not challenge.locks:
            return None  # a lock is all that outlives the table
        self.requests.register("challenge", challenge.start)
        self.requests.register("override", challenge.override)
        return challenge

    def _withheld(self, required: bool) -> str | None:
        """Return why nothing may pass: a challenge forbids it, or verdicts could be lost where a record is ``required``."""
        locked = None if self.challenge is None else self.challenge.reason()
        return locked or (self.store.fault if required and self.store is not None else None)

    def _heard(self, record: dict[str, Any]) -> None:
        """Take in what the guard tells, in its thread."""
        if record["kind"] == "trigger":
            if self._trigger in THROUGH_OUTPUTS:
                self.calls.put(part_id(str(record["part"])), float(record["at"]))
        elif record["kind"] == "acknowledge":
            self.alarm_manager.acknowledge(int(record["number"]))
        elif record["kind"] == "taken":
            if self.challenge is not None:
                self.challenge.shown(float(record["sent_at"]), float(record["at"]))
        elif record["kind"] == "product":
            self.on_choice(int(record["code"]), int(record["number"]))
        elif record["kind"] == "order":
            self._ordered(str(record["order"]))
        elif record["kind"] == "channel":
            name, fault = record["name"], record["fault"]
            if fault is not None:
                _log.error("output fault: %s: %s", name, storable(fault))
                self._faulty.add(name)
            elif name in self._faulty:
                _log.info("output %s works again", name)
                self._faulty.discard(name)
        elif record["kind"] == "error":
            _log.error("output fault: %s", storable(record["text"]))

    def _ordered(self, kind: str) -> None:
        """Do what a PLC asks for; what is refused is logged, because a PLC is told nothing."""
        try:
            self.requests.submit(Request(kind, "PLC", "plc", {"reason": f"bit of the PLC for {kind}"}))
        except BadInput as error:
            _log.warning("the PLC asks for a %s: %s", kind, error)

    def _prove(self) -> None:
        """Wait until every output works; DeviceFault names those that do not."""
        if self.guard is not None:
            self.guard.prove(PROVE_S)
        self.dispatcher.prove(PROVE_S)
