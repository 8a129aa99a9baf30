"""EfficientNet-Lite0: folded batch norms and TensorFlow's padding against layers built here."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edge_ad.models.efficientnet_lite import EfficientNetLite, SameConv, blocks_of
from edge_ad.presets.presets import FAST
from edge_ad.training.teacher import load_teacher

BLOCKS = blocks_of("lite0")


def same(x: Tensor, weight: Tensor, stride: int, groups: int, bias: Tensor | None = None) -> Tensor:
    """TensorFlow's "same": total = max((ceil(n / s) - 1) s + k - n, 0), the smaller half before."""
    side, kernel = x.shape[-1], weight.shape[-1]
    total = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
    before, after = total // 2, total - total // 2
    return F.conv2d(F.pad(x, (before, after, before, after)), weight, bias, stride, groups=groups)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [8, 32])
def test_same_padding(kernel: int, stride: int, side: int) -> None:
    torch.manual_seed(0)
    layer, x = SameConv(3, 4, kernel, stride), torch.randn(2, 3, side, side)
    expected = same(x, layer.conv.weight, stride, 1, layer.conv.bias)
    assert expected.shape[-1] == side // stride
    torch.testing.assert_close(layer(x), expected)


class Unfolded:
    """Convolutions without bias, batch norm with eps 1e-3, ReLU6: the published form, from a random state dict."""

    def __init__(self, last: int) -> None:
        self.state: dict[str, Tensor] = {}
        self._add("_conv_stem", "_bn0", 32, 3, 3)
        for index, block in enumerate(BLOCKS[: last + 1]):
            prefix, hidden = f"_blocks.{index}.", block.channels_in * block.expand
            if block.expand > 1:
                self._add(f"{prefix}_expand_conv", f"{prefix}_bn0", hidden, block.channels_in, 1)
            self._add(f"{prefix}_depthwise_conv", f"{prefix}_bn1", hidden, 1, block.kernel)
            self._add(f"{prefix}_project_conv", f"{prefix}_bn2", block.channels_out, hidden, 1)

    def _add(self, conv: str, norm: str, out: int, inputs: int, kernel: int) -> None:
        self.state[f"{conv}.weight"] = torch.randn(out, inputs, kernel, kernel) / math.sqrt(inputs * kernel**2)
        self.state[f"{norm}.weight"], self.state[f"{norm}.bias"] = torch.rand(out) + 0.5, torch.randn(out) * 0.2
        self.state[f"{norm}.running_mean"] = torch.randn(out) * 0.1
        self.state[f"{norm}.running_var"] = torch.rand(out) * 0.02 + 1e-4  # small: the eps of 1e-3 matters

    def layer(self, x: Tensor, conv: str, norm: str, stride: int = 1, groups: int = 1) -> Tensor:
        x = same(x, self.state[f"{conv}.weight"], stride, groups)
        names = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(self.state[f"{norm}.{name}"] for name in names), training=False, eps=1e-3)

    def __call__(self, pixels: Tensor, taps: tuple[int, ...]) -> list[Tensor]:
        x = F.relu6(self.layer((pixels - 127.0) / 128.0, "_conv_stem", "_bn0", stride=2))
        results = []
        for index, block in enumerate(BLOCKS[: max(taps) + 1]):
            prefix, y = f"_blocks.{index}.", x
            if block.expand > 1:
                y = F.relu6(self.layer(y, f"{prefix}_expand_conv", f"{prefix}_bn0"))
            y = self.layer(y, f"{prefix}_depthwise_conv", f"{prefix}_bn1", block.stride, groups=y.shape[1])
            y = self.layer(F.relu6(y), f"{prefix}_project_conv", f"{prefix}_bn2")
            x = x + y if y.shape == x.shape else y
            if index in taps:
                results.append(x)
        return results


def test_folded_equals_unfolded() -> None:
    torch.manual_seed(0)
    taps = (0, 2, 4, 5)
    # Double precision: random batch norms of small variance amplify rounding from layer to layer.
    reference, network = Unfolded(max(taps)), EfficientNetLite(taps).double()
    reference.state = {name: value.double() for name, value in reference.state.items()}
    network.load_published(reference.state)
    pixels = torch.rand(2, 3, 64, 64).double() * 255
    with torch.no_grad():
        for result, expected in zip(network(pixels), reference(pixels, taps), strict=True):
            torch.testing.assert_close(result, expected, rtol=1e-7, atol=1e-7)


def test_the_table_of_the_trunk() -> None:
    """EfficientNet-B0's stages without squeeze-and-excitation: (kernel, stride, expansion, outputs, repeats)."""
    stages = [(3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3),
              (5, 2, 6, 192, 4), (3, 1, 6, 320, 1)]  # fmt: skip
    total, before = 3 * 3 * 3 * 32 + 32, 32
    for kernel, _, expand, out, repeats in stages:
        for _ in range(repeats):
            hidden = before * expand
            total += (before * hidden + hidden if expand > 1 else 0) + kernel**2 * hidden + hidden + hidden * out + out
            before = out
    with torch.device("meta"):
        network = EfficientNetLite([15])
        out = network(torch.zeros(1, 3, 256, 256))
    assert sum(parameter.numel() for parameter in network.parameters()) == total
    assert out[0].shape == (1, 320, 8, 8)


def test_taps_give_strides_and_channels() -> None:
    with torch.device("meta"):
        network = EfficientNetLite([2, 4, 10])
        results = [tuple(x.shape[1:]) for x in network(torch.zeros(1, 3, 256, 256))]
    assert results == [(24, 64, 64), (40, 32, 32), (112, 16, 16)]
    assert network.channels == (24, 40, 112)


def test_published_weights_describe_a_picture() -> None:
    teacher = load_teacher(FAST, None, torch.device("cpu"))
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in teacher.modules())
    ramp = torch.linspace(0, 255, 256).expand(1, 3, 256, 256)
    with torch.no_grad():
        out, grey = teacher(ramp), teacher(torch.full((1, 3, 256, 256), 127.0))
    assert out.features.shape == (1, 176, 32, 32)
    assert out.tokens.shape == (1, 176, 16, 16)
    assert out.pooled.shape == (1, 24 + 40 + 112 + 320 + 16 * 40)
    for name in ("features", "pooled"):
        assert torch.isfinite(getattr(out, name)).all()
        assert (getattr(out, name) - getattr(grey, name)).abs().max() > 0.1
    torch.testing.assert_close(out.tokens, F.avg_pool2d(out.features, 2))
