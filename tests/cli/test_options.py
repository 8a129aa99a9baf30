"""An option is declared once, as a key with a flag: its name, type, default, help and check come from there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer

from edge_ad.cli.options import options_of
from edge_ad.config import Config, EngineTable, RunTable
from edge_ad.errors import BadInput


def run(arguments: Sequence[str], file: Config | None = None) -> tuple[Config, Mapping[str, Mapping[str, object]]]:
    """Return the settings and flags that a command of [run] and one key of [engine] gets."""
    result: list[Any] = []
    app = typer.Typer(add_completion=False, rich_markup_mode=None)

    @app.command()
    @options_of("run", "engine.backend")
    def command(
        settings: Config, flags: Mapping[str, Mapping[str, object]], folder: Annotated[Path, typer.Argument()] = Path(".")
    ) -> None:
        assert folder == Path(".")
        result.extend((settings, flags))

    typer.main.get_command(app)(list(arguments), standalone_mode=False, obj=file or Config())
    return (result[0], result[1]) if result else (Config(), {})


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], Config()),
        (["--hold-ms", "200"], Config(run=RunTable(hold_ms=200.0))),
        (["--output", "a:", "--alarm", "b:"], Config(run=RunTable(alarm=["a:", "b:"]))),
        (["--backend", "tensorrt"], Config(engine=EngineTable(backend="tensorrt"))),
    ],
)
def test_flags_take_the_place_of_keys(arguments: list[str], expected: Config) -> None:
    assert run(arguments)[0] == expected


def test_a_command_that_asks_gets_the_flags_alone() -> None:
    settings, flags = run(["--hold-ms", "200"], Config(run=RunTable(hold_ms=300.0, roi="0,0,8,8")))
    assert (settings.run.hold_ms, settings.run.roi) == (200.0, "0,0,8,8")
    assert {key: value for key, value in flags["run"].items() if value} == {"hold_ms": 200.0}
    assert flags["engine"] == {"backend": None}


def test_a_value_is_checked_as_in_the_file() -> None:
    with pytest.raises(BadInput, match="--hold-ms is .*0.0.*greater than or equal to 10"):
        run(["--hold-ms", "0"])
    with pytest.raises(BadInput, match="--presence is 'sideways'"):
        run(["--presence", "sideways"])


def test_the_help_holds_the_default_and_a_key_without_a_flag_is_no_option(capsys: pytest.CaptureFixture[str]) -> None:
    run(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "Outputs reject so long after the last verdict [500]." in text
    assert "WARN above this score [the bundle's]." in text
    assert "--output, --alarm URI" in text
    assert "--backlog" not in text
    assert "--precision" not in text


def test_tables_of_a_command_may_share_no_key() -> None:
    with pytest.raises(ValueError, match="duplicate parameter name: 'seed'"):
        options_of("train", "evaluate")(lambda settings: None)
