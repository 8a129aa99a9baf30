"""Logical anomalies: a good scene with one rule broken, and the regions that show it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from edge_ad.synthetic.drawing import Points
from edge_ad.synthetic.parts import outline
from edge_ad.synthetic.scene import (
    CAP_Y,
    COMPARTMENTS,
    CONNECTOR_Y,
    PAIRS,
    PIN_Y,
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
    more = new_part(rng, "short_screw", "screws", x - side * 24, short.y + float(rng.uniform(-2, 2)), angle)
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
    more = new_part(rng, kind, first.compartment, x + float(rng.uniform(-3, 3)), y - flip * float(rng.uniform(6, 13)),
                    free_angle(rng))
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
    pair[1] = new_part(rng, "pin", "pins", pair[1].x, PIN_Y + float(rng.uniform(-2, 2)), pair[1].angle)
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
