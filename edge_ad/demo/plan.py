"""How large a demonstration is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Plan:
    """Trays a split, frames of the video (half of them anomalous) and training steps (None: the preset's own)."""

    train: int = 240
    validation: int = 100
    test_good: int = 200
    test_logical: int = 120
    test_structural: int = 80
    video_frames: int = 200
    steps: int | None = None

    def line(self) -> dict[str, int]:
        """Return the arguments of ``write_line`` that this plan decides."""
        return {name: value for name, value in vars(self).items() if name != "steps"}

    def to_json(self) -> dict[str, Any]:
        """Return the plan as a JSON object."""
        return dict(vars(self))


FULL = Plan()
QUICK = Plan(
    train=48, validation=20, test_good=20, test_logical=12, test_structural=8, video_frames=20, steps=12
)  # fmt: skip
