"""The autoencoder of EfficientAD: an image through a bottleneck of 64 numbers to a feature map.

EfficientAD (arXiv 2303.14535), table 8. It has no skip connections, so it can only draw what follows from the whole picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F


def published_sizes(side: int) -> tuple[int, ...]:
    """Return the decoder's six resize targets for an input of ``side`` pixels (256 gives 3, 8, 15, 32, 63, 127)."""
    return (side // 64 - 1, side // 32, side // 16 - 1, side // 8, side // 4 - 1, side // 2 - 1)


class AutoEncoder(nn.Module):
    """Map normalised images f32 (B, 3, S, S) to features f32 (B, channels, grid, grid)."""

    def __init__(
        self,
        channels: int,
        grid: int,
        side: int = 256,
        sizes: Sequence[int] | None = None,
        latent: int = 64,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        widths = (3, 32, 32, 64, 64, 64)
        encoder: list[nn.Module] = []
        for before, after in pairwise(widths):
            encoder += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.ReLU()]
        self.encoder = nn.Sequential(*encoder, nn.Conv2d(64, latent, side // 32))
        self.sizes = tuple(sizes if sizes is not None else published_sizes(side))
        self.grid = grid
        self.decoder = nn.ModuleList(
            nn.Conv2d(latent if index == 0 else 64, 64, 4, padding=2) for index in range(len(self.sizes))
        )
        self.dropout = nn.Dropout(dropout)
        self.refine = nn.Conv2d(64, 64, 3, padding=1)
        self.head = nn.Conv2d(64, channels, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """Reconstruct the teacher's features of a good part."""
        x: Tensor = self.encoder(image)
        for side, layer in zip(self.sizes, self.decoder, strict=True):
            x = F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)
            x = self.dropout(F.relu(layer(x)))
        x = F.interpolate(x, size=(self.grid, self.grid), mode="bilinear", align_corners=False)
        out: Tensor = self.head(F.relu(self.refine(x)))
        return out
