"""Zones: what is refused, which pixels and cells they take, what is replaced, and drawings that are imported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_ad.errors import BadInput
from edge_ad.geometry.geometry import Geometry, Prepared
from edge_ad.geometry.zone_files import LIMIT, import_zones, read_zones, write_zones
from edge_ad.geometry.zones import AppliedZones, Zone, Zones, applied, parse_zones

SIZE = (100, 200)  # height, width


def box(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def zone(kind: str, points: list[list[float]], **more: Any) -> dict[str, Any]:
    return {"kind": kind, "points": points, **more}


def zones(*entries: dict[str, Any], size: tuple[int, int] = SIZE) -> Zones:
    return parse_zones({"width": size[1], "height": size[0], "zones": list(entries)}, "it")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "there are 0 zones: give 1 to 64"),
        ([zone("ignore", box(0, 0, 9, 9))] * 65, "holds 65 zones: at most 64"),
        ([zone("mask", box(0, 0, 9, 9))], "has the kind 'mask', but there are three: inspect, ignore, sensitivity"),
        ([zone("ignore", [[0, 0], [9, 9]])], "has 2 points: a polygon needs 3"),
        ([zone("ignore", [[0, 0], [9, 9], [18, 18]])], "is empty: its area is less than one pixel"),
        (
            [zone("ignore", box(0, 0, 201, 9), name="clock")],
            r"zone 1 \(ignore clock\) has the point 201, 0 outside the image of 200 x 100",
        ),
        ([zone("ignore", [[0, 0], [50, 50], [50, 0], [0, 50]])], "crosses itself: its sides 1 and 3 meet"),
        ([zone("sensitivity", box(0, 0, 9, 9))], "'factor' belongs to sensitivity zones, and each of them needs one"),
        ([zone("ignore", box(0, 0, 9, 9), factor=2)], "'factor' belongs to sensitivity zones"),
        (
            [zone("sensitivity", box(0, 0, 9, 9), factor=0)],
            "the factor 0: above 0 and at most 10 are allowed; use ignore",
        ),
        ([zone("sensitivity", box(0, 0, 9, 9), factor="2")], "the factor '2', which must be a number"),
        ([zone("ignore", [[0, 0], [9, float("nan")], [9, 9]])], "holds something that is no number"),
        ([zone("ignore", box(0, 0, 200, 100))], "leave 0.0% of the image to inspect: at least 1% is needed"),
        (
            [zone("inspect", box(10, 10, 30, 30)), zone("ignore", box(5, 5, 40, 40))],
            r"zone 1 \(inspect\) is covered by ignore zones",
        ),
        (
            [zone("inspect", box(10, 10, 60, 60)), zone("ignore", box(100, 5, 140, 40))],
            "lies outside every inspect zone",
        ),
        (
            [zone("sensitivity", box(0, 0, 40, 40), factor=2), zone("sensitivity", box(20, 20, 60, 60), factor=3)],
            r"zone 2 \(sensitivity\) overlaps zone 1 \(sensitivity\): one place has one factor",
        ),
        (
            [zone("ignore", box(0, 0, 60, 60)), zone("sensitivity", box(20, 20, 40, 40), factor=2)],
            "lies where nothing is inspected",
        ),
    ],
)
def test_zones_that_make_no_sense_are_refused_in_one_sentence(entries: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        zones(*entries)


@pytest.mark.parametrize(
    "value", [None, [], {"zones": []}, {"zones": 3}, {"zones": [], "width": 1.5, "height": 4}, {"zones": [7]}]
)
def test_a_file_of_another_form_is_refused(value: object) -> None:
    with pytest.raises(BadInput):
        parse_zones(value, "it")


def test_neighbours_may_share_a_side_and_a_hole_in_an_inspect_zone_is_allowed() -> None:
    known = zones(
        zone("inspect", box(0, 0, 100, 100)),
        zone("ignore", box(40, 40, 60, 60)),
        zone("sensitivity", box(0, 0, 20, 20), factor=2),
        zone("sensitivity", box(20, 0, 40, 20), factor=0.5),
    )
    ignored, factors = known.ignored(SIZE), known.factors(SIZE)
    assert (ignored[50, 50], ignored[50, 20], ignored[50, 150]) == (True, False, True)
    assert (factors[10, 10], factors[10, 30], factors[80, 80], factors[50, 50]) == (2.0, 0.5, 1.0, 0.0)


@pytest.mark.parametrize("size", [SIZE, (50, 100), (37, 64), (210, 400)])
def test_no_pixel_that_an_ignored_place_can_reach_by_resizing_is_kept(size: tuple[int, int]) -> None:
    known = zones(zone("ignore", box(30, 20, 71, 55)))
    rng = np.random.default_rng(0)
    before = rng.integers(0, 255, (*SIZE, 3), np.uint8)
    after = before.copy()
    after[20:55, 30:71] = 255
    geometry = Geometry("none", SIZE, size, zones=AppliedZones(known, np.full((*size, 3), 90, np.uint8)))
    first, second = (geometry.prepare(image) for image in (before, after))
    assert isinstance(first, Prepared)
    assert isinstance(second, Prepared)
    np.testing.assert_array_equal(first.image, second.image)
    assert 0.07 < geometry.zones.ignored.mean() < 0.11  # type: ignore[union-attr]  the zone has 7.2 %


def test_ignored_pixels_are_the_mean_of_the_normal_images_and_others_stay() -> None:
    known = applied(
        zones(zone("ignore", box(0, 0, 10, 10))),
        np.stack([np.full((*SIZE, 3), v, np.uint8) for v in (10, 13)]),
        located=False,
    )
    image = known.replaced(np.full((*SIZE, 3), 200, np.uint8))
    assert image.dtype == np.uint8
    assert (image[5, 5] == 12).all()  # 11.5, rounded to even
    assert (image[20, 20] == 200).all()


def test_cells_that_are_ignored_by_half_do_not_count_and_others_have_the_mean_factor() -> None:
    known = AppliedZones(
        zones(zone("ignore", box(0, 0, 50, 100)), zone("sensitivity", box(100, 0, 200, 50), factor=3)),
        np.zeros((*SIZE, 3), np.uint8),
    )
    cells = known.cells((4, 8))  # of 25 x 25 pixels
    np.testing.assert_array_equal(cells[:, :2], 0.0)
    np.testing.assert_allclose(cells[:, 2:4], 1.0)
    np.testing.assert_allclose(cells[0, 5:], 3.0)
    np.testing.assert_array_equal(cells[3, 5:], 1.0)
    np.testing.assert_array_equal(known.cells((2, 6), 1), cells[1:3, 1:7])


def test_zones_of_another_shape_are_refused_where_parts_are_cut_out() -> None:
    known, images = zones(zone("ignore", box(0, 0, 50, 50))), np.zeros((2, 64, 64, 3), np.uint8)
    assert applied(known, images, located=False).mean.shape == (64, 64, 3)
    with pytest.raises(BadInput, match="drawn on an image of 200 x 100 pixels, but parts are cut out as 64 x 64"):
        applied(known, images, located=True)


def test_a_geometry_with_zones_comes_back_from_its_state() -> None:
    known = AppliedZones(zones(zone("ignore", box(0, 0, 50, 50), name="clock")), np.full((32, 64, 3), 7, np.uint8))
    geometry = Geometry("square", (32, 64), (32, 64), zones=known)
    values, arrays = geometry.state()
    again = Geometry.from_state(json.loads(json.dumps(values)), arrays)
    assert again.zones is not None
    assert (again.zones.zones, again.zones.zones.sha256) == (known.zones, known.zones.sha256)
    np.testing.assert_array_equal(again.zones.mean, known.mean)
    with pytest.raises(BadInput, match="the mean image is uint8"):
        Geometry.from_state(values, {**arrays, "zone_mean": np.zeros((3, 3, 3), np.uint8)})
    assert "zones" not in Geometry.square((32, 64)).state()[0], "a bundle without zones is written as before"


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    known = zones(zone("ignore", box(0, 0, 50, 50), name="clock"), zone("sensitivity", box(60, 0, 90, 50), factor=2.5))
    write_zones(tmp_path / "zones.json", known)
    assert read_zones(tmp_path / "zones.json") == known


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "must be a JSON object"),
        ("[" * 100_000, "is not valid JSON"),
        ('{"shapes": []}', "does not say 'edge-ad zones': import a drawing"),
        ('{"format": "edge-ad zones", "version": 2}', "has version 2"),
        (" " * (LIMIT + 1), "a file of zones has at most"),
    ],
)
def test_a_file_that_is_none_of_zones_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "zones.json").write_text(text)
    with pytest.raises(BadInput, match=message):
        read_zones(tmp_path / "zones.json")


def test_polygons_and_rectangles_of_labelme_are_imported_by_their_labels(tmp_path: Path) -> None:
    shapes = [
        {"label": "ignore clock", "points": box(0, 0, 20, 20), "shape_type": "polygon"},
        {"label": "sensitivity 2.5 rim", "points": [[60, 10], [90, 40]], "shape_type": "rectangle"},
        {"label": "screw", "points": [[100, 0], [120, 0], [110, 30]]},
    ]
    (tmp_path / "a.json").write_text(json.dumps({"shapes": shapes, "imageWidth": 200, "imageHeight": 100}))
    assert import_zones(tmp_path / "a.json").zones == (
        Zone("ignore", ((0, 0), (20, 0), (20, 20), (0, 20)), "clock"),
        Zone("sensitivity", ((60, 10), (90, 10), (90, 40), (60, 40)), "rim", 2.5),
        Zone("ignore", ((100, 0), (120, 0), (110, 30)), "screw"),
    )


def test_polygons_rectangles_and_straight_paths_of_svg_are_imported(tmp_path: Path) -> None:
    (tmp_path / "a.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:i="urn:i" viewBox="10 20 200 100"><g>'
        '<polygon points="10,20 30,20 30,40" class="ignore"/>'
        '<rect x="110" y="20" width="50" height="40" i:label="inspect"/>'
        '<path d="m 20 25 h 10 v 10 L 20 35 z" id="inspect"/></g><defs><rect x="1" y="1" width="5" height="5"/></defs></svg>'
    )
    known = import_zones(tmp_path / "a.svg")
    assert known.size == SIZE
    assert [(one.kind, one.points) for one in known.zones] == [
        ("ignore", ((0, 0), (20, 0), (20, 20))),
        ("inspect", ((100, 0), (150, 0), (150, 40), (100, 40))),
        ("inspect", ((10, 5), (20, 5), (20, 15), (10, 15))),
    ]


SVG = '<svg viewBox="0 0 200 100">{}</svg>'
LABELME = '{"imageWidth": 99, "imageHeight": 99, "shapes": [{"shape_type": "rectangle", "points": [[0, 0], [9, 9]]}]}'
BOMB = '<!DOCTYPE svg [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>' + SVG.format("<text>&b;</text>")
OUTSIDE = '<!DOCTYPE svg [<!ENTITY a SYSTEM "file:///etc/passwd">]>' + SVG.format("<text>&a;</text>")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.svg", BOMB, "declares a document type, which may hide entities"),
        ("a.svg", OUTSIDE, "declares a document type, which may hide entities"),
        ("a.svg", "<svg", "is no valid SVG"),
        ("a.svg", SVG.format(""), "holds no polygon"),
        ("a.svg", "<svg><polygon points='0,0 9,0 9,9'/></svg>", "says no size"),
        ("a.svg", SVG.format('<path d="M 0 0 C 1 1 2 2 3 3"/>'), r"a path with curves \(C\)"),
        ("a.svg", SVG.format('<path d="M 0 0 L 9 0 9 9 z M 20 20 L 30 30 30 0 z"/>'), "several outlines"),
        ("a.svg", SVG.format('<path d="M 0 0 L 9 0 9 9 M 20 20 L 30 30 30 0"/>'), "several outlines"),
        ("a.svg", SVG.format('<path d="M 0 0 L 9 0 9 9 z l 5 5"/>'), "several outlines"),
        ("a.svg", SVG.format('<polygon points="0,0 9,0 9,9"/><circle r="4"/>'), "has a circle, which is no zone"),
        ("a.svg", SVG.format('<polygon points="0,0 9,0 9,9 4"/>'), "an x without its y"),
        ("a.svg", SVG.format('<svg x="9"><polygon points="0,0 9,0 9,9"/></svg>'), "a svg is moved"),
        ("a.svg", "<svg viewBox='0 0 1e999 9'><polygon points='0,0 9,0 9,9'/></svg>", "says no size"),
        ("a.json", LABELME.replace("9, 9", "1" + 400 * "0" + ", 9"), "a rectangle needs two corners"),
        ("a.svg", SVG.format('<g transform="scale(2)"><polygon points="0,0 9,0 9,9"/></g>'), "is moved by 'transform'"),
        ("a.svg", SVG.format('<polygon points="0,0 900,0 9,9"/>'), "the point 900, 0 outside the image"),
        ("a.json", '{"shapes": 3}', "holds no list 'shapes'"),
        ("a.json", '{"shapes": [{"shape_type": "circle", "points": []}]}', "is a 'circle', and only polygons"),
        ("a.json", '{"shapes": [{"shape_type": "rectangle", "points": [1, 2]}]}', "needs two corners"),
        ("a.json", '{"shapes": [{"points": [[0, 0], [9, 0], [9, 9]]}]}', "'width' and 'height' must be whole numbers"),
        ("a.json", '{"format": "edge-ad zones"}', "is a file of zones already"),
        ("a.png", "", "is neither .json of labelme nor .svg"),
    ],
)
def test_a_drawing_that_cannot_be_zones_is_refused_in_one_sentence(
    name: str, text: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match=message):
        import_zones(tmp_path / name)


def test_a_missing_drawing_and_an_unknown_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot read the zones"):
        import_zones(tmp_path / "none.svg")
    with pytest.raises(BadInput, match="--kind has the kind 'mask'"):
        import_zones(tmp_path / "none.svg", "mask")


def test_the_raster_agrees_with_a_drawing_at_ten_times_the_size() -> None:
    points = [[20.0, 10.0], [150.0, 35.0], [90.0, 92.0]]
    large = cv2.fillPoly(np.zeros((1000, 2000), np.uint8), [np.array(points, np.int32) * 10], 1)
    share = cv2.resize(large.astype(np.float32), SIZE[::-1], interpolation=cv2.INTER_AREA)
    ignored = zones(zone("ignore", points)).ignored(SIZE)
    assert ignored[share > 0].all()
    around = cv2.dilate((share > 0).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    assert not ignored[~around].any()
