"""Teachers that travel in the package: half-precision safetensors, each with a model card beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edge_ad.utils.files import sha256_file

FOLDER = Path(__file__).parent


def shipped() -> tuple[str, ...]:
    """Return the kinds of teacher whose weights are in the package, for example ``("pdn_small",)``."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.safetensors")))


def weights_of(kind: str) -> Path | None:
    """Return the file of a teacher's weights, or None when the package has none of this kind."""
    return FOLDER / f"{kind}.safetensors" if kind in shipped() else None


def card_of(kind: str) -> dict[str, Any]:
    """Return the model card of a teacher in the package, with ``intact``: whether its weights have the card's SHA-256.
    """
    weights = FOLDER / f"{kind}.safetensors"
    card: dict[str, Any] = json.loads(weights.with_suffix(".json").read_text(encoding="utf-8"))
    return {**card, "intact": sha256_file(weights) == card["sha256"]}
