"""The whole training in small: a folder of trays becomes a bundle, whatever happens on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edge_ad.bundle import Bundle, open_bundle
from edge_ad.camera.health import CameraHealth
from edge_ad.camera.measure import HealthReference
from edge_ad.cli.app import main
from edge_ad.config import Config, ThresholdsTable, TrainTable
from edge_ad.data.datasets import load_dataset
from edge_ad.data.images import read_image, resize
from edge_ad.data.tolerance import Tolerance
from edge_ad.engines.pipeline import Pipeline
from edge_ad.errors import BadInput
from edge_ad.presets.presets import FAST, PAPER, PRESETS
from edge_ad.scoring import BRANCHES, fuse
from edge_ad.training.loop import choose_arithmetic
from edge_ad.training.run_folder import fingerprint
from edge_ad.training.train import _Training, train, with_steps
from tests.fixtures.tiny_presets import TINY, known
from tests.fixtures.trained import CORRUPT, GOODS, Trained, write_goods

slow = pytest.mark.slow
STAGES = ("tokenizer", "lavit", "efficientad")
STRENGTHS = ("anomalies", "at 50 %", "at 25 %")


@pytest.fixture(scope="module")
def bundle(trained: Trained) -> Bundle:
    return open_bundle(trained.bundle)


@slow
def test_the_bundle_opens_and_states_what_it_is(trained: Trained, bundle: Bundle) -> None:
    assert trained.bundle == trained.out / "goods.edgead"
    assert (bundle.name, bundle.preset, bundle.image_size) == ("goods", "tiny", (128, 128))
    assert bundle.manifest["parent"] is None
    assert set(bundle.graphs) == {"teacher", "efficientad", "memory", "tokenizer", "lavit", "fusion"}
    assert bundle.contents().settings == TINY.settings()
    assert bundle.masks.shape == (2, 64)
    assert bundle.masks.sum(axis=1).tolist() == [round(0.4 * 64)] * 2
    assert not (trained.out / "state").exists()


@slow
def test_the_plan_of_a_training_keeps_the_teacher_and_corrects_the_rest(bundle: Bundle) -> None:
    assert bundle.quantisation is not None
    plan = bundle.quantisation.plan
    kept = {name: graph["keep"] for name, graph in plan["graphs"].items()}
    assert kept.pop("teacher") == {"tensorrt": ["*"], "cpu": ["*"]}
    assert kept == {"efficientad": {}, "tokenizer": {}, "lavit": {}}
    assert plan["corrections"]["cpu"]["efficientad"]


@slow
def test_the_bundle_knows_how_goods_look(trained: Trained, bundle: Bundle) -> None:
    reference = HealthReference.from_json(bundle.report["health_reference"])
    health = CameraHealth("live", reference=reference)
    whole = [path for path in sorted(trained.goods.iterdir()) if path.name != CORRUPT]
    faults = [health.check(resize(read_image(path), bundle.image_size)).fault for path in whole]
    assert faults == [None] * GOODS
    dark = (resize(read_image(whole[0]), bundle.image_size) // 12).astype(np.uint8)
    assert str(health.check(dark).fault).startswith("dark")
    assert "camera" not in bundle.report


@slow
def test_the_report_counts_goods_sizes_and_the_skipped_file(bundle: Bundle) -> None:
    report = bundle.report
    assert sum(report["goods"].values()) == GOODS
    assert report["goods"]["normalise"] == report["goods"]["threshold"] == round(0.15 * GOODS)
    assert report["sizes"] == {"128x128": 20, "160x160": 4}
    assert [name for name, _ in report["skipped"]] == [CORRUPT]
    assert CORRUPT in report["skipped"][0][1]
    assert (report["excluded"], report["unlike"]["of"]) == ([], GOODS)
    assert (report["layout"], report["seed"]) == ("flat", 0)


@slow
def test_the_report_states_how_each_network_learned(bundle: Bundle) -> None:
    for stage in STAGES:
        assert bundle.report[stage]["steps"] == 2
        assert np.isfinite(bundle.report[stage]["loss"])
        assert bundle.report["seconds"][stage] >= 0
    assert [step for step, _ in bundle.report["tokenizer"]["unseen_goods"]] == [1, 2]
    assert bundle.report["tokenizer"]["kept_step"] in (1, 2)
    assert len(bundle.report["perplexity"]) == 4
    assert all(1 <= value <= TINY.hvq.codes for value in bundle.report["perplexity"])
    assert 0 < bundle.report["lavit_constant_loss"] <= 8
    assert set(bundle.report["branches"]) == set(BRANCHES)
    for graph in bundle.graphs:
        assert bundle.report["export"][graph]["relative_error"] < 1e-3


@slow
def test_losses_are_logged_as_json_lines(trained: Trained) -> None:
    entries = [json.loads(line) for line in (trained.out / "train.jsonl").read_text().splitlines()]
    assert [entry["stage"] for entry in entries if "loss" in entry] == list(STAGES)


@slow
def test_golden_pictures_replay_to_their_raw_scores(bundle: Bundle) -> None:
    golden = bundle.golden
    assert 2 <= len(golden.images) <= 8
    with Pipeline(bundle, all_branches=True) as pipeline:
        for image, raw in zip(golden.images, golden.raw, strict=True):
            result = pipeline.infer(image)
            np.testing.assert_allclose(result.raw, raw, rtol=1e-4, atol=1e-5)
            z, score = fuse(raw[None], bundle.statistics)
            np.testing.assert_allclose(result.z, z[0], rtol=1e-3, atol=1e-3)
            assert result.score == pytest.approx(float(score[0]), rel=1e-3, abs=1e-3)


@slow
def test_statistics_come_from_the_right_goods(bundle: Bundle) -> None:
    """Mean and deviation from all unseen normal images; thresholds from each by the others; the preset's anomalies."""
    raw, statistics = bundle.raw_scores, bundle.statistics
    unseen = np.concatenate([raw["normalise"], raw["threshold"]])
    logical = sum(row["anomalies"] for family, row in bundle.report["families"].items() if family != "surface")
    assert {name: len(rows) for name, rows in raw.items()} == {
        **({"synthetic_logical": logical} if logical else {}),
        "normalise": bundle.report["goods"]["normalise"],
        "threshold": bundle.report["goods"]["threshold"],
        "synthetic": TINY.anomalies,
        "synthetic_50": TINY.anomalies,
        "synthetic_25": TINY.anomalies,
    }
    # An anomaly that is fainter moves the distance of composition less.
    distances = [np.median(raw[name][:, 4]) for name in ("synthetic", "synthetic_50", "synthetic_25")]
    assert distances == sorted(distances, reverse=True)
    np.testing.assert_allclose(statistics.mean, unseen.mean(axis=0), rtol=1e-5)
    assert statistics.weight.sum() == pytest.approx(1.0, abs=1e-5)
    z = [(row - others.mean(axis=0)) / others.std(axis=0, ddof=1) for row, others in left_out(unseen)]
    scores = np.array(z) @ statistics.weight
    assert bundle.report["unseen"] == {"images": len(unseen), "for_thresholds": len(unseen), "groups": len(unseen)}
    assert bundle.thresholds.goods == len(scores)
    thresholds = bundle.thresholds
    assert thresholds.promise_ng == pytest.approx(scores.max(), rel=1e-3)  # eight images support no rate below 1 / 9
    assert thresholds.operating_point == "balanced"
    assert thresholds.ng >= thresholds.promise_ng
    assert [(row.name, row.of) for row in thresholds.found] == [(name, TINY.anomalies) for name in STRENGTHS]


def left_out(rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for index in range(len(rows)):
        yield rows[index], np.delete(rows, index, axis=0)


def parameters(bundle: Bundle) -> Iterator[tuple[str, np.ndarray]]:
    for name in bundle.graphs:
        for tensor in onnx.load_model_from_string(bundle.graph(name)).graph.initializer:
            yield f"{name}/{tensor.name}", numpy_helper.to_array(tensor)
    yield from bundle.references.arrays().items()


KILLED = """
import sys
from pathlib import Path
from edge_ad.training.loop import _Runner
from tests.fixtures.trained import train_tiny

step = _Runner._step

def slowly(self):
    if self.recipe.name == "efficientad":
        print("here", flush=True)
        sys.stdin.read()
    return step(self)

_Runner._step = slowly
train_tiny(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@slow
def test_a_killed_training_goes_on_and_gives_the_same_bundle(
    trained: Trained, bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL in the third network; the same call makes what an undisturbed training made, bit for bit."""
    out = tmp_path / "run"
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(trained.goods), str(out)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root, env={**os.environ, "PYTHONPATH": str(root)},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        process.send_signal(signal.SIGKILL)
    assert sorted(path.name for path in (out / "state").glob("*.pt")) == ["lavit-finished.pt", "tokenizer-finished.pt"]
    assert list(out.glob("*.edgead")) == []
    facts = tmp_path / "report.json"
    with known(TINY):
        arguments = ["train", str(trained.goods), "--preset", "tiny", "--out", str(out), "--json", str(facts)]
        assert main(arguments) == 0
    resumed = open_bundle(out / "goods.edgead")
    assert json.loads(facts.read_text())["sha256"] == resumed.sha256
    assert "going on with the unfinished training" in capsys.readouterr().err
    stages = [json.loads(line)["stage"] for line in (out / "train.jsonl").read_text().splitlines()]
    assert stages.count("lavit") == 1  # it was not trained again
    expected = dict(parameters(bundle))
    assert len(expected) > 50
    for name, value in parameters(resumed):
        np.testing.assert_array_equal(value, expected.pop(name), err_msg=name)
    assert expected == {}
    for split, rows in bundle.raw_scores.items():
        np.testing.assert_array_equal(resumed.raw_scores[split], rows)
    np.testing.assert_array_equal(resumed.statistics.weight, bundle.statistics.weight)


@pytest.fixture(scope="module")
def goods(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_goods(tmp_path_factory.mktemp("few") / "goods", 12)


class TestEarlyRefusals:
    """What cannot end well is said before the first step."""

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            (Config(train=TrainTable(preset="papre")), "preset 'papre' is unknown"),
            (Config(train=TrainTable(preset="demo", defects=Path("nowhere"))), "--defects nowhere is not a folder"),
            (Config(train=TrainTable(preset="demo", penalty=Path("nowhere"))), "cannot list nowhere"),
            (Config(thresholds=ThresholdsTable(target_ng=0.2, target_warn=0.1)), "0 < NG <= WARN < 1"),
            (Config(thresholds=ThresholdsTable(operating_point="best")), "must be promise, balanced or cost:K"),
            (Config(train=TrainTable(preset="paper-m")), "no weights of the teacher pdn_medium"),
            (Config(train=TrainTable(tiles="1x1")), "--tiles is '1x1': give ROWSxCOLUMNS with 2 to 9 tiles"),
            (Config(train=TrainTable(preset="paper", tiles="2x2")), "--tiles: the networks of preset paper see one image"),
            (Config(train=TrainTable(smallest_defect="2mm")), "--smallest-defect is '2mm': give a length in pixels"),
        ],
    )
    def test_options(self, goods: Path, tmp_path: Path, settings: Config, words: str) -> None:
        with pytest.raises(BadInput, match=words):
            train(goods, tmp_path / "run", settings, progress=False)
        assert not (tmp_path / "run" / "train.jsonl").exists()

    def test_an_empty_penalty_folder(self, goods: Path, tmp_path: Path) -> None:
        (tmp_path / "others").mkdir()
        with pytest.raises(BadInput, match="--penalty .*others holds no image"):
            train(goods, tmp_path / "run", Config(train=TrainTable(preset="demo", penalty=tmp_path / "others")))

    def test_an_unfinished_run_of_other_settings(self, goods: Path, tmp_path: Path) -> None:
        (tmp_path / "run" / "state").mkdir(parents=True)
        (tmp_path / "run" / "state" / "fingerprint.json").write_text('{"sha256": "another"}')
        with known(TINY), pytest.raises(BadInput, match="holds an unfinished training with other data or settings"):
            train(goods, tmp_path / "run", Config(train=TrainTable(preset="tiny")), progress=False)


def test_what_identifies_a_training_is_written_as_ever(goods: Path) -> None:
    """So an update of the package goes on with a training of the version before."""
    training = object.__new__(_Training)
    training.dataset, training.preset, training.arithmetic = load_dataset(goods, 0), FAST, choose_arithmetic(False)
    training.options, training.thresholds = TrainTable(preset="demo", setting=["a=1", "b=2"], steps=3), ThresholdsTable()
    training.tolerance = Tolerance.parse("none")
    assert training._details()["options"] == {
        **dict.fromkeys(("teacher", "defects", "penalty", "masks"), "None"),
        "preset": "demo", "steps": "3", "seed": "0", "target_ng": "0.01", "target_warn": "0.05",
        "values": "('a=1', 'b=2')",
    }


@pytest.mark.parametrize("option", ["defects", "penalty"])
def test_other_images_in_a_folder_of_an_option_are_another_training(option: str, goods: Path, tmp_path: Path) -> None:
    folder = tmp_path / option / "scratch"
    folder.mkdir(parents=True)
    training = object.__new__(_Training)
    training.dataset, training.preset, training.arithmetic = load_dataset(goods, 0), FAST, choose_arithmetic(False)
    training.options, training.thresholds = TrainTable(**{option: folder.parent}), ThresholdsTable()
    training.tolerance = Tolerance.parse("none")
    marks = []
    for number in range(2):
        (folder / f"{number}.png").write_bytes(b"an image")
        marks.append(fingerprint(training._details()))
    assert marks[0] != marks[1]


def test_steps_of_all_networks() -> None:
    assert with_steps(FAST, None) is FAST
    for preset in (FAST, PAPER):
        result = with_steps(preset, 7)
        schedules = (result.tokenizer_schedule, result.lavit_schedule, result.efficientad_schedule)
        assert [schedule.steps_for(300) for schedule in schedules] == [7, 7, 7]
        assert replace(result, **{name: getattr(preset, name) for name in vars(preset) if "schedule" in name}) == preset


def test_tiny_presets_stay_out_of_the_product() -> None:
    assert set(PRESETS) == {"demo", "fast", "paper", "paper-m"}
