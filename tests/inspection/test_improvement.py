"""From marks to a better bundle by commands: false rejects go, a defect that is marked good is asked for, and back again."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_ad.bundle import open_bundle, write_bundle
from edge_ad.cli.app import main
from edge_ad.config import Config, EngineTable
from edge_ad.engines import selection
from edge_ad.errors import GateRefused
from edge_ad.geometry.geometry import Geometry
from edge_ad.geometry.region import Roi
from edge_ad.inspection import improvement
from edge_ad.inspection.improvement import (
    Comparison,
    JudgedPart,
    RecordedPart,
    judge_image,
    judge_parts,
    judged_by,
    learned_before,
    recorded_parts,
)
from edge_ad.store.actions import ActionLog, actions_path
from edge_ad.store.next_run import BundlePointer, pointer_path
from edge_ad.store.reader import EventFilter, Reader, set_mark
from edge_ad.store.schema import StoredEvent
from tests.fixtures.tiny_bundle import make_tiny_bundle, tiny_contents, tiny_image
from tests.fixtures.tiny_graphs import SIZE

pytestmark = pytest.mark.any_version

SETTINGS = '[run]\nstore = "line.sqlite"\nmax_age_ms = 60000\n[record]\nlossless_ok_every = 1\n'
PARTS, LOT = 60, 20  # parts, and from which on they are of the new lot


def lot_image(number: int, blob: bool = False) -> NDArray[np.uint8]:
    light = 1.0 if number < LOT else 1.5
    return (tiny_image(7000 + number, blob) * light).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A station that has judged two lots of good parts, and three defects of the second."""
    folder = tmp_path_factory.mktemp("station")
    make_tiny_bundle(folder / "part.edgead")
    (folder / "edge-ad.toml").write_text(SETTINGS)
    for number in range(PARTS + 3):
        path = folder / "parts" / f"{number:03}.png"
        path.parent.mkdir(exist_ok=True)
        assert cv2.imwrite(str(path), lot_image(number, blob=number >= PARTS)[:, :, ::-1])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["run", "part.edgead", "--camera", "parts"]) == 0
    return folder


@pytest.fixture
def station(recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(recorded, tmp_path / "station")
    monkeypatch.chdir(tmp_path / "station")
    return tmp_path / "station"


def events() -> dict[int, StoredEvent]:
    with Reader(Path("line.sqlite")) as reader:
        return {int(Path(str(event.part)).stem): event for event in reader.every(EventFilter())}


def mark(numbers: list[int], value: str = "good") -> None:
    for number in numbers:
        set_mark(Path("line.sqlite"), events()[number].id, value, "anna")  # type: ignore[arg-type]


def used() -> Path:
    return BundlePointer(pointer_path(Path("line.sqlite"))).resolve("", Path("part.edgead")).resolve()


def test_marks_make_a_bundle_that_takes_the_place_of_the_one_in_use_and_goes_again(
    station: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rejected = [number for number, event in events().items() if LOT <= number < PARTS and event.verdict != "OK"]
    assert len(rejected) >= 30, "the lot has changed"
    mark(rejected[:30])
    mark([PARTS, PARTS + 1], "bad")
    assert main(["improve", "part.edgead", "--margin", "1000", "--apply", "--by", "anna"]) == 0
    told = capsys.readouterr().out
    before, after, of = map(int, re.findall(r"false rejects: champion (\d+), challenger (\d+) of (\d+)", told)[0])
    assert of == 30
    assert after < before
    assert "misses: champion 0, challenger 0 of 2 parts marked bad" in told
    assert used() == station / "line.improve/001/part.edgead"
    assert open_bundle(used()).parent == open_bundle("part.edgead").sha256
    page = Path("line.improve/001/report.html").read_text()
    assert page.count("<img") >= 2
    assert len(learned_before(Path("line.sqlite"), used())) == 30
    assert main(["improve", "part.edgead"]) == 2
    assert "0 parts can be learned" in capsys.readouterr().err, "those of before are no unseen images any more"
    assert not learned_before(Path("line.sqlite"), Path("part.edgead"))
    assert main(["improve", "--rollback", "part.edgead", "--by", "anna"]) == 0
    assert used() == Path("part.edgead").resolve()
    kinds = [action.kind for action in ActionLog(actions_path(Path("line.sqlite"))).actions()]
    assert kinds[-2:] == ["replace", "rollback"]


def test_a_defect_that_is_marked_good_is_held_back_and_only_accepted_by_name(
    station: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    goods = [number for number, event in events().items() if number < LOT and event.verdict == "OK"][:12]
    mark([*goods, PARTS])
    poisoned = events()[PARTS]
    assert main(["improve", "part.edgead", "--yes"]) == 0
    told = capsys.readouterr().out
    assert f"held back: {poisoned.id[:8]} is marked good" in told
    assert f"{len(goods)} of them learned" in told
    assert not Path(f"line.improve/001/good/{poisoned.id}.png").exists()
    assert poisoned.id[:8] in Path("line.improve/001/report.html").read_text()
    assert "nothing was replaced" in told
    assert main(["improve", "part.edgead", "--accept", poisoned.id[:8]]) == 0
    assert Path(f"line.improve/002/good/{poisoned.id}.png").exists()


def test_a_bundle_that_misses_what_was_found_before_is_refused(station: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mark([number for number in events() if LOT <= number < PARTS])
    mark([PARTS, PARTS + 1, PARTS + 2], "bad")
    names = [word for number in (PARTS, PARTS + 1) for word in ("--accept", events()[number].id)]
    assert main(["improve", "part.edgead", *names]) == 2
    assert "0 marked parts fit" in capsys.readouterr().err, "what is marked bad cannot be accepted"


def test_an_image_of_the_record_is_cut_already_where_the_bundle_carries_its_region(tmp_path: Path) -> None:
    assert cv2.imwrite(str(tmp_path / "bad.png"), tiny_image(8100, blob=True)[:, :, ::-1])
    geometry = Geometry("square", (SIZE, SIZE), (SIZE, SIZE))
    scores = []
    for name, roi in (("plain", None), ("region", Roi(24, 10, SIZE, SIZE))):
        write_bundle(tmp_path / f"{name}.edgead", replace(tiny_contents(), geometry=replace(geometry, roi=roi)))
        with judged_by(Config(), "", tmp_path / f"{name}.edgead") as product:
            scores.append(judge_image(product, tmp_path / "bad.png").event.score)
    assert scores[0] == scores[1] is not None


def test_recorded_parts_get_the_same_verdicts_in_order_whatever_the_number_of_jobs(
    recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(improvement, "physical_cores", lambda: 3)
    monkeypatch.setattr(selection, "physical_cores", lambda: 3)
    with Reader(recorded / "line.sqlite") as reader:
        parts = recorded_parts(reader, None, last=PARTS)
    judged, done = [], []
    for jobs in (1, 3):
        settings = Config(engine=EngineTable(jobs=jobs))
        with judged_by(settings, "", recorded / "part.edgead") as product:
            assert product.judge.at_once == jobs
            judged.append(judge_parts(product, parts, lambda number, of: done.append((number, of))))
    assert judged[0] == judged[1]
    assert [one.score for one in judged[0]] == [part.event.score for part in parts], "as the run has judged them"
    assert done == 2 * [(number, len(parts)) for number in range(1, len(parts) + 1)]


@pytest.mark.parametrize("warn_rejects", [False, True])
def test_a_bad_part_that_passes_now_refuses_the_bundle(warn_rejects: bool) -> None:
    event = StoredEvent("cam", 0, "1", 0.0, "WARN", 3.0, {}, 1.0, None, mark="bad")
    before, after = JudgedPart("WARN", 3.0, None), JudgedPart("OK", 1.0, None)
    comparison = Comparison([RecordedPart(event, Path("1.png"))], [before], [after], warn_rejects=warn_rejects)
    if not warn_rejects:  # it passed before
        comparison.check()
        return
    with pytest.raises(GateRefused, match="lets 1 parts pass"):
        comparison.check()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rollback"], "was not replaced here"),
        ([], "0 parts can be learned, and at least 10 are needed"),
        (["--product", "cap"], "edge-ad.toml has no products"),
        (["--margin", "-1"], "--margin is -1"),
        (["--accept", "abc"], "--accept abc: 0 marked parts fit"),
    ],
)
def test_bad_input_is_one_sentence(station: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert main(["improve", "part.edgead", *words]) == 2
    assert message in capsys.readouterr().err
    assert not Path("line.bundles.json").exists()
