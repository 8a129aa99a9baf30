"""`edge-ad zones`: edit, import and show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_ad.cli.app import main
from edge_ad.geometry.zone_files import read_zones
from tests.camera.pictures import write_image
from tests.fixtures.tiny_bundle import tiny_image
from tests.fixtures.zoned_bundle import make_zoned_bundle


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good").mkdir()
    write_image(tmp_path / "good" / "a.png", tiny_image(0, size=(60, 80)))
    return tmp_path


def test_zones_are_added_listed_and_removed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["zones", "edit", "good", "--add", "ignore 0,0 20,0 20,20 0,20", "--add", "sensitivity=2 40,0 60,0 60,30"])
        == 0
    )
    assert main(["zones", "show", "good"]) == 0
    assert "sensitivity x2  40,0 60,0 60,30" in capsys.readouterr().out
    assert main(["zones", "edit", "good", "--remove", "1"]) == 0
    known = read_zones(folder / "good" / "zones.json")
    assert (known.size, [zone.kind for zone in known.zones]) == ((60, 80), ["sensitivity"])


def test_a_drawing_is_imported_for_the_images_that_it_fits(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shape = {"label": "clock", "points": [[0, 0], [20, 0], [20, 20]]}
    for name, wide in (("fits", 160), ("other", 100)):
        (folder / f"{name}.json").write_text(json.dumps({"shapes": [shape], "imageWidth": wide, "imageHeight": 120}))
    assert main(["zones", "import", "good", "fits.json", "--kind", "inspect", "--zones", "own.json"]) == 0
    assert read_zones(folder / "own.json").zones[0].kind == "inspect"
    assert main(["zones", "import", "good", "other.json"]) == 2
    assert "other.json was drawn on an image of 100 x 120 pixels, but good shows 80 x 60" in capsys.readouterr().err


def test_without_changes_a_page_to_draw_on_is_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zones", "edit", "good", "--add", "ignore 0,0 20,0 20,20 0,20"]) == 0
    assert main(["zones", "edit", "good"]) == 0
    assert "good/zones.html" in capsys.readouterr().out
    page = (folder / "good" / "zones.html").read_text()
    assert '"width": 80, "height": 60, "zones": [{"kind": "ignore"' in page
    assert "data:image/jpeg;base64," in page


def test_a_bundle_shows_the_zones_that_it_was_trained_with(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = make_zoned_bundle(folder / "zoned.edgead")
    assert main(["zones", "show", "zoned.edgead"]) == 0
    shown = capsys.readouterr().out
    assert bundle.geometry.zones is not None
    assert bundle.geometry.zones.zones.sha256[:16] in shown
    assert "ignore clock" in shown
    assert main(["info", "zoned.edgead"]) == 0
    assert "zones       1 ignore, 1 sensitivity; " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("draw good", "unknown action 'draw': choose one of show, edit, import"),
        ("show good", "good has no zones, and there is no good/zones.json"),
        ("show nowhere", "nowhere has no zones"),
        ("edit nowhere --add x", "nowhere is neither a bundle nor a folder"),
        ("edit good --remove 1", "--remove is 1, but there are 0 zones"),
        ("edit good --add ignore,1", "has the kind 'ignore,1', but there are three"),
        ("import good", "takes a drawing, and no other action does"),
        ("show good extra.svg", "takes a drawing, and no other action does"),
        ("show good --remove 1", "--add and --remove change zones: use `edge-ad zones edit good`"),
    ],
)
def test_bad_input_is_one_sentence(words: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zones", *words.split()]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("zone", "message"),
    [
        ("ignore 0,0 9", "write KIND X,Y X,Y X,Y"),
        ("ignore=2 0,0 9,0 9,9", "sensitivity zones, and they alone, have a factor"),
        ("sensitivity 0,0 9,0 9,9", "sensitivity zones, and they alone, have a factor"),
        ("ignore 0,0 900,0 9,9", "has the point 900, 0 outside the image of 80 x 60 pixels"),
    ],
)
def test_a_zone_that_cannot_be_is_refused(
    zone: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["zones", "edit", "good", "--add", zone]) == 2
    assert message in capsys.readouterr().err
    assert not (folder / "good" / "zones.json").exists()
