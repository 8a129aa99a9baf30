"""Single parts with defects: each changes what its mask says and nothing else, and the set has MVTec AD's layout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_ad.data.datasets import load_test
from edge_ad.errors import BadInput
from edge_ad.synthetic.part_defects import KINDS, LOGICAL, STRUCTURAL, Defect, Kind, face_of
from edge_ad.synthetic.single_part import PartOptions, render_part, write_parts

DEFECTS: tuple[Defect, ...] = (*LOGICAL, *STRUCTURAL)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_changes_the_part_within_its_mask_alone(kind: Kind, defect: Defect) -> None:
    good, bad = (render_part(11, PartOptions(kind=kind, defect=one, size=(240, 320))) for one in ("none", defect))
    assert (good.x, good.y, good.angle) == (bad.x, bad.y, bad.angle)
    changed = np.abs(good.image.astype(int) - bad.image).max(axis=2) > 16
    assert changed.sum() >= 8, "nothing can be seen of it"
    near = cv2.dilate(bad.damaged, np.ones((9, 9), np.uint8)) > 0
    assert not (changed & ~near).any()
    on_part = cv2.dilate(good.mask, np.ones((9, 9), np.uint8)) > 0
    assert (on_part | (bad.damaged == 0)).mean() > (0.999 if defect != "burr" else 0.99)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("defect", "sign"), [("missing_hole", -1), ("extra_hole", 1), ("misplaced_hole", 0)])
def test_holes_are_counted(kind: Kind, defect: Defect, sign: int) -> None:
    options = PartOptions(kind=kind, defect=defect, length=0.9, max_shift=0.0, max_angle=0.0)
    part = render_part(3, options)
    dark = cv2.threshold(part.image.max(axis=2), 80, 255, cv2.THRESH_BINARY_INV)[1]
    dark[cv2.erode(part.mask, np.ones((3, 3), np.uint8)) == 0] = 0
    count, _, sizes, _ = cv2.connectedComponentsWithStats(dark)
    holes = [size for size in sizes[1:count, cv2.CC_STAT_AREA] if size > 300]
    assert len(holes) == len(face_of(kind).holes) + sign


@pytest.mark.parametrize(("defect", "more"), [("chip", False), ("burr", True)])
def test_an_outline_loses_or_gains_material(defect: Defect, more: bool) -> None:
    good, bad = (render_part(5, PartOptions(defect=one)).mask for one in ("none", defect))
    gained, lost = ((bad > good).sum(), (good > bad).sum())
    assert (gained > 0, lost > 0) == (more, not more)


def test_the_set_has_masks_and_can_be_judged(tmp_path: Path) -> None:
    options = PartOptions(kind="key", size=(120, 160))
    root = write_parts(tmp_path, options, train=3, test_good=2, each=1, seed=4)
    assert len(list((root / "train" / "good").glob("*.png"))) == 3
    test = load_test(root).test
    assert sorted(item.path.parent.name for item in test) == sorted(["good", "good", *DEFECTS])
    for defect in DEFECTS:
        mask = cv2.imread(str(root / "ground_truth" / defect / "000_mask.png"), cv2.IMREAD_GRAYSCALE)
        assert mask is not None
        assert (mask > 0).any()
    again = write_parts(tmp_path / "again", options, train=3, test_good=2, each=1, seed=4)
    first, second = (sorted(one.rglob("*.png")) for one in (root, again))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    other = write_parts(tmp_path / "other", replace(options), train=1, test_good=0, each=0, seed=5)
    assert (other / "train/good/000.png").read_bytes() != (root / "train/good/000.png").read_bytes()
    with pytest.raises(BadInput, match="already holds images"):
        write_parts(tmp_path, options)
