"""What identifies a machine for graphs on its processor, read from /proc/cpuinfo as kernels write it."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_ad.utils.board import machine

EPYC = """processor\t: 0
model name\t: AMD EPYC
flags\t\t: fpu sse4_1 fma avx avx2 avx512f avx512bw {more}
processor\t: 1
flags\t\t: fpu
"""
ORIN = """processor\t: 0
Features\t: fp asimd fphp asimdhp asimddp
CPU implementer\t: 0x41
Hardware\t: NVIDIA Jetson
"""


@pytest.mark.parametrize(
    ("text", "processor", "instructions"),
    [
        (EPYC.format(more="avx512_vnni"), "AMD EPYC", "avx avx2 avx512bw avx512f avx512_vnni fma sse4_1"),
        (EPYC.format(more=""), "AMD EPYC", "avx avx2 avx512bw avx512f fma sse4_1"),
        (ORIN, "NVIDIA Jetson", "asimddp asimdhp"),
    ],
)
def test_instruction_sets_tell_machines_of_one_name_apart(
    text: str, processor: str, instructions: str, tmp_path: Path
) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(text)
    result = machine(tmp_path)
    assert result["processor"] == processor
    assert set(result["instructions"].split()) == set(instructions.split())


def test_without_cpuinfo_there_are_none(tmp_path: Path) -> None:
    assert machine(tmp_path)["instructions"] == ""
