"""Puts a line together from a bundle, cameras and settings: what `inspect` runs."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_ad.bundle import Bundle, open_bundle
from edge_ad.camera.capture_record import CameraRecord
from edge_ad.camera.frames import Image
from edge_ad.camera.reference import HealthReference
from edge_ad.data.images import list_images, read_image
from edge_ad.engines.cascade import SKIPPED, Cascade, limit_of, min_scores
from edge_ad.engines.parity import TOLERANCE_SHARE, TOLERANCE_Z
from edge_ad.engines.pipeline import Pipeline
from edge_ad.errors import BadInput, DeviceFault
from edge_ad.inspection.alarm_manager import AlarmManager
from edge_ad.inspection.drift import MIN_REFERENCE, Drift
from edge_ad.inspection.judge import Combine, Inferring
from edge_ad.inspection.part_tracking import CalledParts, Calls, PartDetector, SeenParts
from edge_ad.inspection.presence import LikeNormal, Matcher, PresenceDetector, UnlikeEmpty
from edge_ad.inspection.settings import LoopSettings
from edge_ad.inspection.triggers import open_trigger, parse_trigger
from edge_ad.inspection.view import TileStatistics, View, combine, load_tiles
from edge_ad.inspection.watchdog import SelfTest, golden_test
from edge_ad.outputs.delivery import is_fast, make_output
from edge_ad.outputs.dispatcher import LIMIT, Dispatcher
from edge_ad.outputs.guard_client import GuardClient
from edge_ad.outputs.states import ChannelState
from edge_ad.outputs.targets import ADVICE, targets_of
from edge_ad.scoring import BRANCHES, Thresholds, fuse
from edge_ad.store import RecordSettings, Store
from edge_ad.store.maintenance import MaintenanceThread
from edge_ad.utils.locks import Targets, lock_file
from edge_ad.utils.supervision import ThreadFaults, tell
from edge_ad.utils.text import part_id, storable

WARM_UP = 4
MAX_EMPTY = 50
PROVE_S = 10.0

AdjustThresholds = Callable[[Thresholds], Thresholds]


@dataclass(frozen=True)
class LineSettings:
    """What a line has besides cameras and engines.

    ``alarm``: output URIs; Modbus and GPIO are held by a guard that rejects ``hold_ms`` after the last verdict, the others
    (see ``make_output``) get events from the store, which keeps at most ``backlog`` events for each of them.
    ``trigger``: see ``parse_trigger``. ``store``: the SQLite file of events, counters and alarms. ``tile_goods``: a
    folder of goods for per-tile statistics. ``adjust``: changes the bundle's thresholds, at the start and on reload.
    ``web``: HOST:PORT of the dashboard, ``web_names``: further names it answers to. ``record``: the pictures and the
    journal beside the store. ``cascade``: see ``edge_ad.engines.cascade.limit_of``. ``streams``: so many pictures are
    inferred side by side. ``require_alarms``: refuse to start before every output works.
    """

    alarm: tuple[str, ...] = ()
    hold_ms: float = 500.0
    trigger: str | None = None
    store: Path | None = None
    tile_goods: Path | None = None
    adjust: AdjustThresholds | None = None
    backlog: int = LIMIT
    web: str | None = None
    web_names: tuple[str, ...] = ()
    record: RecordSettings = RecordSettings()
    cascade: float | None = None
    streams: int = 1
    require_alarms: bool = False

    def __post_init__(self) -> None:
        if self.cascade is not None and self.streams != 1:
            raise BadInput("--cascade and --streams exclude each other: leave one out")
        if not 10 <= self.hold_ms <= 60_000:
            raise BadInput(f"hold_ms is {self.hold_ms:g}: allowed are 10 to 60000")


def lock_line(line: LineSettings, stack: contextlib.ExitStack) -> None:
    """Keep other runs from the store and the outputs until ``stack`` closes; BadInput names the run that has them."""
    if line.store is not None:
        path = line.store.with_name(f"{line.store.name}.lock")
        stack.callback(lock_file(path, f"the store {line.store}", ADVICE))
    targets = Targets()
    stack.callback(targets.close)
    targets.lock(targets_of(line.alarm), ADVICE)


def with_trigger(settings: LoopSettings, line: LineSettings) -> LoopSettings:
    """Return the settings with presence = trigger where there is a trigger; BadInput where they contradict."""
    if line.trigger is None:
        if settings.part.presence == "trigger":
            raise BadInput("presence = trigger needs --trigger software, mqtt://BROKER/TOPIC, modbus or gpio")
        return settings
    kind = parse_trigger(line.trigger, line.alarm).kind
    if settings.part.presence not in ("none", "trigger"):
        raise BadInput(f"--trigger {kind} and presence = {settings.part.presence} exclude each other: drop one")
    if kind == "camera":
        return replace(settings, part=replace(settings.part, presence="none", queued=True))
    return replace(settings, part=replace(settings.part, presence="trigger"))


def warm_up(pipeline: Inferring, bundle: Bundle) -> tuple[NDArray[np.float32], SelfTest]:
    """Judge golden images, so that the first frame is not late and the engines are known to be right.

    Returns the heat map f32[256,256] of the best of them, and the self-test of the watchdog. DeviceFault when a score
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
    # The same engine on the same picture: only threads may change the last digits.
    tolerance = 1e-3 * max(1.0, abs(results[0].score))
    return best.map, golden_test(lambda: pipeline.infer(images[0]).score, results[0].score, tolerance)


def with_record(settings: LoopSettings, bundle: Bundle) -> LoopSettings:
    """Return the settings with what the bundle's report tells of its goods: ``health_reference`` and ``camera``.

    Both are as ``HealthReference.to_json`` and ``CameraRecord.to_json`` give them, and may be absent.
    """
    reference, camera = bundle.report.get("health_reference"), bundle.report.get("camera")
    if reference is not None and settings.reference is None:
        settings = replace(settings, reference=HealthReference.from_json(reference))
    if camera is not None and settings.camera is None:
        settings = replace(settings, camera=CameraRecord.from_json(camera, str(bundle.path)).settings)
    return settings


def thresholds_of(bundle: Bundle, line: LineSettings, tiles: TileStatistics | None) -> Thresholds:
    """Return the thresholds to judge by, changed as the settings say."""
    result = bundle.thresholds if tiles is None else tiles.thresholds
    return result if line.adjust is None else line.adjust(result)


def reload_thresholds(bundle: Bundle, line: LineSettings, tiles: TileStatistics | None, path: Path) -> Thresholds:
    """Read the bundle's file again, or its child at ``path``; other graphs or statistics need a restart (BadInput)."""
    fresh = open_bundle(path)  # BadInput where it is gone: thresholds set by hand must not be replaced in silence
    same_graphs = fresh.graphs == bundle.graphs and all(
        fresh.graph_sha256(name) == bundle.graph_sha256(name) for name in bundle.graphs
    )
    arrays, stored = fresh.statistics.arrays(), bundle.statistics.arrays()
    if not same_graphs or any(not np.array_equal(arrays[name], stored[name]) for name in stored):
        raise BadInput(f"{path} is another model now: restart to use it")
    return thresholds_of(fresh, line, tiles)


def tile_combiner(
    pipeline: Pipeline, bundle: Bundle, view: View, folder: Path | None
) -> tuple[TileStatistics | None, Combine | None]:
    """Return the per-tile statistics and the function that joins tiles; None and None for a single tile."""
    if len(view.grid) == 1:
        return None, None
    if folder is None:
        raise BadInput("tiles need --tile-goods DIR, a folder of goods as the camera sees them (at least 10)")
    tiles = load_tiles(pipeline, bundle, view, folder)
    return tiles, lambda inferences: combine(inferences, view, tiles, bundle.statistics)


def golden_images(bundle: Bundle) -> list[Image]:
    """Return the golden images that are not NG: what good parts look like."""
    scores = fuse(bundle.golden.raw, bundle.statistics)[1]
    return [image for image, score in zip(bundle.golden.images, scores, strict=True) if score <= bundle.thresholds.ng]


def make_part_detectors(
    bundle: Bundle, settings: LoopSettings, cameras: int, calls: Calls | None, first: Sequence[int]
) -> list[PartDetector] | None:
    """Return what gathers frames to parts, one for each camera; None where every frame is a part.

    ``first`` is the number of the next part of each camera.
    """
    part = settings.part
    if part.presence == "none":
        return None
    if part.presence == "trigger":
        assert calls is not None
        return [CalledParts(calls, part.rule, part.trigger_deadline_ms / 1000.0) for _ in range(cameras)]
    normal = golden_images(bundle)
    matcher: Matcher
    if part.presence == "learned":
        assert part.empty is not None
        paths = list_images(part.empty)[:MAX_EMPTY]
        matcher = UnlikeEmpty([settings.view.crop(read_image(path, bundle.image_bits)) for path in paths], normal)
    else:
        matcher = LikeNormal(normal)
    return [SeenParts(PresenceDetector(matcher, part.motion_limit), part.rule, settings.view, number) for number in first]


def make_cascade(
    pipeline: Pipeline,
    bundle: Bundle,
    line: LineSettings,
    tiled: bool,
    first: Thresholds,
    now: Callable[[], Thresholds],
) -> Pipeline | Cascade:
    """Return what judges the frames: the pipeline, or the cascade that the line asks for.

    ``first`` are the thresholds that the run begins with, ``now`` gives those in force.
    """
    if line.cascade is None:
        return pipeline
    if tiled:
        raise BadInput("--cascade and --tiles exclude each other: leave one out")
    cascade = Cascade(pipeline, bundle, line.cascade, now)
    limit = limit_of(bundle, first, line.cascade)
    share = float((min_scores(bundle.raw_scores["threshold"], bundle.statistics) < limit).mean())
    print(f"cascade: LAViT is left out below {limit:.2f}, as for {share:.0%} of the bundle's goods", file=sys.stderr)
    return cascade


def make_drift(bundle: Bundle, cascade: bool = False) -> Drift | None:
    """Return the watch over drift; None for a bundle with too few goods in its record.

    With a cascade ``logic`` and ``score`` are not watched: they are known of the doubtful parts alone.
    """
    raw = bundle.raw_scores.get("threshold")
    if raw is None or len(raw) < MIN_REFERENCE:
        return None
    z, score = fuse(raw, bundle.statistics)
    watched = {**{name: z[:, BRANCHES.index(name)] for name in bundle.statistics.active}, "score": score}
    left_out = (*SKIPPED, "score") if cascade else ()
    streams = {name: values for name, values in watched.items() if name not in left_out}
    return Drift(streams) if streams else None


class Wiring:
    """The guard, the trigger, the store with its dispatcher and the desk of one run; ``close`` in reverse order."""

    def __init__(
        self,
        names: Sequence[str],
        settings: LoopSettings,
        line: LineSettings,
        changed: threading.Condition,
        faults: ThreadFaults | None = None,
    ) -> None:
        self.faults = faults or ThreadFaults()
        self.calls = Calls(changed)
        self._faulty: set[str] = set()
        self._stack = contextlib.ExitStack()
        try:
            self.store = self._open_store(line)
            self._wire(names, settings, line)
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

    def reject(self) -> None:
        """Let the outputs reject, now and for the rest of the run."""
        if self.guard is not None:
            self.guard.close()

    def close(self) -> None:
        """Let go of everything; the outputs reject first."""
        self._stack.close()

    def _open_store(self, line: LineSettings) -> Store | None:
        expensive = [make_output(uri) for uri in line.alarm if not is_fast(uri)]
        self.dispatcher = Dispatcher(expensive, line.backlog, faults=self.faults)
        if line.store is None:
            if expensive:
                raise BadInput(f"the output {expensive[0].name} needs a store: name a file for it with --store")
            return None
        folder = line.record.prepare(line.store)
        store = Store(line.store, self.dispatcher.committed, self.dispatcher.outbox.add, folder, self.faults)
        self._stack.callback(store.close)
        self.maintenance = MaintenanceThread(line.store, folder, line.record.limits, self.faults)
        self._stack.callback(self.maintenance.close)
        self._stack.callback(self.dispatcher.close)
        self.dispatcher.start(line.store)
        return store

    def _wire(self, names: Sequence[str], settings: LoopSettings, line: LineSettings) -> None:
        self.guard: GuardClient | None = None
        address = None if line.trigger is None else parse_trigger(line.trigger, line.alarm)
        self._trigger = address.kind if address is not None else ""
        fast = [uri for uri in line.alarm if is_fast(uri)]
        if fast:
            calls = self._trigger not in ("", "camera")
            through = self._trigger if self._trigger in ("modbus", "gpio") else ""
            self.guard = GuardClient(
                fast, line.hold_ms, len(names), self._heard, calls=calls, trigger=through, faults=self.faults
            )
            self._stack.callback(self.guard.close)
            self.calls.on_call = self.guard.called
        trigger = None if address is None else open_trigger(address, self.calls, self.faults)
        if trigger is not None:
            self._stack.callback(trigger.close)
        if line.require_alarms:
            self._prove()
        store = self.store
        self.alarm_manager = AlarmManager(
            names,
            settings.alarm,
            self.guard,
            store.latches if store else None,
            store.save_alarm_state if store else None,
            withheld=self._withheld if line.record.required else lambda: None,
        )

    def _withheld(self) -> str | None:
        """Return why nothing may pass: verdicts could be lost."""
        return None if self.store is None else self.store.fault

    def _heard(self, record: dict[str, Any]) -> None:
        """Take in what the guard tells, in its thread."""
        if record["kind"] == "trigger":
            if self._trigger in ("modbus", "gpio"):
                self.calls.put(part_id(str(record["part"])), float(record["at"]))
        elif record["kind"] == "acknowledge":
            self.alarm_manager.acknowledge(int(record["number"]))
        elif record["kind"] == "channel":
            name, fault = record["name"], record["fault"]
            if fault is not None:
                tell(storable(f"output fault: {name}: {fault}"))
                self._faulty.add(name)
            elif name in self._faulty:
                tell(storable(f"output {name} works again"))
                self._faulty.discard(name)
        elif record["kind"] == "error":
            tell(storable(f"output fault: {record['text']}"))

    def _prove(self) -> None:
        """Wait until every output works; DeviceFault names those that do not."""
        if self.guard is not None:
            self.guard.prove(PROVE_S)
        self.dispatcher.prove(PROVE_S)
