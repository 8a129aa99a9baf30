"""The measurement of the promise: in small for real, and that what is kept is not computed again."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from tests.fixtures.tiny_bundle import make_tiny_bundle
from tests.tools.loading import load_tool


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_tool("benchmarks/threshold_promise")


COUNTS = ["--seeds", "2", "--threshold", "30", "--unseen", "20", "--size", "64"]


def test_a_bundle_scores_two_small_lines_and_they_are_kept(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_tiny_bundle(tmp_path / "tiny.edgead")
    arguments = [
        *COUNTS,
        "--bundle",
        str(bundle),
        "--cache",
        str(tmp_path / "kept"),
        "--json",
        str(tmp_path / "out.json"),
    ]
    code = tool.main(arguments)
    printed = capsys.readouterr()
    assert printed.out.count("target") == 2
    assert printed.err.count("30 + 20 normal images scored") == 2
    found = json.loads((tmp_path / "out.json").read_text())["targets"]
    assert [row["target"] for row in found] == [0.01, 0.05]
    assert found[0]["supported"] == pytest.approx(1 / 31)  # 30 normal images support no less
    assert code == (0 if all(row["kept"] for row in found) else 4)
    monkeypatch.setattr(tool, "bundle_scores", lambda *_: pytest.fail("computed again"))
    assert tool.main(arguments) == code
    assert capsys.readouterr().out == printed.out


@pytest.mark.slow
def test_the_branch_composition_scores_a_small_line(tool: ModuleType, tmp_path: Path) -> None:
    plan = tool.Plan(fit=12, normalise=4, threshold=6, unseen=5, size=64)
    threshold, unseen = tool.line_scores(7, plan, tmp_path)
    assert (threshold.shape, unseen.shape) == ((6,), (5,))
    again = tool.line_scores(7, plan, tmp_path)
    assert (again[0] == threshold).all()
    assert len(list(tmp_path.iterdir())) == 1


def test_another_plan_has_other_scores(tool: ModuleType, tmp_path: Path) -> None:
    marks = {
        tool.Plan().mark,
        tool.Plan(fit=100).mark,
        tool.Plan(bundle=str(make_tiny_bundle(tmp_path / "b.edgead"))).mark,
    }
    assert len(marks) == 3


def test_a_missing_bundle_is_a_sentence(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["--bundle", str(tmp_path / "gone.edgead"), "--cache", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")
