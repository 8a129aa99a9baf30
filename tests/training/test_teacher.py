"""The frozen teacher: weights without code, statistics and tokens that do not depend on batching."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from edge_ad import weights
from edge_ad.errors import BadInput
from edge_ad.models.pdn import PatchDescriptionNetwork
from edge_ad.models.teachers import to_grid
from edge_ad.presets.presets import with_teacher
from edge_ad.training.augment import to_pixels
from edge_ad.training.teacher import describe, load_teacher, measure_channels, read_weights
from edge_ad.weights import weights_of
from tests.data.folders import picture
from tests.fixtures.tiny_presets import TINY, TINY_PAPER, untrained

CPU = torch.device("cpu")
IMAGES = np.stack([picture(seed, (128, 128)) for seed in range(18)])  # more than one chunk


class Harmful:
    """Runs a command when a pickle of it is read."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, ("touch harm",)


def small_pdn() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    convolutions = PatchDescriptionNetwork("small").convolutions()
    return {f"conv{n}.{part}": getattr(conv, part).detach() for n, conv in enumerate(convolutions, 1)
            for part in ("weight", "bias")}  # fmt: skip


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_published_file_loads(tmp_path: Path, wrapped: bool) -> None:
    state = small_pdn()
    torch.save({"state_dict": state} if wrapped else state, tmp_path / "teacher_small.pth")
    teacher = load_teacher(TINY_PAPER, tmp_path / "teacher_small.pth", CPU)
    assert torch.equal(teacher.pdn.convolutions()[2].weight, state["conv3.weight"])
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_code_in_a_file_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "teacher.pth"
    if kind == "torch":
        torch.save({"conv1.weight": Harmful()}, path)
    else:
        path.write_bytes(pickle.dumps(Harmful(), protocol=2))
    with pytest.raises(BadInput, match="is not a file of plain weights"):
        read_weights(path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no weights at .*check the path"),
        (b"", "is not a file of plain weights"),
        (b"hello", "is not a file of plain weights"),
        ([1, 2], "is not a state dict of tensors"),
        ({"a": 1}, "is not a state dict of tensors"),
    ],
)
def test_files_that_are_no_weights(tmp_path: Path, content: object, words: str) -> None:
    path = tmp_path / "teacher.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(BadInput, match=words) as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_weights(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is not a file of plain weights"):
        read_weights(tmp_path)


@pytest.mark.parametrize("layout", ["names", "indices", "anomalib"])
def test_every_known_layout_gives_the_same_network(tmp_path: Path, layout: str) -> None:
    state = small_pdn()
    # nn.Sequential of conv, relu, pool, conv, relu, pool, conv, relu, conv: convolutions at 0, 3, 6 and 8.
    names = {"conv1": "0", "conv2": "3", "conv3": "6", "conv4": "8"}
    renamed = {"names": state, "indices": {f"{names[k[:5]]}{k[5:]}": v for k, v in state.items()},
               "anomalib": {f"teacher.{k}": v for k, v in state.items()}}[layout]  # fmt: skip
    save_file({k: v.contiguous() for k, v in renamed.items()}, tmp_path / "teacher.safetensors")
    teacher = load_teacher(TINY_PAPER, tmp_path / "teacher.safetensors", CPU)
    assert torch.equal(teacher.pdn.convolutions()[3].weight, state["conv4.weight"])


def test_paper_works_with_the_weights_in_the_package() -> None:
    teacher = load_teacher(TINY_PAPER, None, CPU)
    state = load_file(weights_of("pdn_small") or Path())
    assert torch.equal(teacher.pdn.convolutions()[0].weight, state["conv1.weight"].float())


def test_a_teacher_that_the_package_lacks_needs_a_file() -> None:
    medium = replace(TINY_PAPER, teacher=replace(TINY_PAPER.teacher, kind="pdn_medium"))
    with pytest.raises(BadInput, match=r"no weights of the teacher pdn_medium, only of pdn_small: .*--teacher FILE"):
        load_teacher(medium, None, CPU)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    torch.save(small_pdn() | {"conv1.bias": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(BadInput, match=r"other.pth holds no weights of pdn_small: conv1.bias has shape"):
        load_teacher(TINY_PAPER, tmp_path / "other.pth", CPU)
    with pytest.raises(BadInput, match=r"efficientnet_lite0, which takes no file, but --teacher is .*other.pth"):
        load_teacher(TINY, tmp_path / "other.pth", CPU)
    (tmp_path / "torn.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    with pytest.raises(BadInput, match=r"torn.safetensors is not a file of plain weights"):
        load_teacher(TINY_PAPER, tmp_path / "torn.safetensors", CPU)


def test_a_changed_file_in_the_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in weights.FOLDER.glob("pdn_small.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with (tmp_path / "pdn_small.safetensors").open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"!")
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    with pytest.raises(BadInput, match=r"is not the file that its model card describes"):
        load_teacher(TINY_PAPER, None, CPU)


def test_a_pdn_serves_a_preset_of_one_pass() -> None:
    """128 pixels through a padded PDN are 32 x 32 cells, averaged to the preset's grids of 16 and 8."""
    preset = with_teacher(TINY, "pdn_small")
    teacher = load_teacher(preset, None, CPU)
    measure_channels(teacher, IMAGES, CPU)
    pixels = to_pixels(IMAGES[:2], CPU)
    out = teacher(pixels)
    padded = PatchDescriptionNetwork("small", padding=True)
    padded.load_published(load_file(weights_of("pdn_small") or Path()))
    cells = padded(teacher.image(pixels))  # type: ignore[operator, union-attr]
    assert cells.shape == (2, 384, 32, 32)
    expected = teacher.normalise(F.avg_pool2d(cells, 2))
    torch.testing.assert_close(out.features, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(out.tokens, F.avg_pool2d(expected, 2), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(out.pooled, F.avg_pool2d(cells, 2).mean(dim=(2, 3)), rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def teacher() -> Any:
    return untrained(TINY).teacher.requires_grad_(False)


def test_channels_are_normalised_over_all_cells_of_all_goods(teacher: Any) -> None:
    measure_channels(teacher, IMAGES, CPU)
    raw = teacher.raw(to_pixels(IMAGES, CPU)).double()
    torch.testing.assert_close(teacher.normalise.mean.flatten().double(), raw.mean(dim=(0, 2, 3)), rtol=1e-4, atol=1e-5)
    expected = raw.std(dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(teacher.normalise.std.flatten().double(), expected, rtol=1e-3, atol=1e-5)
    features = teacher(to_pixels(IMAGES, CPU)).features
    torch.testing.assert_close(features.mean(dim=(0, 2, 3)), torch.zeros(features.shape[1]), rtol=0, atol=1e-3)


def test_a_dead_channel_does_not_divide_by_zero(teacher: Any) -> None:
    teacher.normalise.set(torch.zeros(teacher.channels), torch.zeros(teacher.channels))
    assert teacher.normalise.std.unique().tolist() == [pytest.approx(1e-6)]


def test_descriptions_do_not_depend_on_batching(teacher: Any) -> None:
    measure_channels(teacher, IMAGES, CPU)
    tokens, pooled = describe(teacher, IMAGES, TINY, CPU)
    assert tokens.shape == (18, 176, 8, 8)
    assert pooled.shape == (18, 24 + 40 + 112 + 320 + 16 * 40)
    alone, mean = describe(teacher, IMAGES[17:], TINY, CPU)
    torch.testing.assert_close(alone[0], tokens[17], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mean[0], pooled[17], rtol=1e-4, atol=1e-4)


def test_pooled_holds_stage_means_and_the_means_of_4_x_4_regions(teacher: Any) -> None:
    pixels = to_pixels(IMAGES[:2], CPU)
    trunk = teacher.trunk
    stages = dict(zip(trunk.taps, trunk(pixels), strict=True))
    means = [stages[tap].mean(dim=(2, 3)) for tap in (2, 4, 10, 15)]
    side = 16 // 4  # 128 pixels at stride 8, four regions across
    regions = stages[4].unfold(2, side, side).unfold(3, side, side).mean(dim=(4, 5))
    expected = torch.cat([*means, regions.reshape(2, -1)], dim=1)
    torch.testing.assert_close(teacher(pixels).pooled, expected, rtol=1e-4, atol=1e-5)


def test_paper_takes_tokens_from_a_second_smaller_pass() -> None:
    teacher = untrained(TINY_PAPER).teacher.requires_grad_(False)
    tokens, pooled = describe(teacher, IMAGES[:2], TINY_PAPER, CPU)
    pixels = to_pixels(IMAGES[:2], CPU)
    smaller = F.interpolate(pixels, (112, 112), mode="bilinear")
    torch.testing.assert_close(tokens, F.avg_pool2d(teacher.raw(smaller), 2))
    torch.testing.assert_close(pooled, teacher.raw(pixels).mean(dim=(2, 3)))
    assert tokens.shape == (2, 384, 10, 10)


@pytest.mark.parametrize(("side", "grid"), [(8, 8), (16, 8), (4, 8)])
def test_stages_are_brought_to_one_grid(side: int, grid: int) -> None:
    x = torch.arange(side * side, dtype=torch.float32).reshape(1, 1, side, side)
    result = to_grid(x, grid)
    assert result.shape == (1, 1, grid, grid)
    assert result.mean().item() == pytest.approx(x.mean().item())
    if side > grid:
        assert result[0, 0, 0, 0].item() == pytest.approx((0 + 1 + 16 + 17) / 4)
