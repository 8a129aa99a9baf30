"""Tables of edge-ad.toml that products may change for themselves, and what every table is made of."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

TimeOfDay = Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]
Presence = Literal["none", "settled", "learned", "trigger"]
MAX_CODE = 65_535
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)


@dataclass(frozen=True)
class Flag:
    """The flag of a key: its ``help``, and where they do not follow from the key, its ``metavar`` and ``names``."""

    help: str
    metavar: str | None = None
    names: tuple[str, ...] = ()


class Table(BaseModel):
    """A table of the file: an unknown key is an error, numbers are finite, and values do not change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def name_list(value: object) -> object:
    """Return a list of names: one may stand alone, and an index may be a number, as in ``camera = 0``."""
    if isinstance(value, bool):
        return value
    if isinstance(value, (str, int)):
        value = [value]
    if isinstance(value, list):
        return [str(item) if isinstance(item, int) and not isinstance(item, bool) else item for item in value]
    return value


class CameraTable(Table):
    """How live cameras are watched; ``clock``: by their own clock, which tells how late their images arrive.

    ``liveness``: what proves besides that an image is new, ``counter``, ``blink:X,Y,WIDTH,HEIGHT@HZ`` or
    ``different:N``.
    """

    clock: bool = True
    liveness: list[str] = Field(default_factory=list)


class AlarmTable(Table):
    """When parts raise the alarm of `edge-ad run`, and when it ends.

    ``raise_parts`` is N/M: N bad ones among the last M. NG and NONE are bad, with ``warn_rejects`` WARN too. The cause
    is gone after ``clear_after`` clear parts in a row: OK with a score of at most ``clear_below`` (default: any OK), so
    that scores just below the threshold end nothing. The alarm stays on for ``min_on_s`` seconds at least and, with
    ``latch``, until it is acknowledged.
    """

    raise_parts: Annotated[str, Field(pattern=r"^[1-9]\d{0,3}/[1-9]\d{0,3}$")] = "1/1"
    clear_after: Annotated[int, Field(ge=1, le=1000)] = 1
    clear_below: float | None = None
    min_on_s: Annotated[float, Field(ge=0, le=3600)] = 1.0
    latch: bool = False
    warn_rejects: bool = False


class ReportTable(Table):
    """When shifts begin (local times), and by the clock of which ``zone``, such as Europe/Berlin [this machine's]."""

    shifts: list[TimeOfDay] = Field(default=["06:00", "14:00", "22:00"], min_length=1, max_length=24)
    zone: Annotated[str, Field(min_length=1, max_length=64)] | None = None


class ChallengeTable(Table):
    """The station's own known parts, and when it asks to be shown them.

    ``good`` and ``bad`` count them; both are at least 1 where one is set. With ``good_ids`` and ``bad_ids`` (ids that a
    trigger gives) parts come in any order and others in between; without they come in the order asked. It asks
    ``every`` so many hours, at ``shifts`` (local times, "06:00") and, with ``changeover``, for a bundle that has not
    passed. ``overdue`` lock: ``grace_min`` minutes after that nothing passes any more. ``max_reject_ms``: from the
    capture, or the call, until a PLC has the reject. ``timeout_min``: an open challenge fails after it. ``key``: the file
    that signs [beside the store].
    """

    good: Annotated[int, Field(ge=0, le=50)] = 0
    bad: Annotated[int, Field(ge=0, le=50)] = 0
    good_ids: list[str] = Field(default_factory=list)
    bad_ids: list[str] = Field(default_factory=list)
    every: Annotated[float | None, Field(gt=0, le=10_000)] = None
    shifts: list[TimeOfDay] = Field(default_factory=list)
    changeover: bool = False
    overdue: Literal["ask", "lock"] = "ask"
    grace_min: Annotated[float, Field(ge=0, le=10_000)] = 30.0
    max_reject_ms: Annotated[float | None, Field(gt=0, le=60_000)] = None
    timeout_min: Annotated[float, Field(gt=0, le=1440)] = 15.0
    key: Path | None = None


class FleetTable(Table):
    """The fleet that this station belongs to, or that an engineer's machine rolls out to.

    A station follows it where ``trusted_keys`` (``NAME:BASE64``, as `edge-ad fleet key` prints them) name at least one key.
    ``station`` is its name [that of the machine]. ``images`` is a folder with known ``good`` and ``bad`` images that a new
    bundle must judge right. ``share`` of the time of one core is what the comparison on live parts may take. ``folder`` is
    where bundles are kept [beside the store].
    """

    broker: Annotated[
        str | None,
        Flag("Broker of the fleet, mqtt://HOST/TOPIC, or a shared folder [--bundles where that is a folder].", "URI|FOLDER"),
    ] = None
    bundles: Annotated[
        str | None, Flag("Where bundles are: a folder, https://HOST/FOLDER or s3://HOST/BUCKET.", "URI|FOLDER")
    ] = None
    group: Annotated[str, Flag("Group of stations.", "NAME")] = "line"
    key: Annotated[Path | None, Flag("Private key that signs, on the engineer's machine.", "FILE")] = None
    station: str | None = None
    trusted_keys: list[str] = Field(default_factory=list)
    images: Path | None = None
    share: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    folder: Path | None = None


class RecordTable(Table):
    """What `edge-ad run` keeps beside the store: the folder of images and journal, one in ``ok_every`` OK, and limits.

    Lossless images, to learn from, are of NG, WARN and one in ``lossless_ok_every`` OK [``ok_every``]; unmarked ones take at
    most ``lossless_gb``. ``required``: nothing passes while events cannot be stored. ``keep_actions_days``: how long the audit
    trail goes back.
    """

    evidence: Annotated[Path | None, Flag("Folder of the images and the journal that belong to the store [beside it].")] = None
    required: bool = False
    ok_every: Annotated[int, Field(ge=0)] = 100
    keep_days: Annotated[float, Field(gt=0)] = 90.0
    keep_actions_days: Annotated[float, Field(gt=0)] = 1826.0
    keep_gb: Annotated[float, Field(gt=0)] = 10.0
    lossless_ok_every: Annotated[int, Field(ge=0)] | None = None
    lossless_gb: Annotated[float, Field(ge=0)] = 2.0
    free_gb: Annotated[float, Field(ge=0)] = 1.0


_CLASS = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)  # what stands for one letter
_REPETITION = r"(?:[*+]|\{\d*,\d*\})"
_AGAIN = r"(?:[*+]|\{\d*,?\d*\})"  # also so many times exactly
_WAYS = re.compile(rf"{_REPETITION}\??|(?<!\()\?|\|")  # what lets one text match in several ways
_MAX_WAYS = 6  # of a text of 64 letters that is a second, at the worst
_MAX_PATTERN = 200
_GROUP = re.compile(rf"\(([^()]*)\)({_AGAIN})?")


def _repeats_a_repetition(text: str) -> bool:
    """Whether a regular expression repeats a group that matches in several ways, from the innermost groups on."""
    text = _CLASS.sub("x", text)
    while group := _GROUP.search(text):
        inner, again = _WAYS.search(group[1].removeprefix("?")) is not None, group[2] or ""
        if inner and again:
            return True
        text = f"{text[: group.start()]}x{'+' if inner else again}{text[group.end() :]}"
    return False


def _has_too_many_ways(text: str) -> bool:
    """Whether so many repetitions, options and groups of alternatives follow each other that trying all takes too long."""
    text, groups = _CLASS.sub("x", text), 0
    while group := _GROUP.search(text):
        groups += "|" in group[1]
        text = f"{text[: group.start()]}x{group[1].replace('|', '').lstrip('?:')}{group[2] or ''}{text[group.end() :]}"
    return len(_WAYS.findall(text.replace("|", ""))) + groups > _MAX_WAYS


def _pattern(text: str | None) -> str | None:
    """Return a regular expression that can be used."""
    if text is not None:
        try:
            re.compile(text)
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"no regular expression ({error}): write one such as '^AB-'") from error
        if _repeats_a_repetition(text):
            raise ValueError(
                "a repetition of something that is repeated itself or has alternatives, such as (A+)+ or (A|B)+, which takes hours "
                "for some part ids: write it without the inner or the outer one, such as '^A+' or '^[AB]+'"
            )
        if len(text) > _MAX_PATTERN or _has_too_many_ways(text):
            raise ValueError(
                f"more than {_MAX_WAYS} repetitions, options and groups of alternatives, or above {_MAX_PATTERN} letters, which "
                "takes long for some part ids: name the beginning of the id, such as '^AB-'"
            )
    return text


class ProductCameraTable(Table):
    """How live cameras are watched and set while this product is judged.

    ``exposure_us`` in microseconds, ``gain`` and ``focus`` in the camera's own units, ``white_balance_k`` in kelvin; a value
    switches its automatic off. What is not set is as it was when the camera was opened.
    """

    liveness: list[str] = Field(default_factory=list)
    exposure_us: Annotated[float | None, Field(gt=0, le=1e8)] = None
    auto_exposure: bool | None = None
    gain: Annotated[float | None, Field(ge=-1e6, le=1e6)] = None
    white_balance_k: Annotated[float | None, Field(gt=0, le=1e6)] = None
    auto_white_balance: bool | None = None
    focus: Annotated[float | None, Field(ge=0, le=1e6)] = None
    auto_focus: bool | None = None

    def asked(self) -> dict[str, object]:
        """Return the settings of the camera that are given."""
        return self.model_dump(exclude={"liveness"}, exclude_none=True)


class JudgedTable(Table):
    """What is judged how: a ``bundle``, and keys of [run] that count in the place of the station's where they are set."""

    bundle: Path | None = None
    warn_above: float | None = None
    ng_above: float | None = None
    roi: str | None = None
    tiles: str | None = None
    tile_goods: Path | None = None
    unlocated: Literal["none", "ng"] = "none"
    empty: Path | None = None
    part_frames: Annotated[int, Field(ge=1, le=100)] = 3
    part_candidates: Annotated[int, Field(ge=1, le=100)] | None = None
    motion_limit: Annotated[float, Field(gt=0, le=255)] = 1.0

    def changed(self) -> dict[str, object]:
        """Return what is set of the keys that stand in [run] too."""
        shared = {*JudgedTable.model_fields, "parts", "presence"} - {"bundle"}
        return {name: getattr(self, name) for name in self.model_fields_set & shared}


def _number_as_text(value: object) -> object:
    return str(value) if type(value) is int else value


def _view_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError("no name of a view: write letters, digits, '-', '_' and '.', at most 64")
    return name


ViewName = Annotated[str, BeforeValidator(_number_as_text), AfterValidator(_view_name)]


class ViewTable(JudgedTable):
    """One camera's view of a part: its ``camera`` as under [run], and what judges it; ``liveness`` as under [camera]."""

    camera: Annotated[str | None, BeforeValidator(_number_as_text)] = None
    liveness: list[str] = Field(default_factory=list)


class PartTable(Table):
    """The ``views`` of a part: names of tables [view.NAME], or cameras, at least two.

    A view that is not there ``deadline_ms`` after the first one counts as missing. ``fused`` is a file that `edge-ad views
    learn` wrote: thresholds on the score of all views together.
    """

    views: list[ViewName] = Field(default_factory=list)
    deadline_ms: Annotated[float, Field(ge=1, le=60_000)] = 1000.0
    fused: Path | None = None


class ProductViewTable(JudgedTable):
    """How one view of a product is judged: what differs from [view.NAME] and from the product."""

    camera: ProductCameraTable = Field(default_factory=ProductCameraTable)


class ProductTable(JudgedTable):
    """One product of a station: its ``bundle``, and what differs from [run], [alarm] and [camera] while it is judged.

    A PLC chooses it by ``code``, a part id by the regular expression ``match``. What is not set is the station's. ``view``
    has the views of its parts, ``fused`` is as under [part].
    """

    code: Annotated[int, Field(ge=1, le=MAX_CODE)] | None = None
    match: Annotated[str | None, AfterValidator(_pattern)] = None
    parts: Literal["one", "many"] = "one"
    presence: Presence = "none"
    alarm: AlarmTable = Field(default_factory=AlarmTable)
    camera: ProductCameraTable = Field(default_factory=ProductCameraTable)
    view: dict[str, ProductViewTable] = Field(default_factory=dict)
    fused: Path | None = None


def check_products(products: dict[str, ProductTable]) -> dict[str, ProductTable]:
    """Return products that can be told apart; ValueError names two that one code or one pattern would choose."""
    for name in products:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r:.80} is no name of a product: write letters, digits, '-', '_' and '.', at most 64")
        if products[name].bundle is None and not any(view.bundle for view in products[name].view.values()):
            raise ValueError(f"{name} has no bundle: add it, or one for each view under [product.{name}.view.NAME]")
    for key, what in (("code", "the code"), ("match", "the pattern")):
        first: dict[object, str] = {}
        for name, product in products.items():
            value = getattr(product, key)
            if value is not None and value in first:
                raise ValueError(f"{first[value]} and {name} have {what} {value!r} both: give each product one of its own")
            first[value] = name
    return products
