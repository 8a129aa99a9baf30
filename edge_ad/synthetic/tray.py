"""One rendered kit tray, good or with one defect, wholly given by its seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge_ad.errors import BadInput
from edge_ad.synthetic.defects import RULE_BREAKERS, Broken, break_rule
from edge_ad.synthetic.drawing import Canvas
from edge_ad.synthetic.marks import MARKS, draw_mark
from edge_ad.synthetic.render import Mark, render_scene
from edge_ad.synthetic.scene import Scene, good_scene

TrayKind = Literal["good", "logical", "structural"]
GOOD = "good"
LOGICAL: tuple[str, ...] = tuple(RULE_BREAKERS)
STRUCTURAL: tuple[str, ...] = tuple(MARKS)
SIZES = (64, 2048)

# Random streams of one seed. Since they are separate, a tray and its defective twin differ by the defect only.
_SCENE, _DEFECT, _SURFACE, _EXPOSURE = range(4)


@dataclass(frozen=True)
class Tray:
    """An image u8[size,size,3] RGB, its mask u8[size,size] (255 on the defect, else 0), its kind and its defect.

    A good tray has the defect ``"good"`` and an empty mask.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    kind: TrayKind
    defect: str


def kind_of(defect: str) -> TrayKind:
    """Return the kind of a defect name (``"good"`` included); BadInput for an unknown one."""
    if defect == GOOD:
        return "good"
    if defect in LOGICAL:
        return "logical"
    if defect in STRUCTURAL:
        return "structural"
    raise BadInput(f"unknown defect {defect!r}: choose one of {', '.join(LOGICAL + STRUCTURAL)}")


def tray_scene(seed: int, defect: str | None = None) -> Broken:
    """Return the scene of a tray and the polygons (tray units) of its logical defect, if it has one."""
    name = defect or GOOD
    scene = good_scene(_stream(seed, _SCENE))
    if kind_of(name) != "logical":
        return scene, []
    return break_rule(scene, name, _stream(seed, _DEFECT))


def render_tray(seed: int, defect: str | None = None, size: int = 256, exposure: int = 0) -> Tray:
    """Render the tray of ``seed`` (0 or more), good or with one defect of LOGICAL or STRUCTURAL.

    ``size`` is the side of the image, 64 to 2048 pixels. Images of the same tray with another ``exposure``
    differ by sensor noise only, as frames of a part that lies still do. BadInput for any other value.
    """
    if not SIZES[0] <= size <= SIZES[1]:
        raise BadInput(f"tray size {size} is out of range: choose {SIZES[0]} to {SIZES[1]} pixels")
    if seed < 0 or exposure < 0:
        raise BadInput(f"seed {seed} and exposure {exposure} must not be negative: choose 0 or more")
    name = defect or GOOD
    kind = kind_of(name)
    scene, regions = tray_scene(seed, name)
    mark = _mark(scene, name, _stream(seed, _DEFECT)) if kind == "structural" else None
    surface, noise = _stream(seed, _SURFACE), np.random.default_rng([seed, _EXPOSURE, exposure])
    image, mask = render_scene(scene, regions, mark, size, surface, noise)
    return Tray(image, mask, kind, name)


def _mark(scene: Scene, defect: str, rng: np.random.Generator) -> Mark:
    def draw(canvas: Canvas, mask: Canvas, matrix: NDArray[np.float64]) -> None:
        draw_mark(canvas, mask, scene, matrix, defect, rng)

    return draw


def _stream(seed: int, stream: int) -> np.random.Generator:
    return np.random.default_rng([seed, stream])
