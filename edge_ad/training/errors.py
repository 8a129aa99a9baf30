"""How trained networks err on goods, where their settings want errors standardised."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from edge_ad.engines.proof import evenly, spread
from edge_ad.models.build import AnyTeacher
from edge_ad.models.efficientad import EfficientAD
from edge_ad.models.hvq import HvqTokenizer
from edge_ad.training.augment import to_pixels
from edge_ad.training.device import Arithmetic
from edge_ad.training.pictures import Images

GOODS = 128  # each gives hundreds of cells
CHUNK = 16


def learn_tokenizer_errors(tokenizer: HvqTokenizer, tokens: Tensor, arithmetic: Arithmetic) -> None:
    """Tell a trained tokenizer how it draws tokens f32 (N, C, n, n) of learned goods; nothing where it need not know."""
    chosen = tokens[evenly(len(tokens), GOODS)]
    tokenizer.eval().learn_errors(_parts(chosen, arithmetic))


def _parts(tokens: Tensor, arithmetic: Arithmetic) -> list[Tensor]:
    return [tokens[start : start + CHUNK].to(arithmetic.device) for start in range(0, len(tokens), CHUNK)]


def learn_student_errors(model: EfficientAD, teacher: AnyTeacher, goods: Images, arithmetic: Arithmetic) -> None:
    """Tell a trained EfficientAD how its student errs on learned goods u8 [N, S, S, 3]; nothing where it need not know."""

    def pairs() -> Iterator[tuple[Tensor, Tensor]]:
        chosen = spread(goods, GOODS)
        for start in range(0, len(chosen), CHUNK):
            pixels = to_pixels(chosen[start : start + CHUNK], arithmetic.device)
            with torch.no_grad():
                yield pixels, teacher(pixels).features

    model.eval().learn_errors(pairs())
