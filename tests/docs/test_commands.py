"""Every command of the documentation runs, page by page, in a station in miniature; what cannot run is named here, with why."""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from edge_ad.cli.app import app, main
from tests.docs.documents import ROOT, Command, commands, current_pages, name_of, pages
from tests.docs.station import CAMERA, SETTINGS, SETTINGS_OF, make_template, quick_training, stand_ins

# These are only checked against the command line's own grammar. A pattern, and why it cannot run here.
CANNOT_RUN = (
    (r"edge-ad distill-teacher", "trains for half an hour; tests/training runs it in small"),
    (r"--trigger (modbus|gpio|mqtt|s7|enip)|--presence trigger", "waits for a PLC; tests/inspection runs it"),
    (r"--presence (settled|learned)", "the miniature normal images are noise and resemble each other too little"),
    (r"edge-ad challenge (start|override)", "asks a run that is up; tests/inspection runs it"),
    (r"edge-ad product select", "asks a run; tests/inspection/test_products.py does"),
    (r"edge-ad improve", "needs ten parts that are marked; tests/inspection/test_improvement.py does"),
    (r"edge-ad fleet (rollout|status|rollback|install)", "asks stations that run; tests/fleet does"),
    (r"edge-ad web", "serves until it is stopped; tests/web runs it"),
    (r"--(roi|tiles)", "the miniature normal images are smaller than the region; tests/inspection runs it"),
)
# What it finds depends on the machine; the miniature networks lose too much in 8 bits.
ALLOWED = {r"edge-ad doctor": {0, 2, 3}, r"edge-ad build-engine.* --int8": {0, 4}}

PAGES = [page for page in pages() if any(command.words[0] == "edge-ad" for command in commands(page))]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_template(tmp_path_factory.mktemp("template"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["run", "part.edgead", "--camera", CAMERA, "--store", "runs/line.sqlite"]) == 0
    return folder


def reason_not_to_run(command: Command) -> str | None:
    return next((why for pattern, why in CANNOT_RUN if re.search(pattern, str(command))), None)


def check_grammar(words: tuple[str, ...]) -> None:
    """Parse without running: unknown commands and flags, wrong numbers of arguments and wrong types are told."""
    group: Any = typer.main.get_command(app)
    command = group.get_command(None, words[0])
    assert command is not None, f"there is no command {words[0]}"
    command.make_context(f"edge-ad {words[0]}", list(words[1:]))


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_commands_of_a_page_run_one_after_the_other(
    page: Path, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    station = tmp_path / "station"
    shutil.copytree(template, station)
    monkeypatch.chdir(station)
    monkeypatch.setenv("SETS", str(station / "sets"))
    quick_training(monkeypatch, template / "part.edgead")
    results = [command for command in commands(page) if command.words[0] == "edge-ad"]
    if not any(command.words[1:2] == ("init",) for command in results):
        Path("edge-ad.toml").write_text(SETTINGS_OF.get(name_of(page), SETTINGS))
    seen: set[tuple[str, ...]] = set()
    for command in results:
        for name, value in command.settings.items():
            monkeypatch.setenv(name, os.path.expandvars(value))
        words = tuple(os.path.expandvars(word) for word in stand_ins(command.words[1:]))
        if words in seen:
            continue
        seen.add(words)
        if reason_not_to_run(command) is not None:
            check_grammar(words)
            continue
        answers = "a password of the tests\n" if words[0] == "users" else "\n" * 9  # whoever asks gets the default
        monkeypatch.setattr(sys, "stdin", io.StringIO(answers))
        code = main(words)
        allowed = next((codes for pattern, codes in ALLOWED.items() if re.match(pattern, str(command))), {0})
        assert code in allowed, f"{command.where}: {command}: exit {code}: {capsys.readouterr().err}"


def test_what_cannot_run_is_still_in_the_documentation() -> None:
    known = [str(command) for page in PAGES for command in commands(page) if command.words[0] == "edge-ad"]
    idle = [pattern for pattern, _ in CANNOT_RUN if not any(re.search(pattern, text) for text in known)]
    assert not idle


@pytest.mark.parametrize("page", current_pages(), ids=name_of)
def test_scripts_that_a_page_calls_exist(page: Path) -> None:
    for command in commands(page):
        words = [word for word in command.words[:2] if re.match(r"(tools|tests|docker)/[\w./-]+$", word)]
        missing = [word for word in words if not (ROOT / word).exists()]
        assert not missing, command.where


@pytest.mark.parametrize("page", current_pages(), ids=name_of)
def test_tools_that_a_page_names_exist(page: Path) -> None:
    named = set(re.findall(r"\btools/[\w./-]*\w", page.read_text(encoding="utf-8")))
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []
