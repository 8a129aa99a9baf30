"""Events as a table for spreadsheets: no text of a camera, a part or a reason becomes a formula."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from edge_ad.store import Store
from edge_ad.store.export import is_formula, write_csv
from edge_ad.store.reader import EventFilter, Reader
from tests.store.test_store import row


@pytest.mark.parametrize(
    "text",
    ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1+1", "＋1", "－1", "＠SUM(A1)", "﹦1", "﹢1", "﹣1", "﹫x", "−1",
     " =1", "\u00a0＝1", "\u200b=1", "\ufeff=1", "\x00=1"],
)  # fmt: skip
def test_what_a_spreadsheet_may_take_for_a_formula(text: str) -> None:
    assert is_formula(text)


@pytest.mark.parametrize("text", ["", "A-17", "part =1", "größe", "1", "17-3", "'=1", " ", "￦1"])
def test_what_is_text(text: str) -> None:
    assert not is_formula(text)


def test_such_a_text_gets_an_apostrophe_in_the_table(tmp_path: Path) -> None:
    store = Store(tmp_path / "line.sqlite")
    store.record(row(1, camera="＠cam", part="＝1+1", reason=" ＋x"))
    assert store.close(60.0)
    with Reader(tmp_path / "line.sqlite") as reader:
        assert write_csv(tmp_path / "events.csv", reader.every(EventFilter()), ["logic"]) == 1
    (result,) = csv.DictReader((tmp_path / "events.csv").read_text("utf-8").splitlines())
    assert (result["camera"], result["part"], result["reason"]) == ("'＠cam", "'＝1+1", "' ＋x")
