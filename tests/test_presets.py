"""Presets are data: the paper's values stand here as published, and reading them needs no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from functools import reduce
from typing import Any

import pytest

from edge_ad.errors import BadInput
from edge_ad.presets import PAPER, PRESETS, Schedule, preset_named

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
    # EfficientAD-S
    "image_side": 256,
    "teacher.grid": 56,
    "efficientad.student": "pdn_small",
    "efficientad.decoder_sizes": (),
    "efficientad.dropout": 0.2,
    "efficientad.hard_quantile": 0.999,
    "efficientad.shared_jitter": False,
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


@pytest.mark.parametrize("name", PRESETS)
def test_settings_are_plain_json_and_tell_presets_apart(name: str) -> None:
    settings = PRESETS[name].settings()
    assert json.loads(json.dumps(settings)) == settings
    assert settings["name"] == name
    assert preset_named(name) is PRESETS[name]
    changed = replace(PRESETS[name], hvq=replace(PRESETS[name].hvq, codes=99))
    assert changed.settings() != settings


def test_an_unknown_preset_lists_the_names() -> None:
    with pytest.raises(BadInput, match="preset 'papre' is unknown: choose one of demo, fast, paper"):
        preset_named("papre")


@pytest.mark.parametrize(
    ("schedule", "goods", "steps"),
    [
        (Schedule(600, 16, 1e-3), 5, 600),
        (Schedule(0, 8, 1e-4, epochs=1000), 335, 42_000),  # 41.9 batches a pass, the last one not full
        (Schedule(0, 8, 1e-4, epochs=3), 16, 6),
        (Schedule(0, 8, 1e-4, epochs=2), 1, 2),
        (Schedule(0, 8, 1e-4), 10, 1),
    ],
)
def test_steps_for(schedule: Schedule, goods: int, steps: int) -> None:
    assert schedule.steps_for(goods) == steps


def test_reading_presets_needs_no_torch() -> None:
    code = "import sys, edge_ad.presets; print([name for name in ('torch', 'numpy', 'cv2') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
