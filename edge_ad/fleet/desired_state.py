"""What is asked of stations and what they report: releases, the desired state of a group, and the reported state of a station.

Releases and desired states are signed. Order comes from numbers that only rise, never from clocks: a release has one, and so
has each desired state of a group (its sequence).
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from edge_ad import __version__
from edge_ad.errors import BadInput
from edge_ad.fleet.signing import SigningKey, Trusted, verify
from edge_ad.utils.text import storable

SCHEMA = 1
INSTALL, STATE = "fleet-install", "fleet"  # kinds of requests to a run
MAX_BUNDLE_BYTES = 4 * 2**30
MAX_NUMBER = 2**31
MAX_STATIONS = 10_000
CLOCK_TOLERANCE_S = 86_400.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")

Action = Literal["install", "rollback"]
Phase = Literal[
    "idle", "held", "downloading", "building", "watching", "switching", "active", "waiting", "failed", "refused"
]
Kinds = dict[str, type | tuple[type, ...]]
BUSY: tuple[Phase, ...] = ("downloading", "building", "watching", "switching", "waiting")


@dataclass(frozen=True, kw_only=True)
class Release:
    """One published bundle: the ``number`` that orders releases, its hash and size in bytes, and the oldest edge-ad for it.

    ``product`` is the product of stations that have several. ``text`` is the signed text it was read from, ``key`` the name
    of the key. ``published`` (seconds since 1970 UTC) is for people alone.
    """

    number: int
    name: str
    sha256: str
    size: int
    min_version: str
    published: float
    product: str = ""
    text: str = ""
    key: str = ""

    @property
    def object_name(self) -> str:
        """The name of its bundle in the store."""
        return f"bundles/{self.sha256}.edgead"

    @property
    def title(self) -> str:
        """The release as people call it."""
        return f"release {self.number} ({self.name}, {self.sha256[:8]})"

    def to_json(self) -> dict[str, Any]:
        """Return what stations and pages show of it."""
        return {"number": self.number, "name": self.name, "sha256": self.sha256}


def sign_release(release: Release, key: SigningKey) -> str:
    """Return a release as a signed text."""
    record = asdict(release)
    del record["text"], record["key"]
    return key.sign("release", {"schema": SCHEMA, **record})


_RELEASE_FIELDS: Kinds = {"number": int, "name": str, "sha256": str, "size": int, "min_version": str, "product": str}
_DESIRED_FIELDS: Kinds = {
    "group": str,
    "sequence": int,
    "action": str,
    "by": str,
    "stations": list,
    "canary": bool,
    "watch_s": (int, float),
    "min_parts": int,
    "max_changes": (int, float),
    "allow_downgrade": bool,
}


def read_release(text: str | bytes, trusted: Trusted) -> Release:
    """Return a signed release; BadInput for one that is not trusted or whose fields are not those of a release."""
    record, key = verify("release", text, trusted)
    fields = _fields("release", record, _RELEASE_FIELDS)
    fits = 1 <= fields["number"] <= MAX_NUMBER and 1 <= fields["size"] <= MAX_BUNDLE_BYTES
    if not fits or not _SHA256.fullmatch(fields["sha256"]):
        raise BadInput(f"the release of {key} has a number, a size or a hash beyond what is allowed; publish the bundle again")
    plain = text if isinstance(text, str) else text.decode()
    fields["name"] = storable(fields["name"], 80)
    return Release(**fields, published=_seconds(record.get("published")), text=plain, key=key)


def check_version(release: Release, version: str = __version__) -> None:
    """Refuse a release that needs a newer edge-ad than this one; BadInput."""
    if _version(release.min_version) > _version(version):
        raise BadInput(f"{release.title} needs edge-ad {release.min_version}, and this station has {version}: update edge-ad first")


@dataclass(frozen=True, kw_only=True)
class Desired:
    """What a group of stations shall do: install a release, or roll it back.

    ``stations`` name who shall do so, empty for all. Before it switches a station watches parts for ``watch_s`` seconds, at
    least ``min_parts`` of them, and refuses where more than the share ``max_changes`` got another verdict. ``canary`` says
    that more stations follow. ``text`` is the signed text, ``key`` the name of the key.
    """

    group: str
    sequence: int
    action: Action
    release: Release
    by: str
    time: float
    stations: tuple[str, ...] = ()
    canary: bool = False
    watch_s: float = 0.0
    min_parts: int = 0
    max_changes: float = 1.0
    allow_downgrade: bool = False
    text: str = ""
    key: str = ""

    def asks(self, station: str) -> bool:
        """Whether this station shall do it."""
        return not self.stations or station in self.stations


def sign_desired(desired: Desired, key: SigningKey) -> str:
    """Return a desired state, with its release as that was signed, as a signed text."""
    record = {name: value for name, value in asdict(desired).items() if name not in ("text", "key", "release")}
    return key.sign("desired state", {"schema": SCHEMA, **record, "release": desired.release.text})


def read_desired(text: str | bytes, trusted: Trusted) -> Desired:
    """Return a signed desired state; BadInput for one that is not trusted, or whose fields are not those of a desired state."""
    record, key = verify("desired state", text, trusted)
    fields = _fields("desired state", record, _DESIRED_FIELDS)
    names = fields["stations"]
    if not (
        1 <= fields["sequence"] <= MAX_NUMBER
        and fields["action"] in ("install", "rollback")
        and len(names) <= MAX_STATIONS
        and all(isinstance(name, str) for name in names)
        and 0 <= fields["watch_s"] <= 30 * 86_400
    ):
        raise BadInput(f"the desired state of {key} has values beyond what is allowed: publish it by `edge-ad fleet`")
    fields["stations"], fields["by"] = tuple(names), storable(fields["by"], 80)
    release = read_release(str(record.get("release")), trusted)
    plain = text if isinstance(text, str) else text.decode()
    return Desired(**fields, release=release, time=_seconds(record.get("time")), text=plain, key=key)


@dataclass(frozen=True, kw_only=True)
class Shadow:
    """How a release did beside the running one: parts that both judged, and how many got another verdict.

    ``table`` counts them as ``OK>NG``: the verdict in force, then that of the release.
    """

    parts: int = 0
    changes: int = 0
    table: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Reported:
    """How a station stands: the ``phase`` of the desired state with this ``sequence``, and why.

    ``active`` are the releases in force by product ('' on a station without products); a bundle that no release brought is not
    among them. ``wanted`` is the number of the release that is asked for. ``refusal``: why the desired state
    with the digest ``refused`` was refused.
    ``note``: what a person should look at, such as a clock that is wrong. ``time`` is by the station's own clock.
    """

    station: str
    group: str
    phase: Phase = "idle"
    reason: str = ""
    sequence: int = 0
    wanted: int | None = None
    active: dict[str, dict[str, Any]] = field(default_factory=dict)
    progress: float | None = None
    shadow: Shadow | None = None
    switch_s: float | None = None
    refusal: str = ""
    refused: str = ""
    note: str = ""
    version: str = __version__
    time: float = field(default_factory=time.time)

    def to_text(self) -> str:
        """Return it as one line of JSON."""
        return json.dumps(asdict(self), separators=(",", ":"))


def read_reported(text: str | bytes) -> Reported | None:
    """Return the reported state in a text, None for anything else: stations sign nothing, so it is for people to read."""
    try:
        record = json.loads(text)
        shadow = record.pop("shadow", None)
        known = {name: record[name] for name in Reported.__dataclass_fields__ if name in record}
        reported = Reported(**known, shadow=None if shadow is None else Shadow(**shadow))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    texts = (reported.station, reported.group, reported.phase, reported.reason, reported.refusal, reported.refused, reported.note)
    return reported if all(isinstance(one, str) for one in texts) and isinstance(reported.sequence, int) else None


def digest(text: str | bytes) -> str:
    """Return what tells one signed text from another."""
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()[:16]


def clock_note(signed: float, now: float) -> str:
    """Return a sentence where a clock is a day or more before the moment at which something it holds was signed, else ''.

    What is older than now tells nothing: a station may have been off for a week.
    """
    behind = signed - now
    if behind < CLOCK_TOLERANCE_S:
        return ""
    return f"the clock of this station is {behind / 86_400:.0f} days behind that of the engineer: set it (timedatectl)"


def check_name(what: str, name: str) -> str:
    """Return the name of a group or station that fits into a topic; BadInput for any other."""
    if not _NAME.fullmatch(name):
        raise BadInput(f"{what} is {name!r:.80}: write letters, digits, '-', '_' and '.', at most 64")
    return name


def _fields(what: str, record: dict[str, Any], kinds: Kinds) -> dict[str, Any]:
    if record.get("schema") != SCHEMA:
        raise BadInput(f"the {what} has the schema {record.get('schema')!r:.20}, and this edge-ad knows {SCHEMA}: update edge-ad")
    for name, kind in kinds.items():
        value = record.get(name)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise BadInput(f"the {what} has {value!r:.40} as {name}: publish it again by `edge-ad fleet`")
    return {name: record[name] for name in kinds}


def _seconds(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) and abs(value) < 1e12 else 0.0


def _version(text: str) -> tuple[int, ...]:
    numbers = re.match(r"\d{1,6}(\.\d{1,6}){0,3}", text)
    return tuple(int(part) for part in numbers[0].split(".")) if numbers else (0,)
