"""Recipe of EfficientAD with DFSC: student and autoencoder learn the frozen teacher's features of normal images."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_ad.models.build import AnyTeacher
from edge_ad.models.efficientad import EfficientAD
from edge_ad.presets.presets import Preset
from edge_ad.training.augment import GREY, Colours, colour_jitter, draw_colours, is_still, move, scramble, to_pixels
from edge_ad.training.device import Arithmetic
from edge_ad.training.distributed import Shard
from edge_ad.training.images import Images
from edge_ad.training.loop import Diverged

CHUNK = 16
CACHE_BYTES = 2 << 30
PATIENCE = 3  # steps in a row beyond the bound before a hinge is said to diverge
GREY_SHARE = 0.3


class Batch(NamedTuple):
    """What this process learns from in one step: normal images (their numbers i64 [B], images, colours) and images of
    no part.
    """

    chosen: NDArray[np.int64]
    normal_images: Images
    colours: Colours
    others: Images | None


class EfficientADRecipe:
    """Normal images, slightly moved, for all losses; scrambled normal images or images of other things for the penalty.
    """

    name = "efficientad"

    def __init__(
        self,
        model: EfficientAD,
        teacher: AnyTeacher,
        preset: Preset,
        normal_images: Images,
        unseen: Images,
        others: Images | None,
        arithmetic: Arithmetic,
    ) -> None:
        self.schedule, self.arithmetic = preset.efficientad_schedule, arithmetic
        self.module: nn.Module = model.to(arithmetic.device)
        self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model, self.teacher, self.preset = model, teacher, preset
        self.normal_images, self.unseen, self.others = normal_images, unseen, others
        self.settings = preset.efficientad
        self.beyond = 0
        self.cache = self._cached_features()

    def draw(self, rng: np.random.Generator) -> Batch:
        """Choose normal images and move them, draw their colours, and show other images."""
        chosen = rng.integers(0, len(self.normal_images), self.schedule.batch)
        still = is_still(self.preset.augmentation)
        images = (
            self.normal_images[chosen]
            if still
            else np.stack([move(self.normal_images[i], self.preset.augmentation, rng) for i in chosen])
        )
        shard = self._shard()
        return Batch(chosen[shard.rows], images[shard.rows], draw_colours(rng, shard), self._draw_others(rng))

    def learn(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the losses of one batch."""
        device, settings, shard = self.arithmetic.device, self.settings, self._shard()
        pixels = to_pixels(batch.normal_images, device)
        jittered = colour_jitter(pixels, batch.colours)
        plain = None if settings.shared_jitter else (pixels, self._features(pixels, batch.chosen))
        pair = (jittered, self._features(jittered))
        penalty = None if batch.others is None else to_pixels(batch.others, device)
        with self.arithmetic.autocast():
            losses = self.model.losses(plain, pair, penalty, settings)
        losses = losses.with_silence(self._others().share / (shard.share or 1.0))
        return {
            "loss": losses.total,
            "student": losses.student.detach(),
            "autoencoder": losses.autoencoder.detach(),
            "pair": losses.pair.detach(),
            "hinge_active": losses.separation.active,
            "novel_distance": losses.separation.novel,
            "bound": losses.separation.bound,
        }

    def fall_back(self) -> None:
        """Go on as plain EfficientAD, whose loss has no hinge and cannot run away."""
        self.settings = replace(self.settings, dfsc=replace(self.settings.dfsc, mode="off"))

    def watch(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Raise Diverged when the hinge drives the novel features ever further from the teacher."""
        shown = {name: value for name, value in losses.items() if name != "bound"}
        dfsc = self.settings.dfsc
        if dfsc.mode == "off":
            return shown
        bound, distance, total = (float(losses[name].detach()) for name in ("bound", "novel_distance", "loss"))
        self.beyond = 0 if distance <= bound else self.beyond + 1
        if self.beyond >= PATIENCE or not np.isfinite(total):
            margin = f"{dfsc.kappa:g} times the quantile" if dfsc.kappa else f"{dfsc.margin:g}"
            raise Diverged(
                f"the DFSC hinge diverges: novel features are {distance:.3g} from the teacher, whose range allows "
                f"{bound:.3g} (mode {dfsc.mode}, margin {margin}); beginning again as plain EfficientAD, without the hinge"
            )
        return shown

    def validate(self) -> float:
        """Return how far local and global maps of unseen normal images peak, in log units: it rises when normal images
        are learned by heart.
        """
        peaks = []
        for start in range(0, len(self.unseen), CHUNK):
            pixels = to_pixels(self.unseen[start : start + CHUNK], self.arithmetic.device)
            maps = self.model(pixels, self.teacher(pixels).features)
            top = max(1, maps[0].shape[-1] ** 2 // 100)
            peaks.append(torch.stack([one.flatten(1).topk(top).values.mean(dim=1) for one in maps], dim=1))
        return float(torch.cat(peaks).mean(dim=0).log().sum())

    def _features(self, pixels: Tensor, chosen: NDArray[np.int64] | None = None) -> Tensor:
        if self.cache is not None and chosen is not None:
            return self.cache[torch.from_numpy(chosen)].to(self.arithmetic.device).float()
        with torch.no_grad(), self.arithmetic.autocast():
            features: Tensor = self.teacher(pixels).features
        return features.float()

    def _shard(self) -> Shard:
        return self.arithmetic.group.shard(self.schedule.batch)

    def _others(self) -> Shard:
        """Half as many images of other things as normal images, at least one."""
        return self.arithmetic.group.shard(max(1, self.schedule.batch // 2))

    def _draw_others(self, rng: np.random.Generator) -> Images | None:
        if not self.preset.penalty:
            return None
        own = self._others()
        if self.others is not None:
            others = self.others[rng.integers(0, len(self.others), own.total)]
            shown = _some_grey(others, rng) if self.settings.cropped_penalty else others
            return shown[own.rows]
        chosen = rng.integers(0, len(self.normal_images), own.total)
        return np.stack([scramble(self.normal_images[i], rng) for i in chosen])[own.rows]

    def _cached_features(self) -> Tensor | None:
        """Keep the features of images that never move, in half precision, when they fit."""
        cells = self.preset.teacher.grid**2 * self.teacher.channels
        fixed = is_still(self.preset.augmentation) and not self.preset.efficientad.shared_jitter
        if not fixed or len(self.normal_images) * cells * 2 > CACHE_BYTES:
            return None
        parts = []
        for start in range(0, len(self.normal_images), CHUNK):
            pixels = to_pixels(self.normal_images[start : start + CHUNK], self.arithmetic.device)
            with torch.no_grad():
                parts.append(self.teacher(pixels).features.half().cpu())
        return torch.cat(parts)


def _some_grey(images: Images, rng: np.random.Generator) -> Images:
    """Turn each of u8 [N, S, S, 3] grey with the published probability."""
    grey = (images.astype(np.float32) @ np.array(GREY, np.float32))[..., None].round().astype(np.uint8)
    drawn = rng.random(len(images)) < GREY_SHARE
    return np.where(drawn[:, None, None, None], np.broadcast_to(grey, images.shape), images)
