"""The engineer's side: publish a bundle as a release, roll it out to a group, look how stations stand, and go back.

A rollout has two stages, each a desired state of its own: the canary stations, and, once these judge by the release, all.
Whoever started it may leave: the same command later goes on where it stands.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edge_ad import __version__
from edge_ad.bundle import open_bundle
from edge_ad.errors import BadInput, DeviceFault, GateRefused
from edge_ad.fleet.desired_state import (
    BUSY,
    MAX_BUNDLE_BYTES,
    Desired,
    Release,
    check_name,
    digest,
    read_desired,
    read_release,
    sign_desired,
    sign_release,
)
from edge_ad.fleet.signing import SigningKey, Trusted
from edge_ad.fleet.state_channel import GroupChannel, GroupState, Seen
from edge_ad.fleet.store_access import ObjectStore

POLL_S = 0.2
FAILED = ("failed", "refused")
UNDER_WAY = (*BUSY, "pending")
PENDING_S = 300.0  # a station that has not taken a desired state by then is off


def release_name(number: int) -> str:
    """Return the name of a release in a store."""
    return f"releases/{number:06d}.json"


def last_number(store: ObjectStore) -> int:
    """Return the number of the newest release in a store, 0 where there is none: they have no gaps."""
    low, high = 0, 1
    while store.read(release_name(high)) is not None:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        if store.read(release_name(middle)) is not None:
            low = middle
        else:
            high = middle
    return low


def read_numbered(store: ObjectStore, number: int | None, trusted: Trusted) -> Release:
    """Return a release of a store, the newest without a number; BadInput where there is none or it is not trusted."""
    chosen = last_number(store) if number is None else number
    text = store.read(release_name(chosen)) if chosen > 0 else None
    if text is None:
        what = "no release" if number is None else f"no release {number}"
        raise BadInput(f"there is {what} in {store.name}: publish a bundle by `edge-ad fleet publish BUNDLE`")
    return read_release(text, trusted)


def publish(
    path: Path, store: ObjectStore, key: SigningKey, *, product: str = "", min_version: str = __version__, name: str | None = None
) -> Release:
    """Put a bundle into a store and sign it as the next release; BadInput for a file that is no whole bundle."""
    bundle = open_bundle(path)
    size = path.stat().st_size
    if size > MAX_BUNDLE_BYTES:
        raise BadInput(f"{path} has {size / 2**30:.1f} GiB and {MAX_BUNDLE_BYTES >> 30} are allowed: train a smaller one")
    release = Release(
        number=last_number(store) + 1,
        name=name or str(bundle.manifest["name"]),
        sha256=bundle.sha256,
        size=size,
        min_version=min_version,
        published=time.time(),
        product=product,
    )
    store.put(release.object_name, path)
    while not store.create(release_name(release.number), sign_release(release, key).encode()):
        release = replace(release, number=release.number + 1)  # another engineer took that number meanwhile
    return replace(release, key=key.public.name)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a release goes out: to ``canary`` stations first (0: to all at once), or to those that are named; ``watch_s``,
    ``min_parts`` and ``max_changes`` as in ``Desired``. ``supersede``: in the place of a rollout that is under way.
    """

    group: str
    by: str
    canary: int = 1
    stations: tuple[str, ...] = ()
    watch_s: float = 0.0
    min_parts: int = 0
    max_changes: float = 1.0
    allow_downgrade: bool = False
    supersede: bool = False
    wait_s: float = 7200.0


class Fleet:
    """One group as an engineer steers it; ``report`` gets a line where a station's phase changes."""

    def __init__(
        self, channel: GroupChannel, key: SigningKey, trusted: Trusted, report: Callable[[str], None] = lambda line: None
    ) -> None:
        self._channel, self._key, self._trusted, self._report = channel, key, trusted, report
        self._shown: dict[str, str] = {}

    def roll_out(self, release: Release, plan: Plan) -> list[str]:
        """Bring a release to a group and wait for it; return the stations that are away and follow when they are back.

        BadInput where another rollout is under way or came first, GateRefused where a station refuses, DeviceFault where the
        wait is over before.
        """
        standing = self._standing(self._channel.read())
        if standing is None or not self._is_same(standing, release):
            self._check_idle(standing, plan)
            canaries = plan.stations or self._canaries(plan)
            standing = self._publish(self._desired(release, plan, canaries, canary=bool(canaries) and not plan.stations))
        if standing.canary:
            self._wait(standing, standing.stations, plan.wait_s)
            standing = self._publish(replace(standing, stations=(), canary=False, sequence=0, by=plan.by))
        return self._wait(standing, standing.stations or self._online(), plan.wait_s)

    def roll_back(self, plan: Plan, release: Release | None = None) -> list[str]:
        """Have all stations that judge by a release (the one that stands) go back to the bundle before it; as ``roll_out``."""
        standing = self._standing(self._channel.read())
        chosen = release or (standing.release if standing is not None else None)
        if chosen is None:
            raise BadInput(f"nothing was rolled out to {plan.group}: there is nothing to roll back")
        desired = self._publish(replace(self._desired(chosen, plan, plan.stations, canary=False), action="rollback"))
        return self._wait(desired, desired.stations or self._online(), plan.wait_s)

    def _desired(self, release: Release, plan: Plan, stations: Sequence[str], *, canary: bool) -> Desired:
        return Desired(
            group=plan.group,
            sequence=0,
            action="install",
            release=release,
            by=plan.by,
            time=0.0,
            stations=tuple(check_name("station", one) for one in stations),
            canary=canary,
            watch_s=plan.watch_s,
            min_parts=plan.min_parts,
            max_changes=plan.max_changes,
            allow_downgrade=plan.allow_downgrade,
        )

    def _publish(self, desired: Desired) -> Desired:
        """Publish with the next sequence; BadInput where another desired state took it first."""
        state = self._channel.read()
        standing = self._standing(state)
        known = [seen.reported.sequence for seen in state.stations.values()]
        numbered = replace(desired, sequence=max([standing.sequence if standing else 0, *known]) + 1, time=time.time())
        text = sign_desired(numbered, self._key)
        first = self._channel.publish(text, numbered.sequence)
        if first != text:
            other = self._read(first)
            who = f"{other.by} ({other.action} {other.release.title})" if other is not None else "somebody else"
            raise BadInput(f"two rollouts at once: {who} took sequence {numbered.sequence} first; look at `edge-ad fleet status`")
        where = ", ".join(numbered.stations) or f"all of {numbered.group}"
        self._report(f"sequence {numbered.sequence}: {numbered.action} {numbered.release.title} on {where}")
        return replace(numbered, text=text, key=self._key.public.name)

    def _wait(self, desired: Desired, stations: Iterable[str], wait_s: float) -> list[str]:
        """Wait until the stations are through; return those that are away. A canary that is away is waited for."""
        names, ends = sorted(stations), time.monotonic() + wait_s
        while True:
            state = self._channel.read()
            self._check_standing(state, desired)
            seen = {name: state.stations.get(name) for name in names}
            self._show(desired, seen)
            outcome = {name: phase_of(one, desired) for name, one in seen.items()}
            failed = [name for name in names if outcome[name] in FAILED]
            if failed and (desired.canary or not any(phase in UNDER_WAY for phase in outcome.values())):
                raise GateRefused("; ".join(f"{name}: {reason_of(seen[name], desired)}" for name in failed) + _not_asked(desired))
            away = [name for name in names if outcome[name] == "away"]
            if all(phase == "active" or (phase == "away" and not desired.canary) for phase in outcome.values()):
                return away
            if time.monotonic() > ends:
                waiting = ", ".join(f"{name} ({outcome[name]})" for name in names if outcome[name] != "active")
                raise DeviceFault(f"not through after {wait_s:g} s: {waiting}; the same command later goes on from here")
            time.sleep(POLL_S)

    def _check_standing(self, state: GroupState, desired: Desired) -> None:
        standing = self._standing(state)
        if standing is not None and standing.sequence > desired.sequence:
            raise BadInput(f"{standing.by} has asked for sequence {standing.sequence} meanwhile: this rollout ends here")

    def _check_idle(self, standing: Desired | None, plan: Plan) -> None:
        """Refuse a second rollout while stations still follow the first; BadInput."""
        if standing is None or plan.supersede:
            return
        state, young = self._channel.read(), time.time() - standing.time < PENDING_S
        counted = UNDER_WAY if young else BUSY
        busy = [
            name
            for name, seen in state.stations.items()
            if seen.online is not False and standing.asks(name) and phase_of(seen, standing) in counted
        ]
        if busy:
            raise BadInput(
                f"two rollouts at once: sequence {standing.sequence} ({standing.release.title}, by {standing.by}) is under way on "
                f"{', '.join(sorted(busy)[:5])}; wait for it, or take its place with --supersede"
            )

    def _canaries(self, plan: Plan) -> tuple[str, ...]:
        online = self._online()
        if not online:
            raise BadInput(f"no station of group {plan.group} is there: start them, or name --group")
        if plan.canary >= len(online) or plan.canary == 0:
            return tuple(online) if plan.canary else ()
        return tuple(online[: plan.canary])

    def _online(self) -> list[str]:
        return sorted(name for name, seen in self._channel.read().stations.items() if seen.online is not False)

    def _standing(self, state: GroupState) -> Desired | None:
        """Return the desired state that stands, None where there is none that is trusted."""
        return None if state.desired is None else self._read(state.desired)

    def _read(self, text: str) -> Desired | None:
        try:
            return read_desired(text, self._trusted)
        except BadInput:
            return None

    def _is_same(self, standing: Desired, release: Release) -> bool:
        """Whether a rollout of this release stands already, so that there is nothing to do but to go on with it."""
        return standing.action == "install" and standing.release.text == release.text and standing.canary

    def _show(self, desired: Desired, seen: dict[str, Seen | None]) -> None:
        for name, one in seen.items():
            phase = phase_of(one, desired)
            line = f"{name}: {phase}" + (f" ({reason_of(one, desired)})" if phase not in ("active", "away", "pending") else "")
            if phase != self._shown.get(name):
                self._shown[name] = phase
                self._report(line)


def phase_of(seen: Seen | None, desired: Desired) -> str:
    """Return how far a station is with a desired state: its phase, away, or pending where it has not taken it yet."""
    if seen is None or seen.online is False:
        followed = seen is not None and seen.reported.sequence == desired.sequence and seen.reported.phase in ("active", *FAILED)
        return seen.reported.phase if seen is not None and followed else "away"
    if seen.reported.refused == digest(desired.text):
        return "refused"
    if seen.reported.sequence < desired.sequence or seen.reported.phase == "idle":
        return "pending"
    return seen.reported.phase


def reason_of(seen: Seen | None, desired: Desired) -> str:
    """Return why a station is where it is."""
    if seen is None:
        return "has reported nothing yet"
    return seen.reported.refusal if seen.reported.refused == digest(desired.text) else seen.reported.reason


def status_rows(state: GroupState, trusted: Trusted) -> list[dict[str, Any]]:
    """Return one row a station: what it judges by, what is asked of it, how far it is, and what a person should know."""
    rows = []
    for name, seen in sorted(state.stations.items()):
        one = seen.reported
        notes = [*([one.reason] if one.phase not in ("active", "idle") and one.reason else []), one.refusal, one.note]
        rows.append(
            {
                "station": name,
                "online": seen.online,
                "phase": one.phase,
                "sequence": one.sequence,
                "releases": {product: record.get("number") for product, record in one.active.items()},
                "wanted": one.wanted,
                "progress": one.progress,
                "parts": None if one.shadow is None else one.shadow.parts,
                "changes": None if one.shadow is None else one.shadow.changes,
                "switch_s": one.switch_s,
                "version": one.version,
                "time": one.time,
                "notes": [note for note in notes if note],
            }
        )
    return rows


def status_record(state: GroupState, trusted: Trusted) -> dict[str, Any]:
    """Return what stands in a group as plain values: the desired state and all stations."""
    desired: dict[str, Any] | None = None
    if state.desired is not None:
        try:
            one = read_desired(state.desired, trusted)
        except BadInput as error:
            desired = {"error": str(error)}
        else:
            desired = {
                "sequence": one.sequence,
                "action": one.action,
                "release": one.release.to_json(),
                "by": one.by,
                "key": one.key,
                "stations": list(one.stations),
                "canary": one.canary,
                "time": one.time,
            }
    return {"desired": desired, "stations": status_rows(state, trusted)}


def _not_asked(desired: Desired) -> str:
    return "; no other station was asked" if desired.canary else ""
