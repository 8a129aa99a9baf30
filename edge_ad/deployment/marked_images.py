"""The images of marked events as a data set: `edge-ad dataset from-record`."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from edge_ad.data.images import check_image
from edge_ad.errors import BadInput
from edge_ad.events import compact
from edge_ad.store.reader import EventFilter, Reader
from edge_ad.store.schema import StoredEvent
from edge_ad.utils.files import atomic_write, read_regular, sha256_bytes
from edge_ad.utils.text import format_time

MANIFEST = "manifest.jsonl"
NO_NAME = "defect"  # of a defect that nobody named
MAX_NAME = 60
JUDGED = ("OK", "WARN", "NG")  # verdicts on a part


@dataclass
class MarkedImages:
    """What was written: images by folder, how many were there already and moved or removed as their marks changed, and the ids of
    marked events that have no image without loss, or one that shows several parts.
    """

    written: Counter[str] = field(default_factory=Counter)
    there: int = 0
    changed: int = 0
    without: list[str] = field(default_factory=list)
    several: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        folders = ", ".join(f"{count} in {folder}" for folder, count in sorted(self.written.items())) or "no image"
        rest = [f"{self.there} were there already"] if self.there else []
        rest += [f"{self.changed} went with their marks"] if self.changed else []
        rest += [f"{len(self.without)} marked events have no lossless image"] if self.without else []
        rest += [f"{len(self.several)} show several parts and were left out"] if self.several else []
        return "; ".join([f"{folders} written", *rest])


def lossless_path(reader: Reader, event: StoredEvent) -> Path | None:
    """Return the file of the lossless image of an event; None where there is none in the evidence folder."""
    folder = reader.evidence
    if folder is None or event.lossless is None:
        return None
    root, path = folder.resolve(), (folder / event.lossless).resolve()
    return path if path.is_relative_to(root) and path.suffix == ".png" and path.is_file() else None


def shows_several(reader: Reader, event: StoredEvent) -> bool:
    """Whether the image of an event shows other parts too."""
    same = EventFilter(camera=event.camera, since=event.time, until=event.time + 1e-6)
    return sum(other.frame == event.frame for other in reader.events(same)) > 1


def proportional_sample(reader: Reader, wanted: EventFilter, count: int) -> tuple[list[StoredEvent], dict[str, tuple[int, int]]]:
    """Return at most ``count`` judged events with a lossless image, drawn at random with verdicts in the proportions of all judged
    events that are wanted, the newest first; and by verdict how many were drawn, and of how many.

    What a line rejects is kept without loss, and of OK a share: a draw of all images would show mostly rejected parts. As many
    are drawn as the rarest kept verdict allows. Again draws the same, but for parts that were judged since.
    """
    judged: Counter[str] = Counter()
    by_verdict: dict[str, list[StoredEvent]] = {name: [] for name in JUDGED}
    for event in reader.every(replace(wanted, verdicts=wanted.verdicts or JUDGED)):
        if event.verdict in by_verdict:
            judged[event.verdict] += 1
            by_verdict[event.verdict] += [event] if event.lossless is not None else []
    shares = _shared(judged, count)
    drawn = {name: _drawn(reader, by_verdict[name], shares[name]) for name in JUDGED}
    while any(shares[name] > len(drawn[name]) for name in JUDGED):
        shares = _shared(judged, sum(shares.values()) - 1)
    events = [event for name in JUDGED for event in drawn[name][: shares[name]]]
    return sorted(events, key=lambda one: -one.sequence), {name: (shares[name], judged[name]) for name in JUDGED}


def _drawn(reader: Reader, events: Sequence[StoredEvent], count: int) -> list[StoredEvent]:
    """Return at most ``count`` events whose image is there and shows one part, in an order that their ids decide."""
    ordered = sorted(events, key=lambda event: sha256_bytes(event.id.encode()))
    usable = (event for event in ordered if lossless_path(reader, event) and not shows_several(reader, event))
    return list(islice(usable, count))


def _shared(judged: Mapping[str, int], count: int) -> dict[str, int]:
    """Share a number out in the proportions of others, by largest remainders."""
    total = sum(judged.values())
    count = min(count, total)
    exact = {name: count * judged[name] / total if total else 0.0 for name in JUDGED}
    shared = {name: int(value) for name, value in exact.items()}
    for name in sorted(JUDGED, key=lambda one: shared[one] - exact[one])[: count - sum(shared.values())]:
        shared[name] += 1
    return shared


def folder_of(event: StoredEvent) -> str:
    """Return the folder of a marked event's image: ``good``, or ``defects/<name>`` with a name that is safe in a path."""
    if event.mark == "good":
        return "good"
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", event.mark_name or "").strip("._")[:MAX_NAME]
    return f"defects/{name or NO_NAME}"


def write_marked(reader: Reader, out: Path, wanted: EventFilter | None = None) -> MarkedImages:
    """Write the lossless images of marked events below ``out``, with ``manifest.jsonl``; again adds what is new.

    An image is named by its event. One that is there already stays as it is; where its mark was changed or taken away since, it
    goes with it. BadInput, and nothing is overwritten, where a file of that name has other contents, and for a manifest that
    cannot be read.
    """
    known, result = read_manifest(out), MarkedImages()
    wanted = wanted or EventFilter()
    entries: dict[str, dict[str, Any]] = {}
    for event, path in _marked(reader, replace(wanted, mark=wanted.mark or "any"), result):
        folder, data = folder_of(event), read_regular(path)
        file = f"{folder}/{event.id}.png"
        entry: dict[str, Any] = {"file": file, "event": event.id, "mark": event.mark, "name": event.mark_name}
        entry |= {"verdict": event.verdict, "score": event.score, "camera": event.camera, "product": event.product}
        entry |= {"bundle": event.bundle, "time": format_time(event.time), "sha256": sha256_bytes(data)}
        target = out / file
        if target.exists() and sha256_bytes(read_regular(target)) != entry["sha256"]:
            raise BadInput(f"{target} is there with other contents: move it away, or name another folder")
        if target.exists():
            result.there += 1
        else:
            atomic_write(target, data)
            result.written[folder] += 1
        entries[event.id] = entry
    merged = {**known, **entries}
    _write_manifest(out, merged)
    gone = [one for key, one in known.items() if key not in entries and _is_stale(reader, one)]
    for entry in [known[key] for key in entries if key in known and known[key]["file"] != entries[key]["file"]] + gone:
        result.changed += _remove(out, entry)
    stale = {entry["event"] for entry in gone}
    _write_manifest(out, {key: entry for key, entry in merged.items() if key not in stale or key in entries})
    return result


def read_manifest(out: Path) -> dict[str, dict[str, Any]]:
    """Return the entries of a manifest by event; BadInput where it is damaged."""
    path, entries = out / MANIFEST, {}
    if not path.exists():
        return {}
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            if not re.fullmatch(r"(good|defects/[A-Za-z0-9._-]+)/[A-Za-z0-9-]+\.png", entry["file"]) or ".." in entry["file"]:
                raise ValueError(f"the file {entry['file']!r:.80}")
            entries[str(entry["event"])] = dict(entry)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path} cannot be read ({error}): move it away, or name another folder") from error
    return entries


def _marked(reader: Reader, wanted: EventFilter, result: MarkedImages) -> Iterator[tuple[StoredEvent, Path]]:
    """Yield marked events with their lossless image, which shows one part."""
    for event in reader.every(wanted):
        path = lossless_path(reader, event)
        if path is None:
            result.without.append(event.id)
            continue
        if shows_several(reader, event):
            result.several.append(event.id)
            continue
        check_image(path)
        yield event, path


def _is_stale(reader: Reader, entry: Mapping[str, Any]) -> bool:
    """Whether the mark of an entry is another now, or none; an event that the record has let go keeps its image."""
    event = reader.event(str(entry["event"]))
    return event is not None and (event.mark is None or folder_of(event) != str(Path(entry["file"]).parent))


def _remove(out: Path, entry: Mapping[str, Any]) -> bool:
    """Remove an image that does not lie where its mark says; False where it is gone or somebody changed it."""
    path = out / entry["file"]
    if not path.is_file() or sha256_bytes(read_regular(path)) != entry["sha256"]:
        return False
    path.unlink()
    return True


def _write_manifest(out: Path, entries: Mapping[str, Mapping[str, Any]]) -> None:
    lines = "".join(f"{compact(entry)}\n" for _, entry in sorted(entries.items(), key=lambda pair: pair[1]["time"]))
    atomic_write(out / MANIFEST, lines)
