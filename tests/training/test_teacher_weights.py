"""The teachers in the package: small enough, intact, and described."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

from edge_ad.cli.app import main
from edge_ad.weights import FOLDER, card_of, shipped, weights_of


def test_pdn_small_is_in_the_package() -> None:
    assert shipped() == ("pdn_small",)
    path = weights_of("pdn_small")
    assert path is not None
    # 2,694,144 parameters of two bytes, and a header.
    assert 2 * 2_694_144 < path.stat().st_size < 2 * 2_694_144 + 8192
    assert weights_of("pdn_medium") is None


def test_the_card_describes_the_weights() -> None:
    card = card_of("pdn_small")
    assert card["intact"] is True
    assert 0.0 < card["held_out_error"] < 0.6
    for key in ("source", "photographs", "steps", "batch", "side", "rate", "seed", "made_with", "sha256", "bytes"):
        assert card[key] not in (None, "", {}), key
    assert "MIT" in card["photographs"]["terms"]
    with safe_open(FOLDER / "pdn_small.safetensors", framework="np") as file:
        inside = json.loads(file.metadata()["card"])
    assert inside == {key: value for key, value in card.items() if key not in ("intact", "sha256", "bytes")}


def test_info_prints_the_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--teacher", "--json", str(tmp_path / "card.json")]) == 0
    output = capsys.readouterr().out
    assert output.startswith("pdn_small\n")
    assert f"sha256: {card_of('pdn_small')['sha256']}" in output
    assert json.loads((tmp_path / "card.json").read_text())["pdn_small"] == card_of("pdn_small")


def test_info_shows_one_thing_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--teacher", "--networks"]) == 2
    assert "got --networks and --teacher: leave out all but one" in capsys.readouterr().err


def test_the_card_needs_no_torch() -> None:
    program = (
        "import sys; from edge_ad.cli.app import main; main(['info', '--teacher']); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
