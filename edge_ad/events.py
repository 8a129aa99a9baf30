"""The event: one verdict on one part, and the one way it becomes JSON.

The index, the outputs and the dashboard extend this event or view it; standard library only.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from edge_ad.utils.text import MAX_NAME, MAX_REASON, format_time, storable

Verdict = Literal["OK", "WARN", "NG", "NONE"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
Mark = Literal["good", "bad"]  # what a person says about the part of an event
MARKS: tuple[Mark, ...] = get_args(Mark)

FIELDS = (
    "id", "camera", "frame", "part", "time", "verdict", "score", "z", "latency_ms", "reason", "pose", "product", "bundle",
    "zone", "peak", "views",
)  # as documented  # fmt: skip
LATER = ("pose", "product", "bundle", "zone", "peak", "views")  # which records of earlier versions do not have
VERSION = 1  # of ``schema``; grows when a field goes or changes its meaning, not for a new one alone
DIGITS = {"score": 6, "z": 4, "latency_ms": 3}  # of files and outputs
_TEXTS = (("camera", MAX_NAME), ("part", MAX_NAME), ("reason", MAX_REASON), ("product", MAX_NAME), ("zone", MAX_NAME))
POSE = ("x", "y", "angle", "width", "height", "scale", "residual", "symmetric", "outside")  # as documented
VIEW = ("view", "camera", "frame", "verdict", "score", "z", "latency_ms", "reason", "pose", "bundle", "zone", "peak")


@dataclass(frozen=True)
class Event:
    """One verdict.

    ``time`` is the capture in wall-clock seconds since 1970 UTC; ``latency_ms`` runs from the capture to the verdict,
    for files from the moment the frame was taken up. ``frame`` and ``part`` are None for an outage without a frame;
    ``score`` is None and ``z`` empty when the verdict is NONE; ``reason`` is None when it is OK. ``pose`` says where the
    part lies (POSE), None where it was not located or nothing locates parts. ``product`` is the one that was
    judged, None where the station has no products or none was in force; ``bundle`` the sha256 of what judged, None where
    nothing could. ``zone`` is the sensitivity zone that is farthest beyond a threshold of its own, None where none is. ``peak``
    is where a part that is WARN or NG deviates most, x and y as shares of the image as judged. ``views`` are the verdicts on
    the views of a part that several cameras see (VIEW), None where one does; camera, frame, z, pose and peak are then those of
    the view that decided. Texts are made ``storable`` here, whatever a file name, a trigger or a driver gave: every record
    and output gets them from an event.
    """

    camera: str
    frame: int | None
    part: str | None
    time: float
    verdict: Verdict
    score: float | None
    z: Mapping[str, float]
    latency_ms: float | None
    reason: str | None
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    pose: Mapping[str, Any] | None = None
    product: str | None = None
    bundle: str | None = None
    zone: str | None = None
    peak: tuple[float, float] | None = None
    views: Sequence[Mapping[str, Any]] | None = None

    def __post_init__(self) -> None:
        for name, max_length in _TEXTS:
            text = getattr(self, name)
            if isinstance(text, str):
                object.__setattr__(self, name, storable(text, max_length))

    def record(self, digits: Mapping[str, int] | None = None) -> dict[str, Any]:
        """Return FIELDS as plain values, numbers rounded to ``digits``; one that is not finite becomes None."""
        digits = digits or {}
        values = {name: getattr(self, name) for name in FIELDS}
        for name in ("time", "score", "latency_ms"):
            values[name] = finite(values[name], digits.get(name))
        values["z"] = {name: finite(value, digits.get("z")) for name, value in self.z.items()}
        values["peak"] = None if self.peak is None else [finite(value, digits.get("peak", 4)) for value in self.peak]
        values["pose"] = None if self.pose is None else {name: _plain(value) for name, value in self.pose.items()}
        values["views"] = None if self.views is None else [_view_record(row, digits) for row in self.views]
        return values

    def as_view(self, name: str) -> dict[str, Any]:
        """Return the row (VIEW) of this verdict on one view, among the ``views`` of the event on its part."""
        values = {key: getattr(self, key) for key in VIEW if key != "view"}
        return {"view": name, **values, "z": dict(self.z)}

    def line(self) -> str:
        """Return the line of `edge-ad run --events`; ValueError for a number that is not finite."""
        numbers = (self.score, self.latency_ms, *self.z.values())
        if not all(value is None or math.isfinite(value) for value in numbers):
            raise ValueError(f"event {self.id} has a number that JSON does not know")
        return compact(self._public())

    def message(self) -> str:
        """Return what an output delivers: the line of `edge-ad run --events` with the version of its schema before it.

        A number that is not finite becomes null: one odd value must not hold up what comes behind it.
        """
        return compact({"schema": VERSION, **self._public()})

    def _public(self) -> dict[str, Any]:
        return {**self.record(DIGITS), "time": format_time(self.time)}


def _view_record(row: Mapping[str, Any], digits: Mapping[str, int]) -> dict[str, Any]:
    """Return the row of a view as JSON knows it."""
    values = dict(row)
    for name in ("score", "latency_ms"):
        values[name] = finite(values[name], digits.get(name))
    values["z"] = {name: finite(value, digits.get("z")) for name, value in row["z"].items()}
    values["pose"] = None if row["pose"] is None else {name: _plain(value) for name, value in row["pose"].items()}
    values["peak"] = None if row["peak"] is None else [finite(value, digits.get("peak", 4)) for value in row["peak"]]
    return values


def _plain(value: Any) -> Any:
    """Return a value of a pose as JSON knows it."""
    return finite(value) if isinstance(value, float) else value


def finite(value: float | None, digits: int | None = None) -> float | None:
    """Return the number, rounded where ``digits`` are given; None for one that is not finite."""
    if value is None or not math.isfinite(value):
        return None
    return value if digits is None else round(value, digits)


def compact(record: Mapping[str, Any] | Sequence[Any]) -> str:
    """Return JSON on one line without blanks."""
    return json.dumps(record, allow_nan=False, separators=(",", ":"))


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of ``Event.message``."""
    number = {"type": ["number", "null"]}
    fields: dict[str, dict[str, Any]] = {
        "schema": {"const": VERSION, "description": "version of this schema"},
        "id": {"type": "string", "format": "uuid", "description": "the same id again is the same event again"},
        "camera": {"type": "string", "description": "as given to --camera, without credentials"},
        "frame": {"type": ["integer", "null"], "minimum": 0, "description": "null for an outage without a frame"},
        "part": {"type": ["string", "null"], "description": "id or number of the part; null without one"},
        "time": {"type": "string", "format": "date-time", "description": "capture, UTC, milliseconds"},
        "verdict": {"enum": list(VERDICTS), "description": "NONE: nothing can be said; treat it as NG"},
        "score": {**number, "description": "fused z; null when the verdict is NONE"},
        "z": {"type": "object", "additionalProperties": number, "description": "score of each branch in z"},
        "latency_ms": {**number, "description": "capture to verdict"},
        "reason": {"type": ["string", "null"], "description": "why it is not OK; null for OK"},
        "pose": _pose_schema(),
        "product": {"type": ["string", "null"], "description": "what was judged; null without products, and during a change"},
        "bundle": {"type": ["string", "null"], "description": "sha256 of the bundle that judged; null where none was in force"},
        "zone": {"type": ["string", "null"], "description": "the zone that is beyond a threshold of its own; null where none is"},
    }
    fields["peak"] = {
        "type": ["array", "null"],
        "items": {"type": "number", "minimum": 0, "maximum": 1},
        "minItems": 2,
        "maxItems": 2,
        "description": "where a part that is not OK deviates most: x and y as shares of the image as judged, from its upper left",
    }
    fields["views"] = _views_schema(fields)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "edge-ad event",
        "type": "object",
        "properties": fields,
        "required": list(fields),
        "additionalProperties": True,
    }


def _views_schema(fields: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    rows = {"view": {"type": "string", "description": "name of the view"}, **{name: fields[name] for name in VIEW[1:]}}
    return {
        "type": ["array", "null"],
        "description": "verdicts on the views of a part that several cameras see, of which the worst decides; null where one does",
        "items": {"type": "object", "properties": rows, "required": list(rows), "additionalProperties": True},
    }


def _pose_schema() -> dict[str, Any]:
    number, described = {"type": ["number", "null"]}, {
        "x": "middle of the part's box in pixels of the camera's image, to the right",
        "y": "the same, down",
        "angle": "degrees, clockwise as one sees the image",
        "width": "of the box, pixels of the image",
        "height": "of the box, pixels of the image",
        "scale": "1: as in the normal images",
        "residual": "share of the template that the image does not confirm, 0 to 1",
    }
    fields: dict[str, dict[str, Any]] = {name: {**number, "description": text} for name, text in described.items()}
    fields["symmetric"] = {"type": "boolean", "description": "the part looks the same at several angles"}
    fields["outside"] = {"type": ["string", "null"], "description": "how the pose leaves those of the normal images"}
    return {
        "type": ["object", "null"],
        "description": "where the part lies; null where it was not located or nothing locates parts",
        "properties": fields,
        "required": list(fields),
        "additionalProperties": True,
    }
