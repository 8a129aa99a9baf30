"""`edge-ad fleet`: bundles for many stations, signed here and followed there."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_ad.cli.options import options_of
from edge_ad.cli.pause import By, StoreFile, request_of
from edge_ad.config import DEFAULT_STORE, Config

if TYPE_CHECKING:
    from edge_ad.fleet.rollout import Fleet, Plan
    from edge_ad.fleet.signing import PublicKey, SigningKey
    from edge_ad.fleet.store_access import ObjectStore

ACTIONS = ("key", "publish", "rollout", "status", "rollback", "install")
ACTION = (
    "key: make a key pair; publish BUNDLE: sign it and put it into --bundles; rollout [NUMBER]: bring a release to --group; "
    "status: how the stations stand; rollback [NUMBER]: back to the bundle before; install FILE: a release on this station, "
    "without a network."
)
TARGET = "publish: the bundle; rollout, rollback: number of the release [the newest; the one that stands]; install: its file."
KEY = Path("fleet.key")
_DURATION = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)\s?(s|m|h|d)", re.ASCII)
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


Canary = Annotated[int, typer.Option(min=0, help="rollout: so many stations first; 0: all at once.")]
Stations = Annotated[str | None, typer.Option(metavar="NAME,...", help="rollout, rollback: these stations alone.")]
Watch = Annotated[str, typer.Option(metavar="TIME", help="Compare on live parts so long before the switch.")]
MinParts = Annotated[int, typer.Option(min=0, help="Compare on at least so many parts.")]
MaxChanges = Annotated[float, typer.Option(min=0, max=1, help="Share of these parts that may get another verdict.")]
AllowDowngrade = Annotated[
    bool, typer.Option("--allow-downgrade", help="Take a release that is older than the one in force.")
]
Supersede = Annotated[bool, typer.Option("--supersede", help="rollout: in the place of one that is under way.")]
Wait = Annotated[str, typer.Option(metavar="TIME", help="rollout, rollback: wait so long for the stations.")]
ProductName = Annotated[str, typer.Option(metavar="NAME", help="publish: the product of stations that have several.")]
MinVersion = Annotated[
    str | None, typer.Option(metavar="VERSION", help="publish: the oldest edge-ad that may take it [this one].")
]
JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="status: write it as JSON to this file; - prints it.")
]


@options_of("fleet")
def command(
    settings: Config,
    *,
    action: Annotated[str, typer.Argument(help=ACTION)],
    target: Annotated[str | None, typer.Argument(metavar="[BUNDLE|NUMBER|FILE]", help=TARGET)] = None,
    canary: Canary = 1,
    stations: Stations = None,
    watch: Watch = "30m",
    min_parts: MinParts = 20,
    max_changes: MaxChanges = 0.05,
    allow_downgrade: AllowDowngrade = False,
    supersede: Supersede = False,
    wait: Wait = "2h",
    product: ProductName = "",
    min_version: MinVersion = None,
    out: JsonFile = None,
    by: By = None,
    store: StoreFile = None,
) -> None:
    """Publish a bundle to many stations, roll it out by way of canaries, look how they stand, and go back."""
    _check_target(action, target)
    from edge_ad.errors import require

    require("cryptography", extra="fleet", needed_by="edge-ad fleet")
    key, record = settings.fleet.key or KEY, store or settings.run.store or DEFAULT_STORE
    if action == "key":
        _make_key(key)
    elif action == "publish":
        _publish(settings, key, Path(str(target)), product=product, min_version=min_version)
    elif action == "status":
        _status(settings, key, out, record)
    else:
        asked: dict[str, Any] = {"canary": canary, "min_parts": min_parts, "max_changes": max_changes, "supersede": supersede}
        asked |= {"allow_downgrade": allow_downgrade, "by": request_of("fleet", by).by}
        plan = _plan(settings.fleet.group, stations or "", watch, wait, **asked)
        if action == "install":
            _install(Path(str(target)), plan, record)
        else:
            _steer(settings, key, action, plan, target=target)


def _plan(group: str, stations: str, watch: str, wait: str, **asked: Any) -> Plan:
    from edge_ad.fleet.rollout import Plan

    names = tuple(filter(None, stations.replace(" ", "").split(",")))
    watch_s, wait_s = parse_duration("--watch", watch), parse_duration("--wait", wait)
    return Plan(group=group, stations=names, watch_s=watch_s, wait_s=wait_s, **asked)


def parse_duration(name: str, text: str) -> float:
    """Return the seconds of a text such as 90s, 30m, 2h or 1d; BadInput for any other."""
    from edge_ad.errors import BadInput

    match = _DURATION.fullmatch(text.strip())
    if match is None or float(match[1]) * _SECONDS[match[2]] > 30 * 86_400:
        raise BadInput(f"{name} is {text!r:.40}: write a time of at most 30 days with its unit, such as 90s, 30m, 2h or 1d")
    return float(match[1]) * _SECONDS[match[2]]


def _check_target(action: str, target: str | None) -> None:
    from edge_ad.errors import BadInput

    if action not in ACTIONS:
        raise BadInput(f"unknown action {action!r}: choose one of {', '.join(ACTIONS)}")
    if action in ("publish", "install") and target is None:
        example = "publish runs/part.edgead" if action == "publish" else "install FOLDER/releases/000001.json"
        raise BadInput(f"{action} needs a file: write `edge-ad fleet {example}`")
    if action in ("key", "status") and target is not None:
        raise BadInput(f"{action} takes no {target!r:.80}: write `edge-ad fleet {action}`")
    if action in ("rollout", "rollback") and target is not None and not re.fullmatch(r"[1-9]\d{0,8}", target, re.ASCII):
        raise BadInput(f"{target!r:.80} is no number of a release: write `edge-ad fleet {action} 3`, or leave it out")


def _make_key(path: Path) -> None:
    from edge_ad.fleet.signing import PASSPHRASE, make_key

    public = make_key(path).public
    typer.echo(f'{path} signs from now on; keep it off the stations, and set {PASSPHRASE} before to encrypt it. On each station:')
    typer.echo(f'[fleet]\ntrusted_keys = ["{public}"]')


def _publish(settings: Config, key: Path, bundle: Path, *, product: str, min_version: str | None) -> None:
    from edge_ad import __version__
    from edge_ad.errors import require

    require("cv2", extra="cpu", needed_by="edge-ad fleet publish")
    from edge_ad.fleet.rollout import publish, release_name
    from edge_ad.fleet.signing import read_key

    store = _store(settings)
    release = publish(bundle, store, read_key(key), product=product, min_version=min_version or __version__)
    typer.echo(f"{release.title} is published: {release_name(release.number)} in {store.name}, signed by {release.key}")


def _steer(settings: Config, path: Path, action: str, plan: Plan, *, target: str | None) -> None:
    """Roll out or back and say who follows later."""
    from edge_ad.fleet.rollout import read_numbered
    from edge_ad.fleet.signing import read_key

    key = read_key(path)
    number = None if target is None else int(target)
    trusted = _trusted(settings, key)
    release = read_numbered(_store(settings), number, trusted) if action == "rollout" or number is not None else None
    with _fleet(settings, key, trusted) as fleet:
        away = fleet.roll_out(release, plan) if action == "rollout" and release is not None else fleet.roll_back(plan, release)
    typer.echo(f"{action} is through" + (f"; away, and following when they are back: {', '.join(away)}" if away else ""))


@contextlib.contextmanager
def _fleet(settings: Config, key: SigningKey, trusted: dict[str, PublicKey]) -> Iterator[Fleet]:
    from edge_ad.fleet.rollout import Fleet
    from edge_ad.fleet.state_channel import open_group

    with open_group(_states(settings), settings.fleet.group, lambda text: _sequence(text, trusted)) as channel:
        yield Fleet(channel, key, trusted, typer.echo)


def _status(settings: Config, path: Path, out: Path | None, record: Path) -> None:
    """Print how the group stands; on a station without broker and folder, how this station does."""
    from edge_ad.fleet.rollout import status_record
    from edge_ad.fleet.signing import read_key
    from edge_ad.fleet.state_channel import open_group, where_states_are
    from edge_ad.utils.files import atomic_write

    if where_states_are(settings.fleet) is None:
        typer.echo(_own_status(record))
        return
    trusted = _trusted(settings, read_key(path) if path.exists() else None)
    with open_group(_states(settings), settings.fleet.group, lambda text: _sequence(text, trusted)) as channel:
        status = status_record(channel.read(), trusted)
    if out is not None:
        text = json.dumps(status, indent=2) + "\n"
        if str(out) == "-":
            typer.echo(text, nl=False)
            return
        atomic_write(out, text)
    for line in _table(status, settings.fleet.group):
        typer.echo(line)


def _own_status(record: Path) -> str:
    from edge_ad.errors import BadInput
    from edge_ad.fleet.desired_state import STATE
    from edge_ad.inspection.requests import ask_run

    answer = ask_run(record, request_of(STATE, "")) if record.parent.exists() else None
    if answer is None:
        raise BadInput(f"no broker is named (--broker), and no run keeps {record}: name one of both")
    state = json.loads(answer)
    releases = ", ".join(f"{name or 'bundle'}: release {one['number']}" for name, one in state["active"].items()) or "no release"
    return f"{state['station']}: {state['phase']}; {releases}; {state['reason'] or 'nothing was asked for yet'}"


def _table(status: dict[str, Any], group: str) -> Iterator[str]:
    from edge_ad.utils.text import printable

    desired = status["desired"]
    if desired is None:
        yield f"{group}: nothing was rolled out yet"
    elif "error" in desired:
        yield f"{group}: {printable(desired['error'])}"
    else:
        release, stations = desired["release"], ", ".join(desired["stations"]) or "all"
        title = f"release {release['number']} ({release['name']}, {release['sha256'][:8]})"
        yield printable(f"{group}: sequence {desired['sequence']}, {desired['action']} {title} on {stations}, by {desired['by']}")
    rows = [("station", "there", "phase", "release", "wanted", "changed")]
    for row in status["stations"]:
        releases = ", ".join(f"{name}: {number}" if name else str(number) for name, number in row["releases"].items()) or "-"
        changed = "" if row["parts"] is None else f"{row['changes']} of {row['parts']}"
        there = {True: "yes", False: "no", None: "?"}[row["online"]]
        rows.append((row["station"], there, row["phase"], releases, str(row["wanted"] or "-"), changed))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    notes: list[list[str]] = [[], *(row["notes"] for row in status["stations"])]
    for cells, more in zip(rows, notes, strict=True):
        yield printable("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
        yield from (f"  {printable(note)}" for note in more)


def _install(path: Path, plan: Plan, record: Path) -> None:
    """Have the run of this station take a release from a folder or a stick."""
    from edge_ad.errors import BadInput
    from edge_ad.fleet.desired_state import INSTALL
    from edge_ad.inspection.requests import ask_run

    values = {
        "release": str(path.absolute()),
        "watch_s": str(plan.watch_s),
        "min_parts": str(plan.min_parts),
        "max_changes": str(plan.max_changes),
        "allow_downgrade": "yes" if plan.allow_downgrade else "",
    }
    answer = ask_run(record, request_of(INSTALL, plan.by, **values)) if record.parent.exists() else None
    if answer is None:
        raise BadInput(f"no run keeps the store {record}: start `edge-ad run`, or name its store by --store")
    typer.echo(answer)


def _store(settings: Config) -> ObjectStore:
    from edge_ad.errors import BadInput
    from edge_ad.fleet.store_access import WRITTEN, open_store

    if settings.fleet.bundles is None:
        raise BadInput(f"no store of bundles is named: give --bundles, {WRITTEN}")
    return open_store(settings.fleet.bundles)


def _states(settings: Config) -> str:
    from edge_ad.errors import BadInput
    from edge_ad.fleet.desired_state import check_name
    from edge_ad.fleet.state_channel import where_states_are

    check_name("--group", settings.fleet.group)
    where = where_states_are(settings.fleet)
    if where is None:
        raise BadInput("no broker is named: give --broker mqtt://HOST, or a shared folder")
    return where


def _trusted(settings: Config, key: SigningKey | None) -> dict[str, PublicKey]:
    """Return the keys of [fleet], and one's own."""
    from edge_ad.fleet.signing import parse_trusted

    trusted = parse_trusted(settings.fleet.trusted_keys)
    if key is not None:
        trusted.setdefault(key.public.fingerprint, key.public)
    return trusted


def _sequence(text: str, trusted: dict[str, PublicKey]) -> int:
    """Return the sequence of a desired state that is trusted, 0 for any other text."""
    from edge_ad.errors import BadInput
    from edge_ad.fleet.desired_state import read_desired

    try:
        return read_desired(text, trusted).sequence
    except BadInput:
        return 0
