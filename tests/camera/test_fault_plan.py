"""Random faults and their truth."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_ad.camera.frames import BadFrame, End, Frame, Read, SourceError
from edge_ad.camera.health import CameraHealth
from edge_ad.camera.sources import open_source
from edge_ad.camera.synthetic import FAULTS, REASONS, FaultInjector, Faults, SyntheticLine, plan, random_faults
from edge_ad.errors import BadInput


@given(st.integers(0, 5000), st.integers(0, 1000), st.floats(0, 0.5))
def test_faults_never_overlap_and_are_found_again(frames: int, seed: int, rate: float) -> None:
    faults = random_faults(frames, seed, rate)
    assert faults == random_faults(frames, seed, rate)
    episodes = faults.episodes()
    for before, after in itertools.pairwise(episodes):
        assert before.last + 4 < after.first, "room to recover in between"
    for one in episodes[:20]:
        assert 10 <= one.first <= one.last < frames
        assert one.reasons == REASONS[one.fault]
        for fault in FAULTS:
            assert (faults.hit(fault, one.first) is not None) == (fault == one.fault)
            assert faults.hit(fault, one.last + 1) is None


def test_the_rate_is_kept_and_kinds_take_turns() -> None:
    episodes = random_faults(50_000, 1, 0.02).episodes()
    # A fault begins at 2 % of the frames that are neither part of one nor just behind one.
    quiet = 50_000 - sum(one.last - one.first + 1 + 4 for one in episodes)
    assert len(episodes) == pytest.approx(0.02 * quiet, rel=0.1)
    for start in range(0, len(episodes) - 8, 8):
        assert {one.fault for one in episodes[start : start + 8]} == set(FAULTS)


def test_the_truth_comes_with_the_source_and_as_a_file(tmp_path: Path) -> None:
    truth = tmp_path / "truth.jsonl"
    query = "seed=3&rate=0.1&frames=200&trays=4&size=64&slow_ms=1"
    source = open_source(f"synthetic://faults?{query}&truth={truth}")
    assert isinstance(source, FaultInjector)
    assert source.faults == plan(query)
    written = [json.loads(line) for line in truth.read_text().splitlines()]
    assert [(one["fault"], one["first"], one["last"]) for one in written] == [
        (one.fault, one.first, one.last) for one in source.faults.episodes()
    ]
    assert written[0]["reasons"] == list(REASONS[written[0]["fault"]])
    source.close()


def test_what_comes_out_is_what_the_truth_has() -> None:
    source = open_source("synthetic://faults?seed=3&rate=0.05&frames=400&trays=4&size=64&slow_ms=1&fps=1000")
    assert isinstance(source, FaultInjector)
    seen: dict[int, Read] = {}
    health, message = CameraHealth("synthetic"), {}
    while not isinstance(result := source.read(1.0), End):
        if isinstance(result, SourceError):
            continue
        assert isinstance(result, (Frame, BadFrame))
        seen[result.index] = result
        message[result.index] = (health.check(result.image).fault if isinstance(result, Frame) else "corrupt") or ""
    for one in source.faults.episodes():
        for index in range(one.first, one.last + 1):
            if one.fault in ("drop", "hang", "gone"):
                assert index not in seen
            elif one.fault != "slow":
                assert message[index].startswith(one.reasons), one
    faulty = {index for one in source.faults.episodes() for index in range(one.first, one.last + 1)}
    assert all(message[index] == "" for index in seen if index not in faulty)


def test_kept_trays_repeat_with_fresh_noise() -> None:
    line = SyntheticLine("line", 9, 1, 10.0, size=64, trays=4)
    frames = [line.read(1.0) for _ in range(9)]
    images = [frame.image.astype(int) for frame in frames if isinstance(frame, Frame)]
    assert 0 < np.abs(images[0] - images[4]).mean() < 2 < np.abs(images[0] - images[1]).mean()
    assert (images[0] != images[8]).any()
    assert (images[4] != images[8]).any()
    assert [line.defect(index) for index in range(4)] == [line.defect(index) for index in range(4, 8)]


@pytest.mark.parametrize(
    "query",
    ["rate=2", "kinds=melt", "kinds=drop,drop", "freeze=1-2", "frames=0", "size=9", "anomalies=1.5", "trays=-1"],
)
def test_settings_refused(query: str) -> None:
    with pytest.raises(BadInput, match="synthetic://faults"):
        open_source(f"synthetic://faults?{query}")


def test_no_faults_at_rate_zero() -> None:
    assert plan("rate=0").episodes() == []
    assert Faults({}).episodes() == []
