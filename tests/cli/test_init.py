"""`edge-ad init` asks, writes and never overwrites by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from edge_ad.cli.app import app, main
from edge_ad.config import load_config
from edge_ad.errors import BadInput
from edge_ad.presets.presets import PRESETS


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "typed", "expected"),
    [
        (["--yes"], "", ("data/good", "0", "fast")),
        ([], "\n\n\n", ("data/good", "0", "fast")),
        ([], "parts\nline.mp4\npaper\n", ("parts", "line.mp4", "paper")),
        (["--data", "parts"], "1\ndemo\n", ("parts", "1", "demo")),
        (["--data", "a b", "--camera", "line.mp4", "--preset", "demo"], "", ("a b", "line.mp4", "demo")),
        (["--camera", "2", "--yes"], "", ("data/good", "2", "fast")),
    ],
)
def test_answers_reach_the_file(arguments: list[str], typed: str, expected: tuple[str, str, str]) -> None:
    result = CliRunner().invoke(app, ["init", *arguments], input=typed)
    assert result.exit_code == 0, result.output
    config = load_config()
    assert (str(config.data.path), config.run.camera, config.train.preset) == (expected[0], [expected[1]], expected[2])


def test_a_missing_folder_is_reported(tmp_path: Path) -> None:
    assert "is not there yet" in CliRunner().invoke(app, ["init", "--yes"]).output
    (tmp_path / "data" / "good").mkdir(parents=True)
    assert "is not there yet" not in CliRunner().invoke(app, ["init", "--yes", "--force"]).output


def test_an_existing_file_is_kept_without_force(capsys: pytest.CaptureFixture[str]) -> None:
    Path("edge-ad.toml").write_text("# mine\n")
    assert main(["init", "--yes"]) == 2
    assert "--force" in capsys.readouterr().err
    assert Path("edge-ad.toml").read_text() == "# mine\n"
    assert main(["init", "--yes", "--force"]) == 0
    assert load_config().run.camera == ["0"]


def test_an_unknown_preset_lists_the_presets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--yes", "--preset", "quick"]) == 2
    assert f"unknown preset 'quick': choose one of {', '.join(PRESETS)}" in capsys.readouterr().err
    assert not Path("edge-ad.toml").exists()


def test_no_answer_is_bad_input() -> None:
    result = CliRunner().invoke(app, ["init"], input="parts\n")
    assert isinstance(result.exception, BadInput)
    assert "--yes" in str(result.exception)
    assert not Path("edge-ad.toml").exists()
