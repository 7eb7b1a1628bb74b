"""Restoring views from what the encoder saw of them: hidden, moved or painted over."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from medcl.config.objective import ObjectiveConfig
from medcl.errors import ConfigError
from medcl.objectives.codes import Codes, Setting, StatelessObjective, required
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.kernel import reduce, wide
from medcl.objectives.output import LossOutput, Reduction


def masked_reconstruction(
    restored: Tensor, image: Tensor, hidden: Tensor, *, reduction: Reduction = "mean", gather: Gather = LOCAL
) -> LossOutput:
    """``mean over hidden voxels of (restored - image)^2``.

    ``restored``, ``image`` (N, C, *S); ``hidden`` (N, *S), True where the encoder did not see the image.
    ``per_anchor`` (N,): mean over the view's hidden voxels; the mean over views weights each by how many it hides.
    Visible voxels count nothing; without hidden voxels the loss is 0.
    Source: He et al. 2022 (masked autoencoders), here on voxel intensities. Choose it as the restorative baseline: it needs
    neither pairs nor a large batch.
    """
    _check_shapes(restored, image)
    with torch.autocast(restored.device.type, enabled=False):
        error = (wide(restored) - wide(image)).square().mean(1)
        per_view = torch.where(hidden, error, 0.0).flatten(1).sum(1)
        count = hidden.flatten(1).sum(1).to(per_view.dtype)
        per_view = per_view / count.clamp_min(1)
        variance = torch.where(hidden, wide(image).square().mean(1), 0.0).sum() / count.sum().clamp_min(1)
        return LossOutput(
            loss=reduce(per_view, count, count, reduction, gather),
            per_anchor=per_view,
            parts={"hidden_share": hidden.float().mean(), "hidden_power": variance.detach()},
        )


def restoration(
    restored: Tensor,
    image: Tensor,
    *,
    error: Literal["l2", "l1"] = "l2",
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
) -> LossOutput:
    """``mean over all voxels of (restored - image)^2``, or of ``|restored - image|``.

    ``restored``, ``image`` (N, C, *S): the clean image, whatever the encoder saw of it.   ``error``: l2 or l1.   ``per_anchor`` (N,).
    No value stands for collapse; ``image_power`` is the loss of an image of zeros.
    Source: Chen et al. 2019 (context restoration), Zhou et al. 2019 (Models Genesis), and the baselines of Chaitanya et al. 2020.
    Choose it as the restorative baseline where voxels were changed rather than hidden; it needs neither pairs nor a large batch.
    """
    _check_shapes(restored, image)
    with torch.autocast(restored.device.type, enabled=False):
        off, power = wide(restored) - wide(image), wide(image)
        off, power = (off.square(), power.square()) if error == "l2" else (off.abs(), power.abs())
        per_view = off.flatten(1).mean(1)
        every = torch.ones_like(per_view)
        return LossOutput(
            loss=reduce(per_view, every, every, reduction, gather),
            per_anchor=per_view,
            parts={"image_power": power.mean().detach()},
        )


def _check_shapes(restored: Tensor, image: Tensor) -> None:
    if restored.shape != image.shape:
        raise ValueError(f"restored {tuple(restored.shape)} and image {tuple(image.shape)} differ")


class _Restores(ObjectiveConfig):
    """Base of the entries that restore images, from a dense head on the finest decoder map."""

    reads: ClassVar[Literal["vectors", "maps"]] = "maps"

    def build(self, setting: Setting) -> nn.Module:
        return StatelessObjective(self)

    def loss(self, codes: Codes, gather: Gather) -> LossOutput:
        raise NotImplementedError

    def image(self, codes: Codes) -> Tensor:
        """The clean images ``(L, B, C, *S)``. Raises ConfigError where the maps are not of their size."""
        image = required(codes.image, self.name, "needs the clean images of the views")
        if codes.z.shape[2] != image.shape[2]:
            raise ConfigError(
                f"{self.name}: the head gives {codes.z.shape[2]} channels, the images have {image.shape[2]}; "
                f"set head.out={image.shape[2]}"
            )
        if codes.z.shape[3:] != image.shape[3:]:
            raise ConfigError(
                f"{self.name}: restores a map of {tuple(codes.z.shape[3:])} voxels, the images have "
                f"{tuple(image.shape[3:])}; set at to the finest decoder map"
            )
        return image


class MaskedReconstruction(_Restores):
    """Masked autoencoder: mean squared error on the hidden voxels, from a dense head on the finest decoder map."""

    function = staticmethod(masked_reconstruction)
    needs: ClassVar[frozenset[str]] = frozenset({"hidden"})

    name: Literal["masked_reconstruction"] = "masked_reconstruction"

    def loss(self, codes: Codes, gather: Gather) -> LossOutput:
        image = self.image(codes)
        hidden = required(codes.hidden, self.name, "needs hidden voxels; set views.corruption={name: blocks}")
        return masked_reconstruction(codes.z.flatten(0, 1), image.flatten(0, 1), hidden.flatten(0, 1), gather=gather)


class Restoration(_Restores):
    """Restores the clean view from a corrupted one: inpainting, context restoration, Models Genesis."""

    function = staticmethod(restoration)
    needs: ClassVar[frozenset[str]] = frozenset({"corruption"})

    name: Literal["restoration"] = "restoration"

    error: Literal["l2", "l1"] = Field("l2", description="squared or absolute difference of a voxel")

    def loss(self, codes: Codes, gather: Gather) -> LossOutput:
        image = self.image(codes)
        return restoration(codes.z.flatten(0, 1), image.flatten(0, 1), error=self.error, gather=gather)
