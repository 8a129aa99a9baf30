"""edge-ad.toml: what is accepted, what is refused, and with which words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edge_ad.cli.init import render
from edge_ad.config import Config, load_config, model_of, parse_config, parse_pixels
from edge_ad.errors import BadInput


def test_an_absent_file_means_defaults(tmp_path: Path) -> None:
    config = load_config(tmp_path / "edge-ad.toml")
    assert config == Config()
    assert config.train.preset == "fast"
    assert config.run.camera == []
    assert (config.thresholds.target_ng, config.thresholds.target_warn) == (0.01, 0.05)


def test_values_are_read(tmp_path: Path) -> None:
    path = tmp_path / "edge-ad.toml"
    path.write_text(
        '[data]\npath = "data/good"\n[train]\npreset = "paper"\nsteps = 50\n'
        '[engine]\nprecision = "fp16"\n[run]\ncamera = ["0", "line.mp4"]\nevents = "events.jsonl"\n'
    )
    config = load_config(path)
    assert config.data.path == Path("data/good")
    assert (config.train.preset, config.train.steps) == ("paper", 50)
    assert config.engine.precision == "fp16"
    assert config.engine.backend is None
    assert config.run.camera == ["0", "line.mp4"]
    assert config.run.events == Path("events.jsonl")


@pytest.mark.parametrize(
    ("value", "expected"),
    [("0", ["0"]), ('"synthetic://line"', ["synthetic://line"]), ('[0, "a.mp4"]', ["0", "a.mp4"]), ("[]", [])],
)
def test_cameras_may_stand_alone_and_be_numbers(value: str, expected: list[str]) -> None:
    assert parse_config(f"[run]\ncamera = {value}\n").run.camera == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[train]\npresett = 'fast'\n", ["unknown key 'presett' in [train]", "did you mean 'preset'?", "steps"]),
        ("[training]\nsteps = 3\n", ["unknown key 'training' in the file", "did you mean 'train'?", "thresholds"]),
        ("zzz = 3\n", ["unknown key 'zzz'", "data, train, tolerance, thresholds, engine, run"]),
        ("[train]\nsteps = 'many'\n", ["train.steps is 'many'", "integer"]),
        ("[train]\nsteps = 0\n", ["train.steps is 0", "greater than or equal to 1"]),
        ("[engine]\nprecision = 'fp8'\n", ["engine.precision is 'fp8'", "'fp32', 'fp16' or 'int8'"]),
        ("[thresholds]\ntarget_ng = 2\n", ["thresholds.target_ng is 2", "less than 1"]),
        ("[run]\ncamera = true\n", ["run.camera is True"]),
        ("[run]\ncamera = [true]\n", ["run.camera is True"]),
        ("data = 3\n", ["data is 3"]),
        ("[train\n", ["not valid TOML"]),
    ],
)
def test_faults_are_named(text: str, words: list[str]) -> None:
    with pytest.raises(BadInput) as caught:
        parse_config(text, "edge-ad.toml")
    for word in ["edge-ad.toml", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize("content", [b"\xff\xfe[data]", b"[data]\npath = \x00"])
def test_a_file_that_is_no_text_is_bad_input(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "edge-ad.toml"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"edge-ad\.toml"):
        load_config(path)


def test_a_folder_in_place_of_the_file_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot read"):
        load_config(tmp_path)


def test_a_config_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Config().train.steps = 3  # type: ignore[misc]


ANSWERS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1)


@given(data=ANSWERS, camera=ANSWERS)
def test_what_init_writes_reads_back(data: str, camera: str) -> None:
    config = parse_config(render(data, camera, "fast"))
    assert config.data.path == Path(data)
    assert config.run.camera == [camera]
    assert config.train.preset == "fast"


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYS = ["path", "preset", "steps", "seed", "target_ng", "precision", "camera", "save", "other"]


def refusal(text: str) -> str:
    """Return why the text is refused, or nothing when it is accepted."""
    try:
        parse_config(text)
    except BadInput as error:
        return str(error)
    return ""


@given(table=st.sampled_from(list(Config.model_fields)), key=st.sampled_from(KEYS), value=JSON_VALUES)
def test_any_value_is_accepted_or_reported_in_a_sentence(table: str, key: str, value: Any) -> None:
    message = refusal(f"[{table}]\n{key} = {json.dumps(value)}\n")
    assert message == "" or message.startswith("edge-ad.toml")


def _number_keys() -> list[tuple[str, str]]:
    results = []
    for table in Config.model_fields:
        model, named = model_of(table)
        for key, facts in model.model_json_schema()["properties"].items():
            options = facts.get("anyOf", [facts])
            if any(option.get("type") in ("number", "integer") for option in options):
                results.append((f"{table}.a" if named else table, key))
    return results


@pytest.mark.parametrize(("table", "key"), _number_keys())
@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1" + "0" * 400, "-1" + "0" * 400, "1" + "0" * 5000])
def test_no_number_is_without_end(table: str, key: str, value: str) -> None:
    """An endless age would switch a check off; a number too long for a float must not be a traceback."""
    with pytest.raises(BadInput):
        parse_config(f"[{table}]\n{key} = {value}\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[product.a]\nbundle = "x"\nmatch = "("', r"product\.a\.match is '\(': no regular expression \(.*\): write one such as"),
        ('[product.a]\nbundle = "x"\nmatch = "^((A+)B?)*$"', r"match is .*: a repetition of something that is repeated"),
        ('[product.a]\nbundle = "x"\nmatch = "(a|a)+"', r"match is .*repeated itself or has alternatives"),
        ('[product.a]\nbundle = "x"\nmatch = "((a|a)){30}"', r"match is .*repeated itself or has alternatives"),
        ('[product.a]\nbundle = "x"\nmatch = "a?a?a?a?a?a?a?aaaaaaa"', r"match is .*: more than 6 repetitions, options and groups"),
        ('[product.a]\nbundle = "x"\nmatch = "(a|a)(a|a)(a|a)(a|a)(a|a)(a|a)(a|a)"', r"match is .*: more than 6 repetitions"),
        ('[product.a]\nbundle = "x"\nmatch = "A"\n[product.b]\nbundle = "y"\nmatch = "A"', "a and b have the pattern 'A' both"),
        ('[product.a]\nbundle = "x"\ncode = 1\n[product.b]\nbundle = "y"\ncode = 1', "a and b have the code 1 both"),
        ("[product.a]\ncode = 1", r"a has no bundle: add it"),
        ('[product.a]\nbundle = "x"\ncode = 0', r"product\.a\.code is 0: input should be greater than or equal to 1"),
        ('[product."cap red"]\nbundle = "x"', "'cap red' is no name of a product: write letters"),
        ('[product.a]\nbundle = "x"\nmach = "A"', r"unknown key 'mach' in \[product\.a\]: did you mean 'match'\?"),
        ('[product.a]\nbundle = "x"\n[product.a.alarm]\nlach = true', r"in \[product\.a\.alarm\]: did you mean 'latch'\?"),
    ],
)
def test_a_product_that_cannot_be_is_refused_in_a_sentence(text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        parse_config(text)


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    (tmp_path / "edge-ad.toml").write_bytes(b"\xef\xbb\xbf[run]\ncamera = 3\n")
    assert load_config(tmp_path / "edge-ad.toml").run.camera == ["3"]


@pytest.mark.parametrize(("text", "pixels"), [("12px", 12.0), ("12", 12.0), (" 2.5 px ", 2.5), ("99999px", 99999.0)])
def test_a_length_in_pixels(text: str, pixels: float) -> None:
    assert parse_pixels("--smallest-defect", text) == pixels


@pytest.mark.parametrize("text", ["", "0", "0px", "-3px", "2mm", "1e3", "inf", "100000", "12px 3px", "x" * 1000])
def test_what_is_no_length_in_pixels_is_refused_by_name(text: str) -> None:
    with pytest.raises(BadInput, match="--smallest-defect is .{1,90}: give a length in pixels of the image, .* such as 12px"):
        parse_pixels("--smallest-defect", text)
