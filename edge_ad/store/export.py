"""Events as people take them away: a table, CSV and JSON."""

from __future__ import annotations

import csv
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any, TextIO

from edge_ad.errors import BadInput
from edge_ad.events import FIELDS, POSE
from edge_ad.store.schema import StoredEvent
from edge_ad.utils.text import format_time, printable

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_TEXTS = ("camera", "part", "reason", "outside", "product", "zone", "views")
_BLANKS = " \t\r\n\v\f\x00\u00a0\u200b\u2060\ufeff"


def moment(text: str, now: float, zone: tzinfo | None = None) -> float:
    """Return the seconds since 1970 UTC that a person means.

    ``2h`` or ``30m`` or ``7d`` is so long ago; ``2026-03-01`` and ``2026-03-01T06:00`` are times of ``zone`` (None: local)
    unless they end in an offset or Z. BadInput for anything else.
    """
    ago = re.fullmatch(r"(\d{1,6})([smhd])", text.strip(), re.ASCII)
    if ago:
        return now - int(ago.group(1)) * UNITS[ago.group(2)]
    try:
        given = datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text.strip()))
        return (given if given.tzinfo is not None or zone is None else given.replace(tzinfo=zone)).timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise BadInput(
            f"the time is {text!r}: write 2026-03-01, 2026-03-01T06:00, or how long ago, such as 2h, 30m or 7d"
        ) from error


def table(events: Iterable[StoredEvent]) -> Iterator[str]:
    """Yield a heading and one line an event, times local."""
    yield f"{'id':<8}  {'time':<23}  {'verdict':<7}  {'score':>7}  {'mark':<4}  {'part':<12}  {'camera':<20}  reason"
    for event in events:
        score = "" if event.score is None else f"{event.score:.2f}"
        time = datetime.fromtimestamp(event.time).isoformat(" ", "milliseconds")
        part, camera = _short(event.part or "", 12), _short(event.camera[::-1], 20)[::-1]  # its end tells more
        yield (
            f"{event.id[:8]:<8}  {time:<23}  {event.verdict:<7}  {score:>7}  {event.mark or '':<4}  {part:<12}  "
            f"{camera:<20}  {_short(event.reason or '', 60)}"
        ).rstrip()


def write_csv(path: Path, events: Iterable[StoredEvent], branches: Iterable[str]) -> int:
    """Write one row an event, z in a column for each branch, then pose, product, bundle, zone and views; returns how many.
    BadInput when the file cannot be written.

    A text that a spreadsheet would take for a formula gets an apostrophe before it.
    """
    named = tuple(branches)
    first = ("id", "time", "camera", "frame", "part", "verdict", "score", "latency_ms", "reason", "mark", "images")
    count = 0
    with _written(path) as stream:
        last = ("product", "bundle", "zone")
        more = ("peak_x", "peak_y", "views")
        names = [*first, *(f"z_{name}" for name in named), *(f"pose_{name}" for name in POSE), *last, *more]
        writer = csv.DictWriter(stream, names)
        writer.writeheader()
        for event in events:
            count += 1
            record = as_json(event)
            values = {name: _cell(name, record[name]) for name in (*first, *last) if name != "images"}
            z = {f"z_{name}": event.z.get(name) for name in named}
            pose = {f"pose_{name}": _cell(name, (event.pose or {}).get(name)) for name in POSE}
            x, y = event.peak or (None, None)
            views = ";".join(f"{row['view']}={row['verdict']}" for row in event.views or ())
            values |= {"peak_x": x, "peak_y": y, "views": _cell("views", views)}
            writer.writerow({**values, "images": ";".join(event.images), **z, **pose})
    return count


def write_json(path: Path, events: Iterable[StoredEvent]) -> int:
    """Write a JSON array of the events; returns how many. BadInput when the file cannot be written."""
    count = 0
    with _written(path) as stream:
        for count, event in enumerate(events, start=1):
            stream.write(f"{'[' if count == 1 else ','}\n{json.dumps(as_json(event), allow_nan=False)}")
        stream.write("\n]\n" if count else "[]\n")
    return count


def as_json(event: StoredEvent) -> dict[str, Any]:
    """Return an event as plain values, its time as in `edge-ad run --events`."""
    values = {name: getattr(event, name) for name in FIELDS}
    return {**values, "time": format_time(event.time), "mark": event.mark, "images": list(event.images)}


def _cell(name: str, value: Any) -> Any:
    return f"'{value}" if name in _TEXTS and isinstance(value, str) and is_formula(value) else value


def is_formula(text: str) -> bool:
    """Whether a spreadsheet may take a text for a formula.

    Full-width and small forms of the signs count as the signs, as some programs read them; so do blanks before them,
    which some cut off.
    """
    plain = unicodedata.normalize("NFKC", text[:64]).replace("\u2212", "-").lstrip(_BLANKS)
    return plain[:1] in ("=", "+", "-", "@") or text[:1] in ("\t", "\r", "\n")


def _short(text: str, width: int) -> str:
    plain = printable(text)
    return plain if len(plain) <= width else f"{plain[: width - 1]}…"


@contextmanager
def _written(path: Path) -> Iterator[TextIO]:
    """Open a file beside ``path`` that takes its place when it is complete."""
    partial = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8", newline="") as stream:
            yield stream
        os.replace(partial, path)
    except OSError as error:
        raise BadInput(
            f"cannot write {path}: {error.strerror or error}; choose another file or free some space"
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink()
