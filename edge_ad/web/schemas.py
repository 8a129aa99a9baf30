"""What the API takes and gives, for the OpenAPI document, and the messages that the dashboard's process gets from the run.

A message is one JSON line, followed by as many bytes as it announces.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import IO, Annotated, Any, Literal, Protocol, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model

from edge_ad import events
from edge_ad.events import FIELDS, Mark
from edge_ad.web.users import Permission, Role, UserRole

MAX_LINE = 64 * 2**20  # of a message
DIGITS = {"score": 6, "z": 6, "latency_ms": 6}
# Numbers that SQLite and JSON can hold.
Moment = Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)]
Score = Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)]
Number = Annotated[int, Field(ge=0, le=2**53)]
Text = Annotated[str, Field(min_length=1, max_length=300, pattern=r"^[^\x00-\x1f\x7f]+$")]


class Message(BaseModel):
    """One sentence: what went wrong, or what was done."""

    error: str


# The fields of an event in the order of its lines, and what the record adds; a z that is not finite is null.
_HINTS = {**get_type_hints(events.Event), "z": dict[str, float | None]}
_ADDED: dict[str, Any] = {"sequence": int, "mark": Mark | None, "images": int}
_DEFINITIONS: dict[str, Any] = {
    name: (_HINTS.get(name) or _ADDED[name], ...) for name in ("id", "sequence", *FIELDS[1:], "mark", "images")
}
Event = create_model("Event", **_DEFINITIONS)
Event.__doc__ = """One verdict; fields as in the lines of `edge-ad run --events`, ``time`` in seconds since 1970 UTC.

``sequence`` grows with every event; ``images`` counts its images.
"""


class EventPage(BaseModel):
    """Events, newest first; ``before`` is what to ask the next page with, None on the last one."""

    events: list[Event]
    before: int | None


class Hour(BaseModel):
    """Verdicts of one hour that began at ``start`` (seconds since 1970 UTC)."""

    start: float
    verdicts: dict[str, int]


class MarkRequest(BaseModel):
    """What a person says about a part; None takes the mark away."""

    model_config = ConfigDict(extra="forbid")
    mark: Mark | None


class Preview(BaseModel):
    """What two thresholds would have made of recent events.

    ``judged`` events have a score, ``faults`` have none (NONE, or NG of a part that was not located) and stay as they
    are. ``counts`` by verdict, ``rejects`` as the alarm rule counts them, over ``hours``; ``before`` the same with
    the thresholds of now. ``limited``: there were more events than are looked at. ``histogram``: counts of scores in
    equal steps from ``low`` to ``high``.
    """

    judged: int
    faults: int
    hours: float
    counts: dict[str, int]
    rejects: int
    rejects_an_hour: float
    rejected_marked_good: int
    passed_marked_bad: int
    before: dict[str, int]
    limited: bool
    told: str
    low: float
    high: float
    histogram: list[int]


class ThresholdRequest(BaseModel):
    """Thresholds to judge by from now on, and why."""

    model_config = ConfigDict(extra="forbid")
    warn: Score
    ng: Score
    reason: Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")] = ""


class Thresholds(BaseModel):
    """The thresholds of now; ``locked`` says why they cannot be changed here, None when they can."""

    warn: float | None
    ng: float | None
    told: str
    bundle: str | None
    locked: str | None


class Applied(BaseModel):
    """A bundle with new thresholds; ``running`` when the line judges by them already."""

    bundle: str
    running: bool
    told: str


class ActionRequest(BaseModel):
    """Why a pause, a challenge or its override is asked for, and who asks; without a name it is the address of the page."""

    model_config = ConfigDict(extra="forbid")
    reason: Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")] = ""
    by: Annotated[str, Field(max_length=80, pattern=r"^[^\x00-\x1f\x7f]*$")] = ""


class Action(BaseModel):
    """What a person or a PLC did to the line, such as a pause."""

    time: float
    kind: str
    by: str
    origin: str
    reason: str


class ProductRequest(BaseModel):
    """The product to judge, and who asks; without a name it is the address of the page."""

    model_config = ConfigDict(extra="forbid")
    name: Annotated[str, Field(min_length=1, max_length=80, pattern=r"^[^\x00-\x1f\x7f]*$")]
    by: Annotated[str, Field(max_length=80, pattern=r"^[^\x00-\x1f\x7f]*$")] = ""


class Done(BaseModel):
    """What the run did on a request."""

    told: str


Password = Annotated[str, Field(max_length=1000)]  # `check_password` says which are taken


class UserRow(BaseModel):
    """A user of the dashboard."""

    name: str
    role: UserRole


class UserRequest(BaseModel):
    """A user by name."""

    model_config = ConfigDict(extra="forbid")
    name: Annotated[str, Field(min_length=1, max_length=80)]


class UserRoleRequest(UserRequest):
    """The role that a user gets."""

    role: UserRole


class UserPasswordRequest(UserRequest):
    """The password that a user gets."""

    password: Password


class NewUser(UserRoleRequest, UserPasswordRequest):
    """A user to add."""


class Life(BaseModel):
    """Whether the inspector lives."""

    status: Literal["ok", "failed"]
    told: str


class State(BaseModel):
    """The state of the run; ``run`` is what changes with every image, None before the first."""

    role: Role
    user: str | None
    may: list[Permission]
    login: bool
    attached: bool
    silent_s: float
    pages: int
    about: dict[str, Any]
    run: dict[str, Any] | None
    count: int
    events: list[dict[str, Any]]
    pictures: list[dict[str, Any] | None]


class Writable(Protocol):
    """Where messages go."""

    def write(self, data: bytes | memoryview, /) -> object: ...
    def flush(self) -> None: ...


def write_message(stream: Writable, record: dict[str, Any], blobs: Sequence[bytes | memoryview] = ()) -> None:
    """Write one message; ``record`` is plain JSON without NaN."""
    line = json.dumps({**record, "sizes": [len(blob) for blob in blobs]}, allow_nan=False, separators=(",", ":"))
    stream.write(line.encode() + b"\n")
    for blob in blobs:
        stream.write(blob)
    stream.flush()


def read_message(stream: IO[bytes]) -> tuple[dict[str, Any], list[bytes]] | None:
    """Return the next message and its bytes; None at the end, also where the end cuts a message off."""
    line = stream.readline(MAX_LINE)
    if not line.endswith(b"\n"):
        return None
    record = json.loads(line)
    sizes = record.pop("sizes")
    blobs = [stream.read(size) for size in sizes]
    return (record, blobs) if [len(blob) for blob in blobs] == sizes else None
