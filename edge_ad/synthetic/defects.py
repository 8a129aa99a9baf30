"""Anomalies of the synthetic tray: one rule of a scene broken (logical), or damage and dirt drawn onto it (structural)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.synthetic.parts import Canvas, Pen, Points, Rgb, circle, moved, outline, turned
from edge_ad.synthetic.scene import (
    CAP_Y,
    COMPARTMENTS,
    CONNECTOR_Y,
    PAIRS,
    PIN_Y,
    TRAY_HALF,
    Kind,
    Part,
    Scene,
    free_angle,
    new_part,
    slot_x,
)

Broken = tuple[Scene, list[Points]]


def break_rule(scene: Scene, defect: str, rng: np.random.Generator) -> Broken:
    """Return the scene with one rule broken, and the polygons (tray units) that make up the mask."""
    return RULE_BREAKERS[defect](scene, rng)


def _pick(rng: np.random.Generator, parts: list[Part]) -> Part:
    return parts[int(rng.integers(len(parts)))]


def _missing(scene: Scene, rng: np.random.Generator) -> Broken:
    """One nut, washer, screw, connector or cap is not there."""
    kinds: tuple[Kind, ...] = ("nut", "washer", "long_screw", "short_screw", "connector", "cap")
    gone = _pick(rng, scene.of(kinds[int(rng.integers(len(kinds)))]))
    return scene.without(gone), [outline(gone)]


def _extra(scene: Scene, rng: np.random.Generator) -> Broken:
    """One nut, washer or screw too many in its own compartment."""
    choice = ("nut", "washer", "short_screw")[int(rng.integers(3))]
    if choice == "short_screw":
        scene, more = _third_screw(scene, rng)
        return scene, [outline(more)]
    kind: Kind = "nut" if choice == "nut" else "washer"
    scene, more = _squeezed_in(scene, kind, rng)
    return scene, [outline(more)]


def _third_screw(scene: Scene, rng: np.random.Generator) -> tuple[Scene, Part]:
    """Return the scene with a second short screw in the row of the first, which makes room for it."""
    short = scene.of("short_screw")[0]
    x, _ = COMPARTMENTS["screws"].centre
    side = 1 if short.x > x else -1
    angle = math.radians(float(rng.uniform(-5, 5))) + (math.pi if rng.random() < 0.5 else 0.0)
    more = new_part(rng, "short_screw", "screws", x - side * 24, y=short.y + float(rng.uniform(-2, 2)), angle=angle)
    return scene.without(short).plus(replace(short, x=x + side * 24), more), more


def _squeezed_in(scene: Scene, kind: Kind, rng: np.random.Generator) -> tuple[Scene, Part]:
    """Return the scene with a third nut or washer; the two others make room for it."""
    first, second = scene.of(kind)
    x, y = COMPARTMENTS[first.compartment].centre
    flip = 1 if rng.random() < 0.5 else -1
    moved = (
        replace(first, x=x - 31, y=y + flip * float(rng.uniform(6, 13))),
        replace(second, x=x + 31, y=y + flip * float(rng.uniform(6, 13))),
    )
    more = new_part(rng, kind, first.compartment, x + float(rng.uniform(-3, 3)), y=y - flip * float(rng.uniform(6, 13)),
                    angle=free_angle(rng))
    return scene.without(first, second).plus(*moved, more), more


def _swapped(scene: Scene, rng: np.random.Generator) -> Broken:
    """A nut and a washer, both nuts and both washers, or a connector and its cap have changed places."""
    mode = int(rng.integers(3))
    if mode == 2:
        return _upside_down(scene, rng)
    nuts, washers = scene.of("nut"), scene.of("washer")
    chosen = list(zip(nuts, washers, strict=True))
    if mode == 0:
        chosen = [(_pick(rng, nuts), _pick(rng, washers))]
    moved = [part for nut, washer in chosen for part in (_moved_to(nut, washer), _moved_to(washer, nut))]
    gone = [part for couple in chosen for part in couple]
    return scene.without(*gone).plus(*moved), [outline(part) for part in moved]


def _moved_to(part: Part, there: Part) -> Part:
    return replace(part, compartment=there.compartment, x=there.x, y=there.y)


def _upside_down(scene: Scene, rng: np.random.Generator) -> Broken:
    location = PAIRS[int(rng.integers(len(PAIRS)))]
    connector, cap = (next(part for part in scene.of(kind) if part.compartment == location) for kind in _PAIR_KINDS)
    # The cap is the taller of the two: both move down a little to keep clear of the walls.
    moved = replace(connector, y=CAP_Y + 2.5), replace(cap, y=CONNECTOR_Y + 2.5)
    return scene.without(connector, cap).plus(*moved), [outline(part) for part in moved]


_PAIR_KINDS: tuple[Kind, Kind] = ("connector", "cap")


def _misplaced(scene: Scene, rng: np.random.Generator) -> Broken:
    """A nut or washer lies in a compartment that is not its own, or a pin among the nuts or washers."""
    kinds: tuple[Kind, ...] = ("nut", "washer", "pin")
    part = _pick(rng, scene.of(kinds[int(rng.integers(3))]))
    if part.kind == "pin":
        location = ("nuts", "washers")[int(rng.integers(2))]
        x, y = COMPARTMENTS[location].centre
        moved = replace(part, compartment=location, x=x + float(rng.uniform(-3, 3)), y=y + float(rng.uniform(-8, 8)),
                        angle=math.radians(float(rng.uniform(-50, 50))))
    else:
        location = ("screws", "pins", *PAIRS)[int(rng.integers(4))]
        moved = _strayed(part, location, rng)
    return scene.without(part).plus(moved), [outline(moved), outline(part)]


def _strayed(part: Part, location: str, rng: np.random.Generator) -> Part:
    """Return a part moved into another compartment, on top of what lies there."""
    compartment = COMPARTMENTS[location]
    x = float(rng.uniform(compartment.left + 18, compartment.right - 18))
    y = float(rng.uniform(compartment.top + 18, compartment.bottom - 18))
    return replace(part, compartment=location, x=x, y=y, angle=free_angle(rng))


def _wrong_pairing(scene: Scene, rng: np.random.Generator) -> Broken:
    """The two caps have changed places, so that neither fits the colour of its connector."""
    left, right = scene.of("cap")
    moved = replace(left, colour=right.colour), replace(right, colour=left.colour)
    shown = [outline(part) for part in moved]
    return scene.without(left, right).plus(*moved), shown


def _wrong_count(scene: Scene, rng: np.random.Generator) -> Broken:
    """One or two pins too few, a slot with two pins, or three parts of one kind and one of another."""
    mode = int(rng.integers(3))
    if mode == 0:
        return _too_few_pins(scene, rng)
    if mode == 1:
        return _doubled_pin(scene, rng)
    return _three_and_one(scene, rng)


def _too_few_pins(scene: Scene, rng: np.random.Generator) -> Broken:
    pins = scene.of("pin")
    gone = [pins[int(slot)] for slot in rng.choice(len(pins), size=int(rng.integers(1, 3)), replace=False)]
    return scene.without(*gone), [outline(part) for part in gone]


def _doubled_pin(scene: Scene, rng: np.random.Generator) -> Broken:
    slot = int(rng.integers(len(scene.of("pin"))))
    old = scene.of("pin")[slot]
    pair = [replace(old, x=slot_x(slot) + side * 6.5, angle=old.angle + side * 0.03) for side in (-1, 1)]
    pair[1] = new_part(rng, "pin", "pins", pair[1].x, y=PIN_Y + float(rng.uniform(-2, 2)), angle=pair[1].angle)
    return scene.without(old).plus(*pair), [outline(part) for part in pair]


def _three_and_one(scene: Scene, rng: np.random.Generator) -> Broken:
    """Three nuts and one washer, or the other way round: the total is right, the counts are not."""
    many: tuple[Kind, Kind] = ("nut", "washer") if rng.random() < 0.5 else ("washer", "nut")
    gone = _pick(rng, scene.of(many[1]))
    scene, more = _squeezed_in(scene.without(gone), many[0], rng)
    return scene, [outline(more), outline(gone)]


RULE_BREAKERS: dict[str, Callable[[Scene, np.random.Generator], Broken]] = {
    "missing": _missing,
    "extra": _extra,
    "swapped": _swapped,
    "misplaced": _misplaced,
    "wrong_pairing": _wrong_pairing,
    "wrong_count": _wrong_count,
}


_INK: Rgb = (255, 255, 255)
_INSIDE = TRAY_HALF - 4


def draw_mark(canvas: Canvas, mask: Canvas, scene: Scene, matrix: NDArray[np.float64], *, defect: str,
              rng: np.random.Generator) -> None:
    """Draw one structural defect on ``canvas`` u8[H,W,3] and on ``mask`` u8[H,W] (255), both in place."""
    parts = np.vstack([_edge(outline(part)) for part in scene.parts])
    MARKS[defect](Pen(canvas, matrix), Pen(mask, matrix), parts, rng)


def _edge(corners: Points) -> Points:
    """Return points all along the edge of a polygon, and its middle."""
    steps = (np.arange(4) / 4)[:, None, None]
    along = corners + steps * (np.roll(corners, -1, axis=0) - corners)
    return np.vstack([along.reshape(-1, 2), corners.mean(axis=0)])


def _clearest(paths: list[Points], parts: Points) -> Points:
    """Return the path on the tray that keeps the farthest from all parts: the tray is damaged, not what lies on it."""
    return max(paths, key=lambda path: _clearance(path, parts))


def _clearance(path: Points, parts: Points) -> float:
    if np.abs(path).max() > _INSIDE:
        return -1.0
    gaps = np.sqrt(((path[:, None] - parts[None]) ** 2).sum(axis=2)).min(axis=1)
    return float(np.minimum(gaps, 20).mean())


def _scratch(pen: Pen, mask: Pen, _: Points, rng: np.random.Generator) -> None:
    """A long, slightly bent bright groove with a dark lip."""
    length, angle = float(rng.uniform(70, 120)), float(rng.uniform(0, math.pi))
    t = np.linspace(-0.5, 0.5, 24)
    bend = float(rng.uniform(-14, 14))
    path = np.stack([t * length, bend * (t * t - 1 / 12)], axis=1)
    path[:, 1] += np.cumsum(rng.normal(0, 0.25, len(t)))
    path = turned(path, angle) + rng.uniform(-45, 45, 2)
    width = float(rng.uniform(2.4, 3.4))
    pen.line(moved(path, 0.9, 1.1), (34, 34, 36), width)
    pen.line(path, (208, 210, 212), width * 0.75)
    mask.line(moved(path, 0.4, 0.5), _INK, width + 1.2)


def _crack(pen: Pen, mask: Pen, parts: Points, rng: np.random.Generator) -> None:
    """A jagged dark split with branches."""
    steps = int(rng.integers(8, 12))
    trunk = _clearest([_jagged(rng, rng.uniform(-90, 90, 2), _heading(rng), steps, stride=9.0) for _ in range(24)], parts)
    along = math.atan2(trunk[-1, 1] - trunk[0, 1], trunk[-1, 0] - trunk[0, 0])
    twigs = [
        np.clip(_jagged(rng, trunk[node], along + side * float(rng.uniform(0.7, 1.3)), 4, stride=6.0), -_INSIDE, _INSIDE)
        for node, side in ((2, 1), (4, -1), (6, 1))
    ]
    for path, width in ((trunk, 3.4), *((twig, 2.2) for twig in twigs)):
        pen.line(moved(path, 1.1, 1.3), (176, 178, 180), width * 0.8)
        pen.line(path, (32, 31, 32), width)
        mask.line(moved(path, 0.5, 0.6), _INK, width + 1.4)


def _heading(rng: np.random.Generator) -> float:
    return float(rng.uniform(0, 2 * math.pi))


def _jagged(rng: np.random.Generator, start: Points, heading: float, steps: int, *, stride: float) -> Points:
    """Return a zigzag walk, f64[steps+1,2]."""
    turns = heading + rng.uniform(-0.75, 0.75, steps)
    strides = stride * rng.uniform(0.6, 1.2, (steps, 1)) * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    return np.vstack([start, start + np.cumsum(strides, axis=0)])


def _blob(rng: np.random.Generator, radius: float) -> Points:
    """Return a smooth irregular outline around the origin."""
    angles = np.linspace(0, 2 * math.pi, 40, endpoint=False)
    radii = np.full(len(angles), radius)
    for wave in (2, 3, 4, 5):
        radii += radius * float(rng.uniform(0.0, 0.16)) * np.cos(wave * angles + _heading(rng))
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _stain(pen: Pen, mask: Pen, _: Points, rng: np.random.Generator) -> None:
    """A spill of oil: a dark, see-through blob with a darker rim and a few drops."""
    centre = rng.uniform(-75, 75, 2)
    shapes = [_blob(rng, float(rng.uniform(15, 21))) + centre]
    for _drop in range(int(rng.integers(1, 4))):
        away = turned(np.array([[float(rng.uniform(24, 32)), 0.0]]), _heading(rng))
        shapes.append(_blob(rng, float(rng.uniform(3, 5))) + centre + away)
    cover = np.zeros(pen.canvas.shape[:2], dtype=np.uint8)
    film = Pen(cover, pen.matrix)
    for shape in shapes:
        film.polygon(shape, (190, 190, 190))
        film.line(np.vstack([shape, shape[:1]]), (225, 225, 225), 1.6)
        mask.polygon(shape, _INK)
    _blend(pen.canvas, cover, (40, 35, 30))


def _dent(pen: Pen, mask: Pen, parts: Points, rng: np.random.Generator) -> None:
    """A hollow: one side catches the light, the other lies in shadow."""
    centre = _clearest([rng.uniform(-88, 88, (1, 2)) for _ in range(12)], parts)[0]
    radius = float(rng.uniform(13, 18))
    rim = turned(circle(radius, 36) * (1.0, float(rng.uniform(0.75, 1.0))), _heading(rng)) + centre
    light = float(rng.uniform(-0.6, 0.6)) + math.pi / 4
    towards = np.array([math.cos(light), math.sin(light)])
    for factor, side in (((20, 20, 22), -1), ((222, 224, 228), 1)):
        crescent = np.zeros(pen.canvas.shape[:2], dtype=np.uint8)
        moon = Pen(crescent, pen.matrix)
        moon.polygon(rim, (215, 215, 215))
        moon.polygon((rim - centre) * 0.92 + centre - side * 0.42 * radius * towards, (0, 0, 0))
        soft = max(1.0, 1.2 * pen.pixels_per_unit)
        _blend(pen.canvas, cv2.GaussianBlur(crescent, (0, 0), soft).astype(np.uint8), factor)
    mask.polygon(rim, _INK)


def _blend(canvas: Canvas, cover: Canvas, colour: Rgb) -> None:
    """Lay ``colour`` over the canvas in place, as opaque as ``cover`` u8[H,W] says."""
    rows, columns = np.flatnonzero(cover.any(axis=1)), np.flatnonzero(cover.any(axis=0))
    if not len(rows):
        return
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    alpha = cover[window][..., None].astype(np.float32) / 255
    mixed = canvas[window] * (1 - alpha) + np.array(colour, dtype=np.float32) * alpha
    canvas[window] = np.rint(mixed).astype(np.uint8)


MARKS: dict[str, Callable[[Pen, Pen, Points, np.random.Generator], None]] = {
    "scratch": _scratch,
    "stain": _stain,
    "crack": _crack,
    "dent": _dent,
}
