"""A PDN that learns with batch norms gives the plain PDN that is used afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edge_ad.models.pdn import LearningPdn, PatchDescriptionNetwork, PdnSize


def used(size: PdnSize) -> LearningPdn:
    """Return a network whose batch norms have seen something, so that folding has something to do."""
    torch.manual_seed(0)
    pdn = LearningPdn(size, channels=8)
    for layer in pdn.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias)
    pdn.train()(torch.randn(2, 3, 48, 48) * 2 + 1)
    return pdn.eval()


@pytest.mark.parametrize("size", ["small", "medium"])
def test_folding_changes_no_output(size: PdnSize) -> None:
    pdn = used(size).double()
    plain = pdn.folded().double()
    images = torch.randn(2, 3, 48, 48).double()
    with torch.no_grad():
        torch.testing.assert_close(plain(images), pdn(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", ["small", "medium"])
def test_the_folded_network_is_the_published_one(size: PdnSize) -> None:
    folded, published = used(size).folded(), PatchDescriptionNetwork(size, 8)
    assert {k: v.shape for k, v in folded.state_dict().items()} == {
        k: v.shape for k, v in published.state_dict().items()
    }


def test_it_begins_near_the_constant_prediction() -> None:
    torch.manual_seed(0)
    out = LearningPdn("small")(torch.randn(2, 3, 64, 64))
    assert out.abs().max() < 3
    assert out.square().mean() < 0.2
