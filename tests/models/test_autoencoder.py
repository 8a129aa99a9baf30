"""The autoencoder against the layer list of EfficientAD's table 8."""

from __future__ import annotations

import pytest
import torch

from edge_ad.models.efficientad import AutoEncoder, published_sizes

# kernel, inputs, outputs: encoder, decoder with 384 teacher channels.
ENCODER = [(4, 3, 32), (4, 32, 32), (4, 32, 64), (4, 64, 64), (4, 64, 64), (8, 64, 64)]
DECODER = [(4, 64, 64)] * 6 + [(3, 64, 64), (3, 64, 384)]


def test_parameters_follow_the_layer_list() -> None:
    expected = sum(kernel**2 * before * after + after for kernel, before, after in ENCODER + DECODER)
    assert expected == 1_096_320
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in AutoEncoder(384, 56).parameters()) == expected


@pytest.mark.parametrize(("side", "sizes"), [(256, (3, 8, 15, 32, 63, 127)), (512, (7, 16, 31, 64, 127, 255))])
def test_decoder_targets(side: int, sizes: tuple[int, ...]) -> None:
    assert published_sizes(side) == sizes


def test_sides_through_the_network() -> None:
    """Encoder 256 -> 128, 64, 32, 16, 8 -> 1; a decoder layer of kernel 4 and padding 2 makes one cell more."""
    sides: list[int] = []
    with torch.device("meta"):
        network = AutoEncoder(384, 56)
        for layer in network.modules():
            if isinstance(layer, torch.nn.Conv2d):
                layer.register_forward_hook(lambda _, __, out: sides.append(out.shape[-1]))
        out = network(torch.zeros(2, 3, 256, 256))
    assert sides == [128, 64, 32, 16, 8, 1, 4, 9, 16, 33, 64, 128, 56, 56]
    assert out.shape == (2, 384, 56, 56)


def test_everything_passes_the_bottleneck() -> None:
    """Images with the same 64 numbers are drawn alike: there is no way around them."""
    torch.manual_seed(0)
    network = AutoEncoder(8, 16, side=128, sizes=(3, 8)).eval()
    network.encoder[-1].weight.data.zero_()
    one, other = torch.rand(2, 1, 3, 128, 128)
    torch.testing.assert_close(network(one), network(other), rtol=0, atol=0)


def test_dropout_only_while_training() -> None:
    torch.manual_seed(0)
    network, image = AutoEncoder(8, 16, side=128, sizes=(3, 8)), torch.rand(1, 3, 128, 128)
    assert not torch.equal(network(image), network(image))
    network.eval()
    assert torch.equal(network(image), network(image))
