"""`edge-ad views`: what a station sees, and thresholds on the score of all views."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_ad.bundle import open_bundle
from edge_ad.cli.app import main
from edge_ad.config import load_config
from edge_ad.events import Event
from edge_ad.inspection.inspector import RunOptions, inspect
from tests.camera.pictures import write_image
from tests.fixtures.tiny_bundle import make_tiny_bundle, tiny_image

PARTS = 12
SETTINGS = """
[run]
max_age_ms = 60000
store = "line.sqlite"
[engine]
backend = "onnxruntime"
precision = "fp32"
[thresholds]
target_ng = 0.1
target_warn = 0.2
[part]
views = ["top", "side"]
[view.top]
camera = "parts/top"
bundle = "top.edgead"
[view.side]
camera = "parts/side"
bundle = "side.edgead"
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("views")
    for seed, view in enumerate(("top", "side")):
        make_tiny_bundle(folder / f"{view}.edgead", seed)
        (folder / "parts" / view).mkdir(parents=True)
        for number in range(PARTS + 1 if view == "top" else PARTS):
            write_image(folder / "parts" / view / f"{number:02d}.png", tiny_image(3000 + 100 * seed + number))
    return folder


@pytest.fixture
def station(template: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(template)
    for name in ("line.sqlite", "views.json"):
        (template / name).unlink(missing_ok=True)
    (template / "edge-ad.toml").write_text(SETTINGS)
    return template


def test_views_are_listed_with_camera_and_bundle(station: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["views"]) == 0
    assert "side  camera parts/side  side.edgead" in capsys.readouterr().out


def test_thresholds_are_learned_from_folders_and_the_record_alike_and_a_run_judges_by_them(
    station: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["views", "learn", "parts"]) == 0
    message = capsys.readouterr().out
    assert "of 12 normal parts would be rejected" in message
    assert "1 parts without a score in all views were left out: 12.png: missing: view side" in message
    learned = json.loads(Path("views.json").read_text())
    assert learned["views"]["side"]["bundle"] == open_bundle(station / "side.edgead").sha256
    assert main(["run"]) == 0
    assert main(["views", "learn", "--since", "1h", "--out", "recorded.json"]) == 0
    recorded = json.loads(Path("recorded.json").read_text())
    assert recorded["thresholds"]["ng"] == pytest.approx(learned["thresholds"]["ng"], abs=1e-6)
    Path("edge-ad.toml").write_text(SETTINGS.replace('"side"]', '"side"]\nfused = "views.json"'))
    events: list[Event] = []
    inspect(None, [], RunOptions(load_config(), on_event=events.append))
    assert [event.verdict for event in events].count("NONE") == 1
    assert sum(event.verdict == "NG" for event in events) <= 2
    scores = [event.score for event in events if event.score is not None]
    assert min(scores) >= 0.0
    assert [row["score"] for row in events[0].views or ()] != [events[0].score] * 2


def test_thresholds_of_another_bundle_are_refused(station: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["views", "learn", "parts"]) == 0
    Path("edge-ad.toml").write_text(
        SETTINGS.replace('"side"]', '"side"]\nfused = "views.json"').replace('"side.edgead"', '"top.edgead"')
    )
    assert main(["run"]) == 2
    assert "views.json was learned with another bundle of view side" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["learn"], "needs a folder of normal parts, or --since"),
        (["learn", "nowhere"], "holds no images"),
        (["learn", "parts", "--product", "red"], "there is no product 'red'"),
        (["learn", "--since", "1h"], "there is no store"),
        (["forget"], "unknown action"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(
    station: Path, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["views", *words]) == 2
    assert sentence in capsys.readouterr().err
