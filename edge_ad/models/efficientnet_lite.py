"""EfficientNet-Lite trunks with batch normalisation folded into the convolutions.

Tan and Le, EfficientNet (arXiv 1905.11946), in the "Lite" form: ReLU6, no squeeze-and-excitation, a stem that never
widens. TensorFlow's "same" padding is asymmetric for strided layers, and the published weights expect it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BN_EPS = 1e-3
PIXEL_MEAN, PIXEL_SCALE = 127.0, 128.0

LiteVariant = Literal["lite0", "lite1", "lite2"]


class Block(NamedTuple):
    """One inverted bottleneck: kernel, stride, expansion ratio and channels."""

    kernel: int
    stride: int
    expand: int
    channels_in: int
    channels_out: int


class Stage(NamedTuple):
    """Blocks of one resolution in Lite0: how many, kernel, stride of the first, expansion ratio and channels."""

    repeats: int
    kernel: int
    stride: int
    expand: int
    channels: int


STEM_CHANNELS = 32
STAGES: tuple[Stage, ...] = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
# Width and depth of each network, as multiples of Lite0's.
VARIANTS: dict[LiteVariant, tuple[float, float]] = {"lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2)}


def blocks_of(variant: LiteVariant) -> tuple[Block, ...]:
    """Return every block of a network; the first and the last stage keep their depth, channels are multiples of eight.
    """
    width, depth = VARIANTS[variant]
    blocks: list[Block] = []
    previous = STEM_CHANNELS
    for number, stage in enumerate(STAGES):
        fixed = number in (0, len(STAGES) - 1)
        channels = _multiple_of_eight(stage.channels * width)
        for repeat in range(stage.repeats if fixed else math.ceil(stage.repeats * depth)):
            blocks.append(Block(stage.kernel, 1 if repeat else stage.stride, stage.expand, previous, channels))
            previous = channels
    return tuple(blocks)


def stage_ends(variant: LiteVariant) -> tuple[int, ...]:
    """Return the index of the last block of each of the seven stages; for Lite0 (0, 2, 4, 7, 10, 14, 15)."""
    blocks = blocks_of(variant)
    starts = [i for i, block in enumerate(blocks) if not i or block.channels_in != block.channels_out]
    return (*(start - 1 for start in starts[1:]), len(blocks) - 1)


def _multiple_of_eight(channels: float) -> int:
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class SameConv(nn.Module):
    """Convolution with TensorFlow "same" padding for sides divisible by the stride; (B, C, H, W) -> (B, O, H/s, W/s).
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, *, groups: int = 1) -> None:
        super().__init__()
        total = kernel - stride
        self.pad = (total // 2, total - total // 2) if total > 0 else (0, 0)
        self.conv = nn.Conv2d(
            channels_in, channels_out, kernel, stride, 0 if stride > 1 else kernel // 2, groups=groups
        )
        self.strided = stride > 1

    def forward(self, x: Tensor) -> Tensor:
        """Apply padding and convolution."""
        if self.strided:
            before, after = self.pad
            x = F.pad(x, (before, after, before, after))
        out: Tensor = self.conv(x)
        return out


class InvertedBottleneck(nn.Module):
    """Expand, depthwise, project; the identity is added when shape allows it."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        hidden = block.channels_in * block.expand
        self.expand = SameConv(block.channels_in, hidden, 1) if block.expand > 1 else None
        self.depthwise = SameConv(hidden, hidden, block.kernel, block.stride, groups=hidden)
        self.project = SameConv(hidden, block.channels_out, 1)
        self.residual = block.stride == 1 and block.channels_in == block.channels_out

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, C_out, H/stride, W/stride)."""
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(y)))
        out: Tensor = x + y if self.residual else y
        return out


class EfficientNetLite(nn.Module):
    """Trunk that returns the outputs of chosen blocks for RGB pixels in [0, 255], f32 (B, 3, H, W), sides multiple of
    32.
    """

    def __init__(self, taps: Sequence[int], variant: LiteVariant = "lite0") -> None:
        super().__init__()
        self.taps = tuple(taps)
        self.stem = SameConv(3, STEM_CHANNELS, 3, 2)
        plan = blocks_of(variant)
        self.channels = tuple(plan[index].channels_out for index in self.taps)
        self.blocks = nn.ModuleList(InvertedBottleneck(block) for block in plan[: max(taps) + 1])

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Return one f32 (B, C_i, H/s_i, W/s_i) per tapped block, in the order of the taps."""
        x = F.relu6(self.stem((pixels - PIXEL_MEAN) / PIXEL_SCALE))
        stages: dict[int, Tensor] = {}
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.taps:
                stages[index] = x
        return [stages[index] for index in self.taps]

    def load_published(self, state: Mapping[str, Tensor]) -> None:
        """Load the published state dict (keys ``_conv_stem``, ``_blocks.N._expand_conv``, ...), folding its batch
        norms.
        """
        _fold(self.stem.conv, state, "_conv_stem", "_bn0")
        for index, block in enumerate(self.blocks):
            assert isinstance(block, InvertedBottleneck)
            prefix = f"_blocks.{index}."
            if block.expand is not None:
                _fold(block.expand.conv, state, prefix + "_expand_conv", prefix + "_bn0")
            _fold(block.depthwise.conv, state, prefix + "_depthwise_conv", prefix + "_bn1")
            _fold(block.project.conv, state, prefix + "_project_conv", prefix + "_bn2")


def _fold(conv: nn.Conv2d, state: Mapping[str, Tensor], weight: str, norm: str) -> None:
    gain = state[f"{norm}.weight"] / torch.sqrt(state[f"{norm}.running_var"] + BN_EPS)
    assert conv.bias is not None
    with torch.no_grad():
        conv.weight.copy_(state[f"{weight}.weight"] * gain[:, None, None, None])
        conv.bias.copy_(state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * gain)
