"""`edge-ad calibrate`: a folder of normal images in, a calibrated child out, with table and plot."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_ad.bundle import Bundle, open_bundle, write_bundle
from edge_ad.cli.app import main
from edge_ad.config import CalibrateTable
from edge_ad.deployment.calibrate import CalibrateOptions, _dataset, calibrate
from edge_ad.deployment.int8 import derive_int8, measuring_backend, recipe_of
from edge_ad.deployment.precision_search import CORRECTED
from edge_ad.deployment.recalibration import recalibrate
from edge_ad.deployment.validation_images import spread
from edge_ad.engines.pipeline import Pipeline
from edge_ad.errors import BadInput
from tests.fixtures.calibrated import make_calibrated
from tests.fixtures.tiny_bundle import make_tiny_bundle, tiny_image


def write_goods(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        cv2.imwrite(str(folder / f"{number:03}.png"), tiny_image(7000 + number)[:, :, ::-1])
    return folder


@pytest.fixture
def station(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_tiny_bundle(tmp_path / "tiny.edgead", weight=(0.1, 0.1, 0.4, 0.0, 0.4))
    write_goods(tmp_path / "goods", 24)
    (tmp_path / "goods" / "broken.png").write_bytes(b"no picture")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_images_that_the_training_excluded_measure_no_ranges(station: Path) -> None:
    report = {"excluded": ["003.png", "020.png"], "goods": {"fit": 14, "normalise": 4, "threshold": 4}}
    write_bundle(station / "b.edgead", replace(open_bundle(station / "tiny.edgead").contents(), report=report))
    names = [sorted(path.name for path in _every(open_bundle(station / "b.edgead"), station / "goods"))]
    assert names == [[f"{number:03}.png" for number in range(24) if number not in (3, 20)]]
    write_goods(station / "others", 25)  # another folder, where these names are of other images
    assert len(_every(open_bundle(station / "b.edgead"), station / "others")) == 25


def _every(bundle: Bundle, folder: Path) -> list[Path]:
    normal = _dataset(bundle, folder, 0).normal
    return [*normal.fit, *normal.normalise, *normal.threshold]


@pytest.mark.slow
def test_calibrate_then_build(station: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (station / "tiny.edgead").read_bytes()
    assert main(["calibrate", "tiny.edgead", "goods", "--images", "12", "--table", "table"]) == 0
    assert (station / "tiny.edgead").read_bytes() == before
    printed = capsys.readouterr().out
    for word in ("cpu: score error", "tensorrt: score error", "in floating point", "tiny-calibrated-1.edgead"):
        assert word in printed
    child = open_bundle(station / "tiny-calibrated-1.edgead")
    assert child.parent == open_bundle(station / "tiny.edgead").sha256
    assert child.quantisation is not None
    assert child.quantisation.ranges["lavit"]["images"] == 12
    assert set(child.quantisation.plan["sensitivity"]) == {"tensorrt", "cpu"}
    names = {path.name for path in (station / "table").iterdir()}
    assert names == {"plan.json", *(f"sensitivity-{d}.{kind}" for d in ("cpu", "tensorrt") for kind in ("csv", "png"))}
    assert (station / "table" / "sensitivity-cpu.png").read_bytes().startswith(b"\x89PNG")
    rows = (station / "table" / "sensitivity-cpu.csv").read_text().splitlines()
    assert rows[0] == "graph,first_node,nodes,macs,loss_z,flips,kept"
    assert len(rows) == 1 + len(child.quantisation.plan["sensitivity"]["cpu"]["units"])

    # Four normal images prove little and one swapped pair is too much for the gate; both answers come with the whole table.
    code = main(["build-engine", str(child.path), "--int8", "--json", "gate.json"])
    message = capsys.readouterr()
    assert code in (0, 4)
    assert "AUROC int8" in message.out
    report = json.loads((station / "gate.json").read_text())
    assert report["accepted"] is (code == 0)
    assert report["gate"]["proof"]["images"] > 0
    if code == 4:
        plan = message.err.rsplit("--plan ", 1)[1].split("`")[0]
        assert main(["build-engine", str(child.path), "--int8", "--plan", plan]) in (0, 4)


def test_an_edited_plan_is_stored_and_recalibration_keeps_it(station: Path) -> None:
    path, _ = calibrate("tiny.edgead", "goods", options=CalibrateOptions(CalibrateTable(images=8), search=False))
    held = open_bundle(path).quantisation
    assert held is not None
    plan = json.loads(json.dumps(held.plan))
    plan["graphs"]["lavit"]["keep"] = {"cpu": ["*"]}
    Path("plan.json").write_text(json.dumps(plan))
    table = CalibrateTable(method="minmax", images=8, plan=Path("plan.json"))
    again, searches = calibrate("tiny.edgead", "goods", "edited.edgead", CalibrateOptions(table))
    assert searches == {}
    edited = open_bundle(again)
    assert edited.quantisation is not None
    assert edited.quantisation.plan["graphs"]["lavit"]["keep"] == {"cpu": ["*"]}
    assert edited.quantisation.ranges["teacher"]["method"] == "minmax"
    child = open_bundle(recalibrate(again, "goods", "child.edgead"))
    assert child.quantisation is not None
    assert child.quantisation.plan == edited.quantisation.plan


def test_without_a_search_what_rounding_shifts_is_taken_back_too(tmp_path: Path) -> None:
    bundle = open_bundle(make_calibrated(tmp_path / "tiny.edgead"))
    recipe = recipe_of(bundle)
    assert set(recipe.corrections) == {"cpu", "tensorrt"}
    goods = spread(np.stack([tiny_image(6000 + number) for number in range(16)]), CORRECTED)
    shifts = []
    with Pipeline(bundle) as exact:
        for corrections in (recipe.corrections, {}):
            derived = derive_int8(bundle, replace(recipe, corrections=corrections), "tensorrt")
            graphs = {name: derived.get(name, bundle.graph(name)) for name in bundle.graphs}
            backend = measuring_backend(graphs.values())
            with Pipeline(bundle, backend=backend, graphs=graphs) as rounded:
                errors = [pooled(rounded, image) - pooled(exact, image) for image in goods]
            shifts.append(np.abs(np.mean(errors, axis=0)).mean())
    assert shifts[0] < 0.1 * shifts[1]


def pooled(pipeline: Pipeline, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    pipeline.infer(image)
    return pipeline.tensor("pooled")


def test_refusals(station: Path) -> None:
    with pytest.raises(BadInput, match="cannot read the plan"):
        calibrate("tiny.edgead", "goods", options=CalibrateOptions(CalibrateTable(plan=Path("none.json"))))
    with pytest.raises(BadInput, match="must end in .edgead"):
        calibrate("tiny.edgead", "goods", "out.zip")
    with pytest.raises(BadInput, match="never overwritten"):
        calibrate("tiny.edgead", "goods", "tiny.edgead")
    with pytest.raises(BadInput):
        calibrate("tiny.edgead", write_goods(station / "few", 4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["calibrate", "tiny.edgead", "goods", "--method", "guess"], "--method is 'guess': input should be 'mse', 'percen"),
        (["calibrate", "tiny.edgead", "goods", "--plan", "absent.json"], "cannot read the plan absent.json"),
        (["calibrate", "absent.edgead", "goods"], "absent.edgead"),
    ],
)
def test_bad_input_ends_with_2(
    station: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
