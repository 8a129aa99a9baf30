"""EfficientAD: a student and an autoencoder that learn a frozen teacher's features of goods.

Batzner, Heckler and König, EfficientAD (arXiv 2303.14535), section 3. The student's first half imitates the teacher (local
branch), its second half the autoencoder (global branch).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from edge_ad.models.dfsc import DfscLoss, dfsc_loss
from edge_ad.models.pixels import ImageNetNormalise
from edge_ad.models.quantile import sampled_quantile
from edge_ad.models.settings import EfficientADSettings
from edge_ad.models.standardise import Standardise


@dataclass(frozen=True)
class EfficientADLosses:
    """The three losses of one batch, their sum, and what DFSC's hinge does (see DfscLoss).

    ``silence`` is the part of ``student`` that comes from pictures of other things.
    """

    student: Tensor
    autoencoder: Tensor
    pair: Tensor
    separation: DfscLoss
    silence: Tensor | None = None

    @property
    def total(self) -> Tensor:
        """Unweighted sum, as published."""
        return self.student + self.autoencoder + self.pair

    def with_silence(self, weight: float) -> EfficientADLosses:
        """Return the losses with silence counted ``weight`` times, for a process with a larger share of other things."""
        if self.silence is None or weight == 1.0:
            return self
        return replace(self, student=self.student + (weight - 1.0) * self.silence)


class EfficientAD(nn.Module):
    """Student (2C channels) and autoencoder (C channels) over RGB pixels in [0, 255].

    ``standardise`` measures the errors of the local and of the global branch against those on goods, once they are learned.
    """

    def __init__(
        self, student: nn.Module, autoencoder: nn.Module, standardise: tuple[Standardise, Standardise] | None = None
    ) -> None:
        super().__init__()
        self.normalise = ImageNetNormalise()
        self.student = student
        self.autoencoder = autoencoder
        self.standardise = None if standardise is None else nn.ModuleList(standardise)

    def forward(self, pixels: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return map_local and map_global, f32 (B, 1, h, w), for pixels (B, 3, H, W) and teacher features (B, C, h, w)."""
        errors = self._errors(pixels, features)
        if self.standardise is not None:
            errors = [standardise(one) for standardise, one in zip(self.standardise, errors, strict=True)]
        map_local, map_global = (one.square().mean(dim=1, keepdim=True) for one in errors)
        return map_local, map_global

    def _errors(self, pixels: Tensor, features: Tensor) -> list[Tensor]:
        """Return how the student errs beside the teacher, and its second half beside the autoencoder, f32 (B, C, h, w) each."""
        image = self.normalise(pixels)
        local, paired = self.student(image).chunk(2, dim=1)
        return [features - local, self.autoencoder(image) - paired]

    def learn_errors(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Learn from batches of goods, (pixels, teacher features), how both branches err, where errors are standardised."""
        if self.standardise is None:
            return
        with torch.no_grad():
            found = [self._errors(pixels, features) for pixels, features in pairs]
        for module, errors in zip(self.standardise, zip(*found, strict=True), strict=True):
            assert isinstance(module, Standardise)
            module.learn(torch.cat(errors))

    def losses(
        self,
        plain: tuple[Tensor, Tensor] | None,
        jittered: tuple[Tensor, Tensor],
        penalty: Tensor | None,
        settings: EfficientADSettings,
    ) -> EfficientADLosses:
        """Return the losses of methods section 4.5 with the DFSC term in place of the plain autoencoder loss.

        Each pair is (pixels f32 (B, 3, H, W), teacher features f32 (B, C, h, w)); ``jittered`` are the same pictures after
        a colour jitter, seen by the autoencoder's branch, and by the student too where ``plain`` is None. ``penalty`` are
        pictures of other things, on which the student is asked for silence.
        """
        pixels, features = jittered
        image = self.normalise(pixels)
        local, paired = self.student(image).chunk(2, dim=1)
        drawn = self.autoencoder(image)
        separated: DfscLoss = dfsc_loss(features, drawn, settings.dfsc)
        if plain is not None:
            local = self.student(self.normalise(plain[0])).chunk(2, dim=1)[0]
            features = plain[1]
        student = hard_loss((features - local).square(), settings.hard_quantile)
        silence = None
        if penalty is not None:
            silence = self.student(self.normalise(penalty)).chunk(2, dim=1)[0].square().mean()
            student = student + silence
        return EfficientADLosses(student, separated.loss, (drawn - paired).square().mean(), separated, silence)


def hard_loss(distance: Tensor, quantile: float) -> Tensor:
    """Return the mean of the distances f32 (B, C, h, w) at or above each image's own quantile."""
    rows = distance.flatten(1)
    limit = sampled_quantile(rows.detach(), quantile)
    hard = rows >= limit[:, None]
    return torch.where(hard, rows, torch.zeros_like(rows)).sum() / hard.sum()
