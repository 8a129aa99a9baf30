"""Pooled patches of a source network against the published steps, taken one after the other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from edge_ad.models.teachers import PatchFeatures, projections


def step_by_step(layers: list[Tensor], per_layer: int, channels: int) -> Tensor:
    """Unfold, resize coarser layers' patches, average each patch vector, stack the layers, average again."""
    batch, _, height, width = layers[0].shape
    vectors = []
    for layer in layers:
        patches = F.unfold(layer, 3, padding=1)
        patches = patches.view(batch, -1, *layer.shape[2:])
        patches = F.interpolate(patches, size=(height, width), mode="bilinear", align_corners=False)
        flat = patches.permute(0, 2, 3, 1).reshape(-1, patches.shape[1])
        vectors.append(F.adaptive_avg_pool1d(flat.unsqueeze(1), per_layer)[:, 0])
    pooled = F.adaptive_avg_pool1d(torch.stack(vectors, dim=1).flatten(1).unsqueeze(1), channels)[:, 0]
    return pooled.view(batch, height, width, channels).permute(0, 3, 1, 2)


@pytest.mark.parametrize("widths", [(5,), (5, 7), (16, 3, 9)])
@pytest.mark.parametrize(("per_layer", "channels"), [(32, 24), (20, 7)])
def test_one_convolution_a_layer_is_the_same(widths: tuple[int, ...], per_layer: int, channels: int) -> None:
    torch.manual_seed(0)
    layers = [torch.randn(2, width, 8 >> number, 8 >> number) for number, width in enumerate(widths)]
    result = PatchFeatures(widths, channels, per_layer).raw(layers)
    torch.testing.assert_close(result, step_by_step(layers, per_layer, channels), rtol=1e-4, atol=1e-5)


def test_every_output_is_an_average() -> None:
    weights = projections((40, 112), 384, 1024)
    assert [tuple(weight.shape) for weight in weights] == [(384, 40, 3, 3), (384, 112, 3, 3)]
    total = sum(weight.sum(dim=(1, 2, 3)) for weight in weights)
    torch.testing.assert_close(total, torch.ones(384))
    # 2 x 1,024 values over 384 outputs: the first half comes from the first layer, the second from the other.
    assert weights[0][:192].abs().sum() == pytest.approx(192.0, rel=1e-4)
    assert weights[1][192:].abs().sum() == pytest.approx(192.0, rel=1e-4)


def test_channels_are_normalised() -> None:
    features = PatchFeatures((4,), 6, 12)
    layers = [torch.randn(3, 4, 5, 5)]
    raw = features.raw(layers)
    features.normalise.set(raw.mean(dim=(0, 2, 3)), raw.std(dim=(0, 2, 3), correction=0))
    out = features(layers)
    torch.testing.assert_close(out.mean(dim=(0, 2, 3)), torch.zeros(6), rtol=0, atol=1e-5)
    torch.testing.assert_close(out.std(dim=(0, 2, 3), correction=0), torch.ones(6))
