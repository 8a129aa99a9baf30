"""An option is declared once, as a key with a flag: its name, type, default, help and check come from there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import pytest
import typer
from pydantic import Field

from edge_ad.cli.options import options_of
from edge_ad.config import Flag, Table, with_flags
from edge_ad.errors import BadInput


class Belt(Table):
    """A table of three flags and a key without one."""

    speed: Annotated[float, Field(gt=0), Flag("Speed in metres a second.")] = 0.5
    mode: Annotated[Literal["up", "down"], Flag("Which way [up].", names=("--mode", "-m"))] = "up"
    marks: Annotated[list[str], Flag("A mark (repeats).", "NAME")] = Field(default_factory=list)
    hidden: Annotated[int | None, Field(ge=1)] = None


def run(arguments: list[str], capsys: pytest.CaptureFixture[str] | None = None) -> Belt:
    """Return the table that a command of these flags makes of its arguments."""
    made: list[Belt] = []
    app = typer.Typer(add_completion=False, rich_markup_mode=None)

    @app.command()
    @options_of(Belt)
    def command(flags: Mapping[str, object], folder: Annotated[Path, typer.Argument()] = Path(".")) -> None:
        assert folder == Path(".")
        made.append(with_flags(Belt(), flags))

    typer.main.get_command(app)(arguments, standalone_mode=False)
    return made[0] if made else Belt()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], Belt()),
        (["--speed", "2"], Belt(speed=2.0)),
        (["-m", "down", "--marks", "a", "--marks", "b"], Belt(mode="down", marks=["a", "b"])),
    ],
)
def test_flags_take_the_place_of_keys(arguments: list[str], expected: Belt) -> None:
    assert run(arguments) == expected


def test_a_value_is_checked_as_in_the_file() -> None:
    with pytest.raises(BadInput, match="--speed is .*0.0.*greater than 0"):
        run(["--speed", "0"])
    with pytest.raises(BadInput, match="--mode is 'sideways'"):
        run(["--mode", "sideways"])


def test_the_help_holds_the_default_and_a_key_without_a_flag_is_no_option(capsys: pytest.CaptureFixture[str]) -> None:
    run(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "Speed in metres a second [0.5]." in text
    assert "Which way [up]." in text
    assert "--marks NAME" in text
    assert "hidden" not in text
