"""Recipe of a teacher: a PDN learns the patch features of a source network on random crops of photographs.

Batzner, Heckler and König, EfficientAD (arXiv 2303.14535), section 3.1 and the appendix on pretraining. Ours: crops instead of
whole pictures, so that a few thousand photographs give millions of patches, and the PDN without padding, as it is used later.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from edge_ad.models.learning_pdn import LearningPdn
from edge_ad.models.patch_features import PatchFeatures
from edge_ad.models.pixels import ImageNetNormalise
from edge_ad.presets import Schedule
from edge_ad.training.augment import to_pixels
from edge_ad.training.device import Arithmetic
from edge_ad.training.photographs import Photographs
from edge_ad.training.sources import Source

CHUNK = 16
RIM = 4  # cells of the target's grid that no patch inside the picture describes


class DistillationRecipe:
    """Batches of random crops; the source sees them at twice the side, so that its stride of 8 is the PDN's of 4."""

    name = "teacher"

    def __init__(
        self,
        pdn: LearningPdn,
        source: Source,
        photographs: Photographs,
        held_out: NDArray[np.uint8],
        side: int,
        schedule: Schedule,
        arithmetic: Arithmetic,
    ) -> None:
        device = arithmetic.device
        self.schedule, self.arithmetic, self.side = schedule, arithmetic, side
        self.photographs, self.held_out = photographs, held_out
        self.pdn, self.image = pdn, ImageNetNormalise().to(device)
        self.module: nn.Module = pdn.to(device)
        self.source = source.to(device)
        self.patches = PatchFeatures(source.widths).to(device)
        for module in (self.module, self.source):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def measure(self, crops: int, seed: int) -> None:
        """Set mean and deviation of every target channel from ``crops`` random crops."""
        rng = np.random.default_rng([seed, 12])
        raw = [self._raw_target(self._pixels(self._crops(rng, CHUNK))) for _ in range(-(-crops // CHUNK))]
        stacked = torch.cat([part.double().transpose(0, 1).flatten(1).cpu() for part in raw], dim=1)
        mean, std = stacked.mean(dim=1).float(), stacked.std(dim=1, correction=0).float()
        self.patches.normalise.set(mean.to(self.arithmetic.device), std.to(self.arithmetic.device))

    def draw(self, rng: np.random.Generator) -> NDArray[np.uint8]:
        """Cut a batch of random crops."""
        return self._crops(rng, self.schedule.batch)

    def learn(self, crops: NDArray[np.uint8]) -> dict[str, Tensor]:
        """Compute the loss of one batch."""
        return {"loss": self._loss(self._pixels(crops))}

    def validate(self) -> float:
        """Return the mean squared error on held-out photographs; 1.0 is what a constant would reach."""
        total = 0.0
        for start in range(0, len(self.held_out), CHUNK):
            pixels = self._pixels(self.held_out[start : start + CHUNK])
            total += float(self._loss(pixels)) * len(pixels)
        return total / len(self.held_out)

    def target(self, pixels: Tensor) -> Tensor:
        """Return the source's normalised patch features f32 (B, 384, s, s) for pixels of twice the PDN's side."""
        out: Tensor = self.patches.normalise(self._raw_target(pixels))
        return out

    def predict(self, pixels: Tensor) -> Tensor:
        """Return what the PDN makes of the same pixels, at half their side."""
        small = F.avg_pool2d(pixels, 2)
        with self.arithmetic.autocast():
            out: Tensor = self.module(self.image(small).contiguous(memory_format=torch.channels_last))
        return out.float()

    def _loss(self, pixels: Tensor) -> Tensor:
        return F.mse_loss(self.predict(pixels), self.target(pixels))

    def _raw_target(self, pixels: Tensor) -> Tensor:
        with torch.no_grad(), self.arithmetic.autocast():
            layers = self.source(pixels.contiguous(memory_format=torch.channels_last))
            raw = self.patches.raw(layers)
        return raw[:, :, RIM:-RIM, RIM:-RIM].float()

    def _crops(self, rng: np.random.Generator, count: int) -> NDArray[np.uint8]:
        return self.photographs.random_crops(count, 2 * self.side, rng)

    def _pixels(self, images: NDArray[np.uint8]) -> Tensor:
        return to_pixels(images, self.arithmetic.device)
