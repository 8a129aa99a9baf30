"""Logical anomalies of components: no seams, nothing but the content wrong, and states that never occur together."""

from __future__ import annotations

import numpy as np
import pytest

from edge_ad.data.component_anomalies import (
    ARRANGEMENT_KINDS,
    COMBINED,
    States,
    absent,
    arrangement_of,
    combined,
    erased,
    extra,
    family_of,
    laid,
    logical_anomalies,
)
from edge_ad.data.synthetic_anomalies import KINDS

RED, BLUE = (200, 60, 50), (50, 70, 200)
SIZE = (96, 128)
WHOLE = np.ones(SIZE, bool)
LEFT, RIGHT = (slice(36, 56), slice(24, 44)), (slice(36, 56), slice(84, 104))


def _plate(seed: int, left: tuple[int, int, int] = RED, right: tuple[int, int, int] = RED) -> np.ndarray:
    """A grey plate with a square on either side, and the grain of a camera."""
    image = np.full((*SIZE, 3), 120, np.float64)
    image[LEFT], image[RIGHT] = left, right
    return np.clip(image + np.random.default_rng(seed).normal(0, 2, image.shape), 0, 255).astype(np.uint8)


def _pairs(count: int, independent: bool = False) -> np.ndarray:
    colours = (RED, BLUE)
    return np.stack([_plate(seed, colours[seed % 2], colours[(seed // 2 if independent else seed) % 2]) for seed in range(count)])


def _colour(image: np.ndarray, window: tuple[slice, slice]) -> tuple[int, int, int]:
    middle = image[window][5:-5, 5:-5].reshape(-1, 3).mean(axis=0)
    return min((RED, BLUE, (120, 120, 120)), key=lambda colour: float(np.abs(middle - colour).sum()))


def test_every_kind_has_one_family() -> None:
    assert {family_of(kind) for kind in KINDS} == {family_of("scratch at 0.25")} == {"surface"}
    assert {family_of(kind) for kind in ARRANGEMENT_KINDS} == {"arrangement"}
    assert family_of(COMBINED) == "combination"


def test_a_component_that_is_taken_away_and_put_back_leaves_no_seam() -> None:
    rng, grain = np.random.default_rng(0), 2.0
    scene = arrangement_of(_plate(1), WHOLE, rng)
    assert len(scene.components) == 2
    for _ in range(4):
        component = scene.random(rng)
        assert component is not None
        move = int(rng.integers(-1, 2)), int(rng.integers(-1, 2))
        changed = laid(erased(scene.image, component, rng), scene.image, component, move).astype(float) - scene.image
        surroundings = np.ones(SIZE, bool)
        for window in (LEFT, RIGHT):  # within a pixel of a square's border the square itself may have moved
            rows, columns = window
            surroundings[rows.start - 2 : rows.stop + 2, columns.start - 2 : columns.stop + 2] = False
        assert np.abs(changed[surroundings]).max() < 8 * grain
        assert abs(changed[surroundings].mean()) < 0.1


def test_components_go_and_come_where_nothing_else_is() -> None:
    rng = np.random.default_rng(3)
    scene = arrangement_of(_plate(2, RED, BLUE), WHOLE, rng)
    gone, more = absent(scene, rng), extra(scene, rng)
    assert gone is not None
    assert more is not None
    assert sorted([_colour(gone, LEFT), _colour(gone, RIGHT)]) in (sorted([RED, (120,) * 3]), sorted([BLUE, (120,) * 3]))
    assert (_colour(more, LEFT), _colour(more, RIGHT)) == (RED, BLUE)
    coloured = [np.ptp(image.astype(int), axis=2) > 60 for image in (scene.image, more)]
    assert coloured[1].sum() == pytest.approx(1.5 * coloured[0].sum(), rel=0.15)


@pytest.mark.parametrize("independent", [False, True])
def test_states_are_combined_only_where_they_never_occur_together(independent: bool) -> None:
    images, rng = _pairs(32, independent), np.random.default_rng(0)
    states = States.of(images)
    drawn = [combined(index, images, WHOLE, states, rng=rng) for index in range(8)]
    if independent:
        assert drawn == [None] * 8
    else:
        assert all(image is not None and _colour(image, LEFT) != _colour(image, RIGHT) for image in drawn)


def test_kinds_take_equal_numbers_and_the_same_seed_draws_the_same() -> None:
    images = _pairs(24)
    first, kinds = logical_anomalies(images[:8], images[8:], 5, WHOLE, per_kind=4)
    again, _ = logical_anomalies(images[:8], images[8:], 5, WHOLE, per_kind=4)
    assert {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)} == dict.fromkeys(kinds, 4)
    assert {"absent", "moved", "extra", COMBINED} <= set(kinds)
    assert (first == again).all()
    assert not any((image == normal).all() for image in first for normal in images)


def test_nothing_changes_but_what_is_inspected() -> None:
    images, inspected = _pairs(24), np.zeros(SIZE, bool)
    inspected[:, :64] = True
    drawn, kinds = logical_anomalies(images[:8], images[8:], 5, WHOLE, inspected=inspected, per_kind=4)
    assert "absent" in kinds
    assert COMBINED not in kinds
    same = [(drawn[:, ~inspected] == normal[~inspected]).all(axis=(1, 2)) for normal in images[:8]]
    assert np.any(same, axis=0).all()


def test_images_without_components_and_states_allow_no_kind() -> None:
    plain = np.stack([np.random.default_rng(seed).normal(120, 2, (*SIZE, 3)) for seed in range(6)]).astype(np.uint8)
    images, kinds = logical_anomalies(plain, plain[:0], 0, WHOLE, per_kind=4)
    assert (images.shape, kinds) == ((0, *SIZE, 3), ())
