"""The settings of a run from edge-ad.toml, with the flags of one call on top."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from edge_ad.camera.liveness import parse_liveness
from edge_ad.config import AlarmTable, CameraTable, RecordTable, RunTable, load_config
from edge_ad.errors import BadInput
from edge_ad.inspection.alarm import AlarmRule
from edge_ad.inspection.assembly import LineSettings
from edge_ad.inspection.part_tracking import PartRule
from edge_ad.inspection.settings import LoopSettings, PartSettings
from edge_ad.inspection.view import Grid, View, parse_grid, parse_roi
from edge_ad.scoring import Thresholds
from edge_ad.store import RecordSettings
from edge_ad.store.retention import Limits

DEFAULT_STORE = Path("runs/line.sqlite")


def loop_settings(run: RunTable, alarm: AlarmTable, camera: CameraTable | None = None) -> LoopSettings:
    """Return the settings of the loop; BadInput for values that contradict each other."""
    candidates = run.part_candidates if run.part_candidates is not None else run.part_frames
    view = View(
        parse_roi(run.roi) if run.roi is not None else None, parse_grid(run.tiles) if run.tiles is not None else Grid()
    )
    return LoopSettings(
        realtime=run.realtime,
        max_frames=run.max_frames,
        max_age_ms=run.max_age_ms,
        clock=camera is None or camera.clock,
        liveness=parse_liveness(camera.liveness if camera is not None else ()),
        give_up_s=run.give_up_s,
        part=PartSettings(
            run.presence,
            PartRule(run.part_frames, candidates),
            run.empty,
            run.motion_limit,
            run.trigger_deadline_ms,
        ),
        view=view,
        alarm=alarm_rule(alarm),
    )


def alarm_rule(table: AlarmTable) -> AlarmRule:
    """Return the rule of the alarm."""
    count, _, of = table.raise_parts.partition("/")
    return AlarmRule(
        int(count), int(of), table.clear_after, table.clear_below, table.min_on_s, table.latch, table.warn_rejects
    )


def line_settings(run: RunTable, record: RecordTable | None = None) -> LineSettings:
    """Return outputs, trigger and store; with outputs there is always a store, because an alarm must outlive a restart."""
    store = run.store or (DEFAULT_STORE if run.alarm or run.web else None)
    return LineSettings(
        tuple(run.alarm),
        run.hold_ms,
        run.trigger,
        store,
        run.tile_goods,
        hand_set(load_run),
        run.backlog,
        web=run.web,
        web_names=tuple(run.web_names),
        record=record_settings(record or RecordTable()),
        cascade=run.cascade,
        streams=run.streams,
        require_alarms=run.require_alarms,
    )


def trial(run: RunTable, file: RunTable) -> RunTable:
    """Return the settings of a run that leaves a running one alone: what writes, drives or listens is not taken from the file.

    Without outputs nothing is to be required of them. BadInput for outputs that were given beside the file.
    """
    if run.alarm != file.alarm:
        raise BadInput("--no-outputs and --alarm exclude each other: drop one")
    names = ("store", "web", "save", "events")
    own = {name: None if getattr(run, name) == getattr(file, name) else getattr(run, name) for name in names}
    return run.model_copy(update={"alarm": [], "require_alarms": False, **own})


def record_settings(table: RecordTable) -> RecordSettings:
    """Return what is kept beside the store."""
    limits = Limits(table.keep_days, table.keep_gb, table.free_gb)
    return RecordSettings(table.evidence, table.ok_every, limits, table.required)


def hand_set(read: Callable[[], RunTable]) -> Callable[[Thresholds], Thresholds]:
    """Return what puts ``warn_above`` and ``ng_above``, read again each time, in the place of the bundle's thresholds."""

    def adjust(thresholds: Thresholds) -> Thresholds:
        run = read()
        if run.warn_above is None and run.ng_above is None:
            return thresholds
        warn = thresholds.warn if run.warn_above is None else run.warn_above
        ng = thresholds.ng if run.ng_above is None else run.ng_above
        if warn > ng:
            raise BadInput(f"warn_above is {warn:g} and ng_above {ng:g}: WARN must not lie above NG")
        # Set by hand they promise no rate of goods.
        return replace(Thresholds(warn, ng), target_warn=thresholds.target_warn, target_ng=thresholds.target_ng)

    return adjust


def load_run() -> RunTable:
    """Read the table [run] of edge-ad.toml in the current folder."""
    return load_config().run
