"""Plans as data, units and their cost, the greedy search, the CPU's 8-bit weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.cpu import limit_by_flags, rounds_resized_bytes
from calibration.graph_view import GraphView
from calibration.placement import Plan
from calibration.sensitivity import Cost, Unit, rank, shortest_prefix, units
from tests.calibration.nets import cnn, vit


def test_a_plan_passes_through_json() -> None:
    plan = Plan("0" * 64, {"cpu": ("n_stem",), "tensorrt": ("*",)})
    assert Plan.from_json(plan.to_json()) == plan
    assert plan.skips("tensorrt")
    assert not plan.skips("cpu")
    view = GraphView(cnn())
    assert plan.unquantised("cpu", view) == ("n_stem",)
    assert len(plan.unquantised("tensorrt", view)) == 9


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        {"graph_sha256": 1, "keep": {}},
        {"graph_sha256": "0", "keep": []},
        {"graph_sha256": "0", "keep": {"dsp": []}},
        {"graph_sha256": "0", "keep": {"cpu": "n_stem"}},
        {"graph_sha256": "0", "keep": {"cpu": [1]}},
        {"graph_sha256": "0", "keep": {}, "more": 1},
    ],
)
def test_no_plan(value: object) -> None:
    with pytest.raises(ValueError):
        Plan.from_json(value)


def test_units_cover_every_weighted_operator_once() -> None:
    result = units("net", GraphView(cnn()))
    assert [len(unit.nodes) for unit in result] == [1] * 9
    assert result[0].macs == 16 * 16 * 16 * 8 * 9  # cells x outputs x inputs x kernel
    assert result[1].macs == 16 * 16 * 16 * 9  # depthwise
    assert result[-1].macs == 10 * 16
    few = units("net", GraphView(vit()), 4)
    assert len(few) == 4
    assert sum(len(unit.nodes) for unit in few) == 14
    assert sum(unit.macs for unit in few) == sum(unit.macs for unit in units("net", GraphView(vit())))


def cost(name: str, macs: int, loss: float) -> Cost:
    return Cost(Unit("g", (name,), macs), loss, 0)


def test_rank_weighs_loss_against_cost() -> None:
    table = [cost("cheap", 10, 0.1), cost("dear", 1000, 0.2), cost("harmless", 10, 0.001)]
    assert [item.unit.nodes[0] for item in rank(table)] == ["cheap", "dear", "harmless"]


@given(st.integers(0, 40), st.integers(0, 45))
def test_the_shortest_prefix_that_passes(length: int, needed: int) -> None:
    ranked = [Unit("g", (str(number),), 1) for number in range(length)]
    tried: list[int] = []

    def passes(unquantised: Sequence[Unit]) -> bool:
        tried.append(len(unquantised))
        return len(unquantised) >= needed

    result = shortest_prefix(ranked, passes)
    assert result == (ranked[:needed] if needed <= length else None)
    assert len(tried) == len(set(tried)) <= 14


@pytest.mark.parametrize(
    ("machine", "flags", "limit"),
    [
        ("x86_64", "fpu avx512_vnni", 127),
        ("x86_64", "fpu avx_vnni", 127),
        ("x86_64", "fpu avx2 avx512f", 63),
        ("x86_64", None, 63),
        ("AMD64", None, 63),
        ("aarch64", None, 127),
    ],
)
def test_without_onnxruntime_the_flags_decide(machine: str, flags: str | None, limit: int, tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    if flags is not None:
        cpuinfo.write_text(f"processor : 0\nflags : {flags}\n")
    assert limit_by_flags(machine, cpuinfo) == limit


@pytest.mark.parametrize(
    ("version", "rounds"),
    [("1.20.1", False), ("1.26.0", False), ("1.28.0", True), ("1.31.1", True), ("2.0.0rc1", True)],
)
def test_older_runtimes_cut_what_they_resize(version: str, rounds: bool) -> None:
    assert rounds_resized_bytes(version) == rounds
