"""What follows from the settings of a run: the values that its parts derive, and which settings exclude each other."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_ad.bundle import Bundle
from edge_ad.camera.frames import SourceKind
from edge_ad.camera.health import HealthLimits
from edge_ad.camera.liveness import parse_liveness
from edge_ad.camera.measure import HealthReference
from edge_ad.camera.settings import CameraRecord, CameraSettings
from edge_ad.config import DEFAULT_STORE, ChallengeTable, Config, FleetTable, Presence, RunTable
from edge_ad.errors import BadInput
from edge_ad.inspection.alarm import raise_counts
from edge_ad.inspection.part_tracking import candidates_of
from edge_ad.inspection.triggers import parse_trigger
from edge_ad.inspection.view import parse_roi, view_of
from edge_ad.outputs.delivery import is_fast
from edge_ad.scoring import Thresholds
from edge_ad.utils.text import redact, storable


@dataclass(frozen=True)
class CaptureConditions:
    """What images are checked against: limits, how healthy ones of normal parts look, how the camera was set for them.

    None where it is not known. ``size``: (height, width) of the region in which parts were learned, None where any will do.
    """

    limits: HealthLimits = HealthLimits()
    reference: HealthReference | None = None
    camera: CameraSettings | None = None
    size: tuple[int, int] | None = None


def conditions_of(bundle: Bundle, limits: HealthLimits = HealthLimits()) -> CaptureConditions:
    """Return what the bundle's report has of its normal images, under ``health_reference`` and ``camera``."""
    reference, camera = bundle.report.get("health_reference"), bundle.report.get("camera")
    return CaptureConditions(
        limits,
        None if reference is None else HealthReference.from_json(reference),
        None if camera is None else CameraRecord.from_json(camera, str(bundle.path)).settings,
        bundle.geometry.image_size if bundle.geometry.locates else None,
    )


def check_settings(settings: Config) -> None:
    """Raise BadInput for settings of a run that contradict each other or cannot be read."""
    run = settings.run
    view_of(run)
    parse_liveness(settings.camera.liveness)
    raise_counts(settings.alarm)
    check_challenge(settings.challenge, run)
    if run.part_frames > candidates_of(run):
        raise BadInput(
            f"part_frames is {run.part_frames} and part_candidates {candidates_of(run)}: allowed are 1 to 100, and not "
            "more frames than candidates"
        )
    if presence_of(run) == "learned" and run.empty is None:
        raise BadInput("presence = learned needs --empty DIR, a folder with a few images of the empty station")
    if run.cascade is not None and run.streams != 1:
        raise BadInput("--cascade and --streams exclude each other: leave one out")


def has_challenge(table: ChallengeTable) -> bool:
    """Whether this station has challenges."""
    return table.model_dump(exclude={"key"}) != ChallengeTable().model_dump(exclude={"key"})


def check_challenge(table: ChallengeTable, run: RunTable) -> None:
    """Raise BadInput for too few parts, ids that do not fit or are both, and a run without parts or record."""
    if not has_challenge(table):
        return
    if table.good < 1 or table.bad < 1:
        raise BadInput(
            f"[challenge] has good = {table.good} and bad = {table.bad}: a challenge needs at least one known good part and "
            "one known bad part, or it proves nothing"
        )
    for kind, ids, count in (("good", table.good_ids, table.good), ("bad", table.bad_ids, table.bad)):
        if ids and len(set(ids)) != count:
            raise BadInput(
                f"[challenge] has {kind} = {count}, but {kind}_ids name {len(set(ids))} parts: name each part once"
            )
    if bool(table.good_ids) != bool(table.bad_ids):
        raise BadInput("[challenge] names the ids of one kind of parts alone: give good_ids and bad_ids, or neither")
    both = sorted(set(table.good_ids) & set(table.bad_ids))
    if both:
        raise BadInput(f"[challenge] names part {both[0]!r} as good and as bad: a part is one of the two")
    if store_of(run) is None:
        raise BadInput("[challenge] needs a record: give --store FILE, or outputs")
    if table.max_reject_ms is not None and not any(is_fast(uri) for uri in run.alarm):
        raise BadInput("[challenge] max_reject_ms needs an output that tells when it has the reject: modbus, s7, enip or gpio")
    if run.trigger is None and presence_of(run) == "none":
        raise BadInput("[challenge] needs parts, but every frame is one here: give --presence settled or learned, or --trigger")


def presence_of(run: RunTable) -> Presence:
    """Return what is a part: what a trigger calls for, where there is one; BadInput where the two contradict."""
    if run.trigger is None:
        if run.presence == "trigger":
            raise BadInput("presence = trigger needs --trigger software, mqtt://BROKER/TOPIC, modbus, s7, enip or gpio")
        return run.presence
    kind = parse_trigger(run.trigger, run.alarm).kind
    if run.presence not in ("none", "trigger"):
        raise BadInput(f"--trigger {kind} and presence = {run.presence} exclude each other: drop one")
    return "none" if kind == "camera" else "trigger"


def is_queued(run: RunTable) -> bool:
    """Whether the camera itself is triggered: every frame is a part, first in, first out, and silence is no fault."""
    return run.trigger is not None and parse_trigger(run.trigger, run.alarm).kind == "camera"


def store_of(run: RunTable) -> Path | None:
    """Return the file of the record; with outputs or a dashboard there is one, because an alarm must outlive a restart.
    """
    return run.store or (DEFAULT_STORE if run.alarm or run.web else None)


def lag_s(settings: Config) -> float | None:
    """Return how late a live camera's images may arrive before it is opened again; None where its clock is not asked.
    """
    return settings.run.max_age_ms / 1000.0 if settings.camera.clock else None


def drops(run: RunTable, kind: SourceKind) -> bool:
    """Whether frames of such a source may be dropped: cameras always, others only in real time."""
    return kind == "live" or run.realtime


def stall_s(kind: SourceKind, fps: float | None, first: bool) -> float:
    """Return after how many seconds without a frame a source counts as stalled.

    A camera: nine tenths of two frame times, at least 0.9 s, so that the fault is reported within 1 s or two frame
    times (2 s where the rate is unknown); 10 s for its first frame, which needs the exposure to settle. Files: 30 s,
    because a slow disk is no fault. A watched folder never.
    """
    if kind == "watch":  # nobody knows when the next image will be there
        return math.inf
    if kind in ("video", "images"):
        return 30.0
    if first:
        return 10.0
    return 0.9 * max(1.0, 2.0 / fps) if fps else 2.0


def set_by_hand(run: RunTable, thresholds: Thresholds) -> Thresholds:
    """Return the thresholds with ``warn_above`` and ``ng_above`` in their place, where they are set."""
    if run.warn_above is None and run.ng_above is None:
        return thresholds
    warn = thresholds.warn if run.warn_above is None else run.warn_above
    ng = thresholds.ng if run.ng_above is None else run.ng_above
    if warn > ng:
        raise BadInput(f"warn_above is {warn:g} and ng_above {ng:g}: WARN must not lie above NG")
    # Set by hand they promise no rate of normal images.
    return Thresholds(
        warn, ng,
        target_warn=thresholds.target_warn, target_ng=thresholds.target_ng, operating_point=thresholds.operating_point,
        zones=thresholds.zones,
    )  # fmt: skip


def flat_settings(settings: Config) -> dict[str, str]:
    """Return the settings that are not the defaults as texts by ``table.key``, passwords redacted, for the audit trail."""
    flat: dict[str, str] = {}

    def take(name: str, value: object) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                take(f"{name}.{key}" if name else str(key), inner)
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            flat[name] = storable(redact(text))

    take("", settings.model_dump(mode="json", exclude_defaults=True))
    return {name: text for name, text in flat.items() if name}


def with_region(settings: Config, bundle: Bundle) -> Config:
    """Return the settings with the region that a bundle carries; BadInput where they set another one."""
    carried, given = bundle.geometry.roi, settings.run.roi
    if carried is None:
        return settings
    if given is not None and parse_roi(given) != carried:
        raise BadInput(
            f"roi is {given}, but {bundle.path} was trained with the region {carried}: leave roi out, since the bundle carries it, "
            "or train again"
        )
    return settings.model_copy(update={"run": settings.run.model_copy(update={"roi": str(carried)})})


def trial(settings: Config, flags: Mapping[str, object]) -> Config:
    """Return the settings of a run that leaves a running one alone: what writes, drives or listens counts as a flag
    only.

    Without outputs nothing is to be required of them. BadInput for outputs among the ``flags`` of [run].
    """
    if flags.get("alarm"):
        raise BadInput("--no-outputs and --alarm exclude each other: drop one")
    own = {name: flags.get(name) for name in ("store", "web", "save", "events", "commands")}
    run = settings.run.model_copy(update={"alarm": [], "require_alarms": False, **own})
    return settings.model_copy(update={"run": run, "challenge": ChallengeTable(), "fleet": FleetTable()})
