"""PDN against the published layer tables, which stand here as text."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from edge_ad.models.pdn import PatchDescriptionNetwork, PdnSize

# EfficientAD, tables 6 and 7: layer, kernel, outputs (teacher), side of the output for 256 pixels without padding.
TABLES: dict[PdnSize, str] = {
    "small": """
        conv1   4 128 253
        avgpool 2   - 126
        conv2   4 256 123
        avgpool 2   -  61
        conv3   3 256  59
        conv4   4 384  56
    """,
    "medium": """
        conv1   4 256 253
        avgpool 2   - 126
        conv2   4 512 123
        avgpool 2   -  61
        conv3   1 512  61
        conv4   3 512  59
        conv5   4 384  56
        conv6   1 384  56
    """,
}
INDICES = {"small": (0, 3, 6, 8), "medium": (0, 3, 6, 8, 10, 12)}


def rows(size: PdnSize) -> list[tuple[str, int, int | None, int]]:
    result = re.findall(r"(\w+)\s+(\d+)\s+(-|\d+)\s+(\d+)", TABLES[size])
    return [(name, int(kernel), None if out == "-" else int(out), int(side)) for name, kernel, out, side in result]


def table_parameters(size: PdnSize, channels: int) -> int:
    """Weights and biases by the table; the layers with 384 outputs have ``channels`` in a student."""
    total, before = 0, 3
    for _, kernel, out, _ in rows(size):
        if out is not None:
            width = channels if out == 384 else out
            total += kernel * kernel * before * width + width
            before = width
    return total


@pytest.mark.parametrize(
    ("size", "channels", "published"),
    [("small", 384, 2_694_144), ("small", 768, 4_267_392), ("medium", 384, 8_026_624), ("medium", 768, 11_615_488)],
)
def test_parameters_follow_the_table(size: PdnSize, channels: int, published: int) -> None:
    with torch.device("meta"):
        network = PatchDescriptionNetwork(size, channels)
    assert table_parameters(size, channels) == published
    assert sum(parameter.numel() for parameter in network.parameters()) == published


@pytest.mark.parametrize("size", ["small", "medium"])
def test_every_layer_has_the_side_of_the_table(size: PdnSize) -> None:
    with torch.device("meta"):
        x = torch.zeros(1, 3, 256, 256)
        sides = []
        for layer in PatchDescriptionNetwork(size).layers:
            x = layer(x)
            if not isinstance(layer, torch.nn.ReLU):
                sides.append(x.shape[-1])
    assert sides == [side for _, _, _, side in rows(size)]


@pytest.mark.parametrize("size", ["small", "medium"])
@pytest.mark.parametrize(("padding", "side"), [(False, 56), (True, 64)])
def test_output_size(size: PdnSize, padding: bool, side: int) -> None:
    with torch.device("meta"):
        out = PatchDescriptionNetwork(size, 384, padding)(torch.zeros(2, 3, 256, 256))
    assert out.shape == (2, 384, side, side)


@pytest.mark.parametrize("size", ["small", "medium"])
def test_the_last_layer_is_linear_and_the_others_are_rectified(size: PdnSize) -> None:
    kinds = [type(layer).__name__ for layer in PatchDescriptionNetwork(size, 8).layers]
    assert kinds[-1] == "Conv2d"
    assert kinds.count("ReLU") == kinds.count("Conv2d") - 1


def test_a_cell_of_pdn_s_sees_33_pixels() -> None:
    """kernel 4, pool 2, kernel 4, pool 2, kernels 3 and 4: 4 + 1 + 3 * 2 + 2 + 2 * 4 + 3 * 4 = 33."""
    torch.manual_seed(0)
    network = PatchDescriptionNetwork("small", 4)
    image = torch.rand(1, 3, 65, 65, requires_grad=True)
    out = network(image)
    out[0, :, 3, 5].sum().backward()
    assert image.grad is not None
    touched = image.grad.abs().sum(dim=(0, 1)) > 0
    rows_seen, columns_seen = (torch.nonzero(touched.any(dim=axis)).flatten().tolist() for axis in (1, 0))
    assert (rows_seen[0], rows_seen[-1]) == (3 * 4, 3 * 4 + 32)
    assert (columns_seen[0], columns_seen[-1]) == (5 * 4, 5 * 4 + 32)


def published(size: PdnSize, layout: str) -> dict[str, Tensor]:
    """A state dict with the table's shapes, each tensor filled with its own number."""
    state, before, number = {}, 3, 0
    for _, kernel, out, _ in rows(size):
        if out is None:
            continue
        name = layout.format(index=INDICES[size][number], number=number + 1)
        state[f"{name}.weight"] = torch.full((out, before, kernel, kernel), float(number + 1))
        state[f"{name}.bias"] = torch.full((out,), -float(number + 1))
        before, number = out, number + 1
    return state


@pytest.mark.parametrize("size", ["small", "medium"])
@pytest.mark.parametrize("layout", ["conv{number}", "{index}", "model.{index}", "teacher.conv{number}"])
def test_both_published_key_layouts_load(size: PdnSize, layout: str) -> None:
    network = PatchDescriptionNetwork(size)
    state = published(size, layout)
    network.load_published(dict(reversed(state.items())))  # the order of the file does not matter
    for number, conv in enumerate(network.convolutions(), start=1):
        assert conv.bias is not None
        assert conv.weight.unique().tolist() == [number]
        assert conv.bias.unique().tolist() == [-number]


def without(name: str) -> dict[str, Tensor]:
    return {key: value for key, value in published("small", "conv{number}").items() if key != name}


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ({}, "neither conv1..conv4 nor the indices"),
        ({"backbone.weight": torch.zeros(1)}, r"backbone.weight.*neither conv1..conv4"),
        (published("medium", "conv{number}"), "neither conv1..conv4"),
        (without("conv2.bias"), "neither conv1..conv4"),
        (
            published("small", "{index}") | {"8.weight": torch.zeros(768, 256, 4, 4)},
            r"8.weight has shape \(768, 256, 4, 4\), this PDN needs \(384, 256, 4, 4\)",
        ),
        (without("") | {"conv1.bias": torch.zeros(7)}, r"conv1.bias has shape \(7,\), this PDN needs \(128,\)"),
    ],
)
def test_other_keys_and_shapes_are_refused(state: dict[str, Tensor], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        PatchDescriptionNetwork("small").load_published(state)
