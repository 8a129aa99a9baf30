"""The comparison with other libraries: what is made of the measurements, and what its scripts share."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest

from tests.tools.loading import TOOLS, load_tool

BENCHMARKS = TOOLS / "benchmarks"


@pytest.fixture(scope="module")
def report() -> ModuleType:
    return load_tool("benchmarks/peers/report")


@pytest.fixture(scope="module")
def common() -> ModuleType:
    return load_tool("benchmarks/peers/common")


def timed(p50: float, auroc: float | None = None) -> dict[str, Any]:
    return {
        "latency_ms": {"frames": 9, "p50": p50, "p90": p50, "p99": 2 * p50, "max": p50},
        "peak_mb": 300.4,
        "auroc": auroc,
    }


FOUND: dict[str, Any] = {
    "machine": {"cores": 2, "processor": "a processor", "python": "3.11"},
    "data": "juice",
    "minutes": 120,
    "anomalib-efficientad": {
        "learn": {
            "steps_ms": [2000.0, 2600.0, 2400.0],
            "batch": 1,
            "curve": [[30, 12, 0.6], [60, 24, 0.8], [90, 36, 0.7]],
        },
        "speed-torch": timed(540.0, 0.8),
        "speed-onnx": timed(370.0, 0.8),
        "start-onnx": {"first_score_s": 1.5},
    },
    "anomavision-padim": {"speed-torch": timed(80.0, 0.99)},
    "ours-efficientad": {"learn": {"steps_ms": [400.0], "batch": 8, "curve": [[5, 10, 0.7], [9, 20, 0.82]]}},
    "ours": {
        "learn": {"train_s": 660.0, "int8_gate": "passed", "masks": 16, "weights": [0.2, 0.2, 0.2, 0.2, 0.2]},
        "speed-whole-int8": timed(37.0, 0.97),
        "speed-efficientad-fp32": timed(18.5, 0.93),
        "line-int8": {"first_verdict_s": 1.25, "peak_mb": 250.2},
    },
}


def test_the_table_by_hand(report: ModuleType) -> None:
    lines = report.tables(FOUND).splitlines()
    assert "R = 16 masks" in lines[1]
    assert "trained in 11.0 min; INT8 gate passed" in lines[1]
    rows = [line for line in lines if line.startswith(("| anomalib", "| anomavision", "| edge-ad"))]
    assert rows[0] == "| anomalib EfficientAD-S, torch | 0.800 | 540.0 | 1080.0 | 0.69 | 1.00 |  | 300 |"
    assert rows[1].endswith("| 0.800 | 370.0 | 740.0 | 1.00 | 1.46 | 1.50 | 300 |")
    assert rows[2].startswith("| anomavision PaDiM, ResNet-18, torch |  | 80.0 |")  # random weights: no AUROC
    assert rows[3] == "| edge-ad `fast`, all three methods, INT8 | 0.970 | 37.0 | 74.0 | 10.00 | 14.59 |  | 300 |"
    assert rows[4].startswith("| edge-ad EfficientAD (local + global), FP32 | 0.930 | 18.5 | 37.0 | 20.00 | 29.19 |")
    assert "| `edge-ad run`, INT8 | 1.25 | 250 |" in lines
    assert lines[-2] == "| anomalib EfficientAD-S | 1 | 2400 | 2400 | 90 | 0.700 | 60 |"
    assert lines[-1] == "| edge-ad `fast` | 8 | 400 | 50 | 9 | 0.820 | 9 |"


def test_of_several_turns_the_middle_one_counts(report: ModuleType) -> None:
    turns = {f"speed-onnx.{number}": timed(p50) for number, p50 in ((1, 90.0), (2, 30.0), (3, 40.0))}
    turns["speed-onnx.2"]["peak_mb"] = 412.0
    result = report.middle_turns({**turns, "note": {"batch": 1}, "speed-torch": timed(80.0)})
    assert set(result) == {"note", "speed-onnx", "speed-torch"}
    assert result["speed-onnx"]["latency_ms"] == timed(40.0)["latency_ms"]
    assert result["speed-onnx"]["p50_turns"] == [30.0, 40.0, 90.0]
    assert result["speed-onnx"]["peak_mb"] == 412.0
    table = report.tables({**FOUND, "anomalib-efficientad": result, "ours-efficientad": {}})
    assert "| anomalib EfficientAD-S, ONNX in onnxruntime |  | 40.0 (30.0 to 90.0) | 80.0 | 1.00 |" in table


def test_what_is_not_measured_yet_is_left_out(report: ModuleType, tmp_path: Path) -> None:
    text = report.tables({"machine": FOUND["machine"], "data": "juice"})
    assert "edge-ad: preset `fast`." in text
    assert "first verdict" not in text
    report.plot(FOUND, tmp_path / "plot.png")
    assert cv2.imread(str(tmp_path / "plot.png")) is not None


def test_the_clock_stands_still_while_the_auroc_is_read(common: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(common.time, "perf_counter", lambda: now[0])
    course = common.Course(2.0)
    read_at = []
    while not course.over:
        now[0] += 10.0
        if course.step():
            read_at.append(course.used)
            now[0] += 1000.0
            course.reading(0.5)
    assert read_at == [30, 60, 120]  # the last one is the end too
    assert course.steps == [10_000.0] * 12
    assert course.curve[0] == [30.0, 3, 0.5]


def test_a_step_in_which_the_process_was_stopped_counts_as_a_usual_one(
    common: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(common.time, "perf_counter", lambda: now[0])
    course = common.Course(60.0)
    for took in [2.0] * 20 + [600.0, 19.0, 2.0]:  # stopped for ten minutes, then a step that was only slow
        now[0] += took
        course.step()
    assert course.steps[20:] == [2000.0, 19_000.0, 2000.0]
    assert course.used == 2 * 20 + 2 + 19 + 2


def test_a_clock_goes_on_where_it_was_saved(
    common: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    now = [0.0]
    monkeypatch.setattr(common.time, "perf_counter", lambda: now[0])
    first, second = common.Course(2.0), common.Course(2.0)
    for _ in range(5):
        now[0] += 10.0
        if first.step():
            first.reading(0.5)
    first.save(tmp_path / "clock.json")
    now[0] += 5000.0
    second.resume(tmp_path / "clock.json")
    assert (second.used, second.steps, second.curve) == (50.0, [10_000.0] * 5, [[30.0, 3, 0.5]])
    now[0] += 10.0
    assert second.step(), "the reading at 60 s is due"
    assert second.used == 60.0


def test_auroc_and_quantiles_by_hand(common: ModuleType) -> None:
    assert common.auroc([1, 2, 3], [2, 4]) == pytest.approx((1.5 + 3) / 6)
    assert common.quantiles([float(value) for value in range(101)]) == {
        "frames": 101,
        "p50": 50,
        "p90": 90,
        "p99": 99,
        "max": 100,
    }


@pytest.mark.parametrize("layout", ["loco", "mvtec"])
def test_splits_of_both_layouts(common: ModuleType, tmp_path: Path, layout: str) -> None:
    pytest.importorskip("PIL", reason="the peers bring Pillow")
    counts = {"train/good": 10, "test/good": 3, "test/logical_anomalies": 2, "test/cut": 1}
    if layout == "loco":
        counts["validation/good"] = 4
    for folder, count in counts.items():
        (tmp_path / folder).mkdir(parents=True)
        for number in range(count):
            cv2.imwrite(str(tmp_path / folder / f"{number}.png"), np.full((8, 8, 3), number, np.uint8))
    result = {name: len(paths) for name, paths in common.splits(tmp_path).items()}
    assert result == {
        "train": 10 if layout == "loco" else 8,
        "unseen": 4 if layout == "loco" else 2,
        "good": 3,
        "bad": 3,
    }
    assert common.read(common.splits(tmp_path)["good"]).shape == (3, 256, 256, 3)


def test_every_contender_has_its_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    compare = load_tool("benchmarks/compare_peers")
    for contender in compare.CONTENDERS:
        assert (BENCHMARKS / "peers" / contender.script).is_file()
        assert contender.venv in ("", *compare.PACKAGES)


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return load_tool("benchmarks/publish_peers")


def test_the_documentation_states_what_was_measured(publish: ModuleType) -> None:
    for page in (publish.SHORT_PAGE, publish.FULL_PAGE):
        assert (publish.ROOT / page).read_text(encoding="utf-8").count(publish.MARKS[0]) == 1, page
    for page, text in publish.pages(publish.ROOT).items():
        assert page.read_text(encoding="utf-8") == text, f"{page.name}: run python tools/benchmarks/publish_peers.py"


def test_publishing_changes_only_what_lies_between_the_marks(
    publish: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, last = publish.MARKS
    page = f"above\n\n{first}\nold\n{last}\n\nbelow\n"
    for folder in ("images", "experiments"):
        (tmp_path / "docs" / folder).mkdir(parents=True)
    names = ["README.md", "docs/experiments/peers.md"]
    for name in names:
        (tmp_path / name).write_text(page)
    monkeypatch.setattr(publish, "ROOT", tmp_path)
    assert publish.pages(tmp_path) == {}
    (tmp_path / "found.json").write_text(json.dumps(FOUND))
    monkeypatch.setattr(sys, "argv", ["publish_peers.py", str(tmp_path / "found.json")])
    assert publish.main() == 0
    assert capsys.readouterr().out.split() == names
    assert "| edge-ad EfficientAD (local + global), FP32 | 0.930 | 18.5 | 37.0 |" in (tmp_path / names[1]).read_text()
    text = (tmp_path / "README.md").read_text()
    assert text.startswith(f"above\n\n{first}\n|")
    assert text.endswith(f"{last}\n\nbelow\n")
    assert "| edge-ad `fast`, all three methods, INT8 | 0.970 | 37 | 74 | 10.0 | 300 |" in text
    assert "structure" not in text
    monkeypatch.setattr(sys, "argv", ["publish_peers.py", "--check"])
    assert publish.main() == 0
    (tmp_path / "README.md").write_text(text.replace("0.970", "0.990"))
    assert publish.main() == 1
    assert capsys.readouterr().out.split() == ["README.md"]
