"""Presets are data: the paper's values stand here as published, and reading them needs no torch."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import fields, is_dataclass, replace
from fractions import Fraction
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from edge_ad.errors import BadInput
from edge_ad.presets.presets import FAST, PAPER, PAPER_M, PRESETS, Preset, Schedule, preset_named

PUBLISHED: dict[str, Any] = {
    # HVQ-Trans as LADMIM's tokenizer
    "hvq.width": 64,
    "hvq.codes": 512,
    "hvq.heads": 8,
    "hvq.feed_forward": 1024,
    "hvq.layers": 4,
    "hvq.dropout": 0.1,
    "hvq.seed_from_data": False,
    "teacher.kind": "pdn_small",
    "teacher.token_side": 224,
    "teacher.token_grid": 24,
    "tokenizer_schedule.batch": 8,
    "tokenizer_schedule.epochs": 1000,
    "tokenizer_schedule.rate": 1e-4,
    "tokenizer_schedule.weight_decay": 1e-4,
    "tokenizer_schedule.drop_at": 0.8,
    "tokenizer_schedule.clip": 0.1,
    "fusion.structure_side": 224,
    "fusion.structure_pool": 16,
    "fusion.structure_top": 1,
    # LAViT
    "lavit.width": 512,
    "lavit.depth": 4,
    "lavit.heads": 8,
    "lavit.mlp_ratio": 4.0,
    "lavit.layer_scale": 1e-4,
    "lavit.attention_dropout": 0.1,
    "masks.count": 10,
    "masks.share": pytest.approx(0.399, abs=5e-4),
    "masks.least_share": pytest.approx(0.16, abs=5e-4),
    "masks.train_least_share": pytest.approx(0.08, abs=5e-4),
    "lavit_schedule.batch": 32,
    "lavit_schedule.epochs": 1000,
    "lavit_schedule.rate": 1e-4,
    "lavit_schedule.warm_up": 40 / 1000,
    "lavit_schedule.clip": 1.0,
    "lavit_schedule.weight_decay": 1e-6,
    "lavit_schedule.fading_decay": True,
    "lavit_schedule.floor": 1e-6,
    "lavit_schedule.drop_last": True,
    "lavit_schedule.adam_w": True,
    "hvq.transport": 0.0,
    "tokenizer_schedule.adam_w": True,
    # EfficientAD-S
    "image_side": 256,
    "teacher.grid": 56,
    "efficientad.student": "pdn_small",
    "efficientad.decoder_sizes": (),
    "efficientad.dropout": 0.2,
    "efficientad.hard_quantile": 0.999,
    "efficientad.shared_jitter": False,
    "efficientad.cropped_penalty": True,
    "efficientad.dfsc.weight": 1.0,
    "penalty": True,
    "efficientad_schedule.steps": 70_000,
    "efficientad_schedule.batch": 1,
    "efficientad_schedule.rate": 1e-4,
    "efficientad_schedule.weight_decay": 1e-5,
    "efficientad_schedule.drop_at": 66_500 / 70_000,
    "efficientad_schedule.adam_w": False,
    "fusion.border": 4,
    "fusion.top": 1,
}


@pytest.mark.parametrize("path", PUBLISHED)
def test_paper_follows_the_publications(path: str) -> None:
    assert reduce(getattr, path.split("."), PAPER) == PUBLISHED[path]


def test_paper_masks_by_the_cell() -> None:
    """130 of 576 cells in training, 230 in use, blocks of at least 46 and 92."""
    masks = PAPER.masks
    shares = (*masks.train_shares, masks.share, masks.train_least_share, masks.least_share)
    assert [round(share * 576) for share in shares] == [130, 230, 46, 92]


def test_paper_m_is_paper_with_the_medium_network() -> None:
    medium = replace(PAPER_M.teacher, kind="pdn_small"), replace(PAPER_M.efficientad, student="pdn_small")
    assert (PAPER_M.teacher.kind, PAPER_M.efficientad.student) == ("pdn_medium", "pdn_medium")
    assert replace(PAPER_M, name="paper", teacher=medium[0], efficientad=medium[1]) == PAPER


METHODS = Path(__file__).parents[2] / "docs" / "methods.md"
ROW = re.compile(r"^\| `([a-z_.]+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \|", re.MULTILINE)


def leaves(value: Any, key: str = "") -> dict[str, Any]:
    """Return every single value of a preset by its key."""
    if not is_dataclass(value):
        return {key: value}
    result: dict[str, Any] = {}
    for entry in fields(value):
        result |= leaves(getattr(value, entry.name), f"{key}.{entry.name}" if key else entry.name)
    return result


def parsed(text: str, like: Any) -> Any:
    """Read a cell of the table as a value of the kind of ``like``; 130/576 is a quotient."""
    if isinstance(like, bool):
        return {"true": True, "false": False}[text]
    if isinstance(like, tuple):
        inner = text.strip("[]")
        return tuple(parsed(item.strip(), float("nan")) for item in inner.split(",")) if inner else ()
    return text if isinstance(like, str) else float(Fraction(text))


@pytest.mark.parametrize(("preset", "column"), [(FAST, 2), (PAPER, 3)], ids=["fast", "paper"])
def test_the_table_of_the_documentation_is_the_code(preset: Preset, column: int) -> None:
    table = {row[1]: row[column].strip() for row in ROW.finditer(METHODS.read_text())}
    values = leaves(preset)
    del values["name"]
    assert sorted(table) == sorted(values)
    for key, value in values.items():
        assert parsed(table[key], value) == value, key


def test_every_value_of_the_table_has_a_source() -> None:
    sources = {row[1]: row[4].strip() for row in ROW.finditer(METHODS.read_text())}
    assert set(sources) >= set(PUBLISHED)
    assert all(sources.values())
    readings = [key for key, source in sources.items() if source == "our reading of DFSC"]
    warm_up = [f"warm_{name}" for name in ("margin", "share", "window", "change")]
    assert readings == [f"efficientad.dfsc.{name}" for name in ("mode", "quantile", "margin", "weight", "kappa", *warm_up)]


@pytest.mark.parametrize("name", PRESETS)
def test_settings_are_plain_json_and_tell_presets_apart(name: str) -> None:
    settings = PRESETS[name].settings()
    assert json.loads(json.dumps(settings)) == settings
    assert settings["name"] == name
    assert preset_named(name) is PRESETS[name]
    changed = replace(PRESETS[name], hvq=replace(PRESETS[name].hvq, codes=99))
    assert changed.settings() != settings


def test_an_unknown_preset_lists_the_names() -> None:
    with pytest.raises(BadInput, match="preset 'papre' is unknown: choose one of demo, fast, paper, paper-m"):
        preset_named("papre")


@pytest.mark.parametrize(
    ("schedule", "goods", "steps"),
    [
        (Schedule(600, 16, 1e-3), 5, 600),
        (Schedule(0, 8, 1e-4, epochs=1000), 335, 42_000),  # 41.9 batches a pass, the last one not full
        (Schedule(0, 8, 1e-4, epochs=3), 16, 6),
        (Schedule(0, 8, 1e-4, epochs=2), 1, 2),
        (Schedule(0, 8, 1e-4), 10, 1),
        (Schedule(0, 32, 1e-4, epochs=1000, drop_last=True), 335, 10_000),  # ten whole batches a pass
        (Schedule(0, 32, 1e-4, epochs=10, drop_last=True), 20, 10),
    ],
)
def test_steps_for(schedule: Schedule, goods: int, steps: int) -> None:
    assert schedule.steps_for(goods) == steps


def test_reading_presets_needs_no_torch() -> None:
    code = "import sys, edge_ad.presets.presets; print([name for name in ('torch', 'numpy', 'cv2') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
