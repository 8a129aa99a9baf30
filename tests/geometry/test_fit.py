"""The choice of a method: none where parts are aligned, the one that applies where they are not, and its reasons."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import ClassVar

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_ad.errors import BadInput
from edge_ad.geometry import Method
from edge_ad.geometry.contact_sheet import contact_sheet
from edge_ad.geometry.cut_out import resize
from edge_ad.geometry.fit import Trial, _best, _stays, _unstable, fit_geometry
from edge_ad.geometry.geometry import Geometry, Prepared
from edge_ad.geometry.pose import Locator, NotLocated, Pose
from edge_ad.geometry.template_fit import fit_template
from edge_ad.synthetic.single_part import Kind, PartOptions, render_part
from tests.geometry import test_anchors
from tests.geometry.rendered import LENGTH, normal_parts
from tests.geometry.scenes import SIZE, shot, shots
from tests.geometry.stored import packed, unpacked


def test_parts_at_any_angle_are_located_by_their_foreground_and_cut_out_in_their_aspect_ratio() -> None:
    fit = fit_geometry([part.image for part in normal_parts("key")])
    geometry = fit.geometry
    assert geometry.method == "foreground"
    assert "foreground: residual" in fit.reason
    assert geometry.size[1] > 2 * geometry.size[0]
    assert geometry.size[0] * geometry.size[1] <= 1.02 * 65536
    pose = geometry.locate(normal_parts("key")[0].image)
    assert isinstance(pose, Pose)
    assert geometry.expected is not None
    assert geometry.expected.outside(pose) is None
    assert geometry.transform(pose).cut(normal_parts("key")[0].image).shape == (*geometry.size, 3)


@pytest.mark.parametrize("kind", ["key", "plate"])
def test_the_outline_states_where_the_part_lies_in_the_input(kind: Kind) -> None:
    geometry = fit_geometry([part.image for part in normal_parts(kind)], method="foreground").geometry
    mask = geometry.part_mask()
    assert mask is not None
    for part in normal_parts(kind)[:6]:
        pose = geometry.locate(part.image)
        assert isinstance(pose, Pose)
        truth = geometry.transform(pose).mask_to_cut_out(part.mask) > 0
        contours = cv2.findContours(truth.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[-2]
        filled = cv2.drawContours(np.zeros(truth.shape, np.uint8), contours, -1, 1, cv2.FILLED) > 0
        assert (mask & filled).sum() > 0.92 * (mask | filled).sum()


def test_aligned_parts_cost_nothing() -> None:
    images = [render_part(seed, PartOptions(kind="key", length=LENGTH, max_angle=0, max_shift=0)).image for seed in range(12)]
    fit = fit_geometry(images)
    assert fit.geometry.method == "none"
    assert "aligned already" in fit.reason
    assert fit.aligned
    assert fit.geometry.locator is None
    assert fit.geometry.part_mask() is None
    assert isinstance(fit.geometry.locate(images[0]), Pose)


@pytest.mark.parametrize(("refusing", "method"), [({"shift"}, "rigid"), ({"shift", "rigid", "scaled"}, "none")])
def test_auto_takes_the_next_best_where_all_images_have_less_in_common_than_those_it_was_tried_on(
    refusing: set[str], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fit to all images refuses, as one did with 11 of 48 trays; the choice was made on 8 of these 12."""

    def fit(images: list[np.ndarray], names: list[str], kind: str, **options: float) -> Locator:
        if len(images) == 12 and kind in refusing:
            raise BadInput("the images have nothing in common")
        return fit_template(images, names, kind, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("edge_ad.geometry.fit.fit_template", fit)
    chosen = fit_geometry([one.image for one in shots(12, shift=20)])
    assert chosen.geometry.method == method
    assert {trial.method for trial in chosen.trials if "nothing in common" in trial.refused} >= {"shift"}


@pytest.mark.parametrize(("how", "method"), [({"shift": 20}, "shift"), ({"shift": 15, "turn": 8}, "rigid")])
def test_scenes_are_located_by_the_simplest_template_that_aligns_them(how: dict[str, float], method: str) -> None:
    fit = fit_geometry([one.image for one in shots(12, **how)])
    assert (fit.geometry.method, fit.aligned) == (method, False)
    assert fit.geometry.part_mask() is None, "a template knows no outline"


def test_textures_are_left_as_they_are() -> None:
    images = [shot(seed, plate_seed=seed).image for seed in range(9)]
    fit = fit_geometry(images)
    assert fit.geometry.method == "none"
    assert "no method locates the part in nearly all images" in fit.reason
    assert fit.geometry.size == (224, 288)


def test_drawn_anchors_are_tried_alone() -> None:
    images = [test_anchors.scene(seed)[0] for seed in range(9)]
    fit = fit_geometry(images, anchors=[test_anchors.LEFT, test_anchors.RIGHT], box=test_anchors.BOX)
    assert [trial.method for trial in fit.trials] == ["anchors"]
    assert fit.geometry.method == "anchors"


def trial(
    method: str, residual: float, unaligned: float, spread: float, unlocated: int = 0, unstable: int = 0
) -> Trial:
    return Trial(method, residual, unaligned, spread, unlocated, 10, unstable=unstable)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("trials", "method", "words"),
    [
        # A round part: turning it removes nothing that a still box has not.
        ([trial("foreground", 0.04, 0.03, 0.02), trial("rigid", 0.07, 0.08, 0.09)], "none", "nearer to each other"),
        ([trial("foreground", 0.02, 0.03, 0.005), trial("rigid", 0.02, 0.3, 0.09)], "none", "aligned already"),
        ([trial("foreground", 0.105, 0.5, 0.2), trial("scaled", 0.10, 0.5, 0.2)], "foreground", "2 methods that apply"),
        ([trial("foreground", 0.105, 0.5, 0.2, 2), trial("scaled", 0.10, 0.5, 0.2, 1)], "scaled", "1 methods that apply"),
        ([Trial("foreground", refused="nothing stands out")], "none", "nothing stands out"),
        # A fifth of next to nothing is no ground to lose parts of the next lot; most of it is.
        ([trial("scaled", 0.037, 0.047, 0.079)], "none", "nearer to each other"),
        ([trial("scaled", 0.012, 0.030, 0.079)], "scaled", "1 methods that apply"),
        ([trial("shift", 0.1, 0.5, 0.2, 0, 2)], "none", "depends on light and focus: shift.*2 not at the same place"),
        ([trial("shift", 0.1, 0.5, 0.2, 0, 2), trial("rigid", 0.3, 0.5, 0.2, 0, 1)], "rigid", "of 2 methods"),
    ],
)
def test_the_rule_of_the_choice(trials: list[Trial], method: str, words: str) -> None:
    best, reason = _best(trials)
    assert best == method
    assert re.search(words, reason)


@dataclass(frozen=True)
class BrightestColumn:
    """Locates a part where the mean brightness of the image says, or nowhere above ``limit``."""

    gain: float
    limit: float = 255.0
    kind: ClassVar[str] = "test"
    box: tuple[float, float] = (30.0, 40.0)

    def locate(self, image: NDArray[np.uint8]) -> Pose | NotLocated:
        level = float(image.mean())
        return NotLocated("too bright") if level > self.limit else Pose(30 + self.gain * (level - 100), 40, 0, *self.box)


@pytest.mark.parametrize(
    ("locator", "unstable"),
    [
        (BrightestColumn(0.0), 0),
        (BrightestColumn(0.03), 0),  # 30 of 100 grey levels move it by 0.9 pixels, 1.8 % of its diagonal
        (BrightestColumn(0.04), 3),  # 2.4 %
        (BrightestColumn(0.0, limit=120), 3),
    ],
)
def test_parts_are_counted_that_other_light_moves_or_hides(locator: BrightestColumn, unstable: int) -> None:
    images = [np.full((80, 60, 3), 100, np.uint8)] * 3
    assert _unstable(locator, [(image, Pose(30, 40, 0, 30, 40)) for image in images]) == unstable  # type: ignore[arg-type]


def test_a_symmetric_part_may_turn_with_the_light_and_stays() -> None:
    pose = Pose(30, 40, 45, 30, 30, symmetric=True)
    assert _stays(pose, replace(pose, angle=-45))
    assert not _stays(pose, replace(pose, x=32))
    assert not _stays(replace(pose, symmetric=False), replace(pose, angle=-45))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"images": []}, "no images were given"),
        (
            {"images": [np.zeros((60, 80, 3), np.uint8), np.zeros((60, 90, 3), np.uint8)], "method": "rigid"},
            r"2 sizes \(80 x 60 to 90 x 60\)",
        ),
        ({"images": [np.zeros((60, 80, 3), np.uint8)], "method": "affine"}, "'affine' is not known: use one of auto, square, none"),
        ({"images": [np.zeros((60, 80, 3), np.uint8)], "method": "anchors"}, "anchors need one or two regions"),
        ({"images": [np.zeros((60, 800, 3), np.uint8)], "method": "none"}, r"800 x 60 pixels \(13.3:1\), and up to 8:1"),
        ({"images": [np.zeros((60, 80, 3), np.uint8)], "method": "foreground"}, "parts do not stand out"),
    ],
)
def test_bad_input_is_reported_in_a_sentence(arguments: dict[str, object], expected: str) -> None:
    with pytest.raises(BadInput, match=expected):
        fit_geometry(**arguments)  # type: ignore[arg-type]


def test_normal_images_without_a_pose_are_named() -> None:
    images = [part.image for part in normal_parts("key")]
    images[3] = render_part(6, PartOptions(kind="key", mirrored=True, length=LENGTH)).image
    fit = fit_geometry(images, [f"{index}.png" for index in range(len(images))], method="foreground")
    assert [name for name, _ in fit.unlocated] == ["3.png"]
    assert "mirrored" in fit.unlocated[0][1]


def test_a_magnified_part_is_reported() -> None:
    fit = fit_geometry([part.image for part in normal_parts("key")], method="foreground", pixels=262144)
    assert "far fewer than the input's" in fit.reason


@pytest.mark.parametrize("method", ["none", "foreground", "rigid_any"])
def test_a_geometry_is_data(method: str) -> None:
    images = [render_part(seed, PartOptions(kind="bracket", length=LENGTH, max_shift=0.1)).image for seed in range(8)]
    geometry = fit_geometry(images, method=method).geometry  # type: ignore[arg-type]
    again = Geometry.from_state(*unpacked(packed(*geometry.state())))
    assert again.size == geometry.size
    assert again.expected == geometry.expected
    assert again.locate(images[0]) == geometry.locate(images[0])


def test_the_same_images_and_seed_give_the_same_geometry() -> None:
    images = [one.image for one in shots(9, turn=5)]
    first, second = (packed(*fit_geometry(images, seed=4).geometry.state()) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("method", ["square", "none"])
def test_whole_images_of_any_size_are_resized(method: Method) -> None:
    geometry = Geometry(method, SIZE, (224, 288))
    image = np.random.default_rng(0).integers(0, 256, (120, 90, 3), np.uint8)
    prepared = geometry.prepare(image)
    assert isinstance(prepared, Prepared)
    assert (prepared.pose, geometry.locates) == (None, False)
    np.testing.assert_array_equal(prepared.image, resize(image, (224, 288)))
    corners = prepared.transform.to_image(np.array([(-0.5, -0.5), (287.5, 223.5)]))
    np.testing.assert_allclose(corners, [(-0.5, -0.5), (89.5, 119.5)])


def test_images_of_several_sizes_are_squashed_by_auto() -> None:
    images = [np.zeros((60, 80, 3), np.uint8), np.zeros((60, 90, 3), np.uint8)]
    fit = fit_geometry(images, pixels=64 * 64)
    assert (fit.geometry.method, fit.geometry.size, fit.reason) == ("square", (64, 64), "square: the images have several sizes")


def test_a_part_is_prepared_as_it_is_located_and_cut_out() -> None:
    parts = [part.image for part in normal_parts("key")]
    geometry = fit_geometry(parts, method="foreground").geometry
    pose, prepared = geometry.locate(parts[0]), geometry.prepare(parts[0])
    assert isinstance(pose, Pose)
    assert isinstance(prepared, Prepared)
    assert prepared.pose == pose
    np.testing.assert_array_equal(prepared.image, geometry.transform(pose).cut(parts[0]))
    assert [one.pose for one in geometry.prepare_all(parts[0]) if isinstance(one, Prepared)] == [pose]
    nothing = geometry.prepare(np.full_like(parts[0], parts[0][0, 0]))
    assert isinstance(nothing, NotLocated)


@pytest.mark.parametrize(
    "change",
    [{"method": "auto"}, {"method": "rigid"}, {"size": [1]}, {"locator": {"kind": "other"}}, {"locator": {"kind": "foreground"}}],
)
def test_a_state_of_no_geometry_is_refused(change: dict[str, object]) -> None:
    values, arrays = Geometry("none", SIZE, (224, 288)).state()
    with pytest.raises(BadInput, match="it describes no geometry"):
        Geometry.from_state({**values, **change}, arrays)


def test_the_contact_sheet_shows_the_mean_first_and_what_was_not_located_in_red() -> None:
    cuts = [np.full((40, 80, 3), level, np.uint8) for level in (100, 200)]
    sheet = contact_sheet([cuts[0], None, cuts[1]], columns=2)
    assert sheet.shape == (2 * 44, 2 * 84, 3)
    assert sheet[20, 30].tolist() == [150, 150, 150]
    assert sheet[20, 84 + 30].tolist() == [100, 100, 100]
    assert sheet[44 + 20, 30].tolist() == [200, 40, 40]
    assert sheet[44 + 20, 84 + 30].tolist() == [200, 200, 200]
