"""What a person may set about a run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from edge_ad.camera.frames import SourceKind
from edge_ad.camera.health import HealthLimits
from edge_ad.camera.liveness import Liveness
from edge_ad.camera.reference import HealthReference
from edge_ad.camera.settings import CameraSettings
from edge_ad.errors import BadInput
from edge_ad.inspection.alarm import AlarmRule
from edge_ad.inspection.part_tracking import PartRule
from edge_ad.inspection.presence import PRESENCE, PresenceMode
from edge_ad.inspection.view import View

MAX_AGE_MS = 60_000.0
MAX_WAIT_S = 7 * 86_400.0


@dataclass(frozen=True)
class PartSettings:
    """What is a part.

    ``presence``: every frame (none), what rests and looks like goods (settled), what rests and is not the empty station
    of the pictures in ``empty`` (learned), or what a trigger calls. ``motion_limit`` in grey levels, see PresenceDetector. A
    call of a trigger without a frame after ``trigger_deadline_ms`` is NONE. ``queued``: the camera itself is triggered, so every
    frame is a part: first in, first out, NONE beyond the deadline, and silence is no fault.
    """

    presence: PresenceMode = "none"
    rule: PartRule = PartRule()
    empty: Path | None = None
    motion_limit: float = 1.0
    trigger_deadline_ms: float = 1000.0
    queued: bool = False

    def __post_init__(self) -> None:
        if self.presence not in PRESENCE:
            raise BadInput(f"presence is {self.presence!r}: choose one of {', '.join(PRESENCE)}")
        if self.presence == "learned" and self.empty is None:
            raise BadInput("presence = learned needs --empty DIR, a folder with a few pictures of the empty station")
        if not 0 < self.motion_limit <= 255 or not 1 <= self.trigger_deadline_ms <= 60_000:
            raise BadInput(
                f"motion_limit is {self.motion_limit:g} and trigger_deadline_ms {self.trigger_deadline_ms:g}: allowed "
                "are up to 255 grey levels and 1 to 60000 ms"
            )


@dataclass(frozen=True)
class LoopSettings:
    """Settings of the loop.

    ``realtime``: files behave like cameras (paced; frames that come too fast are dropped). ``max_frames``: stop after
    so many frames of each camera. ``max_age_ms``: a verdict on a camera's frame older than this is worth nothing
    (NONE). ``give_up_s``: a camera that gave no frame for so long is lost, and with the last one the run ends
    (DeviceFault); with ``patient`` (a service) a live camera that was not there yet is waited for without end.
    ``reference``: how healthy pictures of goods look, ``camera``: how the camera was set when they were taken; None
    where that is not known. ``clock``: a live camera's own clock tells how late its pictures arrive; a lasting lag beyond
    ``max_age_ms`` opens it again. ``liveness``: what proves besides that a live camera shows what is now.
    """

    realtime: bool = False
    max_frames: int | None = None
    max_age_ms: float = 1000.0
    clock: bool = True
    liveness: Liveness = Liveness()
    give_up_s: float = 30.0
    patient: bool = False
    health: HealthLimits = field(default_factory=HealthLimits)
    reference: HealthReference | None = None
    camera: CameraSettings | None = None
    part: PartSettings = PartSettings()
    view: View = View()
    alarm: AlarmRule = AlarmRule()

    def __post_init__(self) -> None:
        if self.max_frames is not None and self.max_frames < 1:
            raise BadInput(f"--max-frames is {self.max_frames}: it must be 1 or more")
        if not 0 < self.max_age_ms <= MAX_AGE_MS or not 0 < self.give_up_s <= MAX_WAIT_S:
            raise BadInput(
                f"max_age_ms is {self.max_age_ms:g} and give_up_s {self.give_up_s:g}: allowed are above 0, up to "
                f"{MAX_AGE_MS:g} ms and up to {MAX_WAIT_S:g} s"
            )

    @property
    def lag_s(self) -> float | None:
        """How late the pictures of a live camera may arrive for a while before it is opened again; None: it is not asked."""
        return self.max_age_ms / 1000.0 if self.clock else None

    def drops(self, kind: SourceKind) -> bool:
        """Whether frames of such a source may be dropped: cameras always, others only in real time."""
        return kind == "live" or self.realtime

    def stall_s(self, kind: SourceKind, fps: float | None, first: bool) -> float:
        """Return after how many seconds without a frame a source counts as stalled.

        A camera: nine tenths of two frame times, at least 0.9 s, so that the fault is told within 1 s or two frame times
        (2 s where the rate is unknown); 10 s for its first frame, which needs the exposure to settle. Files: 30 s,
        because a slow disk is no fault. A watched folder never.
        """
        if kind == "watch":  # nobody knows when the next image will be there
            return math.inf
        if kind in ("video", "images"):
            return 30.0
        if first:
            return 10.0
        return 0.9 * max(1.0, 2.0 / fps) if fps else 2.0
