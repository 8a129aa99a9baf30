"""The soak trials in small: the same code as tools/soak/, a few seconds of it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from edge_ad.bundle import open_bundle
from edge_ad.camera.synthetic import FAULTS, Episode
from edge_ad.engines.pipeline import Pipeline
from edge_ad.inspection.throughput import measure_overhead
from tests.camera.rtsp import server_missing
from tests.fixtures.tiny_bundle import make_tiny_bundle
from tools.soak import faults, line, trial
from tools.soak.faults import Seen

SLACK_S = 6.0  # a loaded machine; the long form allows 1 s


@pytest.mark.slow
def test_random_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "ALLOWED_S", SLACK_S)
    monkeypatch.setattr(faults, "TRAYS", 12)
    bundle = open_bundle(faults.make_bundle(tmp_path))
    health = trial.Health()
    with Pipeline(bundle, threads=1) as pipeline:
        leg = faults.run_leg(bundle, pipeline, 500, 3, 40.0, False, health.sample)
    assert leg.problems == []
    assert sum(leg.faults.values()) >= 5
    assert set(leg.faults) <= set(FAULTS)
    assert leg.counters["verdict_OK"] > 100
    assert health.problems() == []


PASSES, KINDS = 50, 4  # samples in which a part may pass, kinds of fault


def enough(truth: line.Truth) -> bool:
    """Whether the trial has seen passes and faults, and none of them lasts."""
    return truth.counts["passes"] >= PASSES and len(truth.onsets) >= KINDS and truth.since() is None


@pytest.mark.slow
def test_a_line_whose_camera_network_and_engine_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := server_missing():
        pytest.skip(reason)
    monkeypatch.setattr(line, "LIMIT_S", line.LIMIT_S + SLACK_S / 10)
    trial_line = line.Trial(5, tmp_path)
    try:
        ends = time.monotonic() + 240.0
        while not enough(trial_line.truth) and time.monotonic() < ends:
            trial_line.step()
    finally:
        trial_line.close()
    found = line.summary(trial_line)
    assert found["first_wrong"] == []
    assert found["passes"] > 0
    assert len(found["time_to_reject"]) >= 3, "kinds of fault"


def test_a_pass_is_wrong_when_something_was_wrong_for_too_long() -> None:
    """A bad part from second 1 on, a frozen camera from 1.5 to 3: the part is good again at 2."""
    truth = line.Truth()
    limit = line.LIMIT_S

    def sample(at: float, passed: bool = True) -> int:
        truth.judge(at, truth.since(), passed)
        return len(truth.wrong)

    assert sample(0.5) == 0
    truth.set("bad part", True, 1.0)
    assert sample(1.0 + limit - 0.001) == 0
    assert sample(1.0 + limit + 0.001, passed=False) == 0
    assert sample(1.0 + limit + 0.001) == 1
    truth.set("frozen", True, 1.5)
    truth.set("bad part", False, 2.0)
    assert sample(2.5) == 2, "never right since second 1"
    assert truth.wrong[-1]["ms_each"] == {"frozen": 1000}
    before = truth.since()
    truth.set("frozen", False, 3.0)
    truth.judge(2.999, before, True)
    assert len(truth.wrong) == 2, "asked while it was wrong, perhaps answered when it was right"
    truth.set("bad part", True, 3.1)
    assert sample(3.1 + limit - 0.001) == 2
    assert truth.times == {"bad part": [pytest.approx(1000 * limit + 1.0, abs=0.11)], "frozen": [1000.0]}
    assert truth.counts["passes"] == 6


def ok(frame: int) -> tuple[float, Seen]:
    return 100.0 + frame / 10, Seen(frame, str(frame), 100.0 + frame / 10, "OK", "", 0.0)


def none(frame: int | None, told: float, reason: str) -> tuple[float, Seen]:
    return told, Seen(frame, None if frame is None else str(frame), told, "NONE", reason, None)


@pytest.mark.parametrize(
    ("told", "fine"),
    [
        (none(20, 102.1, "dark"), True),
        (none(20, 102.9, "dark"), True),
        (none(20, 103.4, "dark"), False),  # too late
        (none(20, 102.1, "frozen"), False),  # another reason
        (none(90, 102.1, "dark"), False),  # about another frame
        (none(None, 102.1, "stalled"), False),
    ],
)
def test_the_trial_itself_finds_what_is_told_late_or_wrongly(told: tuple[float, Seen], fine: bool) -> None:
    at = [100.0 + frame / 10 for frame in range(100)]
    seen = [*(ok(frame) for frame in range(15)), told]
    _, problems = faults.check_told([Episode("black", 20, 22)], seen, at, 10.0)
    assert (problems == []) == fine


def test_the_trial_itself_finds_a_spoilt_frame_that_was_judged() -> None:
    episodes = [Episode("black", 3, 4), Episode("slow", 8, 8)]
    problems = faults.check_faulty_frames(episodes, [ok(2), ok(4), ok(8)])
    assert len(problems) == 1
    assert "frame 4 was judged OK during black" in problems[0]


def test_both_numbers_come_from_the_same_frames(tmp_path: Path) -> None:
    bundle = open_bundle(make_tiny_bundle(tmp_path / "tiny.edgead"))
    with Pipeline(bundle, threads=1) as pipeline:
        found = measure_overhead(bundle, pipeline, 15)
    assert found.frames <= 15
    assert 0 < found.overhead["p50"] < found.end_to_end["max"]
    assert found.engine["p50"] < found.end_to_end["max"]
    assert set(found.to_json()) == {"frames", "end_to_end_ms", "engine_ms", "overhead_ms"}


def sampled(rows: list[tuple[float, int, int]]) -> trial.Health:
    health = trial.Health()
    frames = range(trial.SETTLED_AFTER, 10**6, trial.SAMPLE_EVERY)
    health.rows = [
        {"frames": frame, "rss_mb": memory, "handles": handles, "threads": threads}
        for frame, (memory, handles, threads) in zip(frames, rows, strict=False)
    ]
    return health


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([(50.0, 9, 8)] * 10, []),
        ([(50.0, 9, 8)] * 3 + [(51.9, 9, 7)] * 3, []),  # within 2 MB; a thread may have ended
        ([(50.0, 9, 8)] * 3 + [(52.2, 9, 8)] * 3, ["memory grew by 2.2 MB"]),
        ([(50.0, 9, 8)] * 3 + [(50.0, 10, 8)] + [(50.0, 9, 9)] * 3, ["handles grew", "threads grew"]),
        ([(50.0, 9, 8), (90.0, 19, 18)], []),  # too short to tell
    ],
)
def test_the_trial_itself_finds_what_grows(rows: list[tuple[float, int, int]], words: list[str]) -> None:
    problems = sampled(rows).problems()
    assert len(problems) == len(words)
    assert all(word in problem for word, problem in zip(words, problems, strict=True))


def test_a_trial_goes_on_where_it_was_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "x.json"

    def begin(*words: str) -> trial.Record:
        monkeypatch.setattr("sys.argv", ["x", "--json", str(path), *words])
        return trial.begin("about", {"found": []}, rounds=20, hold_ms=300.0, paced=False)

    record = begin("--rounds", "7", "--paced")
    assert record.values == {"rounds": 7, "hold_ms": 300.0, "paced": True, "found": []}
    record.values["found"].append(1)
    record.save()
    assert begin("--resume").values == record.values
    assert begin().values["found"] == []
    record.finish({"max": 1})
    assert begin("--resume").complete
