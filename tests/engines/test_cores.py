"""Physical cores out of the topology that the kernel shows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_ad.engines.onnxruntime import physical_cores

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the topology is read on Linux only")


def topology(root: Path, siblings: dict[int, str]) -> Path:
    for cpu, text in siblings.items():
        folder = root / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("allowed", "siblings", "quota", "cores"),
    [
        ({0, 1, 2, 3}, {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}, None, 2),
        ({0, 2}, {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}, None, 1),
        ({0, 1}, {0: "0", 1: "1"}, "max 100000", 2),
        ({0, 1, 2, 3}, {0: "0", 1: "1", 2: "2", 3: "3"}, "150000 100000", 2),
        ({0, 1}, {0: "0", 1: "1"}, "10000 100000", 1),
        ({0, 1, 2}, {}, "nonsense", 3),
    ],
)
def test_cores(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    allowed: set[int],
    siblings: dict[int, str],
    quota: str | None,
    cores: int,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: allowed)
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota)
    assert physical_cores(topology(tmp_path, siblings), tmp_path / "cpu.max") == cores
