"""Fine-tuning a network that restores the detail which thick slices lost."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from medcl.config.super_resolution import DetailContrast, SuperResolutionConfig
from medcl.encoders.restorer import BandDiscriminator, Restorer
from medcl.errors import ConfigError
from medcl.objectives.super_resolution import dual_logistic, feature_info_nce
from medcl.seeds import derive_seed
from medcl.tasks.optimisation import tuned_groups
from medcl.tasks.rendered import RenderedTask
from medcl.types import Array
from medcl.views.sampler import ViewSampler
from medcl.views.thickness import blurred, thickened, upsampled
from medcl.views.view import View

_SHARPENING = 1.0  # sigma in voxels of the blur that unsharp masking takes away
_LEAST_SIDE = 16  # of a view, so that the embedding has cells that do not touch its border
_FWHM = 2.3548


class SuperResolutionTask(RenderedTask):
    """Trains ``restorer`` to give views back of what is left of them in thick slices: L1, plus ``config.contrast``.

    One optimiser trains the network and the discriminator that embeds views for the contrast. Their losses share no gradient: the discriminator sees restored
    views as constants, and the contrast sees the discriminator's weights as constants. So a checkpoint holds all there is.

    Args:
        pretrained: whether the encoder's weights were loaded, so that ``encoder_lr`` applies to it.
    """

    def __init__(
        self, restorer: Restorer, config: SuperResolutionConfig, sampler: ViewSampler, *, pretrained: bool = False
    ) -> None:
        super().__init__(
            sampler,
            config.optimiser,
            config.steps,
            accumulate=config.trainer.accumulate,
            workers=config.trainer.workers,
            seed=derive_seed(config.seed, "finetune"),
        )
        encoder = restorer.encoder
        self.restorer = restorer
        self.config = config
        self.pretrained = pretrained
        self.factor = config.factor[: encoder.spatial_dims]
        _check(sampler.patch, config.factor, config.contrast is not None)
        self.discriminator = (
            BandDiscriminator(encoder.in_channels, config.contrast.channels, encoder.spatial_dims)
            if config.contrast is not None
            else None
        )
        self.latest: dict[str, Tensor] = {}
        for part in config.freeze:
            getattr(encoder, part).requires_grad_(False)

    def training_step(self, batch: tuple[View, ...], batch_idx: int) -> Tensor:
        sharp = torch.cat([view.data for view in batch])
        coarse = upsampled(thickened(sharp, self.factor), self.factor)
        restored = self.restorer(coarse)
        loss = (restored.float() - sharp).abs().mean()
        self.latest = {"loss": loss.detach(), "l1_before": (coarse - sharp).abs().mean()}
        contrast = self.config.contrast
        if contrast is None or self.discriminator is None or self.global_step < contrast.begin * self.steps:
            return loss
        found = self._contrast(contrast, restored, sharp, coarse, batch_idx)
        telling = dual_logistic(self.discriminator(sharp), self.discriminator(restored.detach()))
        self.latest.update(contrast=found.detach(), discriminator=telling.detach())
        return loss + contrast.weight * found + telling

    def _contrast(
        self, config: DetailContrast, restored: Tensor, sharp: Tensor, coarse: Tensor, batch_idx: int
    ) -> Tensor:
        """How unlike sharp views, and like blurred ones, the restored ones are; its gradient reaches ``restored`` only."""
        draw = np.random.default_rng(derive_seed(self.seed, "copies", batch_idx, self.global_rank))
        near = [sharp, *(self._sharpened(sharp, config, draw) for _ in range(config.positives))]
        far = [coarse, *(self._blurred(sharp, config, draw) for _ in range(config.negatives))]
        with torch.no_grad():
            near_maps, far_maps = (torch.stack([self._embedded(view) for view in views]) for views in (near, far))
        return feature_info_nce(self._embedded(restored), near_maps, far_maps, interior=1).loss

    def _embedded(self, views: Tensor) -> Tensor:
        """The discriminator's maps of ``views``, with its weights held constant."""
        assert self.discriminator is not None
        embedding = self.discriminator.embedding
        weights = {name: value.detach() for name, value in embedding.named_parameters()}
        maps: Tensor = torch.func.functional_call(embedding, weights, views)
        return maps

    def _sharpened(self, sharp: Tensor, config: DetailContrast, draw: np.random.Generator) -> Tensor:
        amount = _per_row(draw.uniform(*config.sharpen, len(sharp)), sharp)
        width = torch.full((len(sharp),), _SHARPENING * _FWHM)
        smooth = blurred(sharp, width, range(sharp.ndim - 2))
        flat = sharp.flatten(1)
        low, high = (_per_row(found.values, sharp) for found in (flat.min(1), flat.max(1)))
        return torch.minimum(torch.maximum(sharp + amount * (sharp - smooth), low), high)

    def _blurred(self, sharp: Tensor, config: DetailContrast, draw: np.random.Generator) -> Tensor:
        share = draw.uniform(*config.blur, len(sharp))
        for axis, times in enumerate(self.factor):
            if times > 1:
                sharp = blurred(sharp, torch.as_tensor(share * times), [axis])
        return sharp

    def parameter_groups(self) -> list[dict[str, Any]]:
        return tuned_groups(self.parameters(), self.restorer.encoder if self.pretrained else None, self.config)

    def figures(self) -> dict[str, float | Tensor]:
        return dict(self.latest)


def _check(patch: tuple[int, ...], factor: tuple[int, int, int], contrast: bool) -> None:
    """Raise ConfigError where views of ``patch`` voxels cannot be seen in thick slices, or are too small to embed."""
    if len(patch) == 2 and factor[2] > 1:
        raise ConfigError(f"factor: {list(factor)} is finer along z, but a network of two dimensions sees axial slices")
    wrong = [axis for axis, (side, times) in enumerate(zip(patch, factor, strict=False)) if side % times]
    if wrong:
        raise ConfigError(
            f"views.patch: {list(patch)} is no multiple of factor {list(factor)} along {'xyz'[wrong[0]]}; set views.patch"
        )
    if contrast and min(patch) < _LEAST_SIDE:
        raise ConfigError(
            f"views.patch: {list(patch)} has a side under {_LEAST_SIDE} voxels, too small for the contrast of detail; "
            "set views.patch, or contrast=null"
        )


def _per_row(values: Array | Tensor, like: Tensor) -> Tensor:
    """One number a row of ``like``, ready to be multiplied with it."""
    return torch.as_tensor(values, dtype=like.dtype, device=like.device).view(-1, *[1] * (like.ndim - 1))
