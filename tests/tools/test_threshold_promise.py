"""The measurement of the promise: in small for real, what is kept is not computed again, and its interval against scipy's
beta-binomial.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


@pytest.mark.slow
def test_thresholds_under_a_tolerance_are_measured_in_every_state(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = ["--seeds", "2", "--fit", "12", "--normalise", "4", "--threshold", "6", "--unseen", "5", "--size", "64"]
    arguments = [*counts, "--tolerance", "light=10%,blur=1px", "--cache", str(tmp_path), "--json", str(tmp_path / "out.json")]
    code = tool.main(arguments)
    printed = capsys.readouterr()
    assert printed.err.count("11 normal images scored in 6 states") == 2
    rows = json.loads((tmp_path / "out.json").read_text())["states"]
    states = ["undisturbed", "random_1", "random_2", "light_1", "light_2", "blur_1"]
    assert [row["state"] for row in rows] == 2 * states
    assert [row["promised"] for row in rows[:6]] == pytest.approx([1 / 7] * 3 + [2 / 7] * 3)
    assert code == (0 if all(row["kept"] for row in rows) else 4)
    assert tool.main(arguments) == code
    assert capsys.readouterr().out == printed.out


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


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 500), st.integers(1, 300), st.sampled_from([0.005, 0.01, 0.05, 0.2, 0.9]))
def test_the_interval_is_that_of_the_beta_binomial(tool: ModuleType, goods: int, unseen: int, rate: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    above = max(1, int(rate * (goods + 1) + 1e-9))
    law = stats.betabinom(unseen, above, goods + 1 - above)
    low, high = tool.count_interval(goods, unseen, rate)
    assert law.cdf(low - 1) <= 0.025 + 1e-9
    assert law.cdf(low) > 0.025 - 1e-9
    assert law.sf(high) <= 0.025 + 1e-9
    assert high == 0 or law.sf(high - 1) > 0.025 - 1e-9


def test_the_interval_of_the_measurement(tool: ModuleType) -> None:
    """400 normal images at 1 %: the fifth highest score is the threshold, Beta(4, 397), mean 4/401 of 2,000 = 20."""
    low, high = tool.count_interval(400, 2000, 0.01)
    assert 0 < low < 20 < high < 60


def draws(shift: float, seeds: int = 20, goods: int = 400, unseen: int = 2000) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(5)
    return [(rng.normal(0, 1, goods), rng.normal(shift, 1, unseen)) for _ in range(seeds)]


@pytest.mark.parametrize("target", [0.01, 0.05])
def test_goods_of_the_same_kind_keep_it(tool: ModuleType, target: float) -> None:
    found = tool.measure(draws(0.0), target)
    assert found.holds
    assert found.supported == target
    assert found.inside >= 17
    assert found.mean == pytest.approx(np.mean(found.counts) / 2000)
    assert found.error == pytest.approx(np.std(np.array(found.counts) / 2000, ddof=1) / np.sqrt(20))


def test_goods_that_drifted_do_not(tool: ModuleType) -> None:
    found = tool.measure(draws(0.7), 0.05)
    assert not found.holds
    assert found.inside < 17


def test_by_hand(tool: ModuleType) -> None:
    """Nine normal images support 1/10: the threshold is the highest, 9. Of 10, 8, 9 and 12 two lie above it."""
    found = tool.measure([(range(1, 10), [10, 8, 9, 12]), (range(1, 10), [0, 0, 0, 0])], 0.01)
    assert found.supported == pytest.approx(0.1)
    assert found.counts == (2, 0)
    assert found.mean == 0.25


def test_draws_of_different_sizes_are_refused(tool: ModuleType) -> None:
    with pytest.raises(ValueError, match="same numbers of normal images"):
        tool.measure([([1, 2], [3]), ([1, 2, 3], [4])], 0.1)


def test_rules_are_compared_on_the_raw_scores_of_a_bundle(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_tiny_bundle(tmp_path / "tiny.edgead")
    arguments = ["--compare", str(bundle), "--draws", "5", "--sizes", "10+8", "1000+1000", "--json", str(tmp_path / "out.json")]
    assert tool.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "10+8, 1 bundles" in printed
    assert "1000+1000: no bundle has so many unseen normal images" in printed
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [row["rule"] for row in rows] == list(tool.RULES)
    promised = {row["rule"]: row["mean"][0] for row in rows}
    assert promised["split"] == pytest.approx(1 / 9, abs=1e-4)  # eight images set the threshold
    assert promised["promise"] == pytest.approx(1 / 19, abs=1e-4)  # all eighteen do
    assert tool.main(["--compare", str(tmp_path / "gone.edgead")]) == 2


def test_each_rule_keeps_what_it_promises_in_the_comparison(tool: ModuleType) -> None:
    random = np.random.default_rng(0)
    normal = random.normal(size=(400, 6)).astype(np.float32)
    anomalies = {"synthetic": random.normal(3, 1, (60, 6)).astype(np.float32)}
    pool = tool.Pool(normal, anomalies, np.full(6, 1 / 6, np.float32))
    assert pool.numbers("70%") == (140, 140)
    for rule, rows in tool.compare(pool, (10, 8), draws=60).items():
        error = rows[:, 1].std(ddof=1) / np.sqrt(len(rows))
        assert rows[:, 1].mean() <= rows[0, 0] + 2 * error, rule
        assert rows[:, 2].mean() > 0.9, rule


def test_new_trays_can_take_the_place_of_known_images(tool: ModuleType, tmp_path: Path) -> None:
    pool = tool.Pool.of(make_tiny_bundle(tmp_path / "tiny.edgead"), fresh=4, size=64)
    assert pool.normal.shape == (4, len(pool.weight))
