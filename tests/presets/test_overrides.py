"""Single values of a preset by key: what is taken, and with which words the rest is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edge_ad.errors import BadInput
from edge_ad.presets.presets import FAST, with_values


def test_values_of_every_kind() -> None:
    texts = [
        "efficientad.dfsc.mode=off",
        "lavit.width = 256",
        "hvq.transport=80",
        "penalty=false",
        "masks.train_shares=[0.2, 0.3]",
    ]
    result = with_values(FAST, texts)
    assert result.efficientad.dfsc.mode == "off"
    assert (result.lavit.width, result.hvq.transport, result.penalty) == (256, 80.0, False)
    assert isinstance(result.hvq.transport, float)
    assert result.masks.train_shares == (0.2, 0.3)
    unchanged = replace(
        result, efficientad=FAST.efficientad, lavit=FAST.lavit, hvq=FAST.hvq, penalty=FAST.penalty, masks=FAST.masks
    )
    assert unchanged == FAST
    assert with_values(FAST, []) is FAST


def test_two_rules_for_one_margin_are_refused() -> None:
    with pytest.raises(BadInput, match=r"kappa=1\.5 and warm_margin=1, and each sets the margin: make one of them 0"):
        with_values(FAST, ["efficientad.dfsc.warm_margin=1", "efficientad.dfsc.kappa=1.5"])
    fixed = with_values(FAST, ["efficientad.dfsc.warm_margin=1", "efficientad.dfsc.warm_margin=0"])
    assert fixed == with_values(FAST, ["efficientad.dfsc.warm_margin=0"])


def test_the_last_of_several_wins() -> None:
    assert with_values(FAST, ["masks.count=4", "masks.count=8"]).masks.count == 8


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("masks.count", ["has no '='", "KEY=VALUE"]),
        ("mask.count=4", ["no 'mask'", "did you mean 'masks'?", "lavit"]),
        ("masks.cuont=4", ["no 'cuont'", "did you mean 'count'?"]),
        ("masks=4", ["is a group", "masks.count"]),
        ("masks.count.x=4", ["'count' is a single value"]),
        ("name=mine", ["no 'name'"]),
        ("efficientad.dfsc.mode=of", ["choose one of split, additive, location, drop, off"]),
        ("masks.count=0", ["must be 1 or more"]),
        ("masks.count=4.5", ["'4.5' is not a whole number"]),
        ("masks.count=true", ["is not a whole number"]),
        ("masks.count=many", ["'many' is not a whole number"]),
        ("hvq.transport=-1", ["must be 0 or more"]),
        ("hvq.transport=Infinity", ["must be 0 or more"]),
        ("masks.share=1.2", ["from 0 to 1"]),
        ("efficientad.dfsc.warm_window=20", ["from 0 to 1"]),
        ("penalty=1", ["true or false"]),
        ("masks.train_shares=0.4", ["a list in brackets, each a number"]),
        ('masks.train_shares=["a"]', ["is not a number"]),
    ],
)
def test_refusals(text: str, words: list[str]) -> None:
    with pytest.raises(BadInput) as caught:
        with_values(FAST, [text])
    assert str(caught.value).startswith("--setting ")
    for word in words:
        assert word in str(caught.value)


def test_every_variant_of_the_memory_can_be_asked_for() -> None:
    for variant in ("auto", "gaussian", "global", "local", "off"):
        assert with_values(FAST, (f"memory.variant={variant}",)).memory.variant == variant
