"""A compact student for CPUs and small GPUs (ours): strided convolutions that see 38 pixels.

A small field of view keeps a student from learning a few hundred goods by heart, as the 33 pixels of a PDN do.
"""

from __future__ import annotations

from torch import Tensor, nn


class CompactStudent(nn.Module):
    """Map normalised images f32 (B, 3, S, S) to f32 (B, channels, S/8, S/8)."""

    def __init__(self, channels: int, width: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width // 4, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width // 4, width // 2, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width // 2, width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, channels, 1),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Predict the teacher's features, once for the local and once for the global branch."""
        out: Tensor = self.layers(image)
        return out
