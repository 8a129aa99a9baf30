"""EfficientAD: a student and an autoencoder that learn a frozen teacher's features of normal images.

Batzner, Heckler and König, EfficientAD (arXiv 2303.14535), section 3. The student's first half imitates the teacher
(local branch), its second half the autoencoder (global branch).

Row-wise quantiles of large tensors by k-th value, without torch.quantile's limit of 2**24 elements.

The Distinctive Feature Separation Constraint on EfficientAD's autoencoder.

Lee and Kim, Separating Novel Features for Logical Anomaly Detection (arXiv 2407.17909). The equations below are our
reading of its figures and captions: features that the autoencoder reproduces are imitated, the worst reproduced
("novel") ones are kept at least a margin away from the teacher, so that student and autoencoder part on unseen
patterns.

The autoencoder of EfficientAD: an image through a bottleneck of 64 numbers to a feature map.

EfficientAD (arXiv 2303.14535), table 8. It has no skip connections, so it can only draw what follows from the whole
image.

A compact student for CPUs and small GPUs (ours): strided convolutions that see 38 pixels.

A small field of view keeps a student from learning a few hundred normal images by heart, as the 33 pixels of a PDN do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edge_ad.models.standardise import Standardise
from edge_ad.models.teachers import ImageNetNormalise
from edge_ad.presets.networks import DfscSettings, EfficientADSettings, Sides, Size, size_of


def sampled_quantile(values: Tensor, q: float) -> Tensor:
    """Return the lower ``q`` quantile of each row of f32 (B, N) as f32 (B,)."""
    count = values.shape[1]
    rank = min(count, max(1, int(q * (count - 1)) + 1))
    above = count - rank + 1
    return torch.topk(values, above, dim=1, sorted=True).values[:, -1]


WITH_HINGE = ("split", "additive", "location")


@dataclass(frozen=True)
class DfscLoss:
    """Loss of the autoencoder, the share of novel features whose hinge is active, their mean distance and its
    ``bound``, and the mean over the images of their ``median`` distance, which is 0 unless a warm-up asks for it.

    An autoencoder that stays within the teacher's range cannot be further away than 4 max(T^2), for (t - a)^2 <= 4
    max(t^2, a^2); a hinge pushes no further than its margin. A mean distance beyond ``bound`` means that the hinge
    diverges (ours).
    """

    loss: Tensor
    active: Tensor
    novel: Tensor
    bound: Tensor
    median: Tensor


def dfsc_loss(teacher: Tensor, autoencoder: Tensor, settings: DfscSettings) -> DfscLoss:
    """Return the autoencoder's loss for features f32 (B, C, h, w); the teacher carries no gradient.

    ``split`` replaces the plain loss by similar + hinge, ``additive`` keeps the plain loss, ``location`` splits
    positions instead of elements, ``drop`` imitates the similar features only, ``off`` is plain EfficientAD. The margin
    is ``margin``, or ``kappa`` times the quantile of each image without gradient; it is for the caller to take
    ``margin`` from a warm-up.
    """
    distance = (teacher.detach() - autoencoder).square()
    nothing = torch.zeros((), device=distance.device)
    if settings.mode == "off":
        return DfscLoss(distance.mean(), nothing, nothing, nothing, nothing)
    split = distance.mean(dim=1, keepdim=True) if settings.mode == "location" else distance
    rows = split.detach().flatten(1)
    limit = sampled_quantile(rows, settings.quantile).view(-1, 1, 1, 1)
    median = sampled_quantile(rows, (1 + settings.quantile) / 2).mean() if settings.warm_margin else nothing
    novel = split.detach() >= limit
    loss = distance.mean() if settings.mode == "additive" else _mean(split[~novel])
    far = split.detach()[novel].mean()
    bound = 4.0 * teacher.detach().square().amax().clamp_min(settings.margin)
    if settings.mode not in WITH_HINGE:
        return DfscLoss(loss, nothing, far, bound, median)
    margin = settings.kappa * limit if settings.kappa else torch.full_like(limit, settings.margin)
    gap = F.relu(margin - split)[novel]
    return DfscLoss(loss + settings.weight * gap.mean(), (gap.detach() > 0).float().mean(), far, bound, median)


def _mean(values: Tensor) -> Tensor:
    """Mean that is 0 where all features are alike, so that none is similar."""
    return values.sum() / max(values.numel(), 1)


@dataclass(frozen=True)
class EfficientADLosses:
    """The three losses of one batch, their sum, and what DFSC's hinge does (see DfscLoss).

    ``silence`` is the part of ``student`` that comes from images of other things.
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
        """Return the losses with silence counted ``weight`` times, for a process with a larger share of other things.
        """
        if self.silence is None or weight == 1.0:
            return self
        return replace(self, student=self.student + (weight - 1.0) * self.silence)


def error_map(errors: Tensor, standardise: nn.Module | None) -> Tensor:
    """Return the mean squares f32 (B, 1, h, w) of errors f32 (B, C, h, w), standardised or as they are."""
    standardised: Tensor = errors if standardise is None else standardise(errors)
    return standardised.square().mean(dim=1, keepdim=True)


class EfficientAD(nn.Module):
    """Student (2C channels) and autoencoder (C channels) over RGB pixels in [0, 255].

    ``standardise`` measures the errors of the local and of the global branch against those on normal images, once they
    are learned.
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
        """Return map_local and map_global, f32 (B, 1, h, w), for pixels (B, 3, H, W) and teacher features (B, C, h, w).
        """
        modules = (None, None) if self.standardise is None else self.standardise
        errors = self.errors(pixels, features)
        map_local, map_global = (error_map(one, module) for one, module in zip(errors, modules, strict=True))
        return map_local, map_global

    def global_map(self, pixels: Tensor) -> Tensor:
        """Return map_global alone, f32 (B, 1, h, w), for pixels (B, 3, H, W)."""
        image = self.normalise(pixels)
        error = self.autoencoder(image) - self.student(image).chunk(2, dim=1)[1]
        return error_map(error, None if self.standardise is None else self.standardise[1])

    def errors(self, pixels: Tensor, features: Tensor) -> list[Tensor]:
        """Return how the student errs beside the teacher, and its second half beside the autoencoder, f32 (B, C, h, w)
        each.
        """
        image = self.normalise(pixels)
        local, paired = self.student(image).chunk(2, dim=1)
        return [features - local, self.autoencoder(image) - paired]

    def learn_errors(self, pairs: Iterable[tuple[Tensor, Tensor]], tiles: int = 1) -> None:
        """Learn from batches of normal images, (pixels, teacher features), how both branches err, where errors are
        standardised; or of the ``tiles`` of each.
        """
        if self.standardise is None:
            return
        with torch.no_grad():
            pair_errors = [self.errors(pixels, features) for pixels, features in pairs]
        for module, errors in zip(self.standardise, zip(*pair_errors, strict=True), strict=True):
            assert isinstance(module, Standardise)
            module.learn(torch.cat(errors), tiles)

    def losses(
        self,
        plain: tuple[Tensor, Tensor] | None,
        jittered: tuple[Tensor, Tensor],
        penalty: Tensor | None,
        settings: EfficientADSettings,
    ) -> EfficientADLosses:
        """Return the losses of methods section 4.5 with the DFSC term in place of the plain autoencoder loss.

        Each pair is (pixels f32 (B, 3, H, W), teacher features f32 (B, C, h, w)); ``jittered`` are the same images
        after a colour jitter, seen by the autoencoder's branch, and by the student too where ``plain`` is None.
        ``penalty`` are images of other things, on which the student is asked for silence.
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


def published_sizes(side: int) -> tuple[int, ...]:
    """Return the decoder's six resize targets for an input of ``side`` pixels (256 gives 3, 8, 15, 32, 63, 127)."""
    return (side // 64 - 1, side // 32, side // 16 - 1, side // 8, side // 4 - 1, side // 2 - 1)


def decoder_sizes(image_size: Size, sizes: Sequence[int] | None = None, side: int = 256) -> tuple[Size, ...]:
    """Return (height, width) of the decoder's resize targets for an image of ``image_size``.

    Each axis has the published ones of its own length, or the ``sizes`` given for a square of ``side`` pixels, scaled.
    """
    if sizes is None:
        return tuple(zip(*map(published_sizes, image_size), strict=True))
    height, width = image_size
    return tuple((max(1, round(size * height / side)), max(1, round(size * width / side))) for size in sizes)


class AutoEncoder(nn.Module):
    """Map normalised images f32 (B, 3, H, W) to features f32 (B, channels, h, w).

    ``side`` is (H, W), ``grid`` (h, w) and ``sizes`` the decoder's resize targets; an int stands for a square.
    """

    def __init__(
        self,
        channels: int,
        grid: Sides,
        side: Sides = 256,
        sizes: Sequence[Sides] | None = None,
        *,
        latent: int = 64,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        widths = (3, 32, 32, 64, 64, 64)
        encoder: list[nn.Module] = []
        for before, after in pairwise(widths):
            encoder += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.ReLU()]
        height, width = size_of(side)
        self.encoder = nn.Sequential(*encoder, nn.Conv2d(64, latent, (height // 32, width // 32)))
        self.sizes = decoder_sizes((height, width)) if sizes is None else tuple(map(size_of, sizes))
        self.grid = size_of(grid)
        self.decoder = nn.ModuleList(
            nn.Conv2d(latent if index == 0 else 64, 64, 4, padding=2) for index in range(len(self.sizes))
        )
        self.dropout = nn.Dropout(dropout)
        self.refine = nn.Conv2d(64, 64, 3, padding=1)
        self.head = nn.Conv2d(64, channels, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """Reconstruct the teacher's features of a good part."""
        x: Tensor = self.encoder(image)
        for size, layer in zip(self.sizes, self.decoder, strict=True):
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
            x = self.dropout(F.relu(layer(x)))
        x = F.interpolate(x, size=self.grid, mode="bilinear", align_corners=False)
        out: Tensor = self.head(F.relu(self.refine(x)))
        return out


class CompactStudent(nn.Module):
    """Map normalised images f32 (B, 3, H, W) to f32 (B, channels, H/8, W/8)."""

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
