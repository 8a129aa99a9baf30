"""The Distinctive Feature Separation Constraint on EfficientAD's autoencoder.

Lee and Kim, Separating Novel Features for Logical Anomaly Detection (arXiv 2407.17909). The equations below are our reading of
its figures and captions: features that the autoencoder reproduces are imitated, the worst reproduced ("novel") ones are kept
at least a margin away from the teacher, so that student and autoencoder part on unseen patterns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from edge_ad.models.quantile import sampled_quantile
from edge_ad.models.settings import DfscSettings

WITH_HINGE = ("split", "additive", "location")


@dataclass(frozen=True)
class DfscLoss:
    """Loss of the autoencoder, the share of novel features whose hinge is active, their mean distance and its ``bound``.

    An autoencoder that stays within the teacher's range cannot be further away than 4 max(T^2), for (t - a)^2 <= 4 max(t^2, a^2);
    a hinge pushes no further than its margin. A mean distance beyond ``bound`` means that the hinge diverges (ours).
    """

    loss: Tensor
    active: Tensor
    novel: Tensor
    bound: Tensor


def dfsc_loss(teacher: Tensor, autoencoder: Tensor, settings: DfscSettings) -> DfscLoss:
    """Return the autoencoder's loss for features f32 (B, C, h, w); the teacher carries no gradient.

    ``split`` replaces the plain loss by similar + hinge, ``additive`` keeps the plain loss, ``location`` splits positions
    instead of elements, ``drop`` imitates the similar features only, ``off`` is plain EfficientAD. The margin is
    ``margin``, or ``kappa`` times the quantile of each picture without gradient.
    """
    distance = (teacher.detach() - autoencoder).square()
    nothing = torch.zeros((), device=distance.device)
    if settings.mode == "off":
        return DfscLoss(distance.mean(), nothing, nothing, nothing)
    split = distance.mean(dim=1, keepdim=True) if settings.mode == "location" else distance
    limit = sampled_quantile(split.detach().flatten(1), settings.quantile).view(-1, 1, 1, 1)
    novel = split.detach() >= limit
    loss = distance.mean() if settings.mode == "additive" else _mean(split[~novel])
    far = split.detach()[novel].mean()
    bound = 4.0 * teacher.detach().square().amax().clamp_min(settings.margin)
    if settings.mode not in WITH_HINGE:
        return DfscLoss(loss, nothing, far, bound)
    margin = settings.kappa * limit if settings.kappa else torch.full_like(limit, settings.margin)
    gap = F.relu(margin - split)[novel]
    return DfscLoss(loss + settings.weight * gap.mean(), (gap.detach() > 0).float().mean(), far, bound)


def _mean(values: Tensor) -> Tensor:
    """Mean that is 0 where all features are alike, so that none is similar."""
    return values.sum() / max(values.numel(), 1)
