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


@dataclass(frozen=True)
class DfscLoss:
    """Loss of the autoencoder and the share of novel features whose hinge is active."""

    loss: Tensor
    active: Tensor


def dfsc_loss(teacher: Tensor, autoencoder: Tensor, settings: DfscSettings) -> DfscLoss:
    """Return the autoencoder's loss for features f32 (B, C, h, w); the teacher carries no gradient.

    ``split`` replaces the plain loss by similar + hinge, ``additive`` keeps the plain loss, ``location`` splits positions
    instead of elements, ``off`` is plain EfficientAD.
    """
    distance = (teacher.detach() - autoencoder).square()
    if settings.mode == "off":
        return DfscLoss(distance.mean(), torch.zeros(()))
    split = distance.mean(dim=1, keepdim=True) if settings.mode == "location" else distance
    limit = sampled_quantile(split.detach().flatten(1), settings.quantile).view(-1, 1, 1, 1)
    novel = split.detach() >= limit
    similar_loss = distance.mean() if settings.mode == "additive" else split[~novel].mean()
    gap = F.relu(settings.margin - split[novel])
    return DfscLoss(similar_loss + settings.weight * gap.mean(), (gap.detach() > 0).float().mean())
