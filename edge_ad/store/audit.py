"""The hash chain over the actions of a line: what links one record to the next, and what verifies them all.

Each line of the file of actions has a ``chain`` in its details: its number, the hash of the record before it, and its own,
the SHA-256 of the canonical JSON of everything else in it. The first record follows the hash of all bytes before it, those
of an earlier version. The newest hash is also kept elsewhere, because a chain alone cannot tell that its end was cut off.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_ad.errors import BadInput
from edge_ad.utils.files import sha256_bytes

CHAIN = "chain"
REMOVED = "actions removed"  # the kind of the record that stands for those which retention took away
HEADS = "audit.heads"
TAIL_BYTES = 1 << 16


@dataclass(frozen=True)
class Head:
    """Number and hash of a record."""

    number: int
    hash: str

    def __str__(self) -> str:
        return f"{self.number}:{self.hash}"


Link = tuple[dict[str, Any], Head, str]  # a record, its head, and the hash before it


def parse_head(text: str) -> Head:
    """Return the head in ``NUMBER:HASH``, of which the hash may be cut to 12 digits; BadInput for anything else."""
    number, _, digest = text.strip().partition(":")
    valid = number.isascii() and number.isdigit() and 12 <= len(digest) <= 64
    if not valid or set(digest.lower()) - set("0123456789abcdef"):
        raise BadInput(f"the head is {text!r:.80}: write NUMBER:HASH as `edge-ad events verify` prints it, with 12 digits or more")
    return Head(int(number), digest.lower())


def linked(record: Mapping[str, Any], previous: Head) -> tuple[dict[str, Any], Head]:
    """Return a record as the next link of the chain, and the head that it makes."""
    chain: dict[str, Any] = {"number": previous.number + 1, "previous": previous.hash}
    whole = {**record, "details": {**record["details"], CHAIN: chain}}
    chain["hash"] = _digest(whole)
    return whole, Head(chain["number"], chain["hash"])


def first_head(before: bytes) -> Head:
    """Return what the first record follows: the bytes that an earlier version wrote."""
    return Head(0, sha256_bytes(before))


def link_of(line: bytes) -> Link | None:
    """Return a chained line as its record, its head and the hash before it, unverified; None for any other line."""
    try:
        record = json.loads(line)
        chain = record["details"][CHAIN]
        return record, Head(int(chain["number"]), str(chain["hash"])), str(chain["previous"])
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return None


def tail_head(handle: int) -> Head | None:
    """Return the head of an open file of actions, None where nothing in it is chained."""
    return next((link[1] for line in lines_backwards(handle) if (link := link_of(line)) is not None), None)


def lines_backwards(handle: int) -> Iterator[bytes]:
    """Yield the lines of an open file, the last one first, reading no more of it than is asked for."""
    end, window, rest = os.fstat(handle).st_size, TAIL_BYTES, b""
    while end:
        start = max(0, end - window)
        rest, *lines = (os.pread(handle, end - start, start) + rest).split(b"\n")
        yield from reversed(lines)
        end, window = start, 4 * window
    yield rest


def _digest(record: Mapping[str, Any]) -> str:
    details = record["details"]
    chain = {name: value for name, value in details[CHAIN].items() if name != "hash"}
    whole = {**record, "details": {**details, CHAIN: chain}}
    text = json.dumps(whole, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def keep_head(folder: Path, head: Head) -> None:
    """Note the newest head in the evidence folder too, where there is one; what the disk refuses there is left out."""
    with contextlib.suppress(OSError):
        handle = os.open(folder / HEADS, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            os.write(handle, f"{head}\n".encode())
        finally:
            os.close(handle)


def kept_heads(folder: Path) -> Iterator[Head]:
    """Yield the heads that were noted in a folder, the oldest first."""
    with contextlib.suppress(OSError), (folder / HEADS).open(encoding="ascii", errors="replace") as stream:
        for line in stream:
            with contextlib.suppress(BadInput):  # torn by a kill
                yield parse_head(line)


@dataclass(frozen=True)
class Verification:
    """How a file of actions stands: its records from ``first`` to ``head``, lines of no record, and why it does not hold.

    ``earlier`` counts lines of an earlier version, which the first record vouches for; ``fault`` names the first broken
    record, None where all hold.
    """

    records: int
    first: int
    head: Head | None
    earlier: int
    fault: str | None


def verify(path: Path, heads: Mapping[str, Head]) -> Verification:
    """Check a file of actions record by record, and that it holds ``heads`` that were noted elsewhere, by their place.

    BadInput where it cannot be read.
    """
    return _Verifier(heads).verify(path)


class _Verifier:
    def __init__(self, heads: Mapping[str, Head]) -> None:
        self._heads = heads
        self._head: Head | None = None
        self._first = 0
        self._first_previous = ""
        self._before = hashlib.sha256()
        self._earlier = 0
        self._vouched = False  # a later record says what retention took away before the first one

    def verify(self, path: Path) -> Verification:
        """Return how the file stands."""
        fault: str | None = None
        records = 0
        try:
            with path.open("rb") as stream:
                for line in stream:
                    link = link_of(line)
                    if link is None:
                        self._pass_over(line)
                        continue
                    records += 1
                    fault = fault or self._fault(*link)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise BadInput(f"the actions {path} cannot be read: {error.strerror}; let this user read them") from error
        fault = fault or self._fault_of_begin() or self._fault_of_end()
        return Verification(records, self._first, self._head, self._earlier, fault)

    def _pass_over(self, line: bytes) -> None:
        """Take in a line of an earlier version; one that a crash tore later counts for nothing."""
        if self._head is None:
            self._before.update(line)
            self._earlier += 1

    def _fault(self, record: Mapping[str, Any], head: Head, previous: str) -> str | None:
        name = f"record {head.number} ({record.get('kind')!s:.40})"
        try:
            changed = _digest(record) != head.hash
        except ValueError:  # a number that JSON does not know: no record was written with one
            changed = True
        if changed:
            return f"{name} was changed: its hash does not fit it"
        last, self._head = self._head, head
        if last is None:
            self._first, self._first_previous = head.number, previous
        elif head.number != last.number + 1:
            missing = f"record {last.number + 1} is missing" if head.number > last.number else "records were inserted"
            return f"{name} follows record {last.number}: {missing}"
        elif previous != last.hash:
            return f"{name} does not follow record {last.number} as that is now: that one was replaced"
        if record.get("kind") == REMOVED:
            removed = record["details"].get("removed", {})
            ends = (int(removed.get("last", 0)), removed.get("hash"))
            self._vouched = self._vouched or ends == (self._first - 1, self._first_previous)
        return self._fault_of_heads(name, head)

    def _fault_of_heads(self, name: str, head: Head) -> str | None:
        for place, noted in self._heads.items():
            if noted.number == head.number and not head.hash.startswith(noted.hash):
                return f"{name} is not the one that {place} names: the chain was made anew from there or before"
        return None

    def _fault_of_begin(self) -> str | None:
        if self._head is None:
            return None
        if self._first == 1:
            whole = self._first_previous == self._before.hexdigest()
            return None if whole else "record 1 does not follow the lines of the earlier version before it: they were changed"
        if not self._vouched:
            return f"record {self._first} is the first, but no record says that those before it were removed"
        return "lines were put before the first record" if self._earlier else None

    def _fault_of_end(self) -> str | None:
        last = 0 if self._head is None else self._head.number
        for place, noted in self._heads.items():
            if noted.number > last:
                newest = f"record {last} is the newest" if last else "no record is here"
                return f"record {last + 1} is missing: {place} names record {noted.number}, but {newest}"
        return None
