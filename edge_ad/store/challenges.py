"""Signed records of challenges: known good and known bad parts that a station was shown, and what it made of them.

A record is canonical JSON (keys sorted, no blanks, UTF-8) with the HMAC-SHA256 of everything in it under a key of the station,
and with the signature of the record before it, so that a change and a gap are seen.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import html
import json
import re
import secrets
import stat
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from edge_ad.errors import BadInput
from edge_ad.store.actions import Action
from edge_ad.store.audit import Head, parse_head
from edge_ad.utils.files import atomic_write, sha256_bytes, write_private
from edge_ad.utils.text import printable

STARTED, FAILED, OVERRIDDEN = "challenge started", "challenge failed", "challenge overridden"  # of actions
ENDED = ("challenge passed", FAILED, OVERRIDDEN)

SCHEMA = 1
KEY_BYTES = 32
SIGNATURE = "signature"
_NAME = re.compile(r"[0-9]{6}\.json")


def key_path(store: Path) -> Path:
    """Return the key of a station: ``line.challenge.key`` beside ``line.sqlite``."""
    return store.with_suffix(".challenge.key")


def challenges_folder(store: Path) -> Path:
    """Return the folder of records and images: ``line.challenges`` beside ``line.sqlite``."""
    return store.with_suffix(".challenges")


def make_key(path: Path) -> None:
    """Write a new random key that only this user may read; BadInput where there is one, or the disk refuses."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_private(path, (secrets.token_hex(KEY_BYTES) + "\n").encode())
    except FileExistsError as error:
        raise BadInput(
            f"there is a key already: {path}; move it away, and keep it to verify the records that it signed"
        ) from error
    except OSError as error:
        raise BadInput(f"the key {path} cannot be written: {error.strerror}") from error


def read_key(path: Path) -> bytes:
    """Return a key; BadInput for one that is missing, open to others, or no key."""
    try:
        mode, text = path.stat().st_mode, path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"there is no key {path} that signs challenges: `edge-ad challenge key` makes one") from error
    if stat.S_IMODE(mode) & 0o077:
        raise BadInput(f"the key {path} has the mode {stat.S_IMODE(mode):04o}: others may read it; `chmod 600 {path}`")
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise BadInput(
            f"{path} is no key: it holds {KEY_BYTES} bytes in hexadecimal digits; `edge-ad challenge key` makes one"
        )
    return key


def canonical(record: Mapping[str, Any]) -> bytes:
    """Return the bytes that are signed: all of a record but its signature."""
    return _canonical({name: value for name, value in record.items() if name != SIGNATURE})


def _canonical(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def sign(record: Mapping[str, Any], key: bytes) -> str:
    """Return the signature of a record in hexadecimal digits."""
    return hmac.new(key, canonical(record), hashlib.sha256).hexdigest()


UNRECORDED = "challenge unrecorded"  # the kind of the action that stands for a record which the disk refused


def newest_logged(actions: Iterable[Action]) -> int:
    """Return the number of the newest record that the log of actions names, 0 without one."""
    return max(_numbers(actions), default=0)


def unrecorded(actions: Iterable[Action]) -> set[int]:
    """Return the numbers of the records that, by the log of actions, the disk refused."""
    return set(_numbers(one for one in actions if one.kind == UNRECORDED))


def _numbers(actions: Iterable[Action]) -> list[int]:
    named = [one.details.get("record") for one in actions if isinstance(one.details, Mapping)]
    return [number for number in named if isinstance(number, int)]


@dataclass(frozen=True)
class Verified:
    """A record's file, the record (None where it cannot be read), and why it does not hold, None where it does."""

    path: Path
    record: Mapping[str, Any] | None
    fault: str | None


class ChallengeRecords:
    """The records of one station, in the order of their names, which begin with a number."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def paths(self) -> list[Path]:
        """Return the files of records, the oldest first; whatever else lies there is none of them."""
        return sorted(path for path in self.folder.glob("*.json") if _NAME.fullmatch(path.name))

    def next_number(self) -> int:
        """Return the number that the next record has."""
        paths = self.paths()
        return int(paths[-1].name[:6]) + 1 if paths else 1

    def append(
        self, record: Mapping[str, Any], images: Sequence[tuple[str, bytes]], key: bytes, *, number: int | None = None
    ) -> Path:
        """Write images (name and JPEG), then the signed record; it is on the disk when this returns.

        ``number`` is the next one unless a newer record is known to have been. OSError where the disk refuses; then there is
        no record.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        paths, number = self.paths(), number or self.next_number()
        previous = (_read(paths[-1]) or {}).get(SIGNATURE) if paths else None
        complete = {"schema": SCHEMA, **record, "number": number, "previous": previous}
        for name, data in images:
            atomic_write(self.folder / f"{number:06}-{name}", data)
        path = self.folder / f"{number:06}.json"
        atomic_write(path, _canonical({**complete, SIGNATURE: sign(complete, key)}) + b"\n")
        return path

    def newest(self, key: bytes) -> Mapping[str, Any] | None:
        """Return the newest record; None without one whose signature holds."""
        paths = self.paths()
        record = _read(paths[-1]) if paths else None
        return record if record is not None and record.get(SIGNATURE) == sign(record, key) else None

    def read(self) -> list[Mapping[str, Any]]:
        """Return the records that can be read, the oldest first, unverified."""
        return [record for path in self.paths() if (record := _read(path)) is not None]

    def verify(self, key: bytes, refused: Collection[int] = ()) -> list[Verified]:
        """Check every record: its signature, its number, the record before it, and its images; the disk has ``refused`` some.
        """
        results: list[Verified] = []
        previous: str | None = None
        count = 0
        for path in self.paths():
            record, count = _read(path), count + 1
            while count in refused and int(path.name[:6]) > count:
                count += 1
            fault = "it cannot be read" if record is None else self._fault(path, record, key, count=count, previous=previous)
            results.append(Verified(path, record, fault))
            previous = None if record is None else str(record.get(SIGNATURE))
            count = max(count, int(path.name[:6]))  # one that is missing is told once
        return results

    def _fault(
        self, path: Path, record: Mapping[str, Any], key: bytes, *, count: int, previous: str | None
    ) -> str | None:
        exact = path.read_bytes() == _canonical(record) + b"\n"
        if not exact or not hmac.compare_digest(sign(record, key).encode(), str(record.get(SIGNATURE)).encode()):
            return "it was changed, or signed with another key"
        if record.get("number") != count:
            return f"it is number {record.get('number')} in the place of number {count}: one is missing"
        if record.get("previous") != previous:
            return "it does not follow the record before it: one was replaced"
        for part in record.get("parts", ()):
            if part.get("image") and _digest(self.folder / f"{count:06}-{part['image']}") != part["image_sha256"]:
                return f"its image {part['image']} was changed or is missing"
        return None

    def image(self, record: Mapping[str, Any], part: Mapping[str, Any]) -> bytes | None:
        """Return the JPEG file of a part, None without one."""
        if not part.get("image"):
            return None
        try:
            return (self.folder / f"{record['number']:06}-{part['image']}").read_bytes()
        except OSError:
            return None


def _read(path: Path) -> Mapping[str, Any] | None:
    try:
        record = json.loads(path.read_bytes())
        _canonical(record)  # half of a surrogate pair, say, has no bytes
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _digest(path: Path) -> str | None:
    try:
        return sha256_bytes(path.read_bytes())
    except OSError:
        return None


def describe(record: Mapping[str, Any]) -> str:
    """Return a record as one line, whatever it holds: it may be unverified."""
    try:
        line = _line(record)
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return f"{record.get('number')!s:.6}  cannot be shown: `edge-ad challenge verify` says more"
    return printable(line)


def _line(record: Mapping[str, Any]) -> str:
    moment = datetime.fromtimestamp(record["closed"]).isoformat(" ", "seconds")
    parts = record.get("parts", ())
    right = sum(bool(part["right"]) for part in parts)
    shown = f"{right} of {len(parts)} parts right" if parts else ""
    why = "; ".join(text for text in (shown, record.get("reason") or "") if text)
    return f"{record['number']:>6}  {moment}  {record['result']:<10}  by {record['by']:<16}  {why}".rstrip()


_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#15232a}"
    "section{border-top:1px solid #b9c4ca;padding:1rem 0}ul{display:flex;flex-wrap:wrap;gap:1rem;padding:0;list-style:none}"
    "li{width:11rem}img{width:100%;border:1px solid #b9c4ca}.wrong{color:#a02c00;font-weight:600}"
)


def report(records: ChallengeRecords, verified: Sequence[Verified]) -> str:
    """Return a page with all records, the newest first, with images and whether their signatures hold."""
    sections = "\n".join(_section(records, one) for one in reversed(verified)) or "<p>No challenge was recorded.</p>"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Challenges</title>'
        f"<style>{_STYLE}</style></head><body><h1>Challenges</h1>\n{sections}\n</body></html>\n"
    )


def _section(records: ChallengeRecords, one: Verified) -> str:
    record, number = one.record, html.escape(one.path.stem)
    signature = "The signature holds." if one.fault is None else f"Does not hold: {one.fault}."
    sealed = f'<p class="{"" if one.fault is None else "wrong"}">{html.escape(signature)}</p>'
    if record is None or one.fault is not None:  # nothing of what does not hold is shown as if it did
        return f"<section><h2>{number}</h2>{sealed}</section>"
    moment = datetime.fromtimestamp(record["closed"]).astimezone().isoformat(" ", "seconds")
    reason = f": {record['reason']}" if record.get("reason") else ""
    summary = html.escape(
        f"{moment}, by {record['by']}{reason}. Bundle {record['bundle']} ({record['bundle_sha256'][:12]})."
    )
    parts = "".join(_item(records, record, part) for part in record.get("parts", ()))
    heading = html.escape(f"{record['number']}: {record['result']}")
    return f"<section><h2>{heading}</h2><p>{summary}</p>{sealed}<ul>{parts}</ul></section>"


def _item(records: ChallengeRecords, record: Mapping[str, Any], part: Mapping[str, Any]) -> str:
    name = f"known {part['asked']} part {part['part'] or ''}".strip()
    data = records.image(record, part)
    shown = (
        f'<img alt="{html.escape(name)}" src="data:image/jpeg;base64,{base64.b64encode(data).decode()}">'
        if data
        else ""
    )
    score = "" if part["score"] is None else f", score {part['score']:.2f}"
    time_ms = "" if part["reject_ms"] is None else f", reject out after {part['reject_ms']:.0f} ms"
    wrong = "" if part["right"] else f' <span class="wrong">wrong: {html.escape(part["why"])}</span>'
    return f"<li>{shown}<p>{html.escape(name)}: {part['verdict']}{score}{time_ms}{wrong}</p></li>"


def audit_heads(folder: Path, key_file: Path) -> dict[str, Head]:
    """Return the heads of the audit trail that signed records name, by record; none where no key verifies them."""
    records = ChallengeRecords(folder)
    if not records.paths():
        return {}
    try:
        key = read_key(key_file)
    except BadInput:
        return {}
    heads: dict[str, Head] = {}
    for record in records.read():
        if hmac.compare_digest(sign(record, key).encode(), str(record.get(SIGNATURE)).encode()) and record.get("audit"):
            with contextlib.suppress(BadInput):
                heads[f"the signed challenge {record.get('number')}"] = parse_head(str(record["audit"]))
    return heads
