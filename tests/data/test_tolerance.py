"""Tolerances: what the user's words mean, what is refused, and that a disturbance stays within its limits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edge_ad.data.tolerance import AXES, DEFAULT, Disturbance, Tolerance
from edge_ad.errors import BadInput

WIDE = Tolerance(light=0.1, colour=0.03, blur=1.0, noise=2.0, shift=0.02, rotation=2.0, scale=0.02)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", Tolerance()),
        ("default", DEFAULT),
        ("light=10%,blur=1px", Tolerance(light=0.1, blur=1.0)),
        ("none, light = 2.5 %, rotation = 3 deg", Tolerance(light=0.025, rotation=3.0)),
        ("noise=4,shift=0", Tolerance(noise=4.0)),
        ("default,noise=4", replace(DEFAULT, noise=4.0)),
    ],
)
def test_tolerance_in_the_words_of_a_user_is_read_axis_by_axis(text: str, expected: Tolerance) -> None:
    assert Tolerance.parse(text).as_dict() == pytest.approx(expected.as_dict())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("light=31%", "light is '31%', beyond what the method supports: write a number from 0 to 30 %"),
        ("blur=4 px", "beyond what the method supports: write a number from 0 to 3 px"),
        ("rotation=16deg", "from 0 to 15 deg"),
        ("noise=2px", "noise is '2px': write a number from 0 to 12, such as 3"),
        ("light=-1%", "write a number from 0 to 30 %"),
        ("light=ten", "write a number from 0 to 30 %"),
        ("zoom=2%", "no tolerance 'zoom'; there are light, colour"),
        ("light", "write auto, none, default or a list such as"),
        ("", "write auto, none, default or a list such as"),
        ("none,,", "write auto, none, default or a list such as"),
    ],
)
def test_tolerance_that_cannot_be_meant_is_refused_in_one_sentence(text: str, message: str) -> None:
    with pytest.raises(BadInput) as error:
        Tolerance.parse(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_text_of_a_tolerance_reads_back_as_the_same() -> None:
    text = ",".join(f"{name}={AXES[name].show(value)}" for name, value in WIDE.as_dict().items())
    assert Tolerance.parse(text).as_dict() == pytest.approx(WIDE.as_dict())
    assert str(WIDE) == "light 10 %, colour 3 %, blur 1 px, noise 2, shift 2 %, rotation 2 deg, scale 2 %"
    assert str(Tolerance()) == "none"
    assert not Tolerance()
    assert WIDE


@pytest.mark.parametrize("seed", range(20))
def test_drawn_disturbance_stays_within_the_tolerance(seed: int) -> None:
    drawn = WIDE.draw(np.random.default_rng(seed))
    assert all(0.9 * 0.97 <= gain <= 1.1 * 1.03 for gain in drawn.gain)
    assert 0 <= drawn.blur <= 1
    assert 0 <= drawn.noise <= 2
    assert all(abs(shift) <= 0.02 for shift in drawn.shift)
    assert abs(drawn.angle) <= 2
    assert 0.98 <= drawn.scale <= 1.02
    assert drawn == WIDE.draw(np.random.default_rng(seed))


def test_every_corner_has_one_axis_at_its_limit_and_all_others_at_rest() -> None:
    rest, corners = Disturbance(), WIDE.corners()
    assert list(corners) == list(AXES)
    for axis, disturbances in corners.items():
        field = {"light": "gain", "colour": "gain", "rotation": "angle"}.get(axis, axis)
        for one in disturbances:
            changed = [name for name in vars(rest) if getattr(one, name) != getattr(rest, name)]
            assert changed == [field]
    assert list(Tolerance(blur=1.0).corners()) == ["blur"]


def test_disturbed_image_is_the_same_for_the_same_seed_and_untouched_without_tolerance() -> None:
    image = np.random.default_rng(1).integers(0, 256, (32, 48, 3)).astype(np.uint8)
    still = Tolerance().draw(np.random.default_rng(0))
    assert not still.moves
    assert np.array_equal(still.degrade(still.move(image), np.random.default_rng(0)), image)

    def one() -> np.ndarray:
        rng = np.random.default_rng(5)
        drawn = WIDE.draw(rng)
        return drawn.degrade(drawn.move(image), rng)

    assert np.array_equal(one(), one())
    assert not np.array_equal(one(), image)


def test_limits_do_to_an_image_what_they_name() -> None:
    flat = np.full((64, 64, 3), 100, np.uint8)
    rng = np.random.default_rng(0)
    corners = WIDE.corners()
    assert [int(one.degrade(flat, rng).max()) for one in corners["light"]] == [110, 90]
    assert corners["colour"][0].degrade(flat, rng)[0, 0].tolist() == [103, 100, 97]
    assert np.std(corners["noise"][0].degrade(flat, rng).astype(float)) == pytest.approx(2.0, abs=0.1)
    point = np.zeros((64, 64, 3), np.uint8)
    point[20, 20] = 255
    moved = Disturbance(shift=(0.125, 0.0625)).move(point)  # of 64 pixels: 8 and 4
    assert np.argwhere(moved[..., 0] > 128).tolist() == [[24, 28]]
    # A Gaussian of deviation 1 leaves 1 / (2 pi) of a point in its middle.
    assert int(corners["blur"][0].degrade(point, rng)[20, 20, 0]) == pytest.approx(255 / (2 * np.pi), abs=1.5)
