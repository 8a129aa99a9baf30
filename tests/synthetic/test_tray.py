"""Kit trays: the rules good ones keep, the defects that break them, masks, and images given by their seeds."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import Counter

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_ad.errors import BadInput
from edge_ad.synthetic import line
from edge_ad.synthetic.parts import Pen, area, draw, outline
from edge_ad.synthetic.scene import COMPARTMENTS, PAIRS, Part, Scene

SEEDS = st.integers(0, 2**53)
DEFECTS = line.LOGICAL + line.STRUCTURAL
# The rules of a good tray, written down a second time: 2 + 2 + 1 + 1 + 2 x (1 + 1) + 6 = 16 parts.
GOOD_COUNTS = {
    ("nuts", "nut"): 2,
    ("washers", "washer"): 2,
    ("screws", "long_screw"): 1,
    ("screws", "short_screw"): 1,
    ("left_pair", "connector"): 1,
    ("left_pair", "cap"): 1,
    ("right_pair", "connector"): 1,
    ("right_pair", "cap"): 1,
    ("pins", "pin"): 6,
}


def scene_of(seed: int, defect: str | None = None) -> Scene:
    return line.tray_scene(seed, defect)[0]


def pair_colours(scene: Scene) -> dict[str, dict[str, str | None]]:
    return {compartment: {p.kind: p.colour for p in scene.parts if p.compartment == compartment} for compartment in PAIRS}


def kinds(scene: Scene) -> Counter[str]:
    return Counter(part.kind for part in scene.parts)


def difference(scene: Scene, twin: Scene) -> dict[tuple[str, str], int]:
    """Return the counts that changed, keyed by (place, kind)."""
    now, before = scene.counts(), twin.counts()
    return {key: now[key] - before[key] for key in {*now, *before} if now[key] != before[key]}


def test_names_are_those_of_the_design() -> None:
    assert line.LOGICAL == ("missing", "extra", "swapped", "misplaced", "wrong_pairing", "wrong_count")
    assert line.STRUCTURAL == ("scratch", "stain", "crack", "dent")


@given(SEEDS)
@settings(max_examples=200, deadline=None)
def test_good_scene_keeps_every_rule(seed: int) -> None:
    scene = scene_of(seed)
    assert dict(scene.counts()) == GOOD_COUNTS
    pairs = pair_colours(scene)
    assert all(pair["connector"] == pair["cap"] for pair in pairs.values())
    assert pairs["left_pair"]["cap"] != pairs["right_pair"]["cap"]


@given(SEEDS)
@settings(max_examples=200, deadline=None)
def test_good_parts_lie_inside_their_compartments(seed: int) -> None:
    for part in scene_of(seed).parts:
        room, shape = COMPARTMENTS[part.compartment], outline(part)
        assert room.left <= shape[:, 0].min(), part
        assert shape[:, 0].max() <= room.right, part
        assert room.top <= shape[:, 1].min(), part
        assert shape[:, 1].max() <= room.bottom, part


@given(SEEDS)
@settings(max_examples=100, deadline=None)
def test_missing_and_extra_change_the_total_by_one(seed: int) -> None:
    good = scene_of(seed)
    assert sorted(difference(scene_of(seed, "missing"), good).values()) == [-1]
    assert sorted(difference(scene_of(seed, "extra"), good).values()) == [1]


@given(SEEDS)
@settings(max_examples=100, deadline=None)
def test_swapped_and_misplaced_keep_the_kinds_but_not_the_places(seed: int) -> None:
    good = scene_of(seed)
    misplaced = scene_of(seed, "misplaced")
    assert kinds(misplaced) == kinds(good)
    assert sorted(difference(misplaced, good).values()) == [-1, 1]
    swapped = scene_of(seed, "swapped")
    assert kinds(swapped) == kinds(good)
    height = {compartment: {p.kind: p.y for p in swapped.parts if p.compartment == compartment} for compartment in PAIRS}
    turned_over = any(pair["cap"] < pair["connector"] for pair in height.values())
    assert turned_over != bool(difference(swapped, good))


@given(SEEDS)
@settings(max_examples=100, deadline=None)
def test_wrong_pairing_keeps_counts_and_colours(seed: int) -> None:
    good, bad = scene_of(seed), scene_of(seed, "wrong_pairing")
    assert not difference(bad, good)
    assert Counter((p.kind, p.colour) for p in bad.parts) == Counter((p.kind, p.colour) for p in good.parts)
    assert all(pair["connector"] != pair["cap"] for pair in pair_colours(bad).values())


@given(SEEDS)
@settings(max_examples=100, deadline=None)
def test_wrong_count_changes_pins_or_the_share_of_nuts_and_washers(seed: int) -> None:
    changed = difference(scene_of(seed, "wrong_count"), scene_of(seed))
    pins = changed.get(("pins", "pin"))
    loose = (changed.get(("nuts", "nut")), changed.get(("washers", "washer")))
    assert (pins in (-2, -1, 1) and len(changed) == 1) or loose in ((1, -1), (-1, 1))


def test_every_way_of_breaking_a_rule_occurs() -> None:
    missing = {next(iter(difference(scene_of(s, "missing"), scene_of(s))))[1] for s in range(80)}
    assert missing == {"nut", "washer", "long_screw", "short_screw", "connector", "cap"}
    pins = {difference(scene_of(s, "wrong_count"), scene_of(s)).get(("pins", "pin")) for s in range(80)}
    assert pins == {-2, -1, 1, None}


@pytest.mark.parametrize("defect", [None, *DEFECTS])
def test_a_tray_is_its_seed(defect: str | None) -> None:
    first, second = line.render_tray(5, defect), line.render_tray(5, defect)
    assert hashlib.sha256(first.image).digest() == hashlib.sha256(second.image).digest()
    assert np.array_equal(first.mask, second.mask)
    assert not np.array_equal(first.image, line.render_tray(6, defect).image)


def test_another_process_renders_the_same_tray() -> None:
    code = (
        "import hashlib; from edge_ad.synthetic.line import render_tray as r;"
        "print(hashlib.sha256(r(9, 'crack').image).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == hashlib.sha256(line.render_tray(9, "crack").image).hexdigest()


@given(seed=SEEDS, defect=st.sampled_from([None, *DEFECTS]), size=st.sampled_from([64, 128, 200, 256]))
@settings(max_examples=60, deadline=None)
def test_masks_are_there_exactly_when_there_is_a_defect(seed: int, defect: str | None, size: int) -> None:
    tray = line.render_tray(seed, defect, size)
    assert tray.image.shape == (size, size, 3)
    assert tray.image.dtype == np.uint8
    assert tray.mask.shape == (size, size)
    assert tray.mask.dtype == np.uint8
    assert set(np.unique(tray.mask)) <= {0, 255}
    assert tray.defect == (defect or "good")
    assert tray.kind == ("good" if defect is None else "logical" if defect in line.LOGICAL else "structural")
    assert bool(tray.mask.any()) == (defect is not None)


@pytest.mark.parametrize("defect", line.STRUCTURAL)
def test_structural_masks_hold_the_damage(defect: str) -> None:
    """A tray and its damaged twin differ inside the mask (widened by two pixels for soft edges) and nowhere else."""
    for seed in range(20):
        good, bad = line.render_tray(seed), line.render_tray(seed, defect)
        changed = np.abs(good.image.astype(int) - bad.image).max(axis=2) > 12
        near = cv2.dilate(bad.mask, np.ones((5, 5), np.uint8)) > 0
        assert not (changed & ~near).any(), seed
        # Plainly visible: most of the mask looks different.
        assert (changed & (bad.mask > 0)).sum() > 0.4 * (bad.mask > 0).sum(), seed
        assert (bad.mask > 0).sum() > 120, seed


@pytest.mark.parametrize("defect", ["missing", "wrong_pairing"])
def test_logical_masks_show_the_part(defect: str) -> None:
    for seed in range(20):
        good, bad = line.render_tray(seed), line.render_tray(seed, defect)
        changed = np.abs(good.image.astype(int) - bad.image).max(axis=2) > 12
        assert (changed & (bad.mask > 0)).sum() > 0.3 * (bad.mask > 0).sum(), seed


def test_mask_area_is_that_of_the_missing_part() -> None:
    """The area of the polygon times the squared scale of the pose, within the error of a one-pixel rim."""
    for seed in range(10):
        scene, twin = scene_of(seed, "missing"), scene_of(seed)
        gone = next(part for part in twin.parts if part not in scene.parts)
        expected = area(gone.kind) * twin.pose.scale**2
        assert abs((line.render_tray(seed, "missing").mask > 0).sum() - expected) < 0.12 * expected + 10


def test_area_of_a_hexagon_is_known() -> None:
    assert area("nut") == pytest.approx(3 * 3**0.5 / 2 * 15**2)
    assert area("connector") == pytest.approx(36 * 25)


def test_exposures_differ_by_little_noise() -> None:
    first, second = line.render_tray(3).image, line.render_tray(3, exposure=1).image
    assert not np.array_equal(first, second)
    assert np.abs(first.astype(int) - second).mean() < 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed -1"),
        ({"seed": 0, "size": 32}, "64 to 2048"),
        ({"seed": 0, "size": 4096}, "64 to 2048"),
        ({"seed": 0, "defect": "rust"}, "unknown defect 'rust'"),
        ({"seed": 0, "exposure": -2}, "exposure -2"),
    ],
)
def test_bad_arguments_are_reported(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        line.render_tray(**arguments)  # type: ignore[arg-type]


def test_a_coloured_part_without_colour_is_a_programming_error() -> None:
    pen = Pen(np.zeros((8, 8, 3), np.uint8), np.eye(2, 3))
    with pytest.raises(ValueError, match="needs a colour"):
        draw(pen, Part("cap", "left_pair", 0, 0, 0, 1, 1))


@given(SEEDS)
@settings(max_examples=60, deadline=None)
def test_damage_stays_on_the_tray(seed: int) -> None:
    """Masks end inside the tray: 108 units from its middle at most, plus the width of a stroke."""
    for defect in ("crack", "dent"):
        rows, columns = np.nonzero(line.render_tray(seed, defect).mask)
        points = np.stack([columns, rows], axis=1) + 0.5
        matrix = scene_of(seed).pose.matrix(1.0, 256)
        units = np.linalg.solve(matrix[:, :2], (points - matrix[:, 2]).T)
        assert np.abs(units).max() <= 110
