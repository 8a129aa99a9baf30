"""edge-ad.toml: the settings of one station, one table a subject; every flag of a command is also a key here."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from edge_ad.errors import BadInput
from edge_ad.geometry import Method
from edge_ad.tables import AlarmTable as AlarmTable
from edge_ad.tables import CameraTable as CameraTable
from edge_ad.tables import ChallengeTable as ChallengeTable
from edge_ad.tables import Flag as Flag
from edge_ad.tables import FleetTable as FleetTable
from edge_ad.tables import PartTable as PartTable
from edge_ad.tables import Presence as Presence
from edge_ad.tables import ProductTable as ProductTable
from edge_ad.tables import RecordTable as RecordTable
from edge_ad.tables import ReportTable as ReportTable
from edge_ad.tables import Table as Table
from edge_ad.tables import ViewTable as ViewTable
from edge_ad.tables import check_products, name_list
from edge_ad.utils.files import open_regular
from edge_ad.utils.text import redact

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONFIG_NAME = "edge-ad.toml"
DEFAULT_STORE = Path("runs/line.sqlite")
MAX_FLIP = 0.005
MAX_PIXELS = 4_194_304  # of an input

Precision = Literal["fp32", "fp16", "int8"]
Backend = Literal["onnxruntime", "tensorrt"]
Fraction = Annotated[float, Field(gt=0, lt=1)]


class DataTable(Table):
    """Where the images are; ``path`` is a folder as `edge-ad train` takes it."""

    path: Path | None = None


class TrainTable(Table):
    """How to train; ``steps``, ``masks``, ``teacher``, ``geometry`` and ``pixels`` are the preset's own when absent,
    ``setting`` changes any value.
    """

    out: Annotated[Path | None, Flag("Write OUT/<name>.edgead (default: runs/<time>/).")] = None
    preset: Annotated[
        str,
        Flag(
            "demo (a first look: 6 minutes on 2 CPU cores with AVX-512, 16 with AVX2), fast (11 to 13 minutes, an hour with AVX2), "
            "paper or paper-m (as published: a GPU)."
        ),
    ] = "fast"
    teacher: Annotated[
        str | None,
        Flag("efficientnet_lite0, pdn_small, pdn_medium, or a PDN's weights (default: the preset's).", "NAME|FILE"),
    ] = None
    defects: Annotated[
        Path | None,
        Flag("Labelled defects, a folder a kind, that choose the branch weights instead of synthetic anomalies."),
    ] = None
    exclude: Annotated[
        Path | None,
        Flag("List of normal images to leave out, one path a line, relative to DATA, as --review writes it.", "FILE"),
    ] = None
    penalty: Annotated[
        Path | None, Flag("Images of other things, on which the student learns silence; the first 4,096 are used.")
    ] = None
    steps: Annotated[Annotated[int, Field(ge=1)] | None, Flag("Batches for every network (default: the preset's).")] = None
    masks: Annotated[Annotated[int, Field(ge=1)] | None, Flag("Masks that LAViT looks through (default: the preset's).")] = None
    setting: Annotated[
        list[str], Flag("Change a value of the preset: efficientad.dfsc.mode=off. Repeats.", "KEY=VALUE")
    ] = Field(default_factory=list)
    geometry: Annotated[
        Method | None,
        Flag(
            "How an image becomes the input: auto (locate the part where that helps), square, none (whole images, squashed or in "
            "their aspect ratio), foreground, shift, rigid, rigid_any, scaled or anchors (default: the preset's).",
        ),
    ] = None
    pixels: Annotated[
        Annotated[int, Field(ge=4096, le=MAX_PIXELS)] | None,
        Flag("How many pixels the input has at most (default: the preset's, 65536)."),
    ] = None
    tiles: Annotated[
        str | None,
        Flag("Show structure, local and memory overlapping tiles of a larger input, such as 2x2; a frame takes longer.", "RxC"),
    ] = None
    empty: Annotated[Path | None, Flag("Folder with a few images of the empty station, to locate parts by.")] = None
    anchors: Annotated[
        list[str],
        Flag("A fixed feature of the part, drawn on the first normal image by name; one or two.", "X,Y,W,H", ("--anchor",)),
    ] = Field(default_factory=list)
    box: Annotated[str | None, Flag("The part's box on that image; goes with --anchor.", "X,Y,W,H")] = None
    roi: Annotated[
        str | None, Flag("The rectangle (pixels) of the camera's image that is judged; the bundle carries it.", "X,Y,W,H")
    ] = None
    zones: Annotated[Path | None, Flag("Zones to inspect, to ignore or to weigh, as `edge-ad zones` writes them.", "FILE")] = None
    smallest_defect: Annotated[
        str | None,
        Flag("Warn where a defect of so many pixels of the image, such as 12px, would vanish at the input's scale.", "PIXELS"),
    ] = None
    seed: Annotated[int, Field(ge=0), Flag("Seed of splits, networks and synthetic anomalies.")] = 0
    tolerance: Annotated[
        str | None,
        Flag(
            "What the line may change and a good part stays OK: none, default, a list such as light=10%,blur=1px,rotation=2deg, or "
            "auto: shift, rotation and scale where parts lie aligned and whole images are judged "
            "[that of the preset, with [tolerance] of edge-ad.toml].",
            "auto|none|default|AXIS=VALUE,...",
        ),
    ] = None


def _not_a_switch(value: object) -> object:
    """Refuse true and false, which would else be read as the numbers 1 and 0."""
    if isinstance(value, bool):
        raise ValueError(f'{str(value).lower()} is no amount: write a number with its unit, such as "10 %", or leave the key out')
    return value


Amount = Annotated[str | float | None, BeforeValidator(_not_a_switch)]


class ToleranceTable(Table):
    """What the line may change and a good part stays OK, such as ``light = "10 %"``; absent keys are the preset's own."""

    light: Amount = None
    colour: Amount = None
    blur: Amount = None
    noise: Amount = None
    shift: Amount = None
    rotation: Amount = None
    scale: Amount = None


class ThresholdsTable(Table):
    """Which rates of normal images may be NG, and WARN or worse (fractions, not percent), and where NG lies for that."""

    target_ng: Annotated[Fraction, Flag("Share of normal images that may be called NG.")] = 0.01
    target_warn: Annotated[Fraction, Flag("Share of normal images that may be called WARN or NG.")] = 0.05
    operating_point: Annotated[
        str | None, Flag("Where NG lies: promise, balanced or cost:K [balanced; recalibrate: the bundle's].", "POINT")
    ] = None


class EngineTable(Table):
    """Which engine to use; absent means the last one built for this device. ``keep_fp32``: graphs left in FP32.

    ``plan``, ``labelled`` and ``max_flip`` are of int8: a plan file, a labelled test set for the gate, and the share of
    verdicts that may change. ``optimisation_level`` is TensorRT's. ``compile_check``: compile with TensorRT for RTX
    too. ``jobs``: how many images are judged side by side where many wait, as in a folder; a run has ``streams``.
    """

    precision: Annotated[Precision | None, Flag("fp32, fp16 or int8 [what was built here].")] = None
    backend: Annotated[
        Backend | None, Flag("onnxruntime or tensorrt [what was built here; build-engine: tensorrt where it is installed].")
    ] = None
    keep_fp32: Annotated[list[str], Flag("A graph that stays FP32; can be repeated.", "GRAPH")] = Field(default_factory=list)
    plan: Annotated[Path | None, Flag("INT8: a plan file instead of the bundle's plan.")] = None
    labelled: Annotated[Path | None, Flag("INT8: a labelled test set that the gate judges too.")] = None
    max_flip: Annotated[float, Field(ge=0, le=1), Flag("INT8: the share of verdicts that may change.")] = MAX_FLIP
    optimisation_level: Annotated[
        Annotated[int, Field(ge=0, le=5)] | None, Flag("TensorRT: how long it looks for fast kernels, 0 to 5 [3].")
    ] = None
    jobs: Annotated[
        Annotated[int, Field(ge=1, le=64)] | None,
        Flag("Images of a folder or a record at work side by side: on a CPU each on one core [all cores, at most 16]."),
    ] = None
    compile_check: Annotated[
        bool, Flag("Compile every graph with TensorRT for RTX too; it needs no GPU.", names=("--compile-check",))
    ] = False


class EvaluateTable(Table):
    """Where the report goes, and the seed of its bootstrap intervals."""

    report: Annotated[Path | None, Flag("Write a page with images, report.html, into this folder.")] = None
    seed: Annotated[int, Field(ge=0), Flag("The seed of the bootstrap intervals.")] = 0


class RecalibrateTable(Table):
    """The seed of the folds of the normal images, and whether the light of a lot stays as it is."""

    keep_colour: Annotated[
        bool, Flag("Bring no light or colour of a lot back to that of the training.", names=("--keep-colour",))
    ] = False
    seed: Annotated[int, Field(ge=0), Flag("The seed of the folds of the normal images, and of the anomalies drawn on them.")] = 0


class CalibrateTable(Table):
    """How `edge-ad calibrate` measures; ``plan`` stands in for a search, ``table`` is a folder for what was found."""

    out: Annotated[Path | None, Flag("The file to write; without it, <name>-calibrated-<n>.edgead beside the bundle.")] = None
    method: Annotated[
        Literal["mse", "percentile", "entropy", "minmax"],
        Flag("How ranges are chosen: mse, percentile, entropy or minmax."),
    ] = "mse"
    percentile: Annotated[float, Field(ge=50, le=100), Flag("Share of values that method percentile keeps, in percent.")] = 99.99
    images: Annotated[int, Field(ge=1), Flag("How many normal images the ranges are measured on, at most.")] = 128
    max_flip: Annotated[float, Field(ge=0, le=1), Flag("The share of verdicts that INT8 may change.")] = MAX_FLIP
    seed: Annotated[int, Field(ge=0), Flag("The seed of jittered views and synthetic anomalies.")] = 0
    plan: Annotated[Path | None, Flag("A plan file, perhaps edited, to store instead of searching one.")] = None
    table: Annotated[Path | None, Flag("Write the plan, the table and the plot of loss against cost to this folder.")] = None


class BenchmarkTable(Table):
    """How many frames to time, how many not to count before, and for how many minutes to let the line run afterwards."""

    frames: Annotated[int, Field(ge=1), Flag("How many frames to time after the warm-up.")] = 200
    warm_up: Annotated[int, Field(ge=0), Flag("Frames that do not count, before those that do.")] = 10
    soak: Annotated[
        Annotated[float, Field(gt=0)] | None,
        Flag("Then let the line run as fast as it goes, and print every minute how it is.", "MINUTES"),
    ] = None
    streams: Annotated[int, Field(ge=1, le=64), Flag("Then let so many cameras share the engines, side by side.")] = 1


class RunTable(Table):
    """What `edge-ad run` looks at, what is a part, and where it writes."""

    camera: Annotated[
        list[str],
        BeforeValidator(name_list),
        Flag(
            "A camera number (0), a device (/dev/video0), rtsp://, http://, csi://0, a video, an image, a folder of images, "
            "watch:FOLDER, file://PATH or synthetic://line?frames=300&seed=1&fps=10; repeat it for several."
        ),
    ] = Field(default_factory=list)
    alarm: Annotated[
        list[str],
        BeforeValidator(name_list),
        Flag(
            "An output (repeats): modbus://PLC, s7://PLC/DB10, enip://PLC/TAG, gpio:///dev/gpiochip0?pass=17, mqtt://HOST, "
            "opcua://0.0.0.0, https://...",
            "URI",
            ("--output", "--alarm"),
        ),
    ] = Field(default_factory=list)
    outputs: Annotated[
        bool,
        Flag(
            "--no-outputs: a trial beside a run: nothing of edge-ad.toml drives an output, writes a record or serves a page.",
            names=("--outputs/--no-outputs",),
        ),
    ] = True
    require_alarms: Annotated[bool, Flag("Refuse to start (exit 3) before every output has taken something.")] = False
    hold_ms: Annotated[float, Field(ge=10, le=60_000), Flag("Outputs reject so long after the last verdict.")] = 500.0
    backlog: Annotated[int, Field(ge=1)] = 100_000
    presence: Annotated[Presence, Flag("What is a part: none (every frame), settled, learned (needs --empty) or trigger.")] = "none"
    empty: Annotated[Path | None, Flag("Folder with a few images of the empty station.")] = None
    trigger: Annotated[
        str | None,
        Flag(
            "Calls for parts: software (ids on stdin), software:SOCKET, mqtt://BROKER/TOPIC, modbus, s7, enip, gpio or "
            "camera."
        ),
    ] = None
    trigger_deadline_ms: Annotated[float, Field(ge=1, le=60_000)] = 1000.0
    product: Annotated[
        str | None, Flag("Of the products of edge-ad.toml the one to begin with where none was chosen before.", "NAME")
    ] = None
    memory_budget_mb: Annotated[
        Annotated[int, Field(ge=1)] | None,
        Flag("Memory for the engines of all products; beyond it those used longest ago are parked [no limit].", "MIB"),
    ] = None
    commands: Annotated[
        str | None, Flag("MQTT topic on which the name of a product chooses it; what stands is told at TOPIC/state.", "mqtt://BROKER/TOPIC"),
    ] = None
    part_frames: Annotated[int, Field(ge=1, le=100)] = 3
    part_candidates: Annotated[int, Field(ge=1, le=100)] | None = None
    motion_limit: Annotated[float, Field(gt=0, le=255)] = 1.0
    warn_above: Annotated[float | None, Flag("WARN above this score [the bundle's].")] = None
    ng_above: Annotated[float | None, Flag("NG above this score [the bundle's].")] = None
    roi: Annotated[str | None, Flag("Look at this rectangle (pixels) alone.", "X,Y,W,H")] = None
    tiles: Annotated[str | None, Flag("Cut it into tiles, the worst one counts.", "RxC")] = None
    parts: Annotated[
        Literal["one", "many"], Flag("How many parts are in view: one, or many that are located and judged one by one.")
    ] = "one"
    unlocated: Annotated[
        Literal["none", "ng"], Flag("Verdict on a part that is not located: none (NONE, a fault) or ng (NG).")
    ] = "none"
    tile_goods: Annotated[Path | None, Flag("Folder of normal images for the statistics of each tile.")] = None
    store: Annotated[
        Path | None,
        Flag("Keep events, counters and alarms in this SQLite file [with outputs or --web runs/line.sqlite]."),
    ] = None
    events: Annotated[Path | None, Flag("Append one JSON object a verdict to this file; - prints them.", "FILE")] = None
    web: Annotated[
        str | None,
        Flag("Serve the dashboard here, such as 127.0.0.1:8080; an address of the network needs a token.", "HOST:PORT"),
    ] = None
    web_names: list[str] = Field(default_factory=list)
    save: Annotated[Path | None, Flag("Write annotated images, or a video for each video or camera, into this folder.")] = None
    cascade: Annotated[
        Fraction | None,
        Flag(
            "Leave LAViT out where the other branches leave no doubt; at most this share of anomalies may come out OK so.",
            "RATE",
        ),
    ] = None
    streams: Annotated[
        int,
        Field(ge=1, le=64),
        Flag("Infer so many images side by side, of cameras or tiles: more a second, each a little later (CPU)."),
    ] = 1
    max_frames: Annotated[Annotated[int, Field(ge=1)] | None, Flag("Stop after so many frames of each camera.")] = None
    realtime: Annotated[bool, Flag("Play files at their own speed and drop frames that come too fast.")] = False
    max_age_ms: Annotated[float, Field(gt=0, le=60_000)] = 1000.0
    give_up_s: Annotated[float, Field(gt=0, le=604_800)] = 30.0


class DistillTable(Table):
    """How to make a teacher; steps, batch, side and rate are the device's own when absent."""

    size: Annotated[Literal["small", "medium"], Flag("small (PDN-S) or medium (PDN-M).")] = "small"
    source: Annotated[str, Flag("The network to learn from: lite0, lite1, lite2, or package.module:callable.")] = "lite0"
    out: Annotated[Path | None, Flag("Write OUT/teacher_<size>.safetensors (default: runs/<time>/).")] = None
    steps: Annotated[Annotated[int, Field(ge=1)] | None, Flag("Batches (default: GPU 60000, CPU 4800).")] = None
    batch: Annotated[Annotated[int, Field(ge=2)] | None, Flag("Crops in a batch (default: GPU 16, CPU 8).")] = None
    side: Annotated[
        Annotated[int, Field(ge=64, multiple_of=32)] | None,
        Flag("Side of a crop in pixels, a multiple of 32 (default: GPU 256, CPU 128)."),
    ] = None
    rate: Annotated[Annotated[float, Field(gt=0)] | None, Flag("Learning rate (default: GPU 0.001, CPU 0.002).")] = None
    seed: Annotated[int, Field(ge=0), Flag("Seed of the split, the crops and the network.")] = 0
    terms: Annotated[str, Flag("The terms of the photographs, for the model card.")] = ""


class CaptureTable(Table):
    """How `edge-ad capture` collects normal images; without ``camera`` it takes the first one of [run]."""

    camera: Annotated[
        str | None,
        BeforeValidator(lambda value: str(value) if type(value) is int else value),
        Flag("The camera (any source that `edge-ad run` takes); without it the first one under [run] in edge-ad.toml."),
    ] = None
    out: Annotated[Path, Flag("The folder of images; it is made, or filled up [data/good].")] = Path("data/good")
    count: Annotated[int, Field(ge=1), Flag("How many images the folder shall hold.")] = 300
    every: Annotated[float, Field(ge=0), Flag("At least so many seconds between two images.")] = 0.0
    bundle: Annotated[
        Path | None, Flag("A bundle that locates parts: say in how many images the part is located, and show cut-outs.")
    ] = None
    roi: Annotated[str | None, Flag("Look at this rectangle (pixels) alone, and keep whole images [of train].", "X,Y,W,H")] = None
    zones: Annotated[Path | None, Flag("Zones to train with: what they ignore does not count [of train].", "FILE")] = None
    located: Annotated[bool, Flag("Keep images whose part is located alone; needs --bundle.", names=("--located",))] = False


class Config(Table):
    """All tables of edge-ad.toml."""

    data: DataTable = Field(default_factory=DataTable)
    train: TrainTable = Field(default_factory=TrainTable)
    tolerance: ToleranceTable = Field(default_factory=ToleranceTable)
    thresholds: ThresholdsTable = Field(default_factory=ThresholdsTable)
    engine: EngineTable = Field(default_factory=EngineTable)
    run: RunTable = Field(default_factory=RunTable)
    capture: CaptureTable = Field(default_factory=CaptureTable)
    camera: CameraTable = Field(default_factory=CameraTable)
    alarm: AlarmTable = Field(default_factory=AlarmTable)
    record: RecordTable = Field(default_factory=RecordTable)
    challenge: ChallengeTable = Field(default_factory=ChallengeTable)
    fleet: FleetTable = Field(default_factory=FleetTable)
    report: ReportTable = Field(default_factory=ReportTable)
    evaluate: EvaluateTable = Field(default_factory=EvaluateTable)
    recalibrate: RecalibrateTable = Field(default_factory=RecalibrateTable)
    calibrate: CalibrateTable = Field(default_factory=CalibrateTable)
    benchmark: BenchmarkTable = Field(default_factory=BenchmarkTable)
    distill_teacher: DistillTable = Field(default_factory=DistillTable)
    product: Annotated[dict[str, ProductTable], AfterValidator(check_products)] = Field(default_factory=dict)
    part: PartTable = Field(default_factory=PartTable)
    view: dict[str, ViewTable] = Field(default_factory=dict)


def with_flags(config: Config, flags: Mapping[str, Mapping[str, object]]) -> Config:
    """Return ``config`` with the flags that were given (not None), by table, in the place of its keys.

    BadInput as in the file.
    """
    tables = {name: _replaced(getattr(config, name), values) for name, values in flags.items()}
    return config.model_copy(update=tables)


def _replaced(table: Table, flags: Mapping[str, object]) -> Table:
    given = {key: value for key, value in flags.items() if value is not None}
    try:
        return type(table).model_validate({**table.model_dump(exclude_unset=True), **given})
    except ValidationError as error:
        faults = (f"--{str(fault['loc'][0]).replace('_', '-')} {_judged(dict(fault))}" for fault in error.errors())
        raise BadInput("; ".join(faults)) from error


def load_config(path: Path = Path(CONFIG_NAME)) -> Config:
    """Read ``path``; all defaults when there is no such file. BadInput names the key, the fault and what is allowed."""
    try:
        with open_regular(path) as stream:
            text = stream.read().decode("utf-8-sig")  # editors on Windows begin the file with a byte order mark
    except FileNotFoundError:
        return Config()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read {path}: {error}; it must be a TOML file that you may read") from error
    return parse_config(text, str(path))


def parse_config(text: str, name: str = CONFIG_NAME) -> Config:
    """Check the TOML ``text`` against the schema; ``name`` stands in the messages."""
    try:
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, or a number of thousands of digits
        raise BadInput(f"{name} is not valid TOML: {' '.join(str(error).split(';')[0].split())}") from error
    if _has_long_number(tables):
        raise BadInput(f"{name} is not valid TOML: a whole number must fit into 64 bits")
    try:
        return Config.model_validate(tables)
    except ValidationError as error:
        raise BadInput("; ".join(_explain(dict(fault), name) for fault in error.errors())) from error


def _has_long_number(value: object) -> bool:
    if isinstance(value, (dict, list)):
        return any(map(_has_long_number, value.values() if isinstance(value, dict) else value))
    return isinstance(value, int) and not -(2**63) <= value < 2**63


def _explain(fault: dict[str, Any], name: str) -> str:
    location = [part for part in fault["loc"] if isinstance(part, str)]
    if fault["type"] == "extra_forbidden":
        return _explain_unknown(location, name)
    if fault["type"] == "missing":
        return f"{name}: {'.'.join(location)} is missing: add it"
    return f"{name}: {'.'.join(location)} {_judged(fault)}"


def _judged(fault: dict[str, Any]) -> str:
    if fault["type"] == "value_error":
        given = "" if isinstance(fault["input"], dict) else f"is {redact(repr(fault['input']))}: "
        return f"{given}{fault['ctx']['error']}"
    return f"is {redact(repr(fault['input']))}: {fault['msg'][:1].lower()}{fault['msg'][1:]}"


def _explain_unknown(location: list[str], name: str) -> str:
    table, key = location[:-1], location[-1]
    allowed = _keys(table)
    close = difflib.get_close_matches(key, allowed, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    where = f"[{'.'.join(table)}]" if table else "the file"
    return f"{name}: unknown key {key!r} in {where}: {hint}Allowed: {', '.join(allowed)}"


def model_of(table: str, inside: type[Table] = Config) -> tuple[type[Table], bool]:
    """Return what checks a table, and whether there are several by name, whose names stand behind its own."""
    kind: Any = inside.model_fields[table].annotation
    return (get_args(kind)[1], True) if get_origin(kind) is dict else (kind, False)


def _keys(table: list[str]) -> list[str]:
    model: type[Table] = Config
    for name in (path := iter(table)):
        model, named = model_of(name, model)
        next(path if named else iter(()), None)
    return list(getattr(model, "model_fields", {}))


def parse_pixels(name: str, text: str) -> float:
    """Return a length in pixels above 0 of a text such as ``12px`` or ``12``; BadInput, naming ``name``, for anything else."""
    value = re.fullmatch(r"(\d{1,5}(?:\.\d{1,3})?)\s?(?:px)?", text.strip())
    if value is None or float(value[1]) == 0:
        raise BadInput(f"{name} is {text!r:.80}: give a length in pixels of the image, above 0 and below 100000, such as 12px")
    return float(value[1])


def parse_rectangle(name: str, text: str, example: str) -> tuple[int, int, int, int]:
    """Return x, y, width and height of ``X,Y,WIDTH,HEIGHT`` in pixels; BadInput, with the setting's name, for anything else."""
    match = re.fullmatch(r"(\d{1,5}),(\d{1,5}),(\d{1,5}),(\d{1,5})", text.replace(" ", ""), re.ASCII)
    x, y, width, height = map(int, match.groups()) if match else (0, 0, 0, 0)
    if width < 8 or height < 8:
        raise BadInput(f"{name} is {text!r}: write X,Y,WIDTH,HEIGHT in pixels, at least 8 x 8, such as {example}")
    return x, y, width, height
