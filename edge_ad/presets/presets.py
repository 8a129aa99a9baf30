"""Presets: every value that differs between a first look, a 2-core workstation and the publications, as data.

Single values are given as ``key=value`` with the key's path as `edge-ad info` prints it.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

from edge_ad.errors import BadInput
from edge_ad.geometry import Method
from edge_ad.presets.networks import (
    DfscSettings,
    EfficientADSettings,
    HvqSettings,
    LavitSettings,
    MaskSettings,
    MemorySettings,
    Size,
    TeacherKind,
    TeacherSettings,
)

STUDENT_STRIDE = 8  # of the compact student, in pixels
SIDE_STEP = 32  # pixels: the coarsest stride of the networks, of which both sides of an image are multiples


@dataclass(frozen=True)
class Schedule:
    """How one network is trained.

    ``steps`` counts batches; where it is 0, ``epochs`` passes over the normal images decide, the last batch of a pass
    left out where ``drop_last``. ``drop_at`` is the share of the steps after which the rate falls to a tenth (0: cosine
    with warm-up). ``floor`` is the rate at which the warm-up begins and the cosine ends (0: a step's share, and 2 % of
    the peak), and ``fading_decay`` takes the weight decay down to 0 along a cosine. ``validate_every`` steps the unseen
    normal images are asked and the best state is kept (0: the last one).
    """

    steps: int
    batch: int
    rate: float
    epochs: int = 0
    weight_decay: float = 1e-4
    clip: float = 1.0
    drop_at: float = 0.0
    warm_up: float = 0.1
    validate_every: int = 0
    adam_w: bool = True
    drop_last: bool = False
    floor: float = 0.0
    fading_decay: bool = False

    def steps_for(self, normal_count: int) -> int:
        """Return the number of batches for a training set of ``normal_count`` images."""
        batches = normal_count // self.batch if self.drop_last else -(-normal_count // self.batch)
        return self.steps or max(1, self.epochs * max(1, batches))


Mirror: TypeAlias = Literal["none", "horizontal", "vertical", "both"]


@dataclass(frozen=True)
class Augmentation:
    """Small movements of the whole image in training: degrees, share of the side, share of scale and of brightness.

    ``mirror`` says along which sides images are mirrored by chance. ``train`` widens ``rotate`` and sets ``mirror`` as the
    normal images allow.
    """

    rotate: float = 2.0
    shift: float = 4 / 256
    scale: float = 0.02
    gain: float = 0.0
    copies: int = 0
    mirror: Mirror = "none"


@dataclass(frozen=True)
class ViewSettings:
    """Disturbed views of normal images: how many of each, noise in grey levels, blur in shares of the side and each channel's
    share of ``colour``, all at most. The ``memory`` learns from them too, or from the Gaussians' normal images alone.
    """

    copies: int = 3
    noise: float = 2.0
    blur: float = 0.7 / 256
    colour: float = 0.0
    memory: bool = False


@dataclass(frozen=True)
class FusionSettings:
    """How maps become raw scores: HVQ-Trans' upsampling and mean, the rim of a PDN, cells in the mean of the highest.

    ``local_top``, ``global_top`` and ``memory_top`` are ``top`` where they are 0. With ``choose_top`` the end of a
    training may choose others for the maps of which nobody has set one.
    """

    structure_side: int = 0
    structure_pool: int = 1
    border: int = 0
    top: int = 10
    structure_top: int = 3
    local_top: int = 0
    global_top: int = 0
    memory_top: int = 0
    choose_top: bool = True

    def top_of(self, name: str) -> int:
        """Return how many of the highest cells of a map of MAPS are averaged."""
        tops = {"structure": self.structure_top, "local": self.local_top, "global": self.global_top, "memory": self.memory_top}
        return tops.get(name, 0) or self.top

    def may_choose(self, name: str, given: Collection[str]) -> bool:
        """Whether the end of a training may choose ``top_of`` a map: nothing is published, and no key such as ``fusion.top``
        is among those ``given`` by the user.
        """
        published = name == "structure" and (self.structure_side > 0 or self.structure_pool > 1)
        shared = name != "structure" and "fusion.top" in given
        return self.choose_top and not published and not shared and f"fusion.{name}_top" not in given

    def with_tops(self, tops: Mapping[str, int]) -> FusionSettings:
        """Return the same with other numbers of highest cells for some maps."""
        return replace(
            self,
            structure_top=tops.get("structure", self.structure_top),
            local_top=tops.get("local", self.local_top),
            global_top=tops.get("global", self.global_top),
            memory_top=tops.get("memory", self.memory_top),
        )


@dataclass(frozen=True)
class Preset:
    """All settings of one training; ``anomalies`` is how many synthetic anomalies choose the branch weights.

    ``geometry`` is how an image becomes the input where ``train`` is not told. ``image_side`` is the side of a square
    image, for which the grids of ``teacher`` are given. Networks are made for an image of any (height, width) in
    multiples of 32 pixels: ``feature_grid`` and ``token_grid`` are its maps. The published presets are square.

    ``token_augmentation`` makes moved copies of the normal images for the tokenizer; LAViT sees only the originals
    unless ``lavit_on_originals`` is off, since copies made its histograms harder to predict and its scores worse. The
    Gaussians of composition and surprise learn from normal images, copies and ``views``, copies that are blurred and
    noisy as well. With ``choose_standardise`` the end of a training may standardise errors where nobody has set it.
    ``tolerance`` is what the line may change where ``train`` is not told, in the words of ``--tolerance``.
    """

    name: str
    geometry: Method = "square"
    image_side: int = 256
    teacher: TeacherSettings = TeacherSettings()
    hvq: HvqSettings = HvqSettings()
    lavit: LavitSettings = LavitSettings()
    masks: MaskSettings = MaskSettings()
    efficientad: EfficientADSettings = EfficientADSettings()
    memory: MemorySettings = MemorySettings()
    fusion: FusionSettings = FusionSettings()
    tokenizer_schedule: Schedule = Schedule(600, 16, 2e-3, validate_every=120)
    lavit_schedule: Schedule = Schedule(1200, 16, 1e-3, weight_decay=1e-2, validate_every=200)
    efficientad_schedule: Schedule = Schedule(600, 8, 1.5e-3, weight_decay=1e-5, validate_every=120)
    augmentation: Augmentation = Augmentation()
    token_augmentation: Augmentation = Augmentation(gain=0.08, copies=3)
    views: ViewSettings = ViewSettings()
    lavit_on_originals: bool = True
    penalty: bool = True
    choose_standardise: bool = False
    anomalies: int = 160
    low_precision: bool = True
    tolerance: str = "none"

    @property
    def image_size(self) -> Size:
        """The (height, width) in pixels of images that no geometry has shaped."""
        return self.image_side, self.image_side

    @property
    def pixels(self) -> int:
        """How many pixels an image of another aspect ratio should have."""
        return self.image_side**2

    def check_image_size(self, size: Size) -> None:
        """Raise BadInput for an image size (height, width) that the networks of this preset cannot take."""
        self._check_grids()
        if size == self.image_size:
            return
        message = f"preset {self.name} cannot take images of {size[1]} x {size[0]} pixels (width x height)"
        if self.teacher.token_side:
            raise BadInput(
                f"{message}: it is published for squares of {self.image_side}; leave --geometry and --pixels out, or use fast"
            )
        if min(size) < SIDE_STEP or size[0] % SIDE_STEP or size[1] % SIDE_STEP:
            raise BadInput(f"{message}: both sides must be multiples of {SIDE_STEP}, such as 512 and 128")

    def _check_grids(self) -> None:
        """Raise BadInput where side and grids, which may be set one by one, do not fit together."""
        teacher, side, student = self.teacher, self.image_side, self.efficientad.student
        where = f"preset {self.name} with image_side={side}"
        if side < SIDE_STEP or (student == "compact" and side % SIDE_STEP):
            raise BadInput(f"{where}: the side must be a multiple of {SIDE_STEP}, such as 256")
        given = {f"the student {student}": side // STUDENT_STRIDE if student == "compact" else _unpadded_cells(side)}
        if teacher.token_side:
            given["the teacher"] = _unpadded_cells(side)
        for name, cells in given.items():
            if cells != teacher.grid:
                raise BadInput(f"{where}: teacher.grid is {teacher.grid}, but {name} gives {cells} cells a side: set both alike")
        tokens = _unpadded_cells(teacher.token_side) // 2 if teacher.token_side else teacher.grid // teacher.token_grid
        if teacher.token_side and tokens != teacher.token_grid:
            raise BadInput(
                f"{where}: teacher.token_grid is {teacher.token_grid}, but teacher.token_side={teacher.token_side} gives {tokens}"
            )
        if not teacher.token_side and tokens * teacher.token_grid != teacher.grid:
            raise BadInput(f"{where}: teacher.token_grid {teacher.token_grid} does not divide teacher.grid {teacher.grid}")

    def may_standardise(self, network: Literal["hvq", "efficientad"], given: Collection[str]) -> bool:
        """Whether the end of a training may standardise the errors of a network: they are not yet, maps become scores as
        they are, and the key is not among those ``given`` by the user.
        """
        fusion, settings = self.fusion, self.hvq if network == "hvq" else self.efficientad
        published = fusion.structure_side > 0 or fusion.structure_pool > 1 or fusion.border > 0
        free = not settings.standardise and f"{network}.standardise" not in given
        return self.choose_standardise and free and not published

    def feature_grid(self, image_size: Size | None = None) -> Size:
        """Return (rows, columns) of the features of an image of ``image_size``; BadInput for a size it cannot take."""
        return self._grid(self.teacher.grid, image_size)

    def token_grid(self, image_size: Size | None = None) -> Size:
        """Return (rows, columns) of the tokens of an image of ``image_size``; BadInput for a size it cannot take."""
        return self._grid(self.teacher.token_grid, image_size)

    def _grid(self, cells: int, image_size: Size | None) -> Size:
        height, width = self.image_size if image_size is None else image_size
        self.check_image_size((height, width))
        return height * cells // self.image_side, width * cells // self.image_side

    def settings(self) -> dict[str, Any]:
        """Return every value as plain JSON data, for the bundle and for the fingerprint of a run."""
        results: dict[str, Any] = _plain(asdict(self))
        return results


def _unpadded_cells(side: int) -> int:
    """Return the cells a side that a PDN without padding gives: kernels 4, 4, 3 and 4, halved after the first two."""
    return ((side - 3) // 2 - 3) // 2 - 2 - 3


FAST = Preset(
    name="fast",
    geometry="auto",
    tolerance="auto",
    masks=MaskSettings(count=10),
    hvq=HvqSettings(codes=256, heads=4, feed_forward=256, dropout=0.0, seed_from_data=True, softness=1.0),
    lavit=LavitSettings(
        width=192, heads=6, layer_scale=0.1, attention_dropout=0.0, drop_masked=True, surprise="mahalanobis"
    ),
    views=ViewSettings(blur=1 / 256, colour=0.03, memory=True),
    choose_standardise=True,
)

DEMO = replace(
    FAST,
    name="demo",
    tolerance="none",
    masks=MaskSettings(count=4),
    tokenizer_schedule=Schedule(300, 8, 3e-3, validate_every=150),
    lavit_schedule=Schedule(150, 16, 2e-3, weight_decay=1e-2, validate_every=75),
    efficientad_schedule=Schedule(600, 8, 2e-3, weight_decay=1e-5, validate_every=200),
    token_augmentation=Augmentation(gain=0.08, copies=1),
    views=ViewSettings(copies=1),
    anomalies=96,
)

PAPER = Preset(
    name="paper",
    teacher=TeacherSettings(
        kind="pdn_small", taps=(), pooled_taps=(), regions=0, grid=56, token_grid=24, token_side=224
    ),
    hvq=HvqSettings(),
    lavit=LavitSettings(),
    masks=MaskSettings(
        train_shares=(130 / 576,), share=230 / 576, least_share=92 / 576, train_least_share=46 / 576, count=10
    ),
    efficientad=EfficientADSettings(
        student="pdn_small",
        decoder_sizes=(),
        hard_quantile=0.999,
        shared_jitter=False,
        cropped_penalty=True,
        dfsc=DfscSettings(quantile=0.99, margin=2.0),
    ),
    memory=MemorySettings(variant="off"),
    fusion=FusionSettings(structure_side=224, structure_pool=16, border=4, top=1, structure_top=1, choose_top=False),
    tokenizer_schedule=Schedule(0, 8, 1e-4, epochs=1000, clip=0.1, drop_at=0.8),
    lavit_schedule=Schedule(
        0, 32, 1e-4, epochs=1000, weight_decay=1e-6, warm_up=0.04, drop_last=True, floor=1e-6, fading_decay=True
    ),
    efficientad_schedule=Schedule(70_000, 1, 1e-4, weight_decay=1e-5, drop_at=0.95, clip=0.0, adam_w=False),
    augmentation=Augmentation(rotate=0.0, shift=0.0, scale=0.0),
    token_augmentation=Augmentation(rotate=0.0, shift=0.0, scale=0.0),
    views=ViewSettings(copies=0),
    low_precision=False,
)

PAPER_M = replace(
    PAPER,
    name="paper-m",
    teacher=replace(PAPER.teacher, kind="pdn_medium"),
    efficientad=replace(PAPER.efficientad, student="pdn_medium"),
)

PRESETS: dict[str, Preset] = {preset.name: preset for preset in (DEMO, FAST, PAPER, PAPER_M)}


def preset_named(name: str) -> Preset:
    """Return a preset; BadInput lists the names for an unknown one."""
    if name not in PRESETS:
        raise BadInput(f"preset {name!r} is unknown: choose one of {', '.join(PRESETS)}")
    return PRESETS[name]


def with_teacher(preset: Preset, kind: TeacherKind) -> Preset:
    """Return the preset with another teacher on the same grids; BadInput where the preset's networks do not fit it."""
    if kind == preset.teacher.kind:
        return preset
    if preset.teacher.token_side:
        if kind == "efficientnet_lite0":
            raise BadInput(
                f"preset {preset.name} is published with a PDN and cannot use {kind}: "
                "choose pdn_small or pdn_medium, or preset fast"
            )
        return replace(preset, teacher=replace(preset.teacher, kind=kind))
    if kind == "efficientnet_lite0":
        return replace(preset, teacher=TeacherSettings(grid=preset.teacher.grid, token_grid=preset.teacher.token_grid))
    return replace(preset, teacher=replace(preset.teacher, kind=kind, taps=(), pooled_taps=(), regions=0))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (tuple, list)) else value


FIXED = ("name", "tolerance")  # tolerance has an option of its own
AT_MIN_ONE = (
    "batch", "cells", "codes", "count", "depth", "feed_forward", "grid", "heads", "image_side", "layers", "region", "student_width",
    "structure_pool", "structure_top", "token_grid", "top", "width",
)  # fmt: skip
SHARES = (
    "attention_dropout", "dropout", "hard_quantile", "least_share", "quantile", "share", "train_least_share", "warm_share",
    "warm_window",
)  # fmt: skip


def with_values(preset: Preset, texts: Sequence[str]) -> Preset:
    """Return ``preset`` with every ``key=value`` applied, such as ``efficientad.dfsc.mode=off`` or ``lavit.width=256``.

    Values are JSON, or plain text for names. BadInput names an unknown key with those that exist, and a value of
    another kind or outside what is allowed.
    """
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise BadInput(f"--setting {text!r} has no '=': write KEY=VALUE, such as efficientad.dfsc.mode=off")
        preset = _put(preset, key.strip().split("."), value.strip(), key.strip())
    return preset


def _put(node: Any, path: list[str], text: str, key: str) -> Any:
    names = [entry.name for entry in fields(node) if entry.name not in FIXED]
    if path[0] not in names:
        close = difflib.get_close_matches(path[0], names, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise BadInput(f"--setting {key}: there is no {path[0]!r} here: {hint}Allowed: {', '.join(names)}")
    value = getattr(node, path[0])
    if is_dataclass(value):
        if len(path) == 1:
            inner = ", ".join(f"{key}.{entry.name}" for entry in fields(value))
            raise BadInput(f"--setting {key} is a group of values: set one of {inner}")
        return replace(node, **{path[0]: _put(value, path[1:], text, key)})
    if len(path) > 1:
        raise BadInput(f"--setting {key}: {path[0]!r} is a single value and holds no {path[1]!r}")
    return replace(node, **{path[0]: _parsed(get_type_hints(type(node))[path[0]], text, key)})


def _parsed(hint: Any, text: str, key: str) -> Any:
    if get_origin(hint) is Literal:
        if text not in get_args(hint):
            raise BadInput(f"--setting {key}={text}: choose one of {', '.join(get_args(hint))}")
        return text
    try:
        value = json.loads(text)
    except ValueError as error:
        raise BadInput(f"--setting {key}={text}: {text!r} is not {_reported(hint)}") from error
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise BadInput(f"--setting {key}={text}: {text!r} is not {_reported(hint)}")
        return tuple(_checked(get_args(hint)[0], item, key, text) for item in value)
    return _checked(hint, value, key, text)


def _checked(hint: Any, result: object, key: str, text: str) -> Any:
    kinds: tuple[type, ...] = (int, float) if hint is float else (hint,)
    if not isinstance(result, kinds) or (hint is not bool and isinstance(result, bool)):
        raise BadInput(f"--setting {key}={text}: {text!r} is not {_reported(hint)}")
    if hint is bool:
        return result
    value: Any = result
    name = key.rsplit(".", 1)[-1]
    minimum = 1 if name in AT_MIN_ONE else 0
    maximum = 1 if name in SHARES else math.inf
    if not (math.isfinite(value) and minimum <= value <= maximum):
        limit = f"from {minimum} to {maximum}" if name in SHARES else f"{minimum} or more"
        raise BadInput(f"--setting {key}={text}: the value must be {limit}")
    return hint(value)


def _reported(hint: Any) -> str:
    if get_origin(hint) is tuple:
        return f"a list in brackets, each {_reported(get_args(hint)[0])}"
    return {bool: "true or false", int: "a whole number", float: "a number"}[hint]
