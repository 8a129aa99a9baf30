"""Synthetic anomalies: visible, on the part, where the mask says, of the sizes promised, and the same for the same seed."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edge_ad.data import structural_anomalies
from edge_ad.data.anomaly_drawing import Scene
from edge_ad.data.logical_anomalies import recolour
from edge_ad.data.synthetic_anomalies import (
    COMPONENT_KINDS,
    KINDS,
    LOGICAL_KINDS,
    OUTLINE_KINDS,
    STRUCTURAL_KINDS,
    VISIBLE,
    clarity,
    make_anomaly,
    origin_of,
    possible_kinds,
    synthetic,
)
from tests.data.folders import picture
from tests.fixtures.parts import GROUND, METAL, SCREW, disc, screws


def _scene(seed: int, size: tuple[int, int] = (96, 128)) -> np.ndarray:
    """A plain ground with differently coloured squares: detail in known places."""
    rng = np.random.default_rng(seed)
    image = np.full((*size, 3), 90, np.uint8)
    for top, left in ((20, 20), (20, 80), (60, 50)):
        image[top : top + 20, left : left + 20] = rng.integers(0, 255, 3)
    return image


OTHERS = [_scene(100 + index) for index in range(6)]
DISCS = [disc(seed=100 + index)[0] for index in range(4)]


def _grown(mask: np.ndarray, reach: int) -> np.ndarray:
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)) > 0


def test_kinds_are_logical_or_structural() -> None:
    assert set(LOGICAL_KINDS) | set(STRUCTURAL_KINDS) == set(KINDS)
    assert not set(LOGICAL_KINDS) & set(STRUCTURAL_KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_changes_outside_the_mask_and_enough_within(kind: str) -> None:
    rng = np.random.default_rng(5)
    for seed in range(10):
        image = _scene(seed)
        before = image.copy()
        result, mask = make_anomaly(image, OTHERS, rng, kind)
        assert (image == before).all()
        assert (result.shape, result.dtype, mask.shape, mask.dtype) == (image.shape, np.uint8, (96, 128), np.uint8)
        assert set(np.unique(mask).tolist()) == {0, 255}
        change = np.abs(result.astype(int) - image).max(axis=2)
        assert not change[mask == 0].any()
        assert np.sort(change.ravel())[-9] >= 8  # 3 x 3 pixels by 8 grey levels
        assert 9 <= (mask > 0).sum() < 0.5 * mask.size


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(128, 128), (64, 200), (256, 96)])
def test_anomalies_lie_on_the_part(kind: str, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(2)
    others = [disc(size, 100 + index)[0] for index in range(4)]
    for seed in range(6):
        image, part = disc(size, seed)
        _, mask = make_anomaly(image, others, rng, kind, part=part)
        if kind == "burr":  # material beyond the outline: it touches the part and grows outwards
            assert (_grown(mask > 0, 3) & part).any()
            assert ((mask > 0) & ~part).any()
        elif kind == "deform":  # its middle lies on the part, a dent moves the outline
            assert ((mask > 0) & part).sum() >= 0.2 * (mask > 0).sum()
        else:
            assert not ((mask > 0) & ~_grown(part, 2)).any()


@pytest.mark.any_version
@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides(kind: str) -> None:
    results = [make_anomaly(disc()[0], DISCS, np.random.default_rng(seed), kind) for seed in (3, 3, 4)]
    assert (results[0][0] == results[1][0]).all()
    assert (results[0][1] == results[1][1]).all()
    assert (results[0][0] != results[2][0]).any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(32, 32), (33, 200), (300, 40), (9, 12)])
def test_any_size_and_other_sizes_of_the_others(kind: str, size: tuple[int, int]) -> None:
    result, mask = make_anomaly(picture(1, size), [picture(2, (50, 70))], np.random.default_rng(0), kind)
    assert result.shape == (*size, 3)
    assert mask.shape == size


@pytest.mark.parametrize("kind", KINDS)
def test_a_plain_image_does_not_fail(kind: str) -> None:
    plain = np.full((64, 64, 3), 128, np.uint8)
    result, _ = make_anomaly(plain, [plain], np.random.default_rng(0), kind)
    assert result.shape == plain.shape


@pytest.mark.any_version
def test_sizes_are_log_uniform_from_a_thousandth_of_the_part() -> None:
    """Areas of patches on a part of 128 x 512 pixels: from 66 to 5,243 pixels, as many below as above 586.

    Half of the shapes are ellipses, which fill pi / 4 of their box, and a seam is lost at the part's border.
    """
    texture = np.random.default_rng(0).integers(0, 255, (128, 512, 3)).astype(np.uint8)
    whole, rng = np.ones((128, 512), bool), np.random.default_rng(1)
    areas = [int((make_anomaly(texture, [texture[::-1]], rng, "cutpaste", part=whole)[1] > 0).sum()) for _ in range(300)]
    smallest, largest = 0.001 * whole.size, 0.08 * whole.size
    assert min(areas) >= 0.7 * smallest
    assert max(areas) <= 1.1 * largest
    position = np.log(np.array(areas) / (0.89 * smallest)) / np.log(largest / smallest)
    for share in (0.25, 0.5, 0.75):
        assert np.mean(position < share) == pytest.approx(share, abs=0.08)


def test_no_anomaly_is_smaller_than_three_by_three_pixels() -> None:
    """A thousandth of a part of 40 x 40 would be less than two pixels."""
    image = np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype(np.uint8)
    rng = np.random.default_rng(1)
    for kind in KINDS:
        for _ in range(5):
            _, mask = make_anomaly(image, [image[::-1]], rng, kind, part=np.ones((40, 40), bool))
            assert (mask > 0).sum() >= 9, kind


def test_anomalies_lie_on_detail_where_no_part_is_clear() -> None:
    image = np.full((128, 128, 3), 90, np.uint8)
    image[64:, 64:] = np.random.default_rng(0).integers(0, 255, (64, 64, 3))
    rng, whole = np.random.default_rng(0), np.ones((128, 128), bool)
    centres = [np.argwhere(make_anomaly(image, OTHERS, rng, "stain", part=whole)[1]).mean(axis=0) for _ in range(40)]
    assert np.mean([(centre > 50).all() for centre in centres]) > 0.9


def test_a_change_that_cannot_be_seen_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def faint_at_first(scene: Scene, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        drawn.append(1)
        alpha = np.zeros(scene.size, np.float32)
        alpha[40:50, 40:50] = 1
        step = 7 if len(drawn) < 4 else 8
        return (scene.image + (alpha * step).astype(np.uint8)[..., None]).astype(np.uint8), alpha

    monkeypatch.setitem(__import__("edge_ad.data.synthetic_anomalies", fromlist=["_MAKERS"])._MAKERS, "stain", faint_at_first)
    result, _ = make_anomaly(_scene(0), OTHERS, np.random.default_rng(0), "stain")
    assert len(drawn) == 4
    assert clarity(_scene(0), result) == 8


@pytest.mark.any_version
def test_what_is_drawn_where_little_is_inspected_can_be_seen_there_and_nothing_else_changes() -> None:
    images = np.stack([_scene(seed) for seed in range(10)])
    inspected = np.zeros(images.shape[1:3], bool)
    inspected[40:56, 50:70] = True
    drawn, kinds = synthetic(images, 60, 3, inspected=inspected)
    origins = images[[origin_of(number, images) for number in range(60)]]
    np.testing.assert_array_equal(drawn[:, ~inspected], origins[:, ~inspected])
    assert [kind for one, image, kind in zip(origins, drawn, kinds, strict=True) if clarity(one, image) < VISIBLE] == []


def test_what_cannot_be_made_is_refused() -> None:
    with pytest.raises(ValueError, match="'rust' is no kind of anomaly: remove, swap"):
        make_anomaly(_scene(0), OTHERS, np.random.default_rng(0), "rust")
    with pytest.raises(ValueError, match="at least one other good image"):
        make_anomaly(_scene(0), [], np.random.default_rng(0), "swap")
    with pytest.raises(ValueError, match=r"a mask of \[96, 128\]"):
        make_anomaly(_scene(0), OTHERS, np.random.default_rng(0), "swap", part=np.ones((128, 96), bool))


def test_kinds_need_an_outline_or_components() -> None:
    image, part = disc()
    plain = np.full((64, 64, 3), 128, np.uint8)
    assert possible_kinds(image, part) == KINDS
    assert set(KINDS) - set(possible_kinds(image, np.ones_like(part))) == set(OUTLINE_KINDS)
    assert set(KINDS) - set(possible_kinds(plain, np.ones((64, 64), bool))) == {*OUTLINE_KINDS, *COMPONENT_KINDS}


# One test a kind, on the disc of tests/fixtures/parts.py: metal of 110 with two screws of 30 on a ground of 210.


def _made(kind: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the normal image, the anomaly, its mask and the part."""
    image, part = disc()
    result, mask = make_anomaly(image, DISCS, np.random.default_rng(seed), kind, part=part)
    return image, result, mask > 0, part


def _screw_pixels(image: np.ndarray) -> int:
    return int((image.max(axis=2) <= SCREW + 15).sum())


SEEDS = range(6)


@pytest.mark.parametrize("seed", SEEDS)
def test_missing_replaces_one_screw_by_metal(seed: int) -> None:
    image, result, mask, _ = _made("missing", seed)
    assert _screw_pixels(result) == pytest.approx(_screw_pixels(image) / 2, abs=6)
    assert np.abs(result[mask].astype(int).mean() - METAL) < 12
    assert sum(mask[row, column] for row, column in screws((128, 128))) == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_added_shows_a_third_screw(seed: int) -> None:
    image, result, mask, _ = _made("added", seed)
    gained = _screw_pixels(result) - _screw_pixels(image)
    assert 0.3 * _screw_pixels(image) / 2 < gained < 1.3 * _screw_pixels(image) / 2
    assert (result[mask].astype(int) < image[mask]).mean() > 0.25


@pytest.mark.parametrize("seed", SEEDS)
def test_displaced_moves_a_screw_and_keeps_their_number(seed: int) -> None:
    image, result, _, _ = _made("displaced", seed)
    assert _screw_pixels(result) == pytest.approx(_screw_pixels(image), rel=0.3)
    assert any(result[row, column].max() > SCREW + 15 or (result[row, column - 5 : column + 5].max() > SCREW + 15)
               for row, column in screws((128, 128)))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_bite_shows_the_ground_at_the_outline(seed: int) -> None:
    _, result, mask, part = _made("bite", seed)
    core = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    assert not (mask & ~_grown(part, 1)).any()
    assert (_grown(mask, 3) & ~part).any()
    if core.any():
        assert np.abs(result[core].astype(int) - GROUND).max() < 25


@pytest.mark.parametrize("seed", SEEDS)
def test_a_burr_is_metal_beyond_the_outline(seed: int) -> None:
    _, result, mask, part = _made("burr", seed)
    beyond = mask & ~_grown(part, 2)
    core = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool) & ~part
    assert (_grown(mask, 1) & part).any()
    if beyond.any() and core.any():
        assert abs(float(np.median(result[core])) - METAL) < 30


@pytest.mark.parametrize("seed", SEEDS)
def test_a_scratch_is_a_thin_line(seed: int) -> None:
    """Its width, area over length of its skeleton's bounding diagonal, is 1 to 3 pixels and an edge."""
    image, result, _, _ = _made("scratch", seed)
    change = np.abs(result.astype(int) - image).max(axis=2)
    strong = (change > 0.5 * change.max()).astype(np.uint8)
    thickest = 2 * cv2.distanceTransform(np.pad(strong, 1), cv2.DIST_L2, 5).max()
    assert thickest <= 5  # a curved or crossing line of 3 pixels and its soft edges
    points = np.argwhere(change)
    extent = float(np.linalg.norm(points.max(axis=0) - points.min(axis=0)))
    assert extent >= 4
    lines = image.shape[0] * image.shape[1]
    assert strong.sum() <= 4 * max(extent, 6) < lines


def test_scratches_are_straight_or_curved_and_of_all_lengths() -> None:
    image, part = disc((256, 256))
    rng, lengths, bends = np.random.default_rng(0), [], []
    for _ in range(60):
        points = np.argwhere(structural_anomalies.scratch(Scene(image, DISCS, part), rng)[1] > 0.5).astype(float)
        if len(points) < 20:
            lengths.append(0.0)
            continue
        centred = points - points.mean(axis=0)
        _, spread, _ = np.linalg.svd(centred, full_matrices=False)
        lengths.append(float(spread[0]))
        bends.append(float(spread[1] / spread[0]))
    assert min(bends) < 0.05 < 0.15 < max(bends)
    assert np.percentile(lengths, 90) > 4 * np.percentile(lengths, 25)


@pytest.mark.parametrize("seed", SEEDS)
def test_blur_takes_contrast_away_and_keeps_the_mean(seed: int) -> None:
    image, result, mask, _ = _made("blur", seed)

    def sharpness(of: np.ndarray) -> float:
        return float(np.abs(cv2.Laplacian(of[..., 0].astype(np.float32), cv2.CV_32F))[mask].mean())

    assert sharpness(result) < sharpness(image)
    assert result[mask].mean() == pytest.approx(image[mask].mean(), abs=12)


@pytest.mark.parametrize("seed", SEEDS)
def test_deform_moves_what_is_there_and_brings_nothing_new(seed: int) -> None:
    image, result, mask, _ = _made("deform", seed)
    around = image[_grown(mask, 2)]
    assert int(result[mask].min()) >= int(around.min()) - 40  # cubic interpolation overshoots at a step
    assert int(result[mask].max()) <= int(around.max()) + 40
    assert (result != image).any()


@pytest.mark.parametrize("seed", SEEDS)
def test_tint_shifts_a_grey_image_in_brightness_alone_and_keeps_its_structure(seed: int) -> None:
    image, result, mask, _ = _made("tint", seed)
    assert np.abs(np.ptp(result.astype(int), axis=2)).max() <= 2
    shift = (result.astype(int) - image)[mask][:, 0]
    assert (shift >= -1).all() or (shift <= 1).all()


def test_tint_shifts_colours_of_a_colour_image() -> None:
    image = np.full((64, 64, 3), (180, 90, 60), np.uint8)
    spread = [
        np.ptp((make_anomaly(image, [image], np.random.default_rng(seed), "tint")[0].astype(int) - image)[32:, :], axis=2).max()
        for seed in range(8)
    ]
    assert max(spread) > 8


@pytest.mark.parametrize("seed", SEEDS)
def test_a_stain_is_see_through_and_of_one_colour(seed: int) -> None:
    image, result, mask, _ = _made("stain", seed)
    core = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    shift = (result.astype(int) - image)[core if core.any() else mask][:, 0]
    assert np.abs(shift).max() >= 8


@pytest.mark.parametrize("seed", SEEDS)
def test_cutpaste_has_hard_edges(seed: int) -> None:
    _, result, mask, _ = _made("cutpaste", seed)
    image = disc()[0]
    rim = mask & ~(cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0)
    assert (result != image).any(axis=2)[rim].mean() > 0.5


@pytest.mark.parametrize(("kind", "seed"), [(kind, seed) for kind in ("remove", "swap", "duplicate", "shift") for seed in SEEDS])
def test_rearranged_regions_hold_values_of_the_image(kind: str, seed: int) -> None:
    image, result, mask, part = _made(kind, seed)
    assert int(result[mask].min()) >= int(image[part].min()) - 3  # inpainting overshoots by a grey level or two
    assert int(result[mask].max()) <= int(image.max()) + 3


def test_replace_takes_the_region_of_another_image() -> None:
    image, part = disc()
    other = np.where(part[..., None], 250, image).astype(np.uint8)
    result, mask = make_anomaly(image, [other], np.random.default_rng(0), "replace", part=part)
    core = cv2.erode(mask, np.ones((9, 9), np.uint8)) > 0
    assert core.any()
    assert (result[core & part] == 250).all()


def _bottle(juice: tuple[int, int, int]) -> np.ndarray:
    """A grey image with a coloured half and a white label in it."""
    image = np.full((96, 96, 3), 60, np.uint8)
    image[40:90, 10:86] = juice
    image[55:70, 30:60] = 250
    return image


def _filled_scene(image: np.ndarray, others: list[np.ndarray]) -> Scene:
    return Scene(image, others, np.ones(image.shape[:2], bool))


def test_an_area_takes_the_colour_that_another_image_has_there() -> None:
    red, blue = (200, 30, 30), (30, 30, 200)
    found = recolour(_filled_scene(_bottle(red), [_bottle(blue)]), np.random.default_rng(0))
    assert found is not None
    result, alpha = found
    assert np.abs(result[80:88, 14:80].astype(int) - blue).max() <= 12
    assert np.abs(result[57:68, 33:57].astype(int) - 250).max() <= 1
    assert (result[:34] == 60).all()
    assert (alpha[80:88, 14:80] > 0.99).all()


def test_images_of_one_colour_cannot_be_recoloured() -> None:
    scene = _filled_scene(_bottle((200, 30, 30)), [_bottle((198, 33, 30))] * 3)
    assert recolour(scene, np.random.default_rng(0)) is None
