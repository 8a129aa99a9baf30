"""Anomalies made from the user's own good images: to choose weights and the moment to stop, never to train on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from edge_ad.data import logical_anomalies as logical
from edge_ad.data import structural_anomalies as structural
from edge_ad.data.anomaly_drawing import Drawn, Scene
from edge_ad.data.images import Image
from edge_ad.data.part_regions import Mask, estimate_part, has_outline, own_part

Maker = Callable[[Scene, np.random.Generator], Drawn | None]

_LOGICAL: dict[str, Maker] = {
    "remove": logical.remove,
    "swap": logical.swap,
    "replace": logical.replace,
    "duplicate": logical.duplicate,
    "shift": logical.shift,
    "recolour": logical.recolour,
    "missing": logical.missing,
    "added": logical.added,
    "displaced": logical.displaced,
}
_STRUCTURAL: dict[str, Maker] = {
    "cutpaste": structural.cutpaste,
    "scratch": structural.scratch,
    "stain": structural.stain,
    "bite": structural.bite,
    "burr": structural.burr,
    "blur": structural.blur,
    "deform": structural.deform,
    "tint": structural.tint,
}
_MAKERS = _LOGICAL | _STRUCTURAL
_SUBSTITUTES = {
    "recolour": "replace",
    "missing": "remove",
    "added": "duplicate",
    "displaced": "shift",
    "bite": "cutpaste",
    "burr": "stain",
}
"""What is drawn where a kind cannot be: no area of another colour, no component, no outline."""

LOGICAL_KINDS, STRUCTURAL_KINDS = tuple(_LOGICAL), tuple(_STRUCTURAL)
KINDS = LOGICAL_KINDS + STRUCTURAL_KINDS
COMPONENT_KINDS = ("missing", "added", "displaced")
OUTLINE_KINDS = ("bite", "burr")

FADES = (0.5, 0.25)
"""Synthetic anomalies are also shown at these shares of their difference from the good: most of them are plain to every
branch at full strength, and then say nothing about which branch sees more."""

TRIES = 8
VISIBLE = 8
MIN_PIXELS = 9
"""An anomaly must change MIN_PIXELS (3 x 3) by VISIBLE grey levels; what does not is drawn again. Of TRIES candidates
none of which does, the clearest is kept.
"""


def make_anomaly(
    image: Image, others: Sequence[Image], rng: np.random.Generator, kind: str, *, part: Mask | None = None,
    inspected: Mask | None = None,
) -> tuple[Image, Image]:  # fmt: skip
    """Return (image u8[H,W,3], mask u8[H,W] of 0 and 255) with one anomaly of ``kind`` put into a copy of ``image``.

    Nothing outside the mask is changed, nor what is not ``inspected`` bool[H,W], where that is given: an anomaly is drawn
    again until it can be seen there. ``others`` are other good images (any size; at least one), which give patches
    and colours. ``part`` bool[H,W] says where the part may be; by default it is estimated from all these images.
    Anomalies lie on the part, ``burr`` at its outline, and cover from 0.1 % of it, but at least 3 x 3 pixels. Where a
    kind cannot be drawn (``possible_kinds``) its nearest relation is. Raises ValueError for an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is no kind of anomaly: {', '.join(KINDS)}")
    if not others:
        raise ValueError("others is empty: at least one other good image is needed")
    scene = _scene(image, others, estimate_part([image, *others]) if part is None else part)
    best, most = (image.copy(), np.zeros(image.shape[:2], np.uint8)), -1.0
    for _ in range(TRIES):
        drawn = _MAKERS[kind](scene, rng) or _MAKERS[_SUBSTITUTES[kind]](scene, rng)
        assert drawn is not None
        if inspected is not None:
            drawn = np.where(inspected[..., None], drawn[0], image), drawn[1] * inspected
        clear = clarity(image, drawn[0])
        if clear > most:
            best, most = (drawn[0], (drawn[1] > 0).astype(np.uint8) * np.uint8(255)), clear
        if clear >= VISIBLE:
            break
    return best


def possible_kinds(image: Image, part: Mask) -> tuple[str, ...]:
    """Return the kinds that can be drawn on this image, in the order of KINDS."""
    scene = _scene(image, (), part)
    left_out = () if scene.components else COMPONENT_KINDS
    return tuple(kind for kind in KINDS if kind not in (*left_out, *(() if has_outline(scene.part) else OUTLINE_KINDS)))


def clarity(before: Image, after: Image) -> float:
    """Return by how many grey levels at least the MIN_PIXELS pixels differ that differ most, -1 where nothing does."""
    change: npt.NDArray[np.int16] = np.abs(after.astype(np.int16) - before).max(axis=2).ravel()
    if not change.any():
        return -1.0
    return float(np.partition(change, -min(MIN_PIXELS, change.size))[-min(MIN_PIXELS, change.size)])


def synthetic(
    normal_images: npt.NDArray[np.uint8], count: int, seed: int, part: Mask | None = None, *, inspected: Mask | None = None
) -> tuple[npt.NDArray[np.uint8], tuple[str, ...]]:
    """Return ``count`` anomalies, each made from one normal image with patches of eight others, and their kinds.

    The kinds that can be drawn on an image take turns. ``part`` bool[H,W] says where the part may be; by default it is
    estimated from all ``normal_images``. Nothing is changed but what is ``inspected`` bool[H,W], where that is given.
    """
    rng = np.random.default_rng([seed, 7])
    part = inspected_part(estimate_part(list(normal_images)) if part is None else part, inspected)
    possible = [possible_kinds(image, part) for image in normal_images[:count]]
    result, kinds = [], []
    for number in range(count):
        index = origin_of(number, normal_images)
        kind = _kind_in_turn(number, len(normal_images), possible[index])
        others = [normal_images[other] for other in rng.permutation(len(normal_images))[:9] if other != index]
        turn = [kind] if inspected is None else [kind, *(one for one in possible[index] if one != kind)]
        for one in turn:  # what is inspected may be too plain for a kind
            drawn = make_anomaly(normal_images[index], others, rng, one, part=part, inspected=inspected)[0]
            if clarity(normal_images[index], drawn) >= VISIBLE:
                break
        result.append(drawn)
        kinds.append(one)
    return np.stack(result), tuple(kinds)


def inspected_part(part: Mask, inspected: Mask | None) -> Mask:
    """Return where of the part anomalies are drawn: what is ``inspected`` of it, or all that is where that is nothing."""
    if inspected is None:
        return part
    return part & inspected if (part & inspected).any() else inspected


def _kind_in_turn(number: int, images: int, possible: Sequence[str]) -> str:
    """Return the kind whose turn it is, or the next one that is possible.

    Kinds and images take turns; after a whole round of both, kinds move on by one, so that each meets each image.
    """
    turn = number + number // math.lcm(images, len(KINDS))
    return next(kind for kind in (KINDS[(turn + step) % len(KINDS)] for step in range(len(KINDS))) if kind in possible)


def fade(before: Image, after: Image, strength: float) -> Image:
    """Return an image with ``strength`` (0 to 1) of what an anomaly changed in it, both u8 [H, W, 3]."""
    normal = before.astype(np.float32)
    return np.asarray(np.rint(normal + strength * (after - normal)), np.uint8)


def kind_at(kind: str, strength: float) -> str:
    """Return the name of a kind of anomaly at a strength: a faint one is a kind of its own."""
    return kind if strength == 1 else f"{kind} at {strength:g}"


def origin_of(number: int, normal_images: npt.NDArray[np.uint8]) -> int:
    """Return the index of the normal image that anomaly ``number`` of ``synthetic`` was made from."""
    return number % len(normal_images)


def _scene(image: Image, others: Sequence[Image], part: Mask) -> Scene:
    if part.shape != image.shape[:2] or not part.any():
        raise ValueError(f"the part must be a mask of {list(image.shape[:2])} that is not empty, but is {list(part.shape)}")
    return Scene(image, others, own_part(image, part))
