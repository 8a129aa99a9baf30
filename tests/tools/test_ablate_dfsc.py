"""The tool that asks whether DFSC helps: its AUROC by image, and that what it read is not trained again."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edge_ad.scoring.auroc import auroc
from tests.tools.loading import load_tool


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_tool("benchmarks/ablate_dfsc")


def test_an_image_is_drawn_with_its_anomalies(tool: ModuleType) -> None:
    """Anomalies 3 and 0 come from image 0 (score 1), 2 from image 1 (score 2)."""
    normal, anomalies, origins = np.array([1.0, 2.0]), np.array([3.0, 0.0, 2.0]), np.array([0, 0, 1])
    table, counts = tool.pairs(normal, anomalies, origins)
    assert table.tolist() == [[1.0, 1.0], [1.0, 0.5]]
    assert counts.tolist() == [2.0, 1.0]
    values = tool.drawn_aurocs(table, counts)
    assert values[0] == pytest.approx(auroc(normal, anomalies))
    # Drawn are image 0 twice (1 against 3 and 0), both, or image 1 twice (2 against 2).
    assert set(np.round(values[1:], 6)) == {0.5, round(3.5 / 6, 6)}


def test_cases_name_what_they_change(tool: ModuleType) -> None:
    cases = tool.cases()
    assert next(iter(cases)) == "off"
    assert (cases["fixed 2, q 0.9"].quantile, cases["fixed 2, q 0.9"].margin) == (0.9, 2.0)
    assert (cases["c 1.5, q 0.99"].warm_margin, cases["c 1.5, q 0.99"].quantile) == (1.5, 0.99)


def test_the_table_compares_with_plain_efficientad_over_the_seeds_of_both(tool: ModuleType, tmp_path: Path) -> None:
    normal, kinds = [[0.0, 0.0], [1.0, 1.0]], ["remove", "stain"]
    common = {"normal": normal, "kinds": kinds, "origins": [0, 1], "means": {"hinge_active": 0.25}, "margin": {}}
    for case, score, seeds in (("off", 0.5, (0, 1)), ("fixed 2, q 0.9", 2.0, (0, 1, 2))):
        for seed in seeds:
            values = {**common, "anomalies": [[score, score]] * 2}
            (tmp_path / f"set {case} seed {seed}.json").write_text(json.dumps(values))
    rows = {
        (block.splitlines()[0].split("|")[1].strip(), row.split("|")[1].strip()): row.split("|")[2].strip()
        for block in "\n".join(tool.table(tmp_path, ["set"], [0, 1, 2])).strip().split("\n\n")
        for row in block.strip().splitlines()[2:]
    }
    assert rows["both, logical", "off"] == "0.500 (2)"
    assert rows["both, logical", "fixed 2, q 0.9"].startswith("+0.500 [")
    assert rows["both, logical", "fixed 2, q 0.9"].endswith("] (2)")
    assert rows["both, logical", "c 1, q 0.9"] == "-"
    assert rows["active share (margin)", "fixed 2, q 0.9"] == "0.250"
