"""Parameters and multiply-accumulates of every preset against the publications' figures and layer tables."""

from __future__ import annotations

from typing import Any

import pytest

from edge_ad.models.build import networks
from edge_ad.presets.presets import DEMO, FAST, PAPER, PAPER_M

# kernel, outputs, side of the output for 256 pixels: EfficientAD's table of PDN-S, teacher.
PDN_S = [(4, 128, 253), (4, 256, 123), (3, 256, 59), (4, 384, 56)]


@pytest.fixture(scope="module")
def paper() -> dict[str, dict[str, Any]]:
    return networks(PAPER)


@pytest.mark.parametrize(
    ("network", "parameters"), [("teacher", 2_694_144), ("student", 4_267_392), ("autoencoder", 1_096_320)]
)
def test_parameters_of_paper(paper: dict[str, dict[str, Any]], network: str, parameters: int) -> None:
    assert paper[network]["params"] == parameters


def test_lavit_of_paper(paper: dict[str, dict[str, Any]]) -> None:
    assert paper["lavit"]["params"] == pytest.approx(14.16e6, abs=5e3)


@pytest.mark.parametrize(("network", "gmac"), [("teacher", 15.3), ("student", 20.2), ("autoencoder", 2.4)])
def test_gmac_of_efficientad(paper: dict[str, dict[str, Any]], network: str, gmac: float) -> None:
    assert paper[network]["gmac"] == pytest.approx(gmac, abs=0.06)


def test_total_gmac_of_efficientad(paper: dict[str, dict[str, Any]]) -> None:
    """The paper's 76 GFLOP are twice 38.0 GMAC."""
    total = sum(paper[network]["gmac"] for network in ("teacher", "student", "autoencoder"))
    assert total == pytest.approx(38.0, abs=0.1)


def test_gmac_of_the_teacher_by_the_table(paper: dict[str, dict[str, Any]]) -> None:
    macs, before = 0, 3
    for kernel, out, side in PDN_S:
        macs, before = macs + side**2 * kernel**2 * before * out, out
    assert paper["teacher"]["gmac"] == pytest.approx(macs / 1e9, abs=1e-3)


def test_gmac_of_lavit_holds_ten_views_with_a_short_last_block(paper: dict[str, dict[str, Any]]) -> None:
    """A whole view takes 8.76 GMAC; the last block needs keys and values of all rows, the rest of it for HIST alone."""
    rows, d = 578, 512
    full = 12 * rows * d * d + 2 * rows * rows * d
    last = 2 * rows * d * d + 10 * d * d + 2 * rows * d
    embed, head = 576 * 384 * d, d * 4 * 512
    assert (4 * full + embed + head) / 1e9 == pytest.approx(8.76, abs=0.01)
    assert paper["lavit"]["gmac"] == pytest.approx((embed + 10 * (3 * full + last + head)) / 1e9, abs=2e-3)


def test_the_second_pass_of_paper(paper: dict[str, dict[str, Any]]) -> None:
    """The same weights on 224 pixels: 11.5 GMAC."""
    assert paper["teacher_tokens"]["params"] == paper["teacher"]["params"]
    assert paper["teacher_tokens"]["gmac"] == pytest.approx(11.5, abs=0.06)


def test_paper_m_is_efficientad_m() -> None:
    """8.03 M + 11.62 M + 1.10 M parameters are the paper's 21 M, 117.7 GMAC half of its 235 GFLOP."""
    result = networks(PAPER_M)
    names = ("teacher", "student", "autoencoder")
    assert [result[name]["params"] for name in names] == [8_026_624, 11_615_488, 1_096_320]
    assert [result[name]["gmac"] for name in names] == pytest.approx([52.0, 63.3, 2.4], abs=0.06)
    assert sum(result[name]["gmac"] for name in names) == pytest.approx(117.7, abs=0.1)
    assert result["teacher_tokens"]["params"] == 8_026_624


def test_fast_is_far_cheaper_than_paper(paper: dict[str, dict[str, Any]]) -> None:
    fast = networks(FAST)
    assert "teacher_tokens" not in fast
    assert fast["teacher"]["gmac"] < paper["teacher"]["gmac"] / 30
    assert networks(DEMO)["lavit"]["gmac"] < fast["lavit"]["gmac"] / 2  # 4 of 10 views
