"""`edge-ad info` tells what is in a bundle and what the presets are made of."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from edge_ad.bundle import open_bundle
from edge_ad.cli.app import main
from edge_ad.cli.info import describe_bundle, describe_geometry, describe_networks
from edge_ad.presets.presets import PRESETS
from edge_ad.utils.files import sha256_bytes, sha256_file
from tests.fixtures.extras import needs_training
from tests.fixtures.located_bundle import make_located_bundle
from tests.fixtures.tiny_bundle import make_tiny_bundle


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny.edgead", weight=(0.5, 0.0, 0.5, 0.0, 0.0))


def test_json_holds_the_facts_of_the_file(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(tiny), "--json", str(tmp_path / "info.json")]) == 0
    facts = json.loads((tmp_path / "info.json").read_text())
    bundle = open_bundle(tiny)
    assert facts["sha256"] == sha256_file(tiny)
    assert facts["bytes"] == tiny.stat().st_size
    assert (facts["name"], facts["preset"], facts["parent"]) == ("tiny", "fast", None)
    assert facts["image_size"] == [64, 64]
    assert facts["views"] == 2
    assert facts["weights"] == {"structure": 0.5, "logic": 0.0, "local": 0.5, "global": 0.0, "composition": 0.0}
    assert set(facts["graphs"]) == set(bundle.graphs)
    for name, graph in facts["graphs"].items():
        data = bundle.graph(name)
        assert graph == {"bytes": len(data), "sha256": sha256_bytes(data)}
    assert facts["thresholds"]["goods"] == bundle.thresholds.goods
    printed = capsys.readouterr().out
    assert facts["sha256"] in printed
    assert f"of {bundle.thresholds.goods} normal images would be rejected" in printed
    assert "0.000  (not used)" in printed


def test_the_newest_bundle_is_the_default(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "today").mkdir(parents=True)
    os.link(tiny, tmp_path / "runs" / "today" / "mine.edgead")
    assert main(["info"]) == 0
    assert "runs/today/mine.edgead" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.edgead"], ["missing.edgead"]),
        (["note.edgead"], ["note.edgead"]),
        (["--networks", "note.edgead"], ["--networks", "note.edgead"]),
        ([], ["edge-ad train"]),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: list[str],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("note.edgead").write_text("no bundle")
    assert main(["info", *arguments]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    for word in words:
        assert word in message


def test_a_long_report_is_counted_not_printed() -> None:
    facts = {
        "name": "n", "path": "p", "bytes": 1_500_000, "sha256": "0" * 64, "preset": "fast", "image_size": [64, 32],
        "geometry": {"method": "square", "expected": None},
        "views": 1, "created": "now", "parent": "f" * 64, "graphs": {}, "weights": {}, "promise": "a; b",
        "golden_images": 1, "raw_scores": {"threshold": 5}, "settings": {},
        "report": {"loss": {"last": 0.125, "curve": list(range(9))}, "skipped": []},
    }  # fmt: skip
    lines = list(describe_bundle(facts))
    assert lines[0] == "n  (p, 1.50 MB)"
    assert "  preset      fast, images 64 x 32, 1 masked views" in lines
    assert lines[-3:] == ["  loss.last: 0.125", "  loss.curve: 9 entries", "  skipped: []"]


EXPECTED = {"x": [10, 200.5], "y": [4, 5], "scale": [0.99, 1.01], "angle": 90.0, "turn": 3.5}


@pytest.mark.parametrize(
    ("details", "lines"),
    [
        ({"method": "square", "expected": None}, ["square: whole images, squashed"]),
        ({"method": "none", "frame_size": [480, 640], "expected": None}, ["none: whole images in their aspect ratio"]),
        (
            {"method": "none", "frame_size": [480, 640], "expected": None, "gains": [0.9, 1.0, 1.25]},
            ["red x 0.900, green x 1.000, blue x 1.250", "none: whole images in their aspect ratio"],
        ),
        (
            {"method": "foreground", "frame_size": [480, 640], "expected": EXPECTED},
            ["foreground: the part is located in images of 640 x 480 pixels",
             "x 10 to 200.5, y 4 to 5, scale 0.99 to 1.01, angle 86.5 to 93.5 degrees"],
        ),
        (
            {"method": "rigid_any", "frame_size": [480, 640], "expected": {**EXPECTED, "turn": 180.0}},
            ["rigid_any: the part is located in images of 640 x 480 pixels",
             "x 10 to 200.5, y 4 to 5, scale 0.99 to 1.01, any angle"],
        ),
    ],
)
def test_the_geometry_is_reported(details: dict[str, Any], lines: list[str]) -> None:
    assert [line[14:] for line in describe_geometry(details)] == lines


def test_a_bundle_that_locates_parts_reports_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(make_located_bundle(tmp_path / "key.edgead"))]) == 0
    assert "foreground: the part is located in images of 320 x 240 pixels" in capsys.readouterr().out


def test_networks_are_a_table() -> None:
    lines = list(describe_networks({"fast": {"teacher": {"params": 1234567, "gmac": 0.5}}}))
    assert lines[1].split() == ["fast", "teacher", "1,234,567", "0.500"]


@needs_training
def test_networks_of_every_preset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--networks", "--json", str(tmp_path / "networks.json")]) == 0
    table = json.loads((tmp_path / "networks.json").read_text())
    assert list(table) == list(PRESETS)
    printed = capsys.readouterr().out
    for networks in table.values():
        assert networks
        for facts in networks.values():
            assert set(facts) == {"params", "gmac"}
            assert facts["gmac"] >= 0
            assert f"{facts['params']:,}" in printed


@needs_training
def test_paper_has_the_published_sizes(tmp_path: Path) -> None:
    """EfficientAD-S layer by layer, kernel^2 x in x out + out; the student has twice the teacher's outputs."""
    layers = {
        "teacher": [(4, 3, 128), (4, 128, 256), (3, 256, 256), (4, 256, 384)],
        "student": [(4, 3, 128), (4, 128, 256), (3, 256, 256), (4, 256, 768)],
        "autoencoder": [(4, 3, 32), (4, 32, 32), (4, 32, 64), (4, 64, 64), (4, 64, 64), (8, 64, 64)]
        + [(4, 64, 64)] * 6 + [(3, 64, 64), (3, 64, 384)],
    }  # fmt: skip
    expected = {name: sum(k * k * i * o + o for k, i, o in table) for name, table in layers.items()}
    assert expected == {"teacher": 2694144, "student": 4267392, "autoencoder": 1096320}
    assert main(["info", "--networks", "--json", str(tmp_path / "networks.json")]) == 0
    paper = json.loads((tmp_path / "networks.json").read_text())["paper"]
    sizes = [facts["params"] for facts in paper.values()]
    for name, size in expected.items():
        assert size in sizes, name
