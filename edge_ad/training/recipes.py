"""What each network learns from and asks of a step: LADMIM's two from the frozen teacher's tokens, EfficientAD with DFSC
from its features.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_ad.models.build import AnyTeacher
from edge_ad.models.efficientad import WITH_HINGE, EfficientAD
from edge_ad.models.hvq import HvqTokenizer, hvq_loss
from edge_ad.models.lavit import LaViT, bank_of, batch_histograms, block_mask, lavit_loss, share_of
from edge_ad.models.vector_quantiser import VectorQuantiser, code_use, perplexity, shares_of
from edge_ad.presets.networks import DfscSettings
from edge_ad.presets.presets import Preset, Schedule
from edge_ad.scoring import fit_gaussian
from edge_ad.training.augment import GREY, Colours, colour_jitter, draw_colours, is_still, move, scramble, to_pixels
from edge_ad.training.distributed import Shard
from edge_ad.training.images import Images
from edge_ad.training.loop import Arithmetic, Diverged, Settled

CHUNK = 32
VALIDATION_MASKS = 4


class TokenizerRecipe:
    """HVQ-Trans redraws tokens from codes (methods section 2.5)."""

    name = "tokenizer"

    def __init__(
        self, model: HvqTokenizer, schedule: Schedule, tokens: Tensor, unseen: Tensor, *, arithmetic: Arithmetic
    ) -> None:
        self.module, self.schedule, self.arithmetic = model.to(arithmetic.device), schedule, arithmetic
        self.model, self.tokens, self.unseen = model, tokens, unseen

    def draw(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Choose images."""
        chosen = rng.integers(0, len(self.tokens), self.schedule.batch)
        return chosen[self.arithmetic.group.shard(self.schedule.batch).rows]

    def learn(self, chosen: NDArray[np.int64]) -> dict[str, Tensor]:
        """Redraw one batch; also report the commitment and how often each code of the top target level is used."""
        batch = self.tokens[torch.from_numpy(chosen)].to(self.arithmetic.device)
        with self.arithmetic.autocast():
            out = self.model(batch)
        loss = hvq_loss(batch, out._replace(reconstruction=out.reconstruction.float()))
        use = shares_of(out.ids[:, 0], self.model.settings.codes)
        return {"loss": loss, "commitment": out.commitment.detach(), "use": use}

    def watch(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tell of the use of codes how many are in use."""
        shown = {name: value for name, value in losses.items() if name != "use"}
        return {**shown, "perplexity": torch.tensor(perplexity(losses["use"]))}

    def validate(self) -> float:
        """Return the mean loss over unseen normal images."""
        losses = [float(hvq_loss(part, self.model(part))) * len(part) for part in _parts(self.unseen, self.arithmetic)]
        return sum(losses) / len(self.unseen)


def encode(model: HvqTokenizer, tokens: Tensor, arithmetic: Arithmetic) -> Tensor:
    """Return the codes i64 (N, 4, h * w) of tokens (N, C, h, w), on the CPU."""
    return encode_all(model, tokens, arithmetic)[0]


def encode_all(model: HvqTokenizer, tokens: Tensor, arithmetic: Arithmetic) -> tuple[Tensor, Tensor]:
    """Return the codes i64 (N, 4, h * w) of tokens (N, C, h, w), and those of the top level i64 (N, h * w), on the CPU.
    """
    model.eval()
    ids, top = [], []
    with torch.no_grad():
        for part in _parts(tokens, arithmetic):
            out = model(part)
            ids.append(out.ids.cpu())
            top.append(out.top_ids.cpu())
    return torch.cat(ids), torch.cat(top)


def soften(model: HvqTokenizer, tokens: Tensor, arithmetic: Arithmetic) -> None:
    """Let the codes of a trained tokenizer share cells, if its settings say so, by what tokens f32 (N, C, h, w) of
    normal images show.
    """
    model.eval().soften(_parts(tokens, arithmetic))


def codebook_report(model: HvqTokenizer, ids: Tensor, top: Tensor) -> dict[str, dict[str, float | int]]:
    """Return how normal images use each codebook, by level: ``top``, then 3 to 0 as in ``ids`` i64 (N, 4, h * w)."""
    levels = list(model.levels)
    results = {"top": code_use(top, model.top)}
    for position, number in enumerate(range(len(levels) - 1, -1, -1)):
        level = levels[number]
        assert isinstance(level, VectorQuantiser)
        results[str(number)] = code_use(ids[:, position], level)
    return results


class Masked(NamedTuple):
    """Images, by number (i64 [B]), the masks before them (f32 [B, h * w]), and how many cells each mask hides."""

    chosen: NDArray[np.int64]
    masks: NDArray[np.float32]
    cells: int


class LavitRecipe:
    """LAViT predicts code histograms behind one fresh block mask an image (methods sections 3.5 to 3.7)."""

    name = "lavit"

    def __init__(
        self,
        model: LaViT,
        preset: Preset,
        normal: tuple[Tensor, Tensor],
        unseen: tuple[Tensor, Tensor],
        *,
        arithmetic: Arithmetic,
    ) -> None:
        self.module, self.schedule, self.arithmetic = model.to(arithmetic.device), preset.lavit_schedule, arithmetic
        self.model, self.masks = model, preset.masks
        self.tokens, self.codes = normal
        self.unseen_tokens, self.unseen_codes = unseen
        self.bank = torch.from_numpy(bank_of(self.masks, model.grid, VALIDATION_MASKS))

    def draw(self, rng: np.random.Generator) -> Masked:
        """Choose images and a mask for each."""
        chosen = rng.integers(0, len(self.tokens), self.schedule.batch)
        # One count a batch, since sequences without masked cells must be of equal length.
        cells = share_of(float(rng.choice(self.masks.train_shares)), self.model.grid)
        drawn = np.stack([self._mask(rng, cells) for _ in chosen])
        rows = self.arithmetic.group.shard(self.schedule.batch).rows
        return Masked(chosen[rows], drawn[rows], cells)

    def learn(self, batch: Masked) -> dict[str, Tensor]:
        """Predict one batch."""
        device = self.arithmetic.device
        chosen, masks = torch.from_numpy(batch.chosen), torch.from_numpy(batch.masks).to(device)
        target = batch_histograms(self.codes[chosen].to(device), masks, self.model.codes)
        with self.arithmetic.autocast():
            predicted = self.model(self.tokens[chosen].to(device), masks, batch.cells)
        return {"loss": lavit_loss(predicted, target)}

    def validate(self) -> float:
        """Return the loss of unseen normal images under four fixed masks."""
        total = 0.0
        for mask in self.bank:
            for start in range(0, len(self.unseen_tokens), CHUNK):
                tokens = self.unseen_tokens[start : start + CHUNK].to(self.arithmetic.device)
                masks = mask.to(self.arithmetic.device).expand(len(tokens), -1)
                codes = self.unseen_codes[start : start + CHUNK].to(self.arithmetic.device)
                target = batch_histograms(codes, masks, self.model.codes)
                with self.arithmetic.autocast():
                    total += float(lavit_loss(self.model(tokens, masks), target)) * len(tokens)
        return total / (len(self.bank) * len(self.unseen_tokens))

    def constant_loss(self) -> float:
        """Return the loss of always predicting the normal images' mean histogram: the baseline to beat."""
        whole = torch.ones(self.codes.shape[2])
        constant = self._mean_histogram(whole)
        return float(np.mean([self._loss_of(constant, mask) for mask in self.bank]))

    def constant_loss_by_mask(self) -> float:
        """Return the loss of predicting, behind each mask, the normal images' mean histogram behind it: a harder
        baseline.
        """
        return float(np.mean([self._loss_of(self._mean_histogram(mask), mask) for mask in self.bank]))

    def _mean_histogram(self, mask: Tensor) -> Tensor:
        total = torch.zeros(1, self.codes.shape[1], self.model.codes)
        for start in range(0, len(self.codes), CHUNK):
            part = self.codes[start : start + CHUNK]
            total += batch_histograms(part, mask.expand(len(part), -1), self.model.codes).sum(dim=0, keepdim=True)
        return total / len(self.codes)

    def _loss_of(self, constant: Tensor, mask: Tensor) -> float:
        masks = mask.expand(len(self.unseen_codes), -1)
        return float(lavit_loss(constant, batch_histograms(self.unseen_codes, masks, self.model.codes)))

    def _mask(self, rng: np.random.Generator, cells: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        grid = self.model.grid
        minimum = share_of(self.masks.train_least_share, grid)
        return block_mask(rng, grid, cells, minimum).reshape(-1).astype(np.float32)


def learn_cells(
    model: LaViT, masks: Tensor, normal_cells: Tensor, unseen: tuple[Tensor, Tensor], *, arithmetic: Arithmetic
) -> None:
    """Tell ``model`` where codes usually stand and what its map looks like on unseen normal images.

    ``normal_cells`` are codes i64 (N, levels, h * w) of learned normal images, ``unseen`` tokens f32 (M, C, h, w) and
    codes of others, ``masks`` f32 (R, h * w) the bank.
    """
    model.eval()
    model.set_usual(normal_cells)
    tokens, codes = unseen
    device = arithmetic.device
    with torch.no_grad():
        pairs = zip(tokens, codes, strict=True)
        maps = [model.judge(one[None].to(device), ids.to(device), masks.to(device))[1] for one, ids in pairs]
    model.set_cells(torch.stack(maps))


def learn_surprise(
    model: LaViT,
    masks: Tensor,
    tokens: Tensor,
    codes: Tensor,
    *,
    arithmetic: Arithmetic,
    tokenizer: HvqTokenizer | None = None,
) -> NDArray[np.float32] | None:
    """Tell ``model`` how learned normal images surprise it: tokens f32 (N, C, h, w), codes i64 (N, levels, h * w), the
    bank f32 (R, h * w).

    ``tokenizer`` tells which codes share each cell; without it each has one. Returns what the Gaussian was fitted to,
    f32 [N, levels * C]; without ``surprise = mahalanobis`` there is nothing to learn, and None is returned.
    """
    surprise = model.surprise
    if surprise is None:
        return None
    model.eval()
    surprise.set_features(tokens, codes)
    device = arithmetic.device
    results = []
    with torch.no_grad():
        for one, ids in zip(tokens, codes, strict=True):
            image = one[None].to(device)
            shares = None if tokenizer is None else tokenizer(image).shares
            excess = model.compare(image, ids.to(device), masks.to(device), None if shares is None else shares[0])[2]
            results.append(surprise.describe(excess.mean(dim=0)).cpu())
    described: NDArray[np.float32] = torch.stack(results).numpy()
    centre, precision = fit_gaussian(described)
    surprise.set_goods(torch.from_numpy(centre), torch.from_numpy(precision))
    return described


def _parts(tokens: Tensor, arithmetic: Arithmetic) -> list[Tensor]:
    return [tokens[start : start + CHUNK].to(arithmetic.device) for start in range(0, len(tokens), CHUNK)]


STUDENT_CHUNK = 16
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


@dataclass
class MarginWarmUp:
    """The median distance of novel features of each step, until it stalls and freezes the margin (ours).

    Steps in which the rate rises do not count: then nothing moves yet. Every process of a group sees the mean over the
    whole batch, so all freeze the same margin in the same step. ``active`` is the mean share of active novel features
    over the ``steps_since``, ``first_active`` that of the first of them.
    """

    factor: float
    change: float
    first: int  # step from which on medians count
    window: int
    latest: int
    medians: list[float] = field(default_factory=list)
    step: int = 0
    median: float = 0.0
    margin: float = 0.0
    steps_since: int = 0
    first_active: float = 0.0
    active: float = 0.0

    @classmethod
    def of(cls, preset: Preset, normal_count: int) -> MarginWarmUp | None:
        """Return the warm-up that the preset asks for, if any."""
        dfsc, schedule = preset.efficientad.dfsc, preset.efficientad_schedule
        if not dfsc.warm_margin or dfsc.mode not in WITH_HINGE:
            return None
        steps = schedule.steps_for(normal_count)
        first, window, latest = (round(share * steps) for share in (schedule.warm_up, dfsc.warm_window, dfsc.warm_share))
        return cls(dfsc.warm_margin, dfsc.warm_change, first, max(1, window), max(1, latest))

    def see(self, median: float, active: float) -> None:
        """Take in the median novel distance of a step, or how many novel features are active once the margin is frozen."""
        if self.step:
            self.steps_since += 1
            self.first_active = active if self.steps_since == 1 else self.first_active
            self.active += (active - self.active) / self.steps_since
            return
        self.medians.append(median)
        if len(self.medians) >= self.latest or self._has_stalled():
            self.step, recent = len(self.medians), self.medians[-self.window :]
            self.median = sum(recent) / len(recent)
            self.margin, self.medians = self.factor * self.median, []

    def _has_stalled(self) -> bool:
        if len(self.medians) < self.first + 2 * self.window:
            return False
        before, recent = (sum(part) for part in (self.medians[-2 * self.window : -self.window], self.medians[-self.window :]))
        return abs(recent - before) <= self.change * before

    def settled(self) -> Settled | None:
        """Return margin, step and active share once a step was done with the margin."""
        if not self.steps_since:
            return None
        message = (
            f"DFSC margin {self.margin:.4g}, {self.factor:g} times the median novel distance, frozen after step {self.step}; "
            f"{self.first_active:.0%} of the novel features are active"
        )
        values = {"margin": self.margin, "median": self.median, "active": self.active, "first_active": self.first_active}
        return Settled(message, {"step": self.step, **{name: round(value, 6) for name, value in values.items()}})


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
        *,
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
        self.warm_up = MarginWarmUp.of(preset, len(normal_images))
        if self.warm_up is not None:
            self._set_dfsc(replace(self.settings.dfsc, margin=0.0))  # no hinge before the margin is frozen
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
            "novel_median": losses.separation.median,
        }

    def fall_back(self) -> None:
        """Go on as plain EfficientAD, whose loss has no hinge and cannot run away."""
        self.warm_up = None
        self._set_dfsc(replace(self.settings.dfsc, mode="off"))

    def watch(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Raise Diverged when the hinge drives the novel features ever further from the teacher; see to the warm-up."""
        shown = {name: value for name, value in losses.items() if name not in ("bound", "novel_median")}
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
        if self.warm_up is not None:
            self.warm_up.see(float(losses["novel_median"].detach()), float(losses["hinge_active"].detach()))
            self._follow(self.warm_up)
        return shown

    def settled(self) -> Settled | None:
        """Return the margin that the warm-up froze, once a step was done with it."""
        return None if self.warm_up is None else self.warm_up.settled()

    def state(self) -> dict[str, Any]:
        """Return what the warm-up has seen and set."""
        return {} if self.warm_up is None else vars(self.warm_up)

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on with the warm-up, or with the margin that it froze."""
        if self.warm_up is not None:
            self.warm_up = MarginWarmUp(**state)
            self._follow(self.warm_up)

    def _follow(self, warm_up: MarginWarmUp) -> None:
        if warm_up.step and self.settings.dfsc.warm_margin:
            self._set_dfsc(replace(self.settings.dfsc, margin=warm_up.margin, warm_margin=0.0))

    def _set_dfsc(self, dfsc: DfscSettings) -> None:
        self.settings = replace(self.settings, dfsc=dfsc)

    def validate(self) -> float:
        """Return how far local and global maps of unseen normal images peak, in log units: it rises when normal images
        are learned by heart.
        """
        peaks = []
        for start in range(0, len(self.unseen), STUDENT_CHUNK):
            pixels = to_pixels(self.unseen[start : start + STUDENT_CHUNK], self.arithmetic.device)
            maps = self.model(pixels, self.teacher(pixels).features)
            top = max(1, maps[0][0].numel() // 100)
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
        rows, columns = self.preset.feature_grid((self.normal_images.shape[1], self.normal_images.shape[2]))
        cells = rows * columns * self.teacher.channels
        fixed = is_still(self.preset.augmentation) and not self.preset.efficientad.shared_jitter
        if not fixed or len(self.normal_images) * cells * 2 > CACHE_BYTES:
            return None
        parts = []
        for start in range(0, len(self.normal_images), STUDENT_CHUNK):
            pixels = to_pixels(self.normal_images[start : start + STUDENT_CHUNK], self.arithmetic.device)
            with torch.no_grad():
                parts.append(self.teacher(pixels).features.half().cpu())
        return torch.cat(parts)


def _some_grey(images: Images, rng: np.random.Generator) -> Images:
    """Turn each of u8 [N, H, W, 3] grey with the published probability."""
    grey = (images.astype(np.float32) @ np.array(GREY, np.float32))[..., None].round().astype(np.uint8)
    drawn = rng.random(len(images)) < GREY_SHARE
    return np.where(drawn[:, None, None, None], np.broadcast_to(grey, images.shape), images)
