"""The agent of a station: follows the desired state of its group, one step after the other, beside the run.

Download, engines and proof, known images, live parts, switch: a step that fails leaves the bundle in force as it is, and its
reason goes into the log, the audit trail and the reported state. What can be repaired from outside (a broker or a store that
is away, a full disk) is tried again; what was refused stays refused until something else is asked for.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from edge_ad.config import Config
from edge_ad.errors import BadInput, DeviceFault, EdgeAdError, GateRefused
from edge_ad.fleet.desired_state import (
    BUSY,
    CLOCK_TOLERANCE_S,
    Desired,
    Phase,
    Release,
    Reported,
    Shadow,
    check_version,
    clock_note,
    digest,
    read_desired,
    read_release,
)
from edge_ad.fleet.kept_state import KeptState
from edge_ad.fleet.signing import Trusted
from edge_ad.fleet.store_access import FolderStore, ObjectStore, download
from edge_ad.fleet.trial import LiveParts, Trial, watch
from edge_ad.inspection.requests import Request
from edge_ad.store.actions import Action
from edge_ad.utils.supervision import Backoff, SupervisedThread, ThreadFaults, describe
from edge_ad.utils.text import redact, storable

_log = logging.getLogger(__name__)

RETRY_S = (5.0, 300.0)
REPORT_S = 1.0
MAX_TOLD = 100  # reasons that go into the audit trail: whoever may write to the broker must not fill the disk


@dataclass(frozen=True, kw_only=True)
class InForce:
    """What a product is judged by: the path and hash of its bundle, its settings, and backend and precision of its engines."""

    bundle: Path
    sha256: str
    settings: Config
    backend: str
    precision: str


class Station(Protocol):
    """What the agent needs of a run."""

    parts: LiveParts

    def in_force(self, product: str) -> InForce:
        """Return what a product is judged by; BadInput for one that is not known."""

    def hashes_needed(self) -> set[str]:
        """Return the hashes of the bundles that are judged by, and of those that a rollback would bring."""

    def replace(self, product: str, bundle: Path, sha256: str, *, by: str, reason: str) -> float:
        """Judge by another bundle between two parts; return how many seconds nothing was judged. Errors say why not."""

    def roll_back(self, product: str, *, by: str, reason: str) -> float:
        """Judge by the bundle before; as ``replace``."""

    def keep(self, action: Action) -> None:
        """Write an action into the audit trail."""


@dataclass(frozen=True, kw_only=True)
class AgentOptions:
    """Who the station is, whom it trusts, where its bundles go, and what a trial may take; see [fleet] of edge-ad.toml."""

    station: str
    group: str
    trusted: Trusted
    folder: Path
    store: ObjectStore | None = None
    images: Path | None = None
    share: float = 0.1
    retry_s: tuple[float, float] = RETRY_S
    start_trial: Callable[..., Trial] = Trial


class _Superseded(Exception):
    """Something else is asked for, or the run ends."""


Open = Callable[[Callable[[bytes], None], Callable[[str], None]], Any]  # opens the channel: see StationChannel


class FleetAgent:
    """Follows desired states for one station; ``start`` begins, ``close`` ends. Everything slow is in a thread of its own."""

    def __init__(self, options: AgentOptions, station: Station, faults: ThreadFaults | None = None) -> None:
        self.options = options
        self.observer = station.parts
        self._station = station
        self._faults = faults or ThreadFaults()
        self._kept = KeptState(options.folder / "state.json")
        self._changed = threading.Condition()
        self._closed = False
        self._desired: Desired | None = None
        self._local: ObjectStore | None = None  # where a bundle comes from that was installed by hand
        self._trial: Trial | None = None
        self._channel: Any = None
        self._channel_fault = ""
        self._told: set[str] = set()
        state = self._kept
        self._reported = Reported(
            station=options.station, group=options.group, phase=state.phase, reason=state.reason, sequence=state.sequence
        )
        self._sent_at = 0.0
        self._updating = threading.Lock()
        self._thread = SupervisedThread("fleet-agent", self._run, self._faults)

    def start(self, open_channel: Open | None) -> None:
        """Begin; ``open_channel`` is called with what hears desired states and what hears why the channel is away."""
        self._report()
        if open_channel is not None:
            self._channel = open_channel(self.hear, self._hear_fault)
            self._report()
        self._resume()
        self._thread.start()

    def close(self) -> None:
        """Give up what is under way, which the next run takes up again, and say goodbye."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._trial is not None:
            self._trial.kill()
        if self._thread.started:
            self._thread.join(5.0)
        if self._channel is not None:
            self._channel.close()

    def state(self) -> dict[str, Any]:
        """Return the reported state, and why its channel is away, as plain values."""
        return {**asdict(self._reported), "channel_fault": self._channel_fault, "busy": self._reported.phase in BUSY}

    def answer_state(self, request: Request) -> str:
        """Answer a request of kind ``fleet`` as JSON."""
        return json.dumps(self.state())

    def hear(self, text: bytes) -> None:
        """Take a desired state; one that is refused changes nothing and is reported, once."""
        try:
            desired = read_desired(text, self.options.trusted)
            note = clock_note(desired.time, time.time())
            if desired.group != self.options.group:
                raise BadInput(f"the desired state is for group {storable(desired.group, 80)!r}, not for {self.options.group}")
            with self._changed:
                fresh = self._accept(desired)
        except BadInput as error:
            self._refuse(str(error), text)
            return
        if note:
            self._tell("clock", note)
        if fresh:
            words = f"{desired.action} {desired.release.title}, sequence {desired.sequence}"
            self._note("fleet-accepted", desired, words)
            self._report(note=note, refusal="", refused="")
        elif note != self._reported.note:
            self._report(note=note)

    def install(self, request: Request) -> str:
        """Take a request of kind ``fleet-install``: a release in a folder of bundles, without a network. BadInput as refused."""
        if self._kept.fault is not None:
            raise BadInput(self._kept.fault)
        path = Path(request.value("release"))
        try:
            text = path.read_bytes()
        except OSError as error:
            raise BadInput(f"cannot read the release {path}: {error.strerror}; name FOLDER/releases/NUMBER.json") from error
        release = read_release(text, self.options.trusted)
        desired = Desired(
            group=self.options.group,
            sequence=self._kept.sequence,
            action="install",
            release=release,
            by=request.by,
            time=time.time(),
            watch_s=float(request.value("watch_s") or 0.0),
            min_parts=int(request.value("min_parts") or 0),
            max_changes=float(request.value("max_changes") or 1.0),
            allow_downgrade=request.value("allow_downgrade") == "yes",
            key=release.key,
        )
        with self._changed:
            if self._reported.phase in BUSY:
                raise BadInput(f"{self._reported.phase} already: wait until that is over (`edge-ad fleet status`)")
            self._local, self._desired = FolderStore(path.absolute().parent.parent), desired
            self._changed.notify_all()
        self._note("fleet-accepted", desired, f"install {release.title} from {path.parent.parent.name or path.parent.parent}")
        return f"{release.title} is being proven; `edge-ad fleet status` tells how it goes"

    def _accept(self, desired: Desired) -> bool:
        """Keep a desired state and wake the thread; False for the one that stands already, BadInput for one that is refused."""
        fresh = self._kept.accept(desired)
        if fresh:
            other = {} if self._reported.wanted == desired.release.number else {"shadow": None, "switch_s": None}
            self._update(phase="idle", reason="", wanted=desired.release.number, **other)
            self._local, self._desired = None, desired
            self._changed.notify_all()
        return fresh

    def _resume(self) -> None:
        """Go on with what a restart interrupted."""
        text = self._kept.unfinished
        if text is None:
            return
        try:
            self._desired = self._desired or read_desired(text, self.options.trusted)
        except BadInput as error:  # the key is not trusted any more
            self._refuse(str(error), text.encode())

    def _run(self) -> None:
        while not self._closed:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._desired is not None)
                desired, store = self._desired, self._local or self.options.store
            if self._closed or desired is None:
                return
            with contextlib.suppress(_Superseded):
                self._follow(desired, store)
                with self._changed:
                    if self._desired is desired:
                        self._desired = None

    def _follow(self, desired: Desired, store: ObjectStore | None) -> None:
        """Do what is desired, or say why not."""
        if not desired.asks(self.options.station):
            self._end(desired, "held", f"waits until {', '.join(desired.stations[:5])} went through with {desired.release.title}")
            return
        try:
            if desired.action == "rollback":
                self._roll_back(desired)
            elif not self._is_in_force(desired.release):
                self._install(desired, store)
        except EdgeAdError as error:
            refused = isinstance(error, BadInput)
            self._end(desired, "refused" if refused else "failed", f"{error}; the bundle in force goes on")
        except _Superseded:
            raise
        except Exception as error:
            self._faults.note("fleet-agent", error)
            self._end(desired, "failed", f"{describe(error)}; the bundle in force goes on")
        else:
            self._end(desired, "active", f"{desired.action} of {desired.release.title} is done")

    def _install(self, desired: Desired, store: ObjectStore | None) -> None:
        release, before = desired.release, self._station.in_force(desired.release.product)
        self._step(desired, "downloading", f"brings {release.title}")
        check_version(release)
        self._kept.check_order(desired)
        if store is None:
            raise BadInput("no store of bundles is named: set `bundles` of [fleet]")
        path = self._bring(desired, store)
        self._check(desired)
        with self._proven(desired, path, before) as trial:
            self._watch(desired, trial)
        if self._station.in_force(release.product).sha256 != before.sha256:
            raise DeviceFault("another bundle was put in use meanwhile, with which this one was not compared: roll out again")
        self._step(desired, "switching", f"switches to {release.title} between two parts")
        took_s = self._station.replace(release.product, path, release.sha256, by=desired.by, reason=self._reason(desired))
        self._kept.book(release)
        self._report(switch_s=took_s)
        self._remove_unused()

    def _bring(self, desired: Desired, store: ObjectStore) -> Path:
        """Download the bundle, again and again where the store is away or the disk too small."""
        release, backoff = desired.release, Backoff(*self.options.retry_s, seed=None)
        path = self.options.folder / "bundles" / f"{release.sha256}.edgead"

        def progress(share: float) -> None:
            self._check(desired)
            self._report(throttled=True, phase="downloading", progress=round(share, 3))

        while True:
            try:
                download(store, release.object_name, path, size=release.size, sha256=release.sha256, progress=progress)
                self._compare_clocks(store)
                return path
            except DeviceFault as error:  # the store is away, or the disk is full: both may be over in a while
                self._compare_clocks(store)
                self._step(desired, "waiting", f"{error}; tried again, and the bundle in force goes on")
                self._pause(desired, backoff.next_s())

    @contextlib.contextmanager
    def _proven(self, desired: Desired, path: Path, before: InForce) -> Iterator[Trial]:
        """Give the process that has proven the bundle."""
        self._step(desired, "building", f"builds engines of {desired.release.title} and proves them")
        trial = self.options.start_trial(
            path,
            before.settings,
            backend=before.backend,
            precision=before.precision,
            images=self.options.images,
            log=self.options.folder / "trial.log",
        )
        self._trial = trial
        try:
            trial.prove(lambda: self._check(desired), lambda text: self._report(phase="building", reason=storable(text, 300)))
            yield trial
        finally:
            self._trial = None
            trial.close()

    def _watch(self, desired: Desired, trial: Trial) -> None:
        """Compare verdicts on live parts; GateRefused where too many differ."""
        if not desired.watch_s and not desired.min_parts:
            return
        self._step(desired, "watching", f"compares {desired.release.title} with the bundle in force on live parts")
        shadow = watch(
            trial,
            self._station.parts,
            product=desired.release.product,
            seconds=desired.watch_s,
            min_parts=desired.min_parts,
            share=self.options.share,
            check=lambda: self._check(desired),
            report=lambda shadow: self._report(throttled=True, phase="watching", shadow=shadow),
        )
        self._report(shadow=shadow)
        self._note("fleet-watched", desired, f"{shadow.changes} of {shadow.parts} parts got another verdict", shadow=asdict(shadow))
        check_changes(desired, shadow)

    def _roll_back(self, desired: Desired) -> None:
        """Go back to the bundle before, where the release is in force that is rolled back; else nothing is to do."""
        release = desired.release
        if not self._is_in_force(release):
            return
        self._step(desired, "switching", f"goes back from {release.title}")
        took_s = self._station.roll_back(release.product, by=desired.by, reason=self._reason(desired))
        self._kept.unbook(release.product)
        self._report(switch_s=took_s)

    def _is_in_force(self, release: Release) -> bool:
        """Whether a product is judged by the bundle of a release; what a kill kept out of the books is written now."""
        if self._station.in_force(release.product).sha256 != release.sha256:
            return False
        self._kept.book(release)
        return True

    def _remove_unused(self) -> None:
        """Remove bundles, with their engines, that are neither in force nor were so before, by the releases and by the run."""
        needed = self._kept.hashes() | self._station.hashes_needed()
        for path in (self.options.folder / "bundles").glob("*.edgead*"):
            if path.name[:64] not in needed:
                with contextlib.suppress(OSError):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _check(self, desired: Desired) -> None:
        """Give up where something else is asked for or the run ends."""
        if self._closed or self._desired is not desired:
            raise _Superseded

    def _pause(self, desired: Desired, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._desired is not desired, seconds)
        self._check(desired)

    def _step(self, desired: Desired, phase: Phase, reason: str) -> None:
        """Report the next step; why something waits goes into the audit trail, once."""
        self._check(desired)
        clean = storable(redact(reason), 1000)
        if phase == "waiting" and self._reported.reason != clean:
            self._note("fleet-waiting", desired, clean)
        self._report(phase=phase, reason=clean, progress=None, wanted=desired.release.number)
        _log.log(logging.WARNING if phase == "waiting" else logging.INFO, "fleet: %s", clean)

    def _end(self, desired: Desired, phase: Phase, reason: str) -> None:
        """Report, log and keep how a desired state ended here."""
        clean = storable(redact(reason), 1000)
        with self._changed:
            if self._desired is not desired:
                return
            if self._local is None:
                self._kept.end(phase, clean)
        if phase in ("failed", "refused"):
            _log.error("fleet: %s", clean)
        else:
            _log.info("fleet: %s", clean)
        if phase != "held":
            self._note(f"fleet-{phase}", desired, clean)
        self._report(phase=phase, reason=clean, progress=None, wanted=desired.release.number, sequence=self._kept.sequence)

    def _note(self, kind: str, desired: Desired, reason: str, **details: Any) -> None:
        release = desired.release
        of_release = {"sequence": desired.sequence, "key": desired.key, "release": release.number, "sha256": release.sha256}
        self._station.keep(Action(kind, desired.by, "fleet", reason, details={**of_release, **details}))

    def _reason(self, desired: Desired) -> str:
        return f"{desired.action} {desired.release.title}, sequence {desired.sequence}, signed by {desired.key}"

    def _refuse(self, reason: str, text: bytes) -> None:
        """Report a desired state that is not followed; each reason goes into log and audit trail once."""
        clean = storable(redact(reason), 1000)
        self._tell("refused", clean)
        self._report(refusal=clean, refused=digest(text))

    def _tell(self, kind: str, reason: str) -> None:
        if reason not in self._told and len(self._told) < MAX_TOLD:
            self._told.add(reason)
            _log.error("fleet: %s", reason)
            self._station.keep(Action(f"fleet-{kind}", "fleet", "fleet", reason))

    def _hear_fault(self, reason: str) -> None:
        """Take note that the broker or the folder is away, or back ('')."""
        self._channel_fault = storable(reason, 300)
        if reason:
            self._tell("away", f"{self._channel_fault}; the bundle in force goes on")
        elif self._told:
            self._told = {one for one in self._told if not one.startswith("the broker") and not one.startswith("the folder")}

    def _compare_clocks(self, store: ObjectStore) -> None:
        """Report a clock that is a day away from that of the store."""
        offset = store.clock_offset_s
        if offset is None or abs(offset) < CLOCK_TOLERANCE_S:
            return
        days, way = abs(offset) / 86_400, "ahead of" if offset > 0 else "behind"
        note = f"the clock of this station is {days:.0f} days {way} that of {store.name}: set it (timedatectl)"
        self._tell("clock", note)
        self._report(note=note)

    def _releases(self) -> dict[str, dict[str, Any]]:
        """Return the releases that are judged by: in the place of one that was brought another bundle may have come by hand."""
        releases = {}
        for product, one in self._kept.releases().items():
            with contextlib.suppress(BadInput):  # a product that this station has no more
                if self._station.in_force(product).sha256 == one["sha256"]:
                    releases[product] = one
        return releases

    def _update(self, **changes: Any) -> None:
        """Change the reported state without telling it yet."""
        with self._updating:
            values = {"sequence": self._kept.sequence, "active": self._releases(), "time": time.time(), **changes}
            self._reported = replace(self._reported, **values)

    def _report(self, *, throttled: bool = False, **changes: Any) -> None:
        """Tell the reported state, where ``throttled`` once a second at most."""
        self._update(**changes)
        now = time.monotonic()
        if self._channel is not None and (not throttled or now - self._sent_at >= REPORT_S):
            self._sent_at = now
            self._channel.report(self._reported.to_text())


def check_changes(desired: Desired, shadow: Shadow) -> None:
    """Refuse a release that gave more parts another verdict than is allowed; GateRefused."""
    allowed = desired.max_changes * shadow.parts
    if shadow.changes > allowed:
        table = ", ".join(f"{pair} {count}" for pair, count in sorted(shadow.table.items()))
        raise GateRefused(
            f"{shadow.changes} of {shadow.parts} live parts got another verdict from {desired.release.title} ({table}), and "
            f"{desired.max_changes:.1%} are allowed (--max-changes)"
        )
