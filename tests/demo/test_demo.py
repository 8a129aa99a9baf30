"""The demonstration: its folder, its tables, and the whole of it once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge_ad.bundle import open_bundle
from edge_ad.cli.app import main
from edge_ad.demo.run import (
    FULL,
    MARKER,
    PRECISION,
    PRESET,
    QUICK,
    Judged,
    Plan,
    clear,
    count_verdicts,
    difficulty,
    evaluation_counts,
    judge_video,
    make_line,
    open_workplace,
    read_truth,
    report_counts,
    verdict_table,
)
from edge_ad.errors import BadInput
from edge_ad.events import Verdict
from edge_ad.presets.presets import DEMO, preset_named
from edge_ad.synthetic.line import FrameTruth, kind_of, write_line
from tests.fixtures.tiny_bundle import make_tiny_bundle

pytestmark = pytest.mark.any_version

SMALLEST = Plan(
    train=20, validation=10, test_good=6, test_logical=4, test_structural=3, video_frames=8, steps=2
)  # fmt: skip
SMALL = {"train": 12, "validation": 2, "test_good": 6, "test_logical": 6, "test_structural": 4}


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_line(tmp_path_factory.mktemp("line"), size=64, video_frames=20, **SMALL)


def judged(defect: str, verdict: Verdict) -> Judged:
    return Judged(FrameTruth(frame=0, part=0, kind=kind_of(defect), defect=defect, seed=0), verdict)


TRAYS = [
    judged("good", "OK"), judged("good", "OK"), judged("good", "WARN"), judged("good", "NG"), judged("good", "NONE"),
    judged("missing", "NG"), judged("missing", "OK"), judged("scratch", "WARN"), judged("scratch", "NONE"),
]  # fmt: skip


def test_the_full_demonstration_is_large_enough_to_mean_something() -> None:
    assert FULL.test_good >= 200
    assert FULL.test_logical + FULL.test_structural >= 200
    assert QUICK.video_frames < FULL.video_frames
    assert set(FULL.line()) == set(FULL.to_json()) - {"steps"}


def test_the_table_has_a_row_a_defect_with_goods_first() -> None:
    rows = [line.split() for line in verdict_table(TRAYS)]
    assert rows == [
        ["truth", "kind", "trays", "OK", "WARN", "NG", "NONE"],
        ["good", "good", "5", "2", "1", "1", "1"],
        ["missing", "logical", "2", "1", "0", "1", "0"],
        ["scratch", "structural", "2", "0", "1", "0", "1"],
    ]


def test_none_counts_as_neither_found_nor_bothered() -> None:
    counts = count_verdicts(TRAYS)
    assert counts == {
        "goods": 5, "goods_ng": 1, "goods_ng_or_warn": 2, "anomalies": 4, "anomalies_ng": 1, "anomalies_ng_or_warn": 2,
    }  # fmt: skip
    assert report_counts(counts) == [
        "anomalies NG or WARN: 2 of 4 (50.0%)",
        "normal images NG: 1 of 5 (20.0%); normal images NG or WARN: 2 of 5 (40.0%)",
    ]
    assert report_counts(count_verdicts([]))[0] == "anomalies NG or WARN: none shown"


def test_the_counts_of_an_evaluation_add_both_kinds() -> None:
    figures = {
        "false_reject": {"count": 3, "warn_count": 9, "of": 200},
        "found": {"logical": {"count": 100, "warn_count": 110, "of": 120}, "structural": None},
    }
    counts = evaluation_counts(figures)
    assert counts == {
        "goods": 200, "goods_ng": 3, "goods_ng_or_warn": 9, "anomalies": 120, "anomalies_ng": 100,
        "anomalies_ng_or_warn": 110,
    }  # fmt: skip


def test_every_tray_of_the_video_gets_a_verdict_and_an_event(line: Path, tmp_path: Path) -> None:
    bundle = open_bundle(make_tiny_bundle(tmp_path / "tiny.edgead"))
    trays, latency_ms = judge_video(bundle, line, tmp_path / "events.jsonl")
    assert [tray.truth for tray in trays] == read_truth(line / "video_truth.jsonl")
    assert latency_ms > 0
    events = [json.loads(text) for text in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [(event["frame"], event["verdict"]) for event in events] == [(i, t.verdict) for i, t in enumerate(trays)]


def test_a_truth_that_does_not_fit_is_told(line: Path, tmp_path: Path) -> None:
    bundle = open_bundle(make_tiny_bundle(tmp_path / "tiny.edgead"))
    (tmp_path / "video.mkv").symlink_to(line / "video.mkv")
    (tmp_path / "video_truth.jsonl").write_text((line / "video_truth.jsonl").read_text().rsplit("{", 1)[0])
    with pytest.raises(BadInput, match="20 frames, but its truth has 19"):
        judge_video(bundle, tmp_path, tmp_path / "events.jsonl")


def test_difficulty_gives_two_areas(line: Path) -> None:
    found = difficulty(line)
    assert set(found) == {"colour_histogram", "mean_difference"}
    assert all(0 <= value <= 1 for value in found.values())


def test_an_earlier_demonstration_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    open_workplace(folder, Plan(), 0)
    (folder / "line").mkdir()
    (folder / "line" / "old.png").touch()
    (folder / "mine.txt").write_text("kept")
    open_workplace(folder, Plan(), 1)
    assert sorted(path.name for path in folder.iterdir()) == [MARKER, "mine.txt"]
    assert json.loads((folder / MARKER).read_text())["seed"] == 1


@pytest.mark.parametrize(
    ("left", "seed", "resumed"),
    [
        ("complete line", 0, True),
        ("complete line", 1, False),
        ("part of a line", 0, False),
        ("finished", 0, False),
        ("damaged marker", 0, False),
    ],
)
def test_only_an_interrupted_demonstration_with_a_complete_line_goes_on(
    tmp_path: Path, left: str, seed: int, resumed: bool
) -> None:
    plan = Plan(**SMALL, video_frames=2, steps=1)
    assert open_workplace(tmp_path, plan, 0) is False
    tray = make_line(tmp_path, plan, 0) / "train" / "good" / "000.png"
    checkpoint = tmp_path / "training" / "state" / "tokenizer.pt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    (tmp_path / "events.jsonl").touch()
    marker = tmp_path / MARKER
    if left == "part of a line":
        state = json.loads(marker.read_text())
        del state["line"]
        marker.write_text(json.dumps(state))
    elif left != "complete line":
        marker.write_text(json.dumps({"seed": 0, "plan": plan.to_json(), "seconds": 1.0}) if left == "finished" else "{")
    assert tray.exists()
    assert open_workplace(tmp_path, plan, seed) is resumed
    assert (tray.exists(), checkpoint.exists(), (tmp_path / "events.jsonl").exists()) == (resumed, resumed, False)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "line").mkdir()
    with pytest.raises(BadInput, match="not an earlier demonstration"):
        clear(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="is a file"):
        clear(tmp_path / "file")
    assert (tmp_path / "line").is_dir()


def test_data_only_writes_the_line_and_stops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["demo", "--data-only", str(tmp_path / "data"), "--quick"]
    assert main(arguments) == 0
    root = tmp_path / "data" / "kit_tray"
    assert str(root) in capsys.readouterr().out
    assert len(list((root / "train" / "good").glob("*.png"))) == QUICK.train
    assert len(list((root / "test" / "good").glob("*.png"))) == QUICK.test_good
    assert len(read_truth(root / "video_truth.jsonl")) == QUICK.video_frames
    assert main(arguments) == 2
    assert "already holds images" in capsys.readouterr().err


# The demonstration in a process of its own, on the smallest plan and networks.
SMALL_DEMO = f"""
import sys
from edge_ad.cli.app import main
from edge_ad.demo import run
from tests.fixtures.tiny_presets import TINY, known
run.QUICK, run.PRESET, run.PRECISION = run.Plan(**{SMALLEST.to_json()!r}), TINY.name, "fp32"
with known(TINY):
    sys.exit(main(sys.argv[1:]))
"""


def test_the_demonstration_trains_its_own_preset_and_builds_engines_for_every_processor() -> None:
    assert preset_named(PRESET) is DEMO
    assert PRECISION == "fp16"


@pytest.mark.slow
def test_the_whole_demonstration_goes_on_after_ctrl_c_in_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Tiny networks on few images and in few steps: the figures are not looked at, only that they are.

    In FP32, since of so few normal images composition is so sure that FP16 in the teacher is too coarse for it.
    """
    from tests.fixtures.tiny_presets import TINY, known

    out = tmp_path / "demo"
    arguments = ["demo", "--quick", "--out", str(out)]
    root = str(Path(__file__).parents[2])
    process = subprocess.Popen(
        [sys.executable, "-c", SMALL_DEMO, *arguments], stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": root}
    )
    checkpoint = out / "training" / "state" / "tokenizer-finished.pt"
    while process.poll() is None and not checkpoint.exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130
    trays = {path: path.stat().st_mtime_ns for path in (out / "line").rglob("*.png")}
    before = (out / "training" / "train.jsonl").read_text()
    capfd.readouterr()
    monkeypatch.setattr("edge_ad.demo.run.QUICK", SMALLEST)
    monkeypatch.setattr("edge_ad.demo.run.PRESET", TINY.name)
    monkeypatch.setattr("edge_ad.demo.run.PRECISION", "fp32")
    with known(TINY):
        assert main(arguments) == 0
    printed = capfd.readouterr()
    assert f"going on with the unfinished training in {out / 'training'}" in printed.err
    assert {path: path.stat().st_mtime_ns for path in (out / "line").rglob("*.png")} == trays
    log = (out / "training" / "train.jsonl").read_text()
    assert log.startswith(before)
    assert '"tokenizer"' not in log[len(before) :]

    for words in ("colour histogram", "tolerance", "normal images NG or WARN", "AUROC", "report.html"):
        assert words in printed.out
    figures = json.loads((out / MARKER).read_text())
    assert figures["video"]["goods"] + figures["video"]["anomalies"] == SMALLEST.video_frames
    assert figures["evaluation"]["counts"]["goods"] == SMALLEST.test_good
    assert (out / "report" / "report.html").stat().st_size > 10_000
